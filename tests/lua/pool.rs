//! Workers that come and go.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::{Answer, AttrValue, Hook, HookErrorKind, Question, Reply, Target};
use tokio::task::JoinHandle;

use crate::rig::{Rig, ask, error, question, target};

const PATIENT: Duration = Duration::from_secs(60);

/// Waits in a loop of its own until `key` is set from outside.
fn waiting(key: &str) -> String {
    format!(
        "function access()
           gateway.shared.incr('{key}:here')
           while not gateway.shared.get('{key}') do end
           return true
         end"
    )
}

#[tokio::test]
async fn threads_are_started_when_calls_come() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(3);
    assert_eq!(rig.pool.stats().workers, 0);
    let hook = rig.script("function access() end");
    for _ in 0..50 {
        ask(&hook, Question::Access).await;
    }
    assert!(rig.pool.wait_quiet(PATIENT));
    assert!(rig.pool.stats().workers <= 3, "{:?}", rig.pool.stats());
}

/// Waits for `count` calls of [`waiting`] to be at it.
async fn at_it(rig: &Rig, key: &str, count: i64) {
    let here = format!("{key}:here");
    while rig.shared.get(here.as_bytes()) != Some(AttrValue::Integer(count)) {
        tokio::task::yield_now().await;
    }
}

fn set(rig: &Rig, key: &str) {
    let set = rig
        .shared
        .set(key.as_bytes(), AttrValue::Boolean(true), None);
    set.unwrap();
}

/// Limits that do not end a call that waits for the test.
fn patient(rig: &mut Rig) {
    rig.limits.timeout = PATIENT;
    rig.limits.wall_timeout = 20 * PATIENT;
}

fn spawn(hook: &LuaHook, count: usize) -> Vec<JoinHandle<Reply>> {
    let call = || {
        let hook = hook.clone();
        tokio::spawn(async move { ask(&hook, Question::Access).await })
    };
    (0..count).map(|_| call()).collect()
}

#[tokio::test]
async fn a_slow_call_holds_up_no_other_hook() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(2);
    patient(&mut rig);
    let slow = rig.script(&waiting("go"));
    let quick = rig.script("function access() return true end");
    let calls = spawn(&slow, 3);
    at_it(&rig, "go", 1).await;
    for _ in 0..20 {
        let reply = ask(&quick, Question::Access).await;
        assert_eq!(reply.answer.unwrap(), Answer::Allow);
    }
    // A worker answers before it is done.
    while rig.pool.stats().running > 1 {
        tokio::task::yield_now().await;
    }
    let stats = rig.pool.stats();
    assert_eq!((stats.running, stats.slow, stats.queued), (1, 1, 2));
    set(&rig, "go");
    for call in calls {
        assert_eq!(call.await.unwrap().answer.unwrap(), Answer::Allow);
    }
    assert!(rig.pool.wait_quiet(PATIENT));
    let stats = rig.pool.stats();
    assert_eq!((stats.running, stats.slow, stats.stuck_ever), (0, 0, 0));
}

#[tokio::test]
async fn hooks_share_the_workers() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(6);
    patient(&mut rig);
    // Alone it gets half of them, a second one half of the rest, and a third and a fourth find one.
    let first = rig.script(&waiting("first"));
    let mut calls = spawn(&first, 20);
    at_it(&rig, "first", 3).await;
    let second = rig.script(&waiting("second"));
    calls.extend(spawn(&second, 20));
    at_it(&rig, "second", 2).await;
    let quick = rig.script("function access() return true end");
    for _ in 0..20 {
        let reply = ask(&quick, Question::Access).await;
        assert_eq!(reply.answer.unwrap(), Answer::Allow);
    }
    // A worker answers before it is done.
    while rig.pool.stats().running > 5 {
        tokio::task::yield_now().await;
    }
    let stats = rig.pool.stats();
    assert_eq!((stats.running, stats.queued, stats.workers), (5, 35, 6));
    // Scripts are loaded meanwhile, too.
    rig.script("function access() end");
    set(&rig, "first");
    set(&rig, "second");
    for call in calls {
        assert_eq!(call.await.unwrap().answer.unwrap(), Answer::Allow);
    }
    assert!(rig.pool.wait_quiet(PATIENT));
}

#[tokio::test]
async fn who_waits_for_a_turn_too_long_is_refused() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(2);
    rig.limits.timeout = PATIENT;
    rig.limits.wall_timeout = Duration::from_millis(1500);
    let slow = rig.script(&waiting("never"));
    // One after the other, each as long as it may: the third waits for twice as long.
    let calls = spawn(&slow, 3);
    let mut kinds = Vec::new();
    for call in calls {
        let error = call.await.unwrap().answer.unwrap_err();
        if error.kind == HookErrorKind::Overloaded {
            let message = "route.lua:1: access: no worker is free";
            assert!(error.message.starts_with(message), "{error}");
        }
        kinds.push(error.kind);
    }
    assert_eq!(kinds[0], HookErrorKind::WallTimeout);
    assert_eq!(kinds[2], HookErrorKind::Overloaded);
}

