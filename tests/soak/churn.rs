//! Sessions of all kinds come and go, connections break, scripts reload: nothing is left behind.
//!
//! `.ci/churn` has it go on for an hour. However short, there are two rounds; in less than a minute
//! the allocator is still growing when the first half is over.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::fastway::{Endpoint, Options};
use stablegate::client::{Stream, scp, snet};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::common::*;
use crate::time::time;

const SCRIPT: &str =
    "local seen = {}\nfunction access(session) seen[session.id] = true; return true end\n";
/// Sessions at a time.
const ROUND: u64 = 480;
/// The id of the fastway server.
const SERVER: u32 = 7;
/// Resident memory may differ by this much at the end, bytes: what allocators keep is not the same
/// each time.
const SLACK: u64 = 6 << 20;

const CONFIG: &str = "
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp, hooks: [seen]}
  - {name: snet, bind: ['tcp://127.0.0.1:0'], session: snet, hooks: [seen]}
  - {name: plain, bind: ['tcp://127.0.0.1:0'], session: plain}
  - {name: clients, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}
  - {name: servers, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-server}
scp: {resume_wait: 6s}
snet: {resume_wait: 6s}
kcp: {read_timeout: 3s}
hosts: [{name: echo, addr: 'builtin:echo'}]
hooks: [{name: seen, lua: seen.lua}]
admin: 127.0.0.1:0
";

/// What a gateway holds.
#[derive(Debug)]
struct Holdings {
    resident: u64,
    descriptors: u64,
}

impl Holdings {
    async fn of(admin: SocketAddr) -> Self {
        let metrics = http::get(admin, "/metrics").await.body;
        let value = |name: &str| {
            let line = metrics.lines().find_map(|line| line.strip_prefix(name));
            let value: f64 = line.unwrap().trim().parse().unwrap();
            value as u64
        };
        Self {
            resident: value("process_resident_memory_bytes "),
            descriptors: value("process_open_fds "),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_behind() {
    let seed = seed();
    println!("STABLEGATE_SEED={seed}");
    let mut rng = StdRng::seed_from_u64(seed);
    let time = time();
    let gateway = Arc::new(Gateway::start_among(&[("seen.lua", SCRIPT)], CONFIG).await);
    let admin = gateway.admin().await;
    let stream = TcpStream::connect(gateway.addrs("servers")[0])
        .await
        .unwrap();
    let server = Endpoint::server(stream, SERVER, b"", Options::default());
    let server = soon("a challenge", server).await.unwrap();
    tokio::spawn(async move {
        while let Ok(connection) = server.accept().await {
            tokio::spawn(async move {
                while let Ok(message) = connection.receive().await {
                    let _ = connection.send(message).await;
                }
            });
        }
    });
    gateway.log().nth("endpoint joined", 0).await;

    let start = Instant::now();
    let (mut rounds, mut warm) = (0, None);
    while start.elapsed() < time || rounds < 2 {
        round(&gateway, rng.random()).await;
        rounds += 1;
        if rounds % 2 == 0 {
            gateway.save("seen.lua", &format!("-- {rounds}\n{SCRIPT}"));
            gateway.log().nth("reloaded", 0).await;
        }
        gateway.log().forget();
        // Until then caches and pools fill.
        if warm.is_none() && start.elapsed() >= time / 2 {
            warm = Some((Holdings::of(admin).await, rounds));
        }
    }
    let now = Holdings::of(admin).await;
    let (warm, before) = warm.unwrap();
    let sessions = (rounds - before) * ROUND;
    println!("{sessions} sessions: from {warm:?} to {now:?}");
    assert!(sessions > 0);
    assert!(now.descriptors <= warm.descriptors, "{warm:?} {now:?}");
    // In less than a minute allocators and caches still fill.
    let slack = match time >= Duration::from_secs(60) {
        true => SLACK,
        false => warm.resident / 2,
    };
    assert!(now.resident <= warm.resident + slack, "{warm:?} {now:?}");
}

/// Some sessions of each kind at once, until the gateway has seen the last of them.
async fn round(gateway: &Arc<Gateway>, seed: u64) {
    let mut all = JoinSet::new();
    for n in 0..ROUND {
        let gateway = gateway.clone();
        let rng = StdRng::seed_from_u64(seed ^ n);
        all.spawn(async move {
            match n % 6 {
                0 => scp(&gateway, 0, rng).await,
                1 => scp(&gateway, 1, rng).await,
                2 => snet(gateway.addrs("snet")[0], rng).await,
                3 => plain(gateway.addrs("plain")[0], rng).await,
                4 => dial(gateway.addrs("clients")[0], rng).await,
                _ => nonsense(&gateway, rng).await,
            }
        });
    }
    while let Some(done) = all.join_next().await {
        done.unwrap();
    }
    let each = ROUND as usize / 6;
    gateway.log().nth("session closed", 4 * each - 1).await;
    gateway.log().nth("endpoint left", each - 1).await;
    gateway.log().nth("handshake failed", each - 1).await;
}

async fn scp(gateway: &Gateway, bind: usize, rng: StdRng) {
    let transport = ["tcp", "kcp"][bind];
    let address = format!("{transport}://{}", gateway.addrs("game")[bind]);
    let options = scp::Options::new(address.parse::<Address>().unwrap());
    let stream = soon("a session", Stream::connect(options)).await.unwrap();
    talk(stream, rng).await;
}

async fn snet(addr: SocketAddr, rng: StdRng) {
    let options = snet::Options {
        retry: Duration::from_millis(10),
        ..snet::Options::new(addr.to_string().parse().unwrap())
    };
    let stream = soon("a session", Stream::connect(options)).await.unwrap();
    talk(stream, rng).await;
}

/// Says something before and after a cut, and leaves.
async fn talk(mut stream: Stream, mut rng: StdRng) {
    for again in [false, true] {
        if again {
            stream.cutter().cut();
        }
        let mut text = vec![0; rng.random_range(1..20_000)];
        rng.fill(&mut text[..]);
        echoed(&mut stream, &text).await;
    }
}

async fn plain(addr: SocketAddr, mut rng: StdRng) {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let mut text = vec![0; rng.random_range(1..20_000)];
    rng.fill(&mut text[..]);
    stream.write_all(&text).await.unwrap();
    let mut back = vec![0; text.len()];
    soon("the echo", stream.read_exact(&mut back))
        .await
        .unwrap();
    assert!(back == text);
}

async fn dial(addr: SocketAddr, mut rng: StdRng) {
    let stream = TcpStream::connect(addr).await.unwrap();
    let client = Endpoint::client(stream, Options::default());
    for _ in 0..3 {
        let connection = soon("an answer", client.dial(SERVER)).await.unwrap();
        let mut text = vec![0; rng.random_range(1..2_000)];
        rng.fill(&mut text[..]);
        connection.send(text.clone()).await.unwrap();
        let back = soon("the echo", connection.receive()).await.unwrap();
        assert!(*back == *text);
    }
}

/// A handshake that is none.
async fn nonsense(gateway: &Gateway, mut rng: StdRng) {
    let mut stream = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut text = vec![0; rng.random_range(3..100)];
    rng.fill(&mut text[2..]);
    text[1] = 1;
    let _ = stream.write_all(&text).await;
    let _ = soon("the end", stream.read_to_end(&mut Vec::new())).await;
}
