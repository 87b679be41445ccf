//! Many sessions of each kind, much traffic and a network that breaks all the time.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::Stream;
use stablegate::client::snet::Options;
use stablegate::config::Transport;
use stablegate::internal::proto::snet::Version;
use tokio::task::JoinSet;

use crate::common::{Gateway, Relay, Server, soon};
use crate::time::time;
use crate::traffic::{Moved, Plan, seeded, session};

const SESSIONS: u64 = 200;

/// What sessions differ in.
#[derive(Debug, Clone, Copy)]
struct Kind {
    version: Version,
    encrypt: bool,
    transport: Transport,
}

fn kinds() -> Vec<Kind> {
    let mut kinds = Vec::new();
    for version in [Version::V1, Version::V2] {
        for encrypt in [true, false] {
            for transport in [Transport::Tcp, Transport::Kcp] {
                kinds.push(Kind {
                    version,
                    encrypt,
                    transport,
                });
            }
        }
    }
    kinds
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_lose_nothing() {
    seeded(soak).await;
}

async fn soak(seed: u64) {
    let server = Server::start().await;
    let binds = "['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0']";
    let gateway = Gateway::start(&format!(
        "listeners:\n\
         - {{name: encrypted, bind: {binds}, session: snet}}\n\
         - {{name: plain, bind: {binds}, session: snet, snet: {{encrypt: false}}}}\n\
         hosts: [{{name: server, addr: '{}'}}]\n",
        server.addr
    ))
    .await;
    let kinds = kinds();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut begun = Vec::new();
    for name in 0..SESSIONS {
        // One after the other, so that the ends belong together.
        let kind = kinds[name as usize % kinds.len()];
        let listener = if kind.encrypt { "encrypted" } else { "plain" };
        let addrs = gateway.addrs(listener);
        let (authority, link) = match kind.transport {
            Transport::Tcp => {
                let link = Relay::start(addrs[0]).await;
                (link.addr, Some(link))
            }
            Transport::Kcp => (addrs[1], None),
        };
        let client = Stream::connect(Options {
            version: kind.version,
            encrypt: kind.encrypt,
            retry: Duration::from_millis(50),
            ..Options::new(Address {
                transport: kind.transport,
                authority: authority.to_string(),
            })
        });
        let client = soon("a session", client).await.unwrap();
        let connection = server.accept().await;
        let rng = StdRng::seed_from_u64(rng.random());
        begun.push((name, client, connection, link, rng));
    }
    let plan = Plan::new(time());
    let mut sessions = JoinSet::new();
    for (name, client, connection, link, rng) in begun {
        let kind = name as usize % kinds.len();
        let plan = match kinds[kind].version {
            Version::V1 => plan.with_resets_only(),
            Version::V2 => plan,
        };
        sessions.spawn(async move {
            let moved = session(name, client, connection, link, rng, plan).await;
            (kind, moved)
        });
    }
    let mut all = Moved::default();
    let mut clients = Vec::new();
    let mut resumes = vec![0; kinds.len()];
    while let Some(moved) = sessions.join_next().await {
        let (kind, (moved, client)) = moved.unwrap();
        clients.push(client);
        all.up += moved.up;
        all.down += moved.down;
        all.resumes += moved.resumes;
        all.cuts += moved.cuts;
        resumes[kind] += moved.resumes;
    }
    let count = SESSIONS as usize;
    gateway.log().nth("session closed", count - 1).await;
    let closed = gateway.log().all("session closed");
    assert_eq!(closed.len(), count);
    for line in &closed {
        assert_eq!(line["reason"], "upstream_closed", "{line}");
        assert_eq!(line["unforwarded"], 0, "{line}");
    }
    let sum = |key: &str| {
        let counts = closed.iter().map(|line| line[key].as_u64().unwrap());
        counts.sum::<u64>()
    };
    assert_eq!((sum("received"), sum("sent")), (all.up, all.down));
    assert!(2 * all.cuts > plan.cuts * SESSIONS, "{} cuts", all.cuts);
    for (kind, resumes) in kinds.iter().zip(resumes) {
        println!("{kind:?}: {resumes} resumes");
        assert!(
            4 * resumes > plan.cuts * SESSIONS / kinds.len() as u64,
            "{kind:?}: {resumes} resumes"
        );
    }
    println!("{all:?}");
}
