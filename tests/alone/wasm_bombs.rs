//! Plugins that do harm. Each ends in time and as an error of its own call.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use stablegate::config::Instance;
use stablegate::hooks::wasm::{PluginHost, WasmHook};
use stablegate::hooks::{Answer, Call, Hook, HookErrorKind, Question};

use crate::asking::{error, question};
use crate::harm::{ALLOW, BOMBS, plugin};
use crate::wasm::Rig;
use crate::wat::{Value, Wat};
use crate::{alone, beside_others};

/// Processor time: that of a busy machine is no shorter.
const LIMIT: Duration = Duration::from_millis(400);

/// Of calls that are many.
const SHORT: Duration = Duration::from_millis(50);

/// A question about a session whose client asks for this.
pub fn asking_for(target: &str) -> Call {
    let mut call = question(Question::Access);
    Arc::make_mut(&mut call.info).target = Some(target.to_owned());
    call
}

#[tokio::test]
async fn each_is_stopped_for_what_it_does() {
    let _turn = beside_others().await;
    for instances in [Instance::Fresh, Instance::Pooled] {
        let mut rig = Rig::new();
        rig.limits.timeout = LIMIT;
        rig.instances = instances;
        let hook = rig.plugin(&plugin());
        for (bomb, kind) in BOMBS {
            let reply = hook.call(asking_for(bomb)).await;
            let message = error(&reply, kind);
            assert!(message.starts_with("plugin.wat: access: "), "{message}");
            let limit = "time limit of 400ms exceeded";
            assert_eq!(kind == HookErrorKind::Timeout, message.ends_with(limit));
            let good = hook.call(asking_for("nothing")).await.answer;
            assert_eq!(good.unwrap(), Answer::Allow, "after {bomb}");
        }
    }
}

#[tokio::test]
async fn many_at_once_hold_up_no_good_call() {
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.limits.timeout = 2 * SHORT;
    let hook = rig.plugin(&plugin());
    let bombs: Vec<_> = (0..36)
        .map(|number| {
            let (hook, (bomb, kind)) = (hook.clone(), BOMBS[number % BOMBS.len()]);
            let call = async move { error(&hook.call(asking_for(bomb)).await, kind).to_owned() };
            (kind, tokio::spawn(call))
        })
        .collect();
    // Let all of them begin before the good ones do.
    tokio::task::yield_now().await;
    for _ in 0..10 {
        let answer = hook.call(asking_for("nothing")).await.answer;
        assert_eq!(answer.unwrap(), Answer::Allow);
    }
    // None was in line behind those that take all of their time.
    for (kind, bomb) in &bombs {
        assert!(*kind != HookErrorKind::Timeout || !bomb.is_finished());
    }
    for (_, bomb) in bombs {
        bomb.await.unwrap();
    }
}

#[tokio::test]
async fn more_than_can_be_run_are_refused() {
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.limits.timeout = SHORT;
    rig.host = PluginHost::new(None);
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
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.host = PluginHost::new(None);
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
    let _turn = beside_others().await;
    let rig = Rig::new();
    let hook = rig.plugin(&plugin());
    // As many as could be under way at once, and again: each leaves its place.
    for _ in 0..4 {
        for _ in 0..64 {
            let call = hook.call(asking_for("loop"));
            let _ = tokio::time::timeout(Duration::ZERO, call).await;
        }
        let good = async || hook.call(asking_for("nothing")).await.answer;
        let answer = loop {
            match good().await {
                Err(error) if error.kind == HookErrorKind::Overloaded => {}
                answer => break answer,
            }
            tokio::task::yield_now().await;
        };
        assert_eq!(answer.unwrap(), Answer::Allow);
    }
}

/// Fills 24 MiB without end.
fn filling() -> Wat {
    let fill = "(drop (memory.grow (i32.const 384)))
      (loop $again
        (memory.fill (i32.const 262144) (i32.const 7) (i32.const 25165824))
        (br $again))";
    Wat::default().function("access-control#access", &format!("{fill} {ALLOW}"))
}

