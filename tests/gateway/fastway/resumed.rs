//! Endpoints over sessions that resume: cuts lose nothing.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::fastway::{Connection, Endpoint, Error, Version};
use stablegate::client::{Stream, scp, snet};
use stablegate::config::Transport;
use tokio::task::JoinSet;

use super::rig::{connect, options, server, settings};
use crate::common::{Cut, Gateway, Relay, seed, soon};

const CLIENTS: u64 = 6;
const CONNECTIONS: u64 = 4;
const MESSAGES: u32 = 100;
/// Messages of each end under way.
const WINDOW: u32 = 8;
const CUTS: usize = 25;
/// More than the systems between two ends may hold, acknowledged and not read.
const REPLAY: usize = 16 << 20;

#[derive(Clone, Copy)]
enum Protocol {
    Scp,
    Snet,
}

impl Protocol {
    /// A session that goes from one address to the next.
    async fn open(self, addresses: Vec<Address>) -> Stream {
        let first = addresses[0].clone();
        let opening = async {
            match self {
                Self::Scp => {
                    let options = scp::Options {
                        addresses,
                        replay_buffer: REPLAY,
                        ..scp::Options::new(first)
                    };
                    Stream::connect(options).await
                }
                Self::Snet => {
                    let options = snet::Options {
                        addresses,
                        replay_buffer: REPLAY,
                        retry: Duration::from_millis(50),
                        ..snet::Options::new(first)
                    };
                    Stream::connect(options).await
                }
            }
        };
        soon("a session", opening).await.unwrap()
    }

    fn name(self) -> &'static str {
        match self {
            Self::Scp => "scp",
            Self::Snet => "snet",
        }
    }
}

/// A listener behind a network that can be cut.
struct Way {
    relay: Relay,
    kcp: Option<SocketAddr>,
}

impl Way {
    async fn to(gateway: &Gateway, listener: &str) -> Self {
        let addrs = gateway.addrs(listener);
        Self {
            relay: Relay::start(addrs[0]).await,
            kcp: addrs.get(1).copied(),
        }
    }

    /// TCP, and KCP after that if the listener has both.
    fn addresses(&self) -> Vec<Address> {
        let tcp = (Transport::Tcp, self.relay.addr);
        let both = [Some(tcp), self.kcp.map(|addr| (Transport::Kcp, addr))];
        let address = |(transport, addr): (_, SocketAddr)| Address {
            transport,
            authority: addr.to_string(),
        };
        both.into_iter().flatten().map(address).collect()
    }
}

/// Numbered, of a length that its number gives.
fn message(n: u32) -> Bytes {
    let mut bytes = n.to_le_bytes().to_vec();
    bytes.resize(4 + (n as usize * 37) % 3000, n as u8);
    bytes.into()
}

