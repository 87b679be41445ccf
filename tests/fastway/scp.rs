//! Endpoints over sessions that resume: cuts lose nothing.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::fastway::{Connection, Endpoint, Error, Version};
use stablegate::client::scp;
use tokio::task::JoinSet;

use crate::common::{Cut, Gateway, Relay, seed, soon};
use crate::rig::{listeners, options, settings};

const CLIENTS: u64 = 6;
const CONNECTIONS: u64 = 4;
const MESSAGES: u32 = 300;
/// Messages of each end under way.
const WINDOW: u32 = 8;
const CUTS: usize = 25;
/// More than the systems between two ends may hold, acknowledged and not read.
const REPLAY: usize = 16 << 20;

async fn session(relay: &Relay) -> scp::Stream {
    let options = scp::Options {
        replay_buffer: REPLAY,
        ..scp::Options::new(relay.addr.to_string().parse().unwrap())
    };
    soon("a session", scp::Stream::connect(options))
        .await
        .unwrap()
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
async fn nothing_is_lost_when_connections_are_cut() {
    let seed = seed();
    println!("STABLEGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let replay = format!(", scp: {{replay_buffer: {REPLAY}B}}");
    let config = listeners("scp", &replay) + &settings("");
    let gateway = Gateway::start(&config).await;
    let to_servers = Relay::start(gateway.addrs("servers3")[0]).await;
    let to_clients = Relay::start(gateway.addrs("clients")[0]).await;
    let stream = session(&to_servers).await;
    let id = 9;
    let server = Endpoint::server(stream, id, b"sesame", options(Version::V3));
    let server = soon("a challenge", server).await.unwrap();
    let fits = |line: &serde_json::Value| line["message"] == "endpoint joined" && line["id"] == 9;
    gateway.log().wait("the server", fits).await;

    let over = Arc::<AtomicBool>::default();
    let mut talks = JoinSet::new();
    for n in 0..CLIENTS {
        let version = Version::ALL[[0, 2][n as usize % 2]];
        let client = Endpoint::client(session(&to_clients).await, options(version));
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
            [&to_servers, &to_clients][n % 2].cut(cut);
            tokio::time::sleep(Duration::from_millis(rng.random_range(20..120))).await;
        }
    };
    cutting.await;
    over.store(true, Ordering::Relaxed);
    while let Some(talked) = talks.join_next().await {
        talked.unwrap();
    }
    assert!(to_servers.accepted() > 1 && to_clients.accepted() > CLIENTS as usize);
    let refused = soon("an answer", server.dial(4000)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
}