/// The processor time that this thread has had.
fn computed() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes `time` and nothing else.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// What a call takes of the thread that asks before it goes on elsewhere.
async fn first_slice(hook: &impl Hook) -> Duration {
    let mut call = hook.call(question(Question::Access));
    let before = computed();
    let first = Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
    let slice = computed() - before;
    assert!(matches!(first, Poll::Pending));
    error(&call.await, HookErrorKind::Timeout);
    slice
}

#[tokio::test]
async fn what_was_slow_lately_takes_nothing_of_the_thread_that_asks() {
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.limits.timeout = Duration::from_millis(50);
    let hook = rig.plugin(&filling());
    let first = first_slice(&hook).await;
    for _ in 0..3 {
        let again = first_slice(&hook).await;
        assert!(3 * again < first, "{again:?}, at first {first:?}");
    }
}

/// So many calls that fill memory as are taken, and more that are refused, beside another hook.
#[tokio::test]
async fn what_cannot_be_interrupted_holds_up_nobody() {
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.host = PluginHost::new(None);
    let load = |name: &str, wat: &Wat| {
        let path = rig.write(&format!("{name}.wat"), wat.text());
        WasmHook::load(&rig.host, rig.spec(name, path), rig.instances).unwrap()
    };
    let (bomb, good) = (load("bomb", &filling()), load("good", &plugin()));
    // What a session takes of its thread is what it keeps others waiting for.
    let ask = async || {
        let mut times = Vec::new();
        for _ in 0..200 {
            let before = computed();
            let answer = good.call(asking_for("nothing")).await.answer;
            assert_eq!(answer.unwrap(), Answer::Allow);
            tokio::task::yield_now().await;
            times.push(computed() - before);
        }
        times.sort();
        times[times.len() * 99 / 100]
    };
    let alone = ask().await;
    let call = || tokio::spawn(bomb.call(question(Question::Access)));
    let mut bombs = vec![call()];
    tokio::task::yield_now().await;
    // It has become known by then.
    while bomb_is_quick(&bomb) {
        tokio::task::yield_now().await;
    }
    let asking = async {
        let mut beside = Vec::new();
        for _ in 0..5 {
            bombs.extend((0..20).map(|_| call()));
            beside.push(ask().await);
        }
        beside.sort();
        beside[2]
    };
    let beside = asking.await;
    assert!(
        beside < 3 * alone + Duration::from_micros(100),
        "{beside:?}, alone {alone:?}"
    );
    bombs.iter().for_each(|bomb| bomb.abort());
}

/// Whether a call would still begin on this thread.
fn bomb_is_quick(bomb: &impl Hook) -> bool {
    let mut call = bomb.call(question(Question::Access));
    let before = computed();
    let _ = Pin::new(&mut call).poll(&mut Context::from_waker(Waker::noop()));
    computed() - before > Duration::from_millis(1)
}

#[tokio::test]
async fn what_is_passed_is_bounded_before_it_is_copied() {
    let _turn = beside_others().await;
    const TOO_MUCH: i32 = 2 << 20;
    let grow = "(drop (memory.grow (i32.const 64)))";
    let at = 262_144;
    let deny = format!(
        "{grow} (i32.store8 (i32.const 16) (i32.const 0)) (i32.store8 (i32.const 20) (i32.const 2))
         (i32.store (i32.const 24) (i32.const {at})) (i32.store (i32.const 28) (i32.const {TOO_MUCH}))"
    );
    let long = format!("i32.const {at} i32.const {TOO_MUCH}\n");
    let long_value = format!("i32.const 3 i64.const {at} i32.const {TOO_MUCH}\n");
    let mut plugins = vec![Wat::default().function("access-control#access", &deny)];
    let mut calling = |name: &str, push: &dyn Fn(&mut Wat) -> String| {
        let mut wat = Wat::default();
        let body = [
            grow.to_owned(),
            push(&mut wat),
            wat.call(name),
            ALLOW.to_owned(),
        ]
        .concat();
        plugins.push(wat.function("access-control#access", &body));
    };
    let ttl = "i32.const 0 f64.const 0 i32.const 16\n";
    calling("log.write", &|_| format!("i32.const 1 {long}"));
    calling("shared.set", &|wat| wat.bytes(b"key") + &long_value + ttl);
    calling("shared.set", &|wat| {
        long.clone() + &wat.value(Value::Integer(1)) + ttl
    });
    calling("attrs.set", &|wat| wat.bytes(b"key") + &long_value);
    for plugin in plugins {
        let rig = Rig::new();
        let reply = rig.plugin(&plugin).call(question(Question::Access)).await;
        let message = error(&reply, HookErrorKind::Trap);
        let named = "passes strings or lists of more than 1 MiB at once";
        assert!(message.contains(named), "{message}");
        assert_eq!(rig.shared.get(b"key"), None);
    }
}

