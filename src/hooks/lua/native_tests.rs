//! Comparison of the replaced functions with Lua's own, in two interpreters.

use mlua::{Function, Lua};
use proptest::prelude::*;

use super::native;

/// Helpers in Lua that show what was returned or raised, with the lists in tables. What has an
/// address is shown by its type: the address differs between two interpreters.
const SHOW: &str = r#"
    local addressed = {table = true, ["function"] = true, thread = true, userdata = true}
    local function show_element(value)
      return addressed[type(value)] and "a " .. type(value) or tostring(value)
    end
    local function show(value)
      if type(value) == "table" then
        local parts = {}
        for i = 1, rawlen(value) do parts[i] = show_element(rawget(value, i)) end
        return "{" .. table.concat(parts, ",") .. "}"
      end
      return (math.type(value) or type(value)) .. " " .. show_element(value)
    end
    function shown(...)
      local values = table.pack(...)
      local parts = {}
      for i = 1, values.n do parts[i] = show(values[i]) end
      return table.concat(parts, " | ")
    end
    -- Behaves like a table by its metamethods, and tells what was asked of it.
    function proxy(list)
      local log = {}
      local t = setmetatable({}, {
        __index = function(_, key) log[#log + 1] = "get " .. tostring(key) return list[key] end,
        __newindex = function(_, key, value)
          log[#log + 1] = "set " .. tostring(key) .. "=" .. tostring(value)
          list[key] = value
        end,
        __len = function() return #list end,
        __name = "proxy",
      })
      return t, log
    end
    function all(s, p, init)
      local found = {}
      for a, b, c in string.gmatch(s, p, init) do
        found[#found + 1] = shown(a, b, c)
        if #found > 60 then break end
      end
      return table.concat(found, ";")
    end
"#;

struct Both {
    original: Lua,
    own: Lua,
}

impl Both {
    fn new() -> Self {
        let (original, own) = (Lua::new(), Lua::new());
        native::install(&own, &own.create_table().unwrap()).unwrap();
        for lua in [&original, &own] {
            lua.load(SHOW).exec().unwrap();
        }
        Self { original, own }
    }

    /// Runs the same code in both interpreters and compares the results.
    fn agree(&self, body: &str, args: (&[u8], &[u8], &[u8], i64, bool)) {
        let run = |lua: &Lua| -> Vec<u8> {
            let text = format!(
                "local s, p, r, n, b = ...
                 return (shown(pcall(function() {body} end)))"
            );
            let function: Function = lua.load(text).set_name("=test").into_function().unwrap();
            let (s, p, r, n, b) = args;
            let string = |bytes: &[u8]| lua.create_string(bytes).unwrap();
            let shown: mlua::LuaString = function
                .call((string(s), string(p), string(r), n, b))
                .unwrap();
            shown.as_bytes().to_vec()
        };
        let (own, original) = (run(&self.own), run(&self.original));
        assert_eq!(
            own.escape_ascii().to_string(),
            original.escape_ascii().to_string(),
            "{body} of {:?}, {:?}, {:?}, {}, {}",
            args.0.escape_ascii().to_string(),
            args.1.escape_ascii().to_string(),
            args.2.escape_ascii().to_string(),
            args.3,
            args.4,
        );
    }

    fn agree_on(&self, body: &str) {
        self.agree(body, (b"", b"", b"", 0, false));
    }
}

fn pattern() -> impl Strategy<Value = Vec<u8>> {
    let token = prop_oneof![
        4 => prop::sample::select(vec!["a", "b", "c", "x", "1", " ", "(", ")", "]", "\0", "-"]),
        3 => prop::sample::select(vec![".", "%a", "%d", "%W", "%s", "%p", "%l", "%u", "%x", "%c",
            "%g", "%z", "%.", "%%", "[abc]", "[^ab]", "[%d%s]", "[a-c1]", "[]]", "[^]]", "[-a]",
            "[a-]", "[%]a]", "[%a-z]", "[^%w]"]),
        3 => prop::sample::select(vec!["*", "+", "-", "?", ".-", ".*", "a*", "%w+", "[ab]-", "b?"]),
        2 => prop::sample::select(vec!["(", ")", "()", "(a)", "(.-)", "(%w*)", "%1", "%2", "%0"]),
        1 => prop::sample::select(vec!["%b()", "%bab", "%baa", "%b", "%b(", "%f[%w]", "%f[^a]", "%f",
            "%f[", "%f[a", "[", "[^", "[a-", "[%", "%", "^", "$"]),
    ];
    prop::collection::vec(token, 0..8).prop_map(|tokens| tokens.concat().into_bytes())
}

fn subject() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop::sample::select(b"aaabbcx1 ()]-%\0\xe9AZ.".to_vec());
    prop::collection::vec(byte, 0..14)
}

fn replacement() -> impl Strategy<Value = Vec<u8>> {
    let token = prop::sample::select(vec![
        "x", "%0", "%1", "%2", "%9", "%%", "%", "%a", "\0", "<>",
    ]);
    prop::collection::vec(token, 0..4).prop_map(|tokens| tokens.concat().into_bytes())
}

/// Returns Lua expressions of values that a function may or may not accept. No value makes a
/// library function loop for long.
fn value() -> impl Strategy<Value = String> {
    prop_oneof![
        (-4_i64..12).prop_map(|number| number.to_string()),
        prop::sample::select(vec![
            "nil", "true", "'a'", "'2'", "'0x3'", "' 3 '", "'1e1'", "2.0", "1.5", "'b%d'", "{}",
            "{3,1,2}", "{'c','a','b'}", "{1,'x'}", "{5,4,3,2,1,9,8,7,6}", "{1,nil,3}", "print",
            "(proxy({3,1,2}))", "(proxy({'x','y'}))", "setmetatable({}, {__len = function() return 'x' end})",
            "setmetatable({}, {__index = function(_, k) return k end, __len = function() return 4 end})",
            "function(a, b) return a < b end", "function(a, b) return a > b end",
            "function() return true end", "function() return false end", "function() error('own') end",
            "coroutine.create(print)", "('long'):rep(9)", "math.huge", "-0.0",
        ])
        .prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, ..ProptestConfig::default() })]

    #[test]
    fn patterns_match_as_luas(
        s in subject(), p in pattern(), r in replacement(), n in -6_i64..16, b: bool,
    ) {
        thread_local! { static BOTH: Both = Both::new() }
        BOTH.with(|both| {
            for body in [
                "return s:find(p, n, b)",
                "return s:find(p)",
                "return s:match(p, n)",
                "return s:match(p)",
                "return all(s, p, n)",
                "return s:gsub(p, r)",
                "return s:gsub(p, r, n)",
                "return s:gsub(p, function(...) return b and shown(...) or nil end)",
                "return s:gsub(p, function(...) if b then return select('#', ...) end return s end)",
                "return s:gsub(p, function() return {} end, n)",
                "return s:gsub(p, {a = 'A', b = 1, c = false, ['1'] = b, [1] = 'one', [''] = '.'})",
            ] {
                both.agree(body, (&s, &p, &r, n, b));
            }
        });
    }

    #[test]
    fn functions_take_what_luas_take(
        f in prop::sample::select(vec![
            "string.find", "string.match", "string.gmatch", "string.gsub", "string.rep",
            "string.byte", "string.char", "string.format", "string.lower", "string.sub",
            "string.pack", "string.unpack", "string.reverse", "utf8.char", "utf8.len",
            "utf8.codepoint", "utf8.offset", "table.concat", "table.insert", "table.remove",
            "table.move", "table.sort", "table.unpack", "tonumber", "os.date", "next", "pairs",
            "rawset",
        ]),
        args in prop::collection::vec(value(), 0..6),
        form in 0..4,
    ) {
        thread_local! { static BOTH: Both = Both::new() }
        let args = args.join(", ");
        // The clock may go on in between.
        prop_assume!(f != "os.date" || args.contains(','));
        let call = match form {
            0 => format!("{f}({args})"),
            1 => format!("pcall({f}, {args})").replace(", )", ")"),
            2 => format!("(function() local f = {f} return (f({args})) end)()"),
            _ => format!("(function() return {f}({args}) end)()"),
        };
        BOTH.with(|both| both.agree_on(&format!("return {call}")));
    }

    #[test]
    fn tables_end_up_as_with_luas(
        list in prop::collection::vec(-9_i64..10, 0..120),
        a in -2_i64..9, b in -2_i64..9, c in -2_i64..9, behind_proxy: bool,
    ) {
        thread_local! { static BOTH: Both = Both::new() }
        let list: Vec<_> = list.iter().map(ToString::to_string).collect();
        let list = list.join(",");
        let table = match behind_proxy {
            true => format!("local list = {{{list}}} local t, log = proxy(list)"),
            false => format!("local list = {{{list}}} local t, log = list, {{}}"),
        };
        BOTH.with(|both| {
            for change in [
                format!("table.insert(t, {a})"),
                format!("table.insert(t, {a}, {b})"),
                "return table.remove(t)".to_owned(),
                format!("return table.remove(t, {a})"),
                format!("return table.move(t, {a}, {b}, {c})"),
                format!("return table.move(t, {a}, {b}, {c}, {{1, 2, 3}})"),
                format!("return table.concat(t, ',', {a}, {b})"),
                "return table.concat(t, ',')".to_owned(),
                format!("return table.unpack(t, {a}, {b})"),
                "table.sort(t)".to_owned(),
                "table.sort(t, function(a, b) return a > b end)".to_owned(),
                "table.sort(t, function(a, b) return a <= b end)".to_owned(),
                "table.sort(t, function(a, b) return (a * 7 + b) % 3 == 0 end)".to_owned(),
            ] {
                both.agree_on(&format!(
                    "{table} local r = shown(pcall(function() {change} end))
                     return r, shown(list), shown(log)"
                ));
            }
        });
    }
}

