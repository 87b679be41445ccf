//! Workers that come and go.

use std::time::{Duration, Instant};

use stablegate::hooks::lua::Pool;
use stablegate::hooks::{Answer, AttrValue, Hook, HookErrorKind, Question, Target};

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

#[tokio::test]
async fn a_slow_call_is_replaced_and_still_answered() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(1);
    rig.limits.timeout = PATIENT;
    let slow = rig.script(&waiting("go"));
    let quick = rig.script("function access() return true end");
    let call = tokio::spawn(async move { ask(&slow, Question::Access).await });
    while rig.shared.get(b"go:here").is_none() {
        tokio::task::yield_now().await;
    }
    // The only worker is busy, so this one needs another.
    let reply = ask(&quick, Question::Access).await;
    assert_eq!(reply.answer.unwrap(), Answer::Allow);
    assert_eq!(rig.pool.stats().slow, 1);
    rig.shared
        .set(b"go", AttrValue::Boolean(true), None)
        .unwrap();
    assert_eq!(call.await.unwrap().answer.unwrap(), Answer::Allow);
    assert!(rig.pool.wait_quiet(PATIENT));
    let stats = rig.pool.stats();
    assert_eq!((stats.slow, stats.stuck_ever, stats.workers), (0, 0, 1));
}

#[tokio::test]
async fn too_many_slow_calls_are_refused_at_once() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(1);
    rig.limits.timeout = PATIENT;
    let slow = rig.script(&waiting("go"));
    let calls: Vec<_> = (0..65)
        .map(|_| {
            let slow = slow.clone();
            tokio::spawn(async move { ask(&slow, Question::Access).await })
        })
        .collect();
    while rig.shared.get(b"go:here") != Some(AttrValue::Integer(65)) {
        tokio::task::yield_now().await;
    }
    // One is left that could not be replaced; it counts as slow after a while.
    let started = Instant::now();
    let reply = loop {
        let reply = ask(&slow, Question::Access);
        if let Ok(reply) = tokio::time::timeout(Duration::from_millis(1), reply).await {
            break reply;
        }
        assert!(started.elapsed() < PATIENT);
    };
    let message = error(&reply, HookErrorKind::Overloaded);
    assert!(
        message.starts_with("route.lua:1: access: no worker is free"),
        "{message}"
    );
    rig.shared
        .set(b"go", AttrValue::Boolean(true), None)
        .unwrap();
    for call in calls {
        assert_eq!(call.await.unwrap().answer.unwrap(), Answer::Allow);
    }
    assert!(rig.pool.wait_quiet(PATIENT));
    assert_eq!(
        ask(&slow, Question::Access).await.answer.unwrap(),
        Answer::Allow
    );
}

#[tokio::test]
async fn dropped_calls_are_skipped_or_looked_after() {
    let mut rig = Rig::new();
    rig.pool = Pool::new(1);
    rig.limits.timeout = PATIENT;
    let slow = rig.script(&waiting("go"));
    let count = rig.script("function access() gateway.shared.incr('ran') end");
    let running = tokio::spawn({
        let slow = slow.clone();
        async move { ask(&slow, Question::Access).await }
    });
    while rig.shared.get(b"go:here").is_none() {
        tokio::task::yield_now().await;
    }
    // Queued behind it and dropped at once.
    for _ in 0..5 {
        let mut call = count.call(question(Question::Access));
        let polled = std::future::poll_fn(|cx| std::task::Poll::Ready(call.as_mut().poll(cx)));
        assert!(polled.await.is_pending());
    }
    // The caller of the running one goes; it is still replaced.
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    while rig.pool.stats().slow == 0 {
        tokio::task::yield_now().await;
    }
    rig.shared
        .set(b"go", AttrValue::Boolean(true), None)
        .unwrap();
    assert!(ask(&count, Question::Access).await.answer.is_ok());
    assert!(rig.pool.wait_quiet(PATIENT));
    let stats = rig.pool.stats();
    assert_eq!((stats.slow, stats.queued), (0, 0));
    assert!(matches!(
        rig.shared.get(b"ran"),
        Some(AttrValue::Integer(1))
    ));
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
        // On a busy machine the loop may not get to see that its time is up.
        let kinds: &[_] = match key {
            "grow" => &[HookErrorKind::Memory],
            _ => &[HookErrorKind::Timeout, HookErrorKind::Stuck],
        };
        assert!(kinds.contains(&error.kind), "{error}");
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
