//! Scripts that do harm. Each ends in time and as an error of its own, and calls of other
//! scripts on the same pool are answered meanwhile.

use std::time::{Duration, Instant};

use stablegate::hooks::HookErrorKind::{self, Memory, Script, Stuck, Timeout};
use stablegate::hooks::lua::LuaHook;
use stablegate::hooks::{Answer, Target};

use crate::beside_others;
use crate::lua::{Rig, target};

/// The processor time of a call that loops.
const LIMIT: Duration = Duration::from_millis(50);
/// That of one that comes to the end of something else.
const ROOM: Duration = Duration::from_secs(10);
const MEMORY: usize = 32 * 1024 * 1024;
const BOMBS: usize = 10;
const GOOD: usize = 10;

/// Growing may take longer than the time limit.
const GROWS: &[HookErrorKind] = &[Memory, Timeout];
const RECURSES: &[HookErrorKind] = &[Script, Memory, Timeout];

/// Asks a script whose `select_target` is `body` once alone and then ten times at once, beside
/// calls that must not wait for it. Alone it must fail as `alone`.
async fn bomb(body: &str, alone: &[HookErrorKind], together: &[HookErrorKind]) -> String {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    let good = rig.script("function select_target() return 'good' end");
    rig.limits.memory = MEMORY;
    let text = format!("function select_target()\n{body}\nend");
    rig.limits.timeout = match alone {
        [Timeout] => LIMIT,
        others if others.contains(&Timeout) => 10 * LIMIT,
        _ => ROOM,
    };
    let lone = rig.script(&text);
    rig.limits.timeout = LIMIT;
    let bad = rig.script(&text);

    let message = fail(&lone, alone).await;
    assert!(message.starts_with("route.lua:"), "{message}");

    let started = Instant::now();
    let bombs: Vec<_> = (0..BOMBS)
        .map(|_| {
            let bad = bad.clone();
            let together = together.to_vec();
            tokio::spawn(async move {
                fail(&bad, &together).await;
                started.elapsed()
            })
        })
        .collect();
    // Let all of them be asked before the first of the good ones is.
    tokio::task::yield_now().await;
    for _ in 0..GOOD {
        assert_good(&good).await;
    }
    let answered = started.elapsed();
    let mut last = Duration::ZERO;
    for bomb in bombs {
        last = last.max(bomb.await.unwrap());
    }
    // Those that are over at once hold up nobody either way.
    if last > BOMBS as u32 * LIMIT / 4 {
        assert!(
            answered < last,
            "good calls took {answered:?}, all of it {last:?}"
        );
    }
    assert!(rig.pool.wait_quiet(Duration::from_secs(60)));
    let stats = rig.pool.stats();
    assert_eq!(
        (stats.slow, stats.stuck, stats.stuck_ever, stats.queued),
        (0, 0, 0, 0),
        "{stats:?}"
    );
    assert_good(&good).await;
    message
}

async fn assert_good(hook: &LuaHook) {
    let want = Answer::Target(Target::Name("good".into()));
    assert_eq!(target(hook).await.answer.unwrap(), want);
}

async fn fail(hook: &LuaHook, kinds: &[HookErrorKind]) -> String {
    let error = target(hook).await.answer.unwrap_err();
    assert!(kinds.contains(&error.kind), "{:?}: {error}", error.kind);
    error.message
}

/// A loop must be stopped at a line of its own.
async fn looping(body: &str) {
    let message = bomb(body, &[Timeout], &[Timeout]).await;
    assert!(
        message.ends_with(": time limit of 50ms exceeded"),
        "{message}"
    );
    let line = message.split(':').nth(1).unwrap().parse::<usize>().unwrap();
    assert!(line >= 2, "{message}");
}

#[tokio::test]
async fn endless_loop() {
    looping("while true do end").await;
}

#[tokio::test]
async fn loop_around_pcall() {
    looping("while true do pcall(function() while true do end end) end").await;
}

#[tokio::test]
async fn loop_around_nested_pcalls() {
    looping(
        "local function f(n)
           while true do if n > 0 then pcall(f, n - 1) else pcall(error, 'x') end end
         end
         while true do pcall(pcall, pcall, f, 50) end",
    )
    .await;
}

#[tokio::test]
async fn loop_in_an_error_handler() {
    looping("while true do xpcall(error, function() while true do end end) end").await;
}

