//! Scripts of several files, and generations of them.

use std::collections::BTreeSet;
use std::time::Duration;

use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::{Answer, AttrValue, FileHook, HookErrorKind, Question, Target};

use crate::rig::{Rig, ask, error, target};

async fn name(hook: &LuaHook) -> String {
    match target(hook).await.answer {
        Ok(Answer::Target(Target::Name(name))) => name,
        other => panic!("{other:?}"),
    }
}

fn files(rig: &Rig, hook: &LuaHook) -> BTreeSet<String> {
    let relative = |path: &std::path::Path| {
        path.strip_prefix(rig.dir.path())
            .unwrap()
            .to_str()
            .unwrap()
            .to_owned()
    };
    hook.files().paths().map(relative).collect()
}

#[tokio::test]
async fn modules_are_found_beside_the_script() {
    let rig = Rig::new();
    rig.write(
        "a.lua",
        "local b = require 'lib.b' return {name = 'a' .. b.name, arg = ...}",
    );
    rig.write("lib/b.lua", "return {name = 'b' .. require('lib.pack')}");
    rig.write(
        "lib/pack/init.lua",
        "runs = (runs or 0) + 1 return 'p' .. runs",
    );
    let hook = rig.script(
        "local a, again = require 'a', require 'lib.pack'
         function select_target() return a.name .. a.arg .. again .. require('lib.pack') end",
    );
    assert_eq!(name(&hook).await, "abp1ap1p1");
    let want = [
        "route.lua",
        "a.lua",
        "lib/b.lua",
        "lib/pack.lua",
        "lib/pack/init.lua",
    ];
    assert_eq!(files(&rig, &hook), want.map(String::from).into());
}

#[tokio::test]
async fn a_module_without_a_value_is_true() {
    let rig = Rig::new();
    rig.write("m.lua", "loaded_m = 'yes'");
    assert_eq!(
        rig.eval("return tostring(require 'm') .. loaded_m").await,
        "trueyes"
    );
}

#[tokio::test]
async fn what_is_outside_is_refused() {
    let rig = Rig::new();
    let outside = tempfile::NamedTempFile::with_suffix(".lua").unwrap();
    std::fs::write(outside.path(), "return 'out'").unwrap();
    let absolute = outside.path().with_extension("");
    let absolute = absolute.to_str().unwrap();
    for module in [
        "..", "...x", "../x", "/etc/x", "a/b", "a\\\\b", "", ".", "a.", ".a", "a..b", "a\\0",
        absolute,
    ] {
        rig.check_error(&format!("require '{module}'"), "is refused")
            .await;
    }
    rig.check_error("require()", "string expected, got nil")
        .await;
    rig.check_error(
        "require 'nope.x'",
        "no file 'nope/x.lua' and no file 'nope/x/init.lua'",
    )
    .await;
}

#[tokio::test]
async fn cycles_are_errors() {
    let rig = Rig::new();
    rig.write("a.lua", "return require 'b'");
    rig.write("b.lua", "\nlocal a = require 'a' return a");
    let message = rig.load_error("require 'a'");
    assert_eq!(message, "b.lua:2: module 'a' requires itself");
    // A failed module may be tried again.
    rig.check(&["not pcall(require, 'a') and not pcall(require, 'a')"])
        .await;
}

#[tokio::test]
async fn mistakes_in_modules_name_their_file() {
    let rig = Rig::new();
    rig.write("lib/m.lua", "\nlocal x = = 1");
    rig.write("route.lua", "\nrequire 'lib.m'");
    let error = rig.load().unwrap_err();
    assert!(error.message.starts_with("lib/m.lua:2: "), "{error}");
    let lib = rig.dir.path().join("lib/m.lua");
    assert!(error.files.contains(&lib) && error.files.contains(&rig.dir.path().join("route.lua")));
    rig.write("lib/m.lua", "\n\nerror 'x'");
    assert_eq!(rig.load().unwrap_err().message, "lib/m.lua:3: x");
    // What is missing is watched too.
    std::fs::remove_file(&lib).unwrap();
    let error = rig.load().unwrap_err();
    assert!(
        error
            .message
            .starts_with("route.lua:2: module 'lib.m' not found"),
        "{error}"
    );
    assert!(error.files.contains(&lib));
}

#[tokio::test]
async fn a_generation_stays_what_it_was() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(4);
    rig.write("m.lua", "return 'm-old'");
    let text = "local m = require 'm'
        function select_target()
          return 'old ' .. m .. ' ' .. require 'late' .. ' ' .. tostring(pcall(require, 'gone'))
        end";
    let old = rig.script(text);
    rig.write("late.lua", "return 'late-old'");
    assert!(!files(&rig, &old).contains("late.lua"));
    assert_eq!(name(&old).await, "old m-old late-old false");
    assert!(files(&rig, &old).contains("late.lua"));

    rig.write("m.lua", "return 'm-new'");
    rig.write("late.lua", "return 'late-new'");
    rig.write("gone.lua", "return 'here'");
    let new = rig.script(&text.replace("'old '", "'new '"));

    let calls = (0..4).map(|_| async {
        assert_eq!(name(&old).await, "old m-old late-old false");
        assert_eq!(name(&new).await, "new m-new late-new true");
    });
    for call in calls {
        call.await;
    }
    let fresh = rig.load().unwrap();
    assert_eq!(name(&fresh).await, "new m-new late-new true");
    std::fs::remove_file(rig.dir.path().join("m.lua")).unwrap();
    std::fs::remove_file(rig.dir.path().join("route.lua")).unwrap();
    assert_eq!(name(&new).await, "new m-new late-new true");
}