/// Messages to and fro until all cuts are made. There is no flow control: who sends more than the
/// other end can have by then is cut off.
async fn talk(near: &Connection, far: &Connection, over: &AtomicBool) {
    let mut first = 0;
    while first < MESSAGES || !over.load(Ordering::Relaxed) {
        let window = first..first + WINDOW;
        for n in window.clone() {
            near.send(message(n)).await.unwrap();
            far.send(message(n)).await.unwrap();
        }
        for n in window {
            for end in [near, far] {
                let received = soon("a message", end.receive()).await;
                assert_eq!(received, Ok(message(n)));
            }
        }
        first += WINDOW;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scp_loses_nothing_when_connections_are_cut() {
    nothing_is_lost(Protocol::Scp, "'tcp://127.0.0.1:0'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn snet_loses_nothing_when_connections_are_cut() {
    nothing_is_lost(Protocol::Snet, "'tcp://127.0.0.1:0'").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scp_loses_nothing_between_tcp_and_kcp() {
    let binds = "'tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'";
    nothing_is_lost(Protocol::Scp, binds).await;
}

#[tokio::test]
async fn draining_waits_for_who_is_away() {
    let config = format!(
        "listeners:\n  - {{name: clients, bind: ['tcp://127.0.0.1:0'], session: snet, \
         service: fastway-client}}\n  - {{name: servers3, bind: ['tcp://127.0.0.1:0'], \
         session: plain, service: fastway-server}}\n{}",
        settings("")
    );
    let mut gateway = Gateway::start(&config).await;
    let server = server(&gateway, Version::V3, 9).await;
    let way = Way::to(&gateway, "clients").await;
    let stream = Protocol::Snet.open(way.addresses()).await;
    let client = Endpoint::client(stream, options(Version::V3));
    let (near, far) = connect(&client, &server, 9).await;
    way.relay.stall(true);
    way.relay.cut(Cut::Reset);
    for n in 0..50 {
        far.send(message(n)).await.unwrap();
    }
    far.close();
    // Once this is answered the gateway has all of it.
    let refused = soon("an answer", server.dial(4000)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    gateway.signal(libc::SIGTERM);
    soon("the server's end", server.closed()).await;
    way.relay.stall(false);
    for n in 0..50 {
        assert_eq!(soon("a message", near.receive()).await, Ok(message(n)));
    }
    assert_eq!(soon("the end", near.receive()).await, Err(Error::Closed));
    assert!(soon("the exit", gateway.exited()).await.success());
}

async fn nothing_is_lost(protocol: Protocol, binds: &str) {
    let seed = seed();
    println!("STABLEGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let name = protocol.name();
    let listener = |service: &str| {
        format!(
            "  - {{name: {service}s, bind: [{binds}], session: {name}, \
             service: fastway-{service}, {name}: {{replay_buffer: {REPLAY}B}}}}\n"
        )
    };
    let config = format!(
        "listeners:\n{}{}{}",
        listener("client"),
        listener("server"),
        settings("")
    );
    let gateway = Gateway::start(&config).await;
    let to_servers = Way::to(&gateway, "servers").await;
    let to_clients = Way::to(&gateway, "clients").await;
    let stream = protocol.open(to_servers.addresses()).await;
    let mut cutters = vec![stream.cutter()];
    let id = 9;
    let server = Endpoint::server(stream, id, b"sesame", options(Version::V3));
    let server = soon("a challenge", server).await.unwrap();
    let fits =
        |line: &serde_json::Value| line["message"] == "endpoint joined" && line["endpoint"] == 9;
    gateway.log().wait("the server", fits).await;

    let over = Arc::<AtomicBool>::default();
    let mut talks = JoinSet::new();
    for n in 0..CLIENTS {
        let version = Version::ALL[[0, 2][n as usize % 2]];
        let stream = protocol.open(to_clients.addresses()).await;
        cutters.push(stream.cutter());
        let client = Endpoint::client(stream, options(version));
        for _ in 0..CONNECTIONS {
            let near = soon("an answer", client.dial(id)).await.unwrap();
            let far = soon("a dial", server.accept()).await.unwrap();
            assert_eq!(near.id(), far.id());
            let over = over.clone();
            talks.spawn(async move {
                talk(&near, &far, &over).await;
            });
        }
    }
    // All of it under way, cut after cut; the pauses make them come at different moments.
    let cutting = async {
        for n in 0..CUTS {
            let cut = if rng.random() { Cut::Close } else { Cut::Reset };
            [&to_servers, &to_clients][n % 2].relay.cut(cut);
            // Those that are on KCP are not cut by that.
            cutters[n % cutters.len()].cut();
            tokio::time::sleep(Duration::from_millis(rng.random_range(20..120))).await;
        }
    };
    cutting.await;
    over.store(true, Ordering::Relaxed);
    while let Some(talked) = talks.join_next().await {
        talked.unwrap();
    }
    assert!(to_servers.relay.accepted() > 1);
    assert!(to_clients.relay.accepted() > CLIENTS as usize);
    if to_clients.kcp.is_some() {
        let over_kcp = |line: &serde_json::Value| {
            line["message"] == "session resumed" && line["transport"] == "kcp"
        };
        gateway.log().wait("a resume over KCP", over_kcp).await;
    }
    let refused = soon("an answer", server.dial(4000)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
}