#[tokio::test]
async fn loop_in_the_error_handler_of_a_loop() {
    looping("xpcall(function() while true do end end, function() while true do end end)").await;
}

#[tokio::test]
async fn loop_in_error_handlers_that_fail() {
    looping(
        "local function handler(e) xpcall(error, handler) error(e) end
         while true do xpcall(error, handler, 'x') end",
    )
    .await;
}

#[tokio::test]
async fn loop_in_a_coroutine() {
    looping(
        "coroutine.resume(coroutine.create(function() while true do end end)) while true do end",
    )
    .await;
}

#[tokio::test]
async fn loop_in_a_wrapped_coroutine() {
    looping("while true do pcall(coroutine.wrap(function() while true do end end)) end").await;
}

#[tokio::test]
async fn loop_over_new_coroutines() {
    looping("while true do coroutine.wrap(function() coroutine.yield() end)() end").await;
}

#[tokio::test]
async fn loop_between_coroutines() {
    looping(
        "local co = coroutine.wrap(function() while true do coroutine.yield() end end)
         while true do co() end",
    )
    .await;
}

#[tokio::test]
async fn loop_in_nested_coroutines() {
    looping(
        "local function nest(n)
           if n == 0 then while true do end end
           while true do pcall(coroutine.wrap(nest), n - 1) end
         end
         nest(20)",
    )
    .await;
}

#[tokio::test]
async fn loop_in_tostring_of_an_error() {
    looping("error(setmetatable({}, {__tostring = function() while true do end end}))").await;
}

#[tokio::test]
async fn loop_in_tostring() {
    looping(
        "local t = setmetatable({}, {__tostring = function() while true do end end})
         while true do pcall(print, t) pcall(tostring, t) end",
    )
    .await;
}

#[tokio::test]
async fn loop_in_metamethods_and_library_calls() {
    looping(
        "local loop = function() while true do end end
         local t = setmetatable({}, {__index = loop, __len = loop, __eq = loop, __lt = loop})
         while true do
           pcall(function() return t.x end)
           pcall(table.sort, {3, 2, 1}, loop)
           pcall(string.gsub, 'abc', '.', loop)
           pcall(load, loop)
         end",
    )
    .await;
}

mod closing {
    use super::looping;

    #[tokio::test]
    async fn loop_in_close() {
        looping(
            "local x <close> = setmetatable({}, {__close = function() while true do end end})
             while true do end",
        )
        .await;
    }

    #[tokio::test]
    async fn loop_in_close_after_an_error() {
        looping(
            "while true do
               pcall(function()
                 local x <close> = setmetatable({}, {__close = function() while true do end end})
                 local y <close> = setmetatable({}, {__close = function() while true do end end})
                 error('x')
               end)
             end",
        )
        .await;
    }

    #[tokio::test]
    async fn loop_in_close_of_a_coroutine() {
        for end in ["coroutine.yield()", "error('x')", "while true do end"] {
            looping(&format!(
                "local function body()
                   local x <close> = setmetatable({{}}, {{__close = function() while true do end end}})
                   {end}
                 end
                 local co = coroutine.create(body)
                 pcall(coroutine.resume, co)
                 pcall(coroutine.close, co)
                 pcall(coroutine.wrap(body))
                 while true do end"
            ))
            .await;
        }
    }

    #[tokio::test]
    async fn loop_in_a_for_loops_closing_value() {
        looping(
            "local c = setmetatable({}, {__close = function() while true do end end})
             for _ in next, {1}, nil, c do break end",
        )
        .await;
    }

    #[tokio::test]
    async fn loop_around_finalizers() {
        looping(
            "while true do
               pcall(setmetatable, {}, {__gc = function() while true do end end})
               local mt = {} setmetatable({}, mt) mt.__gc = function() while true do end end
               collectgarbage()
             end",
        )
        .await;
    }
}

#[tokio::test]
async fn table_that_grows() {
    let message = bomb(
        "local t = {}\nwhile true do t[#t + 1] = {} end",
        &[Memory],
        GROWS,
    )
    .await;
    assert_eq!(message, "route.lua:3: memory limit of 32.0 MiB exceeded");
}

#[tokio::test]
async fn table_that_grows_in_pcall() {
    let body = "local t = {} while true do pcall(function() t[#t + 1] = ('x'):rep(1000) end) end";
    bomb(body, &[Memory, Timeout], GROWS).await;
}