#[tokio::test]
async fn every_worker_runs_the_captured_text() {
    let mut rig = Rig::new();
    // One script may have three of six.
    rig.pool = Pool::new(6);
    rig.write("m.lua", "return 'old'");
    let hook = rig.script(
        "local m = require 'm'
         function select_target()
           -- Each of three calls waits for the other two: they are on three workers.
           gateway.shared.incr('here')
           while gateway.shared.get('here') < 3 do end
           return m
         end",
    );
    rig.write("m.lua", "return 'new'");
    rig.write("route.lua", "syntax error");
    let names = tokio::join!(name(&hook), name(&hook), name(&hook));
    assert_eq!(names, ("old".into(), "old".into(), "old".into()));
}

#[tokio::test]
async fn the_interpreters_of_a_dropped_script_are_freed() {
    let rig = Rig::new();
    let text = "function access() return true end";
    let old = rig.script(text);
    for _ in 0..20 {
        ask(&old, Question::Access).await;
    }
    let new = rig.script(text);
    ask(&new, Question::Access).await;
    assert!(rig.pool.wait_quiet(Duration::from_secs(10)));
    assert!(rig.pool.stats().vms >= 2);
    drop(old);
    assert!(rig.pool.wait_quiet(Duration::from_secs(10)));
    // Only those of the new script: at most one for each worker.
    let stats = rig.pool.stats();
    assert!(stats.vms >= 1 && stats.vms <= stats.workers, "{stats:?}");
    drop(new);
    assert!(rig.pool.wait_quiet(Duration::from_secs(10)));
    assert_eq!(rig.pool.stats().vms, 0);
}

#[tokio::test]
async fn loading_has_a_limit_of_its_own() {
    let mut rig = Rig::new();
    rig.limits.load_timeout = Duration::from_millis(200);
    for (text, want) in [
        (
            "\nwhile true do end",
            "route.lua:2: time limit of 200ms exceeded",
        ),
        (
            "while true do\npcall(function() while true do end end) end",
            "route.lua:",
        ),
        (
            "local t = {}\nwhile true do t[#t + 1] = {} end",
            "route.lua:2: ",
        ),
    ] {
        let message = rig.load_error(text);
        assert!(message.starts_with(want), "{message}");
    }
    // Interpreters are made anew for a worker that has none; a script may fail there only.
    let hook = rig.script(
        "if gateway.shared.incr('loads') > 1 then error('second time') end
         function access() end",
    );
    let reply = ask(&hook, Question::Access).await;
    assert_eq!(
        error(&reply, HookErrorKind::Script),
        "route.lua:1: second time"
    );
    rig.shared
        .set(b"loads", AttrValue::Integer(0), None)
        .unwrap();
    assert_eq!(
        ask(&hook, Question::Access).await.answer.unwrap(),
        Answer::Pass
    );
}

#[tokio::test]
async fn what_loads_is_called() {
    let mut rig = Rig::new();
    rig.limits.timeout = Duration::from_millis(100);
    rig.limits.wall_timeout = Duration::from_secs(2);
    rig.limits.load_timeout = Duration::from_secs(5);
    let names: String = (0..100_000)
        .map(|number| format!("'player-{number:013}',\n"))
        .collect();
    assert!(names.len() > 2_300_000);
    let hook = rig.script(&format!(
        "local names = {{{names}}}
         function select_target() return names[#names] end"
    ));
    for _ in 0..10 {
        let calls = tokio::join!(name(&hook), name(&hook), name(&hook), name(&hook));
        assert_eq!(calls.0, "player-0000000099999");
    }
    assert!(rig.pool.stats().vms > 1);
}

#[tokio::test]
async fn what_was_asked_for_late_is_loaded_with_the_script() {
    let mut rig = Rig::new();
    let text = "function select_target() return require 'late' end";
    rig.write("late.lua", "return 'late'");
    let hook = rig.script(text);
    assert_eq!(hook.modules(), [] as [&str; 0]);
    assert_eq!(name(&hook).await, "late");
    assert_eq!(hook.modules(), ["late"]);
    // As it was read, so that a change since is one.
    let late = rig.dir.path().join("late.lua");
    let known = hook.files().sha256(&late);
    assert!(known.is_some());

    rig.modules = hook.modules();
    rig.write("late.lua", "return 'later'");
    assert_eq!(hook.files().sha256(&late), known);
    let hook = rig.script(text);
    assert_ne!(hook.files().sha256(&late), known);
    assert!(files(&rig, &hook).contains("late.lua"));
    for (broken, want) in [
        ("\nreturn return", "late.lua:2: "),
        ("\nerror 'no'", "late.lua:2: no"),
    ] {
        rig.write("late.lua", broken);
        let error = rig.load().unwrap_err();
        assert!(error.message.starts_with(want), "{error}");
        assert!(error.files.contains(&rig.dir.path().join("late.lua")));
    }
    // What is gone may not be asked for any more.
    std::fs::remove_file(rig.dir.path().join("late.lua")).unwrap();
    rig.load().unwrap();
}