#[tokio::test]
async fn instances_have_so_much_memory_together() {
    let _turn = alone().await;
    let mut rig = Rig::new();
    rig.host = PluginHost::new(None);
    rig.limits.timeout = SHORT;
    rig.limits.memory = 32 << 20;
    let body = format!("(drop (memory.grow (i32.const 500))) (loop $again (br $again)) {ALLOW}");
    let hook = rig.plugin(&Wat::default().function("access-control#access", &body));
    let calls: Vec<_> = (0..64)
        .map(|_| tokio::spawn(hook.call(question(Question::Access))))
        .collect();
    let (mut stopped, mut crowded) = (0, 0);
    for call in calls {
        let error = call.await.unwrap().answer.unwrap_err();
        match error.kind {
            HookErrorKind::Timeout => stopped += 1,
            HookErrorKind::Overloaded => {
                assert!(error.message.contains("all calls together take more than"));
                crowded += 1;
            }
            other => panic!("{other:?}: {}", error.message),
        }
    }
    let processors = std::thread::available_parallelism().unwrap().get();
    assert!(stopped <= 16.max(2 * processors), "{stopped}, {crowded}");
    assert!(processors > 16 || crowded > 0);
}

/// Many functions, each of some size.
fn large() -> String {
    let function = "(func (param i32) (result i32) (i32.mul (local.get 0) (i32.add (local.get 0) (i32.const 7))))";
    let wat = Wat::default().function("access-control#access", ALLOW);
    wat.more(&function.repeat(200)).text()
}

#[tokio::test]
async fn compiling_has_a_limit() {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    rig.limits.load_timeout = Duration::from_millis(1);
    let message = rig.load_error(&large());
    assert_eq!(message, "plugin.wat: compiling takes longer than 1ms");
    // It goes on, once.
    let message = rig.load_error(&large());
    assert!(message.contains("is still being compiled"), "{message}");
    rig.limits.load_timeout = Duration::from_secs(600);
    while let Err(error) = rig.load("plugin.wat") {
        let message = error.message;
        assert!(message.contains("is still being compiled"), "{message}");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn starting_has_a_limit() {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    let wat = Wat::default().function("access-control#access", ALLOW);
    let wat = wat.more("(func $forever (loop $again (br $again))) (start $forever)");
    rig.limits.load_timeout = Duration::from_millis(300);
    let message = rig.load_error(&wat.text());
    assert_eq!(message, "plugin.wat: does not start within 300ms");
}

#[tokio::test]
async fn waiting_has_a_limit_of_its_own() {
    let _turn = beside_others().await;
    let mut rig = Rig::new();
    rig.limits.timeout = Duration::from_secs(100);
    rig.limits.wall_timeout = Duration::from_millis(200);
    let reply = rig.plugin(&plugin()).call(asking_for("loop")).await;
    let message = error(&reply, HookErrorKind::WallTimeout);
    let limit = "plugin.wat: access: wall-clock limit of 200ms exceeded (computed for ";
    assert!(message.starts_with(limit), "{message}");
}