#[tokio::test]
async fn string_that_doubles() {
    let message = bomb(
        "local s = 'x' while true do s = s .. s end",
        &[Memory],
        GROWS,
    )
    .await;
    assert!(
        message.ends_with("memory limit of 32.0 MiB exceeded"),
        "{message}"
    );
}

#[tokio::test]
async fn string_of_many_parts() {
    let body = "\nlocal s = ('x'):rep(1e9)";
    let message = bomb(body, &[Memory], GROWS).await;
    assert_eq!(message, "route.lua:3: memory limit of 32.0 MiB exceeded");
    bomb(
        "local t = {} for i = 1, 1e9 do t[i] = ('x'):rep(1e6) .. i end",
        &[Memory],
        GROWS,
    )
    .await;
}

#[tokio::test]
async fn huge_results_of_the_library() {
    bomb(
        "local s = ('x'):rep(8e6) local f = ('%s'):rep(40)
         return f:format(s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s, s,
           s, s, s, s, s, s, s, s, s, s, s, s, s, s, s)",
        &[Memory],
        GROWS,
    )
    .await;
    bomb(
        "return (('x'):rep(1e6):gsub('x', ('y'):rep(1000)))",
        &[Memory],
        GROWS,
    )
    .await;
    bomb(
        "local t = {} for i = 1, 60 do t[i] = ('x'):rep(1e6) end
         return table.concat(t)",
        &[Memory],
        GROWS,
    )
    .await;
}

#[tokio::test]
async fn closures_and_coroutines_without_end() {
    bomb(
        "local f = print while true do local g = f f = function() return g end end",
        &[Memory],
        GROWS,
    )
    .await;
    bomb(
        "local t = {} while true do t[#t + 1] = coroutine.create(print) end",
        &[Memory],
        GROWS,
    )
    .await;
}

#[tokio::test]
async fn unbounded_recursion() {
    bomb(
        "local function f() return 1 + f() end\nf()",
        &[Script, Memory],
        RECURSES,
    )
    .await;
}

#[tokio::test]
async fn unbounded_recursion_with_room() {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    rig.limits.memory = 512 * 1024 * 1024;
    let error = rig
        .fail("\nlocal function f() return 1 + f() end\nf()")
        .await;
    assert_eq!(error.kind, Script);
    assert!(
        error.message.starts_with("route.lua:2: stack overflow"),
        "{error}"
    );
}

#[tokio::test]
async fn recursion_through_metamethods() {
    let message = bomb(
        "local t = {} setmetatable(t, {__index = function(t, k) return t[k + 1] end})
         return t[1]",
        &[Script],
        RECURSES,
    )
    .await;
    assert!(message.contains("stack overflow"), "{message}");
}

#[tokio::test]
async fn recursion_through_pcall() {
    bomb(
        "local function f() local ok, e = pcall(f) error(e) end f()",
        &[Script, Memory, Timeout],
        RECURSES,
    )
    .await;
    looping("local function f() pcall(f) pcall(f) end while true do f() end").await;
}

#[tokio::test]
async fn recursion_through_the_library() {
    bomb(
        "local function f() return (('x'):gsub('.', f)) end f()",
        &[Script],
        RECURSES,
    )
    .await;
    bomb(
        "local function f() return coroutine.wrap(f)() end f()",
        &[Script],
        RECURSES,
    )
    .await;
    bomb(
        "local function f() table.sort({1, 2, 3}, f) end f()",
        &[Script],
        RECURSES,
    )
    .await;
}

/// Takes longer than anybody waits, with nothing but the library.
const PATTERN: &str = "string.find(('a'):rep(30), ('a?'):rep(30) .. ('a'):rep(30))";

#[tokio::test]
async fn patterns_that_backtrack() {
    looping(PATTERN).await;
    looping("local s = ('@/'):rep(2000) return s:match('^(.-)@(.-)/(.-):ok$')").await;
    looping("local s = ('@/'):rep(2000) for _ in s:gmatch('(.-)@(.-)/(.-):ok$') do end").await;
    looping("local s = ('@/'):rep(2000) return (s:gsub('(.-)@(.-)/(.-):ok$', '%1'))").await;
}

