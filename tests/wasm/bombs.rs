//! Plugins that do harm. Each ends in time and as an error of its own call.

use std::time::{Duration, Instant};

use stablegate::config::Instance;
use stablegate::hooks::wasm::{Host, WasmHook};
use stablegate::hooks::{Answer, Hook, HookErrorKind, Question};

use crate::rig::{Rig, error, question};
use crate::wat::{Value, Wat};

/// Answers `allow`.
pub const ALLOW: &str = "(i32.store8 (i32.const 16) (i32.const 0))
  (i32.store8 (i32.const 20) (i32.const 1))";

/// A plugin that does harm when the target that the client asks for begins with one of these
/// letters, and lets in whoever asks for something else.
pub fn plugin() -> Wat {
    let mut wat = Wat::default();
    let incr = [
        wat.bytes(b"flood"),
        wat.value(Value::Integer(1)),
        "i32.const 0 f64.const 0 i32.const 16\n".to_owned(),
        wat.call("shared.incr"),
    ]
    .concat();
    let when = |letter: char, harm: &str| {
        let letter = u32::from(letter);
        format!("(if (i32.eq (local.get $i) (i32.const {letter})) (then {harm}))\n")
    };
    let body = [
        "(if (i32.load8_u offset=48 (local.get $session))
           (then (local.set $i (i32.load8_u (i32.load offset=52 (local.get $session))))))\n"
            .to_owned(),
        when('l', "(loop $again (br $again))"),
        when(
            'm',
            "(loop $again (drop (memory.grow (i32.const 1))) (br $again))",
        ),
        when('r', "(drop (call $recurse (i32.const 0)))"),
        when('t', "unreachable"),
        when('f', &format!("(loop $again {incr} (br $again))")),
        when('o', "(drop (i32.load (i32.const -1)))"),
        ALLOW.to_owned(),
    ]
    .concat();
    wat.function("access-control#access", &body).more(
        "(func $recurse (param i32) (result i32)
           (i32.add (i32.const 1) (call $recurse (i32.add (i32.const 1) (local.get 0)))))",
    )
}

pub const BOMBS: [(&str, HookErrorKind); 6] = [
    ("loop", HookErrorKind::Timeout),
    ("memory", HookErrorKind::Memory),
    ("recursion", HookErrorKind::Trap),
    ("trap", HookErrorKind::Trap),
    ("flood", HookErrorKind::Timeout),
    ("outside", HookErrorKind::Trap),
];

const LIMIT: Duration = Duration::from_millis(400);

/// For the test itself to be scheduled.
const SLACK: Duration = Duration::from_secs(1);

fn asking_for(target: &str) -> stablegate::hooks::Call {
    let mut call = question(Question::Access);
    std::sync::Arc::make_mut(&mut call.info).target = Some(target.to_owned());
    call
}

#[tokio::test]
async fn each_is_stopped_for_what_it_does() {
    for instances in [Instance::Fresh, Instance::Pooled] {
        let mut rig = Rig::new();
        rig.limits.timeout = LIMIT;
        rig.instances = instances;
        let hook = rig.plugin(&plugin());
        for (bomb, kind) in BOMBS {
            let started = Instant::now();
            let reply = hook.call(asking_for(bomb)).await;
            assert!(started.elapsed() < 2 * LIMIT + SLACK, "{bomb}");
            let message = error(&reply, kind);
            assert!(message.starts_with("plugin.wat: access: "), "{message}");
            let good = hook.call(asking_for("nothing")).await.answer;
            assert_eq!(good.unwrap(), Answer::Allow, "after {bomb}");
        }
    }
}

#[tokio::test]
async fn many_at_once_are_stopped_in_time() {
    let mut rig = Rig::new();
    rig.limits.timeout = LIMIT;
    let hook = rig.plugin(&plugin());
    let started = Instant::now();
    let bombs: Vec<_> = (0..40)
        .map(|number| {
            let (hook, (bomb, _)) = (hook.clone(), BOMBS[number % BOMBS.len()]);
            tokio::spawn(async move {
                hook.call(asking_for(bomb)).await.answer.unwrap_err();
                started.elapsed()
            })
        })
        .collect();
    // Let all of them begin before the good ones do.
    tokio::task::yield_now().await;
    let mut slowest = Duration::ZERO;
    for _ in 0..40 {
        let asked = Instant::now();
        let answer = hook.call(asking_for("nothing")).await.answer;
        slowest = slowest.max(asked.elapsed());
        assert_eq!(answer.unwrap(), Answer::Allow);
    }
    // In line behind the others it would be seconds.
    assert!(slowest < LIMIT, "a good call took {slowest:?}");
    for bomb in bombs {
        let took = bomb.await.unwrap();
        assert!(took < 2 * LIMIT + SLACK, "{took:?}");
    }
}

#[tokio::test]
async fn more_than_can_be_run_are_refused() {
    let mut rig = Rig::new();
    rig.limits.timeout = LIMIT;
    rig.host = Host::new(None);
    let hook = rig.plugin(&plugin());
    let calls = (0..100).map(|_| {
        let hook = hook.clone();
        tokio::spawn(async move { hook.call(asking_for("loop")).await.answer.unwrap_err().kind })
    });
    let mut kinds = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        kinds.push(call.await.unwrap());
    }
    let count = |kind| kinds.iter().filter(|&&found| found == kind).count();
    assert_eq!(count(HookErrorKind::Timeout), 64, "{kinds:?}");
    assert_eq!(count(HookErrorKind::Overloaded), 36, "{kinds:?}");
    let good = hook.call(asking_for("nothing")).await.answer;
    assert_eq!(good.unwrap(), Answer::Allow);
}

/// Calls that take their time, beside as many of another hook that loop as are taken.
#[tokio::test]
async fn hooks_that_loop_do_not_hold_up_others() {
    let mut rig = Rig::new();
    rig.host = Host::new(None);
    let load = |rig: &Rig, name: &str, wat: &Wat| {
        let path = rig.write(&format!("{name}.wat"), wat.text());
        WasmHook::load(&rig.host, rig.spec(name, path), rig.instances).unwrap()
    };
    let bomb = load(&rig, "bomb", &plugin());
    let counting = Wat::default().function(
        "access-control#access",
        &format!(
            "(local.set $i (i32.const 100000000))
             (loop $again
               (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
             {ALLOW}"
        ),
    );
    let alone = Instant::now();
    let answer = load(&rig, "honest", &counting).call(question(Question::Access));
    assert_eq!(answer.await.answer.unwrap(), Answer::Allow);
    // In one line with the others it would take some thirty times as long.
    rig.limits.timeout = 10 * alone.elapsed();
    let honest = load(&rig, "honest", &counting);
    let loops: Vec<_> = (0..64)
        .map(|_| tokio::spawn(bomb.call(asking_for("loop"))))
        .collect();
    tokio::task::yield_now().await;
    let answer = honest.call(question(Question::Access)).await.answer;
    assert_eq!(answer.unwrap(), Answer::Allow);
    assert!(loops.iter().all(|looping| !looping.is_finished()));
}

#[tokio::test]
async fn a_dropped_call_is_stopped() {
    let rig = Rig::new();
    let hook = rig.plugin(&plugin());
    for _ in 0..200 {
        // More of them than could be under way at once.
        let call = hook.call(asking_for("loop"));
        let timeout = tokio::time::timeout(Duration::ZERO, call);
        assert!(timeout.await.is_err());
    }
    let good = hook.call(asking_for("nothing")).await.answer;
    assert_eq!(good.unwrap(), Answer::Allow);
}
