//! Forged datagrams.

use std::net::UdpSocket;
use std::time::Duration;

use stablegate::client::Stream;
use stablegate::internal::transport::kcp::segment::{Command, Header};

use super::rig::{Flood, Traffic, metric, options_of};
use crate::alone;
use crate::common::{Gateway, echoed, soon};
use crate::time::time;

/// Openers in a second.
const RATE: u64 = 10_000;
/// Bytes of memory that they may take.
const MEMORY: u64 = 16 << 20;

const CONFIG: &str = "
listeners:
  - name: game
    bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0']
    session: scp
    hooks: [count]
    limits: {per_source: 450}
hosts: [{name: echo, addr: 'builtin:echo'}]
hooks: [{name: count, lua: count.lua}]
admin: 127.0.0.1:0
";
const SCRIPT: &str = "function access() gateway.shared.incr('asked') return true end\n";

/// Opens a conversation with the whole of scp's first message.
fn opener(number: u32) -> Vec<u8> {
    let message = b"\0\x0e0\nAQAAAAAAAAA=";
    let header = Header {
        conv: number,
        command: Command::Push,
        fragment: 0,
        window: 1024,
        timestamp: 0,
        sn: 0,
        una: 0,
    };
    [&header.encode(message.len() as u32)[..], message].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_openers_buy_nothing() {
    let _turn = alone().await;
    let gateway = Gateway::start_among(&[("count.lua", SCRIPT)], CONFIG).await;
    let [tcp, kcp] = gateway.addrs("game") else {
        panic!("two binds");
    };
    let (to, addresses) = (*kcp, [format!("tcp://{tcp}"), format!("kcp://{kcp}")]);
    let mut traffic = Traffic::start(&addresses, 200, Duration::from_millis(500)).await;
    let nobody = UdpSocket::bind("127.0.0.1:0").unwrap();
    let nobody = nobody.local_addr().unwrap();
    let before = gateway.resident();
    let descriptors = metric(&gateway, "process_open_fds").await;
    let (mut most, mut opened) = (0, 0);
    let length = time();
    traffic
        .compare(
            length,
            async || Flood::start(nobody, RATE, opener),
            async || {
                let flood = Flood::start(to, RATE, opener);
                for _ in 0..5 {
                    let connecting = Stream::connect(options_of(&addresses[1]));
                    let mut stream = soon("a session", connecting).await.unwrap();
                    echoed(&mut stream, b"hello").await;
                    opened += 1;
                }
                most = most.max(gateway.resident());
                flood
            },
        )
        .await;
    traffic.assert_unharmed();
    most = most.max(gateway.resident());
    assert!(most <= before + MEMORY, "{before} bytes, then {most}");
    assert!(metric(&gateway, "process_open_fds").await <= descriptors);
    let challenged = metric(&gateway, "stablegate_kcp_refused_opens_total").await
        + metric(&gateway, "stablegate_kcp_half_open{").await;
    assert!(challenged > RATE, "{challenged} openers came");
    let sessions = metric(&gateway, "stablegate_sessions_opened_total").await;
    assert_eq!(sessions, 400 + opened);
}