#[tokio::test]
async fn patterns_that_are_long() {
    looping("return ('a'):rep(1e5):find('[' .. ('b'):rep(1e6) .. ']')").await;
    looping("return ('a'):rep(1e5):find('%f[' .. ('b'):rep(1e6) .. ']')").await;
    looping("return ('('):rep(1e5):find('%b()x')").await;
    looping("return (('a'):rep(1e5) .. 'b'):rep(9):find('(a+)b%1c')").await;
}

/// What may use the library natively, from within the library, without an instruction.
#[tokio::test]
async fn the_library_in_itself() {
    looping("return (('x'):rep(8e6):gsub('x', string.len))").await;
    looping(
        "local t = {} for i = 1, 1e5 do t[i] = ('a'):rep(30) end
         while true do pcall(table.sort, t, string.find) end",
    )
    .await;
    looping("load(os.time)").await;
    looping("load(function() return ' ' end)").await;
    looping(
        "local t = {} for i = 1, 2e5 do t[i] = '' end
         local all = setmetatable(t, {__tostring = table.concat})
         local many = {} for i = 1, 200 do many[i] = all end
         local format = ('%s'):rep(200)
         while true do format:format(table.unpack(many)) end",
    )
    .await;
}

#[tokio::test]
async fn counts_that_are_strings() {
    looping("string.rep('', '9223372036854775807')\nwhile true do string.rep('', '0x7fffffffffffffff') end")
        .await;
    looping("table.move({}, '1', '4611686018427387904', '2')").await;
    looping("table.move({}, 1, 4611686018427387904, 2)").await;
}

#[tokio::test]
async fn tables_that_say_they_are_long() {
    let long = "local t = setmetatable({}, {__len = function() return math.maxinteger - 1 end})";
    looping(&format!("{long} table.insert(t, 1, 'x')")).await;
    looping(&format!("{long} table.remove(t, 1)")).await;
    let strings = "local t = setmetatable({}, {__index = function() return '' end})";
    looping(&format!(
        "{strings} table.concat(t, '', 1, math.maxinteger)"
    ))
    .await;
    // By natives alone.
    looping(
        "local t = setmetatable({}, {__index = rawlen, __len = function() return 1 << 30 end})
             table.move(setmetatable({}, {__index = rawget}), 1, 1 << 62, 1, {})",
    )
    .await;
    looping(
        "local t = setmetatable({}, {__index = math.max, __len = function() return 1 << 30 end})
         local n = setmetatable({}, {__index = string.len, __len = t})
         while true do pcall(table.sort, t) pcall(table.unpack, n, 1, 9e5) end",
    )
    .await;
}

#[tokio::test]
async fn natives_that_take_long_each() {
    looping("local s = ('x'):rep(8e6) while true do local _ = s:upper() end").await;
    looping("local t = {} for i = 1, 1e5 do t[i] = {} end while true do collectgarbage() end")
        .await;
    looping(
        "local t = {} for i = 1, 2e5 do t[i] = i end
             for i = 1, 2e5 do t[i] = nil end while true do next(t) end",
    )
    .await;
    looping("while true do load(('x=1 '):rep(2e5)) end").await;
}

/// One instruction of the interpreter cannot be stopped: whoever waits is answered all the same,
/// and nobody else is held up.
#[tokio::test]
async fn an_instruction_that_takes_long() {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    let good = rig.script("function select_target() return 'good' end");
    rig.limits.wall_timeout = LIMIT;
    // Of a table of that size, all these keys begin at one place.
    let bad = rig.script(
        "local t = {}
         for i = 1, 1 << 15 do t[i * ((1 << 16) - 1)] = true end
         function select_target() t[-1] = true end",
    );
    let bad = tokio::spawn(async move { fail(&bad, &[Stuck]).await });
    while rig.pool.stats().slow == 0 {
        tokio::task::yield_now().await;
    }
    for _ in 0..GOOD {
        assert_good(&good).await;
    }
    let message = bad.await.unwrap();
    assert_eq!(
        message,
        "route.lua:3: select_target has not ended within twice its wall-clock limit"
    );
    assert_eq!(rig.pool.stats().stuck, 1);
    assert_good(&good).await;
    assert!(rig.pool.wait_quiet(Duration::from_secs(600)));
    let stats = rig.pool.stats();
    assert_eq!((stats.stuck, stats.stuck_ever), (0, 1));
}
