//! Endpoints that do not read, and clients that send to them all the same.

use std::time::Duration;

use stablegate::client::fastway::{Endpoint, Options};
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::rig::{Traffic, metric};
use crate::alone;
use crate::common::{Gateway, Relay, soon};
use crate::time::time;

const CONFIG: &str = "
admin: 127.0.0.1:0
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp}
  - {name: clients, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}
  - {name: servers, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-server}
fastway: {auth_key: sesame}
hosts: [{name: echo, addr: 'builtin:echo'}]
";
const SERVER: u32 = 7;
/// What waits for a server when its queue is full, but for a message: bytes.
const FULL: u64 = (16 << 20) - MESSAGE as u64;
const MESSAGE: usize = 500_000;
/// What may wait for a server, and with what else a gateway grows: bytes.
const MEMORY: u64 = 3 * (16 << 20);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_server_costs_little() {
    let _turn = alone().await;
    let gateway = Gateway::start(CONFIG).await;
    let relay = Relay::start(gateway.addrs("servers")[0]).await;
    let stream = TcpStream::connect(relay.addr).await.unwrap();
    let server = Endpoint::server(stream, SERVER, b"sesame", Options::default());
    let server = soon("a challenge", server).await.unwrap();
    gateway.log().nth("endpoint joined", 0).await;
    let addresses = ["tcp", "kcp"].map(|transport| {
        let bind = usize::from(transport == "kcp");
        format!("{transport}://{}", gateway.addrs("game")[bind])
    });
    let mut traffic = Traffic::start(&addresses, 20, Duration::from_millis(50)).await;
    let before = gateway.resident();
    let (server, relay, gateway) = (&server, &relay, &gateway);
    traffic
        .compare(
            time(),
            async || (),
            async || {
                relay.stall(false);
                let stream = TcpStream::connect(gateway.addrs("clients")[0])
                    .await
                    .unwrap();
                let client = Endpoint::client(stream, Options::default());
                let (dialled, _accepted) = tokio::join!(
                    soon("an answer", client.dial(SERVER)),
                    soon("a dial", server.accept()),
                );
                let dialled = dialled.unwrap();
                relay.stall(true);
                let mut attack = JoinSet::new();
                attack.spawn(async move { while dialled.send(vec![1; MESSAGE]).await.is_ok() {} });
                // What it costs to fill the queue is not what a stalled server costs.
                let full = async {
                    while metric(gateway, "stablegate_fastway_queue_bytes").await < FULL {}
                };
                soon("a full queue", full).await;
                (attack, client, _accepted)
            },
        )
        .await;
    traffic.assert_unharmed();
    let after = gateway.resident();
    assert!(after <= before + MEMORY, "{before} bytes, then {after}");
}