#[test]
fn limits_of_patterns_are_luas() {
    let both = Both::new();
    for body in [
        "return (('a'):rep(500)):find(('a?'):rep(300))",
        "return ('a'):find(('(a)'):rep(33))",
        "return ('a'):rep(40):find(('(a)'):rep(32))",
        "return ('a'):rep(40):find(('(a)'):rep(33))",
        "return ('a'):rep(40):find(('()'):rep(33))",
        "return ('x'):find(('('):rep(199))",
        "return ('x'):rep(300):find(('x'):rep(300) .. '$')",
        "return ('('):rep(5000):find('%b()')",
        "return ('a'):rep(5000):find('a-b')",
        "return ('x'):rep(1000):find(('x'):rep(999) .. 'y', 1, true)",
        "return ('ab'):find('b', math.mininteger), ('ab'):find('b', math.maxinteger)",
        "return ('ab'):gsub('', '-', math.mininteger), ('ab'):gsub('', '-', math.maxinteger)",
        "return all('ab', 'b', math.maxinteger), all('ab', '', math.mininteger)",
        "return ('x'):rep(3, ','), ('x'):rep(1, ','), ('ab'):rep(7, 'cde'), (''):rep(5, '-')",
        "return ('x'):rep(-1), ('x'):rep(0, 'y'), (''):rep(1 << 20)",
        "return ('x'):rep(1 << 31)",
        "return ('x'):rep(1 << 40, 'yy')",
        "return table.unpack({}, 1, 1e7)",
        "return table.unpack({}, math.mininteger, math.maxinteger)",
        "return select('#', table.unpack({}, 1, 200))",
        "return table.unpack({}, math.maxinteger, math.maxinteger)",
        "return table.concat({}, '', math.maxinteger, math.maxinteger)",
        "return table.move({}, math.mininteger, math.maxinteger, 1)",
        "return table.move({}, 1, math.maxinteger, 2)",
        "return table.move({}, 0, math.maxinteger, 2)",
        "return table.insert(setmetatable({}, {__len = function() return math.maxinteger end}), 5, 5)",
        "return table.insert(setmetatable({}, {__len = function() return -1 end}), 5)",
        "return table.remove(setmetatable({}, {__len = function() return math.maxinteger end}), math.maxinteger)",
        "return table.sort(setmetatable({}, {__len = function() return 1 << 40 end}))",
        "return table.sort({1, 'x', 2})",
        "local t = {} for i = 1, 5000 do t[i] = (i * 7919) % 5003 end table.sort(t) return t",
        "local t = {} for i = 1, 300 do t[i] = i % 2 == 0 and 'x' or i end return table.sort(t)",
    ] {
        both.agree_on(body);
    }
}
