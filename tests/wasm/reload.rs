//! Plugins that change under a running gateway.

use crate::common::{Gateway, echoed};
use crate::gateway::{CONFIG, connect};
use crate::harm::ALLOW;
use crate::wat::{Value, Wat};

/// A plugin that logs its version when a session begins and when it ends.
fn version(number: usize) -> String {
    let mut wat = Wat::default();
    let log = |wat: &mut Wat, what: &str| {
        let line = wat.bytes(format!("{what} {number}").as_bytes());
        format!("i32.const 1\n{line}{}", wat.call("log.write"))
    };
    let opened = log(&mut wat, "opened by") + ALLOW;
    let closed = log(&mut wat, "closed by") + "(i32.store8 (i32.const 16) (i32.const 0))";
    wat.function("access-control#access", &opened)
        .function("lifecycle#closed", &closed)
        .text()
}

#[tokio::test]
async fn a_saved_plugin_takes_effect_and_a_broken_one_does_not() {
    let gateway = Gateway::start_among(&[("guard.wat", &version(1))], CONFIG).await;
    let log = gateway.log();
    let mut first = connect(&gateway, "echo").await;
    echoed(&mut first, b"first").await;
    gateway.save("guard.wat", &version(2));
    assert_eq!(log.nth("reloaded", 0).await["generation"], 2);
    let mut second = connect(&gateway, "echo").await;
    echoed(&mut second, b"second").await;
    log.nth("opened by 2", 0).await;

    gateway.save("guard.wat", &version(3).replace("#access", "#acess"));
    let failed = log.nth("reload failed, nothing changed", 0).await;
    let reason = failed["error"].as_str().unwrap();
    assert!(
        reason.starts_with("hook guard: guard.wat: ") && reason.contains("access-control"),
        "{reason}"
    );
    echoed(&mut connect(&gateway, "echo").await, b"third").await;
    log.nth("opened by 2", 1).await;

    gateway.save("guard.wat", &version(4));
    assert_eq!(log.nth("reloaded", 1).await["generation"], 3);
    // Each session is told about by what decided it.
    echoed(&mut first, b"still there").await;
    drop(first);
    log.nth("closed by 1", 0).await;
    drop(second);
    log.nth("closed by 2", 0).await;
}

/// Reloads under traffic, and the code of plugins that nobody needs any more is freed.
#[tokio::test]
async fn a_hundred_reloads_leave_memory_flat() {
    /// What allocators and the log may keep, bytes. Code, stacks and memory of so many plugins
    /// would be several times that.
    const SLACK: u64 = 24 << 20;
    const WARM: usize = 20;
    let gateway = Gateway::start_among(&[("guard.wat", &large(0))], CONFIG).await;
    let mut live = connect(&gateway, "echo").await;
    let mut before = 0;
    for number in 1..=WARM + 100 {
        let text = large(number);
        gateway.save("guard.wat", &text);
        gateway.signal(libc::SIGHUP);
        // The watcher may have been first; then there is one more.
        gateway.log().nth("reloaded", number - 1).await;
        echoed(&mut live, b"live").await;
        echoed(&mut connect(&gateway, "echo").await, b"new").await;
        if number == WARM {
            before = gateway.resident();
        }
    }
    let after = gateway.resident();
    assert!(
        after < before + SLACK,
        "{before} bytes before, {after} after"
    );
    // The first plugin is still there for its session.
    drop(live);
    gateway.log().nth("closed by 0", 0).await;
}

/// A plugin with a megabyte of memory and some code of its own.
fn large(number: usize) -> String {
    let mut wat = Wat::default();
    let noise = wat.bytes(&vec![number as u8; 100_000]);
    let value = wat.value(Value::Integer(number as i64));
    let unused = format!("(func {noise} drop drop {value} drop drop drop)\n").repeat(20);
    let text = version(number);
    let (start, _) = text.rsplit_once(')').unwrap();
    format!("{start}{unused})").replace(
        "(memory (export \"memory\") 4)",
        "(memory (export \"memory\") 16)",
    )
}
