//! Scripts that loop, and clients that make them.

use std::sync::Arc;
use std::time::Duration;

use stablegate::client::Stream;
use stablegate::client::scp::Options;
use tokio::task::JoinSet;

use super::rig::{Busy, Traffic};
use crate::alone;
use crate::common::{Gateway, connect, echoed, http};
use crate::time::time;

/// Each keeps its thread for as long as it is let.
const LOOPS: [(&str, &str); 6] = [
    ("rep", "string.rep('', '9223372036854775807')"),
    ("move", "table.move({}, '1', '4611686018427387904', '2')"),
    (
        "insert",
        "table.insert(setmetatable({}, {__len = function() return math.maxinteger - 1 end}), 1, 'x')",
    ),
    (
        "pattern",
        "assert(not s.target:match('^(.-)@(.-)/(.-):ok$'))",
    ),
    (
        "store",
        "while true do gateway.shared.set('x', string.rep('x', 1000000)) end",
    ),
    ("hub", "while true do gateway.fastway.clients() end"),
];
/// Clients that ask such a script at any time.
const CLIENTS: usize = 24;

fn config() -> String {
    let listeners = LOOPS.iter().map(|(name, _)| {
        format!(
            "  - {{name: {name}, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [{name}]}}\n"
        )
    });
    let hooks = LOOPS
        .iter()
        .map(|(name, _)| format!("  - {{name: {name}, lua: {name}.lua}}\n"));
    format!(
        "admin: 127.0.0.1:0\n\
         hosts: [{{name: echo, addr: 'builtin:echo'}}]\n\
         listeners:\n\
         \x20 - {{name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp}}\n\
         \x20 - {{name: good, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [good]}}\n\
         {}hooks:\n  - {{name: good, lua: good.lua}}\n{}",
        listeners.collect::<String>(),
        hooks.collect::<String>(),
    )
}

/// Asks a script for what it does not answer, again and again.
async fn ask(gateway: Arc<Gateway>, listener: &'static str) {
    let options = Options {
        target: Some("@/".repeat(1_900)),
        ..Options::new(gateway.addrs(listener)[0].to_string().parse().unwrap())
    };
    loop {
        // Denied after the handshake, or before it is over.
        if let Ok(mut stream) = Stream::connect(options.clone()).await {
            let _ = tokio::io::AsyncReadExt::read(&mut stream, &mut [0]).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn loops_are_felt_by_nobody() {
    let _turn = alone().await;
    let mut files = vec![(
        "good.lua".to_owned(),
        "function access() return true end\n".to_owned(),
    )];
    for (name, code) in LOOPS {
        let script = format!("function access(s) {code} return true end\n");
        files.push((format!("{name}.lua"), script));
    }
    let files: Vec<_> = files.iter().map(|(a, b)| (&a[..], &b[..])).collect();
    let gateway = Arc::new(Gateway::start_among(&files, &config()).await);
    let admin = gateway.admin().await;
    let [tcp, kcp] = gateway.addrs("game") else {
        panic!("two binds");
    };
    let addresses = [format!("tcp://{tcp}"), format!("kcp://{kcp}")];
    let mut traffic = Traffic::start(&addresses, 20, Duration::from_millis(50)).await;
    traffic
        .compare(
            time(),
            // What computes elsewhere takes as much of the machine.
            async || Busy::start(std::thread::available_parallelism().unwrap().get()),
            async || {
                let mut attack = JoinSet::new();
                for n in 0..CLIENTS {
                    let (listener, _) = LOOPS[n % LOOPS.len()];
                    attack.spawn(ask(gateway.clone(), listener));
                }
                for _ in 0..3 {
                    let mut stream = connect(gateway.addrs("good")[0]).await;
                    echoed(&mut stream, b"let in").await;
                }
                gateway.save("good.lua", "function access() return not false end\n");
                http::post(admin, "/reload").await.good();
                attack
            },
        )
        .await;
    traffic.assert_unharmed();
    let looped = gateway.log().all("hook failed");
    assert!(
        looped.iter().any(|line| line["hook"] == "pattern"),
        "{looped:?}"
    );
}