#[tokio::test]
async fn dropped_calls_are_skipped() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(2);
    patient(&mut rig);
    let text = waiting("go") + " function select_target() gateway.shared.incr('ran') end";
    let hook = rig.script(&text);
    let running = spawn(&hook, 1).remove(0);
    at_it(&rig, "go", 1).await;
    // In line behind it and dropped at once.
    for _ in 0..5 {
        let mut call = hook.call(question(Question::SelectTarget));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
        assert_eq!(rig.pool.stats().queued, 1);
        drop(call);
        assert_eq!(rig.pool.stats().queued, 0);
    }
    // The caller of the running one goes, too.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    set(&rig, "go");
    assert!(target(&hook).await.answer.is_ok());
    assert!(rig.pool.wait_quiet(PATIENT));
    assert_eq!(rig.shared.get(b"ran"), Some(AttrValue::Integer(1)));
}

#[tokio::test]
async fn a_call_has_its_own_processor_time() {
    let mut rig = Rig::new();
    let work = "local function work() local x = 0 for i = 1, N do x = x + i % 7 end return x end";
    let script = |rig: &Rig, turns: u64| {
        let work = work.replace('N', &turns.to_string());
        rig.script(&format!("{work} function access() work() return true end"))
    };
    // As much as takes 20 ms at best.
    let mut turns = 10_000;
    loop {
        let hook = script(&rig, turns);
        let mut costs = Vec::new();
        for _ in 0..10 {
            costs.push(ask(&hook, Question::Access).await.cost);
        }
        if *costs.iter().min().unwrap() > Duration::from_millis(20) {
            break;
        }
        turns = turns * 5 / 4;
    }
    rig.limits.timeout = Duration::from_millis(100);
    rig.limits.wall_timeout = 20 * rig.limits.timeout;
    let hook = script(&rig, turns);
    let busy = Arc::new(AtomicBool::new(true));
    let others: Vec<_> = (0..2 * std::thread::available_parallelism().unwrap().get())
        .map(|_| {
            let busy = busy.clone();
            std::thread::spawn(move || while busy.load(Ordering::Relaxed) {})
        })
        .collect();
    let mut refused = Vec::new();
    for _ in 0..30 {
        refused.extend(ask(&hook, Question::Access).await.answer.err());
    }
    busy.store(false, Ordering::Relaxed);
    for other in others {
        other.join().unwrap();
    }
    assert!(refused.is_empty(), "{refused:?}");
}

#[tokio::test]
async fn a_call_has_a_limit_by_the_clock_as_well() {
    let mut rig = Rig::new();
    rig.limits.timeout = PATIENT;
    rig.limits.wall_timeout = Duration::from_millis(200);
    let error = rig.fail("\nwhile true do end").await;
    assert_eq!(error.kind, HookErrorKind::WallTimeout);
    let message = "route.lua:2: wall-clock limit of 200ms exceeded (computed for ";
    assert!(error.message.starts_with(message), "{error}");
}

#[tokio::test]
async fn an_interpreter_is_replaced_on_nobodys_account() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(2);
    rig.limits.timeout = Duration::from_millis(100);
    let hook = rig.script(
        "gateway.shared.incr('loads')
         function access() while true do end end
         function select_target() return 'lobby' end",
    );
    let loads = || rig.shared.get(b"loads");
    assert_eq!(loads(), Some(AttrValue::Integer(1)));
    let reply = ask(&hook, Question::Access).await;
    error(&reply, HookErrorKind::Timeout);
    assert!(rig.pool.wait_quiet(PATIENT));
    // For `check`, for the call, and for the next one.
    assert_eq!(loads(), Some(AttrValue::Integer(3)));
    assert!(target(&hook).await.answer.is_ok());
    assert_eq!(loads(), Some(AttrValue::Integer(3)));
}

#[tokio::test]
async fn an_interpreter_that_hit_a_limit_is_made_anew() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(1);
    let text = "kept, calls = {}, 0
         function select_target()
           calls = calls + 1
           while gateway.shared.delete('grow') do while true do kept[#kept + 1] = {} end end
           while gateway.shared.delete('loop') do while true do end end
           return 'call ' .. calls
         end";
    for (key, timeout) in [("grow", PATIENT), ("loop", Duration::from_millis(100))] {
        rig.limits.timeout = timeout;
        let hook = rig.script(text);
        let first = Answer::Target(Target::Name("call 1".into()));
        assert_eq!(target(&hook).await.answer.unwrap(), first);
        let set = rig
            .shared
            .set(key.as_bytes(), AttrValue::Boolean(true), None);
        set.unwrap();
        let error = target(&hook).await.answer.unwrap_err();
        let kind = match key {
            "grow" => HookErrorKind::Memory,
            _ => HookErrorKind::Timeout,
        };
        assert_eq!(error.kind, kind, "{error}");
        assert_eq!(target(&hook).await.answer.unwrap(), first);
    }
}

#[tokio::test]
async fn a_pool_lives_as_long_as_its_scripts() {
    let rig = Rig::new();
    let hook = rig.script("function access() end");
    ask(&hook, Question::Access).await;
    let weak = std::sync::Arc::downgrade(&rig.pool);
    drop(rig);
    assert!(weak.upgrade().is_some(), "a script keeps its pool");
    drop(hook);
    assert!(weak.upgrade().is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stopped_clock_does_not_hurry_calls() {
    let mut rig = Rig::new();
    rig.limits.timeout = PATIENT;
    let hook = rig.script(
        "function access() local t = os.clock() while os.clock() < t + 0.05 do end return true end",
    );
    let before = tokio::time::Instant::now();
    let reply = ask(&hook, Question::Access).await;
    assert_eq!(reply.answer.unwrap(), Answer::Allow);
    assert!(before.elapsed() < Duration::from_secs(1));
}
