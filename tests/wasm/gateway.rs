//! Plugins of a running gateway.

use stablegate::client::scp::{Options, Stream};
use stablegate::hooks::HookErrorKind;
use tokio::io::AsyncReadExt;

use crate::common::{Gateway, connect_with, echoed, options, run, soon};
use crate::harm::{BOMBS, plugin};

pub const CONFIG: &str = "listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [guard]}
hosts: [{name: echo, addr: 'builtin:echo'}]
scp: {resume_wait: 300ms}
hooks: [{name: guard, wasm: guard.wat, timeout: 1s}]
";

pub async fn connect(gateway: &Gateway, target: &str) -> Stream {
    let options = Options {
        target: Some(target.to_owned()),
        ..options(gateway.addr())
    };
    connect_with(options).await
}

/// Every way a plugin can hurt, many at once, beside sessions of the same plugin that must not
/// feel it.
#[tokio::test]
async fn bombs_beside_live_traffic() {
    let wat = plugin().text();
    let gateway = Gateway::start_among(&[("guard.wat", &wat)], CONFIG).await;
    let mut live = connect(&gateway, "echo").await;
    echoed(&mut live, b"before").await;
    let mut victims = Vec::new();
    for _ in 0..4 {
        for (bomb, kind) in BOMBS {
            victims.push((bomb, kind, connect(&gateway, bomb).await));
        }
    }
    // While those go off: new sessions of the same plugin come in, and live ones go on.
    for _ in 0..10 {
        let mut fresh = connect(&gateway, "echo").await;
        echoed(&mut fresh, b"fresh").await;
        echoed(&mut live, b"live").await;
    }
    // None of them waited for one that takes all of its time.
    let over = gateway.log().all("hook failed");
    let timeouts = over
        .iter()
        .filter(|line| line["kind"] == HookErrorKind::Timeout.label());
    assert!(timeouts.count() < victims.len() / 3, "sessions felt it");
    for (bomb, kind, victim) in victims {
        let closed = gateway.log().of(victim.id(), "session closed").await;
        assert_eq!(closed["reason"], "denied", "{bomb}");
        let failed = gateway.log().of(victim.id(), "hook failed").await;
        // On a busy machine the time, of either clock, may be over before the memory is.
        let kinds = [kind, HookErrorKind::Timeout, HookErrorKind::WallTimeout];
        let of = failed["kind"].as_str().unwrap();
        let fits = kinds.iter().any(|kind| kind.label() == of);
        assert!(fits, "{bomb}: {failed}");
    }
    echoed(&mut live, b"after").await;
}

#[tokio::test]
async fn a_denied_client_is_turned_away() {
    let wat = plugin().text();
    let gateway = Gateway::start_among(&[("guard.wat", &wat)], CONFIG).await;
    let mut unwelcome = connect(&gateway, "trap").await;
    let mut rest = Vec::new();
    soon("the end", unwelcome.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"");
    let skipping = CONFIG.replace("timeout", "on_error: skip, instance: pooled, timeout");
    let gateway = Gateway::start_among(&[("guard.wat", &wat)], &skipping).await;
    // The name is that of no host: any will do.
    echoed(&mut connect(&gateway, "trap").await, b"in").await;
}

#[tokio::test]
async fn a_decision_can_be_asked_for_by_hand() {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("guard.wat"), plugin().text()).unwrap();
    let call = |target| {
        let arguments = ["hook", "call", "guard.wat", "access", "--target", target];
        let directory = directory.path();
        async move { run(directory, &arguments).await }
    };
    let allowed = call("anything").await;
    assert!(allowed.stdout.starts_with("allow\n"), "{}", allowed.stderr);
    let trapped = call("trap").await;
    assert_eq!(trapped.code, Some(1));
    assert!(
        trapped.stderr.contains("guard.wat: access: "),
        "{}",
        trapped.stderr
    );
}

#[tokio::test]
async fn check_loads_plugins() {
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| std::fs::write(directory.path().join(name), text).unwrap();
    write("config.yaml", CONFIG);
    write("guard.wat", &plugin().text());
    let good = run(directory.path(), &["check"]).await;
    assert_eq!(good.code, Some(0), "{}", good.stderr);
    write("guard.wat", "(module)");
    let bad = run(directory.path(), &["check"]).await;
    assert_eq!(bad.code, Some(1));
    assert!(
        bad.stderr
            .contains("hook guard: guard.wat: exports none of access-control"),
        "{}",
        bad.stderr
    );
}
