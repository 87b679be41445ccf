//! What scripts do not have.

use stablegate::hooks::{Answer, Question};

use crate::rig::{Rig, ask};

#[tokio::test]
async fn forbidden_things_are_absent() {
    let rig = Rig::new();
    for name in [
        "io",
        "debug",
        "package",
        "dofile",
        "loadfile",
        "loadstring",
        "string.dump",
        "warn",
        "os.execute",
        "os.exit",
        "os.getenv",
        "os.remove",
        "os.rename",
        "os.tmpname",
        "os.setlocale",
        "os.difftime",
        "getfenv",
        "setfenv",
        "newproxy",
        "gcinfo",
        "package and package.loadlib",
    ] {
        rig.check(&[&format!("({name}) == nil")]).await;
    }
    let keys = "local t = {} for k in pairs(os) do t[#t + 1] = k end table.sort(t)
        return table.concat(t, ' ')";
    assert_eq!(rig.eval(keys).await, "clock date time");
}

#[tokio::test]
async fn what_is_left_works() {
    let rig = Rig::new();
    rig.check(&[
        "type(os.time()) == 'number' and type(os.clock()) == 'number'",
        "type(os.date('%Y')) == 'string' and os.date('*t').year > 2000",
        "math.random() < 1 and math.random(5) <= 5",
        "collectgarbage('count') > 0 and pcall(collectgarbage) and pcall(collectgarbage, 'step')",
        "not pcall(collectgarbage, 'stop') and not pcall(collectgarbage, 'generational')",
        "load('return 1 + 1')() == 2",
        "select('#', load('return +')) == 2 and load('return +') == nil",
        "load('return x', 'n', 't', {x = 5})() == 5",
        "load((function() local n = 0 return function() n = n + 1 return ({'return ', '7'})[n] end end)())() == 7",
        "load('\\27Lua') == nil and load('x', 'n', 'b') == nil",
        "('ab'):rep(3) == 'ababab' and ('x'):rep(0) == '' and (''):rep(1e15) == ''",
        "#table.move({1, 2, 3}, 1, 3, 2) == 4 and table.move({1}, 1, 1, 1, {})[1] == 1",
        "select(2, xpcall(error, function(e) return e .. '!' end, 'x')) == 'x!'",
        "xpcall(function(...) return select('#', ...) == 2 end, print, 1, 2) == true",
        "select('#', xpcall(error, error, 'x')) == 2",
        "coroutine.wrap(function(a) return coroutine.yield(a) end)(5) == 5",
        "select(2, pcall(coroutine.wrap(function() error({7}) end)))[1] == 7",
        "coroutine.close(coroutine.create(print)) == true",
        "getmetatable('') == false or getmetatable('').__index == string",
        "setmetatable({}, {__index = {x = 1}}).x == 1 and not pcall(setmetatable, 1, {})",
    ])
    .await;
    rig.check(&["('ab'):rep(3, '-') == 'ab-ab-ab' and (''):rep(9, '-') == '--------'"])
        .await;
    rig.check_error("os.date('%Ez')", "invalid conversion specifier")
        .await;
    rig.check_error("os.date(('%c'):rep(600))", "format is too long")
        .await;
    // The line of the script that made the call, and the name that it has there.
    for (call, message) in [
        (
            "string.find(nil, 'x')",
            "bad argument #1 to 'find' (string expected, got nil)",
        ),
        (
            "('x'):match()",
            "bad argument #1 to 'match' (string expected, got no value)",
        ),
        (
            "('x'):gsub('x', print, {})",
            "bad argument #3 to 'gsub' (number expected, got table)",
        ),
        (
            "('x'):rep({})",
            "bad argument #1 to 'rep' (number expected, got table)",
        ),
        ("('x'):find('[a')", "malformed pattern (missing ']')"),
        ("('x'):gsub('x', '%2')", "invalid capture index %2"),
        (
            "table.concat({{}})",
            "invalid value (table) at index 1 in table for 'concat'",
        ),
        (
            "table.insert({}, 5, 5)",
            "bad argument #2 to 'insert' (position out of bounds)",
        ),
        (
            "table.sort({3, 2, 1}, 1)",
            "bad argument #2 to 'sort' (function expected, got number)",
        ),
        (
            "load({})",
            "bad argument #1 to 'load' (function expected, got table)",
        ),
    ] {
        rig.check_error(call, message).await;
    }
}

#[tokio::test]
async fn finalizers_are_refused() {
    let rig = Rig::new();
    rig.check_error("setmetatable({}, {__gc = print})", "__gc is not available")
        .await;
    rig.check_error("setmetatable({}, {__gc = false})", "__gc is not available")
        .await;
    // Added later, or reached through another table, it is not looked at.
    rig.check(&["(function()
            local ran = false
            local mt = {}
            for i = 1, 100 do setmetatable({}, mt) end
            mt.__gc = function() ran = true end
            for i = 1, 100 do
              setmetatable({}, setmetatable({}, {__index = {__gc = mt.__gc}}))
            end
            collectgarbage() collectgarbage()
            return not ran
         end)()"])
        .await;
}

#[tokio::test]
async fn the_generator_is_seeded() {
    let rig = Rig::new();
    let body = "return tostring(math.random(1e9))";
    assert_ne!(rig.eval(body).await, rig.eval(body).await);
}

#[tokio::test]
async fn a_first_line_for_the_shell_is_skipped() {
    let rig = Rig::new();
    let hook = rig.script("#!/usr/bin/lua\nfunction access() return true end");
    assert_eq!(
        ask(&hook, Question::Access).await.answer.unwrap(),
        Answer::Allow
    );
    let message = rig.load_error("#!shell\n\nerror('x')");
    assert_eq!(message, "route.lua:3: x");
    let hook = rig.script("\u{feff}function access() return true end");
    assert_eq!(
        ask(&hook, Question::Access).await.answer.unwrap(),
        Answer::Allow
    );
}

#[tokio::test]
async fn the_gateway_is_read_only() {
    let rig = Rig::new();
    for (change, table) in [
        ("gateway.log = 1", "gateway"),
        ("gateway.log.info = 1", "gateway.log"),
        ("rawset(gateway, 'log', 1)", "gateway"),
        ("rawset(gateway.log, 'info', 1)", "gateway.log"),
        ("rawset(gateway.shared, 'get', 1)", "gateway.shared"),
    ] {
        let change = format!("(function() {change} end)()");
        rig.check_error(&change, &format!("{table} is read-only"))
            .await;
    }
    rig.check(&[
        "select(2, pcall(table.insert, gateway.json, 1)) == 'gateway.json is read-only'",
        "select(2, pcall(table.move, {1}, 1, 1, 1, gateway.hash)) == 'gateway.hash is read-only'",
        "rawget(gateway, 'log') == nil and next(gateway) == nil and rawlen(gateway) == 0",
        "(function() for k in pairs(gateway) do if k == 'log' then return true end end end)()",
        // What iterates leads to nothing that could be changed.
        "(function() local _, t = pairs(gateway.log) return t == gateway.log end)()",
        "not pcall(setmetatable, gateway, {}) and getmetatable(gateway) == false",
        "rawset({}, 1, 2)[1] == 2 and not pcall(rawset, 1, 2, 3) and not pcall(rawset, {}, 1)",
    ])
    .await;
}
