//! Many sessions, much traffic and a network that breaks all the time.

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::scp::{Options, Stream};
use tokio::task::JoinSet;

use crate::common::*;
use crate::time::time;
use crate::traffic::{Moved, Plan, seeded, session};

const SESSIONS: u64 = 200;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_lose_nothing() {
    seeded(soak).await;
}

async fn soak(seed: u64) {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let mut begun = Vec::new();
    for name in 0..SESSIONS {
        // One after the other, so that the ends belong together.
        let link = Relay::start(gateway.addr()).await;
        let address = link.addr.to_string().parse::<Address>().unwrap();
        let client = Stream::connect(Options::new(address));
        let client = soon("a session", client).await.unwrap();
        let connection = server.accept().await;
        let rng = StdRng::seed_from_u64(rng.random());
        begun.push((name, client, connection, link, rng));
    }
    let plan = Plan::new(time());
    let mut sessions = JoinSet::new();
    for (name, client, connection, link, rng) in begun {
        sessions.spawn(session(name, client, connection, Some(link), rng, plan));
    }
    let mut all = Moved::default();
    while let Some(moved) = sessions.join_next().await {
        let (moved, _) = moved.unwrap();
        all.up += moved.up;
        all.down += moved.down;
        all.resumes += moved.resumes;
        all.cuts += moved.cuts;
    }
    gateway
        .log()
        .nth("session closed", SESSIONS as usize - 1)
        .await;
    let closed = gateway.log().all("session closed");
    assert_eq!(closed.len() as u64, SESSIONS);
    for line in &closed {
        assert_eq!(line["reason"], "upstream_closed", "{line}");
        assert_eq!(line["unforwarded"], 0, "{line}");
    }
    let sum = |key: &str| {
        closed
            .iter()
            .map(|line| line[key].as_u64().unwrap())
            .sum::<u64>()
    };
    assert_eq!((sum("received"), sum("sent")), (all.up, all.down));
    let expected = plan.cuts * SESSIONS;
    assert!(2 * all.cuts > expected, "{} cuts", all.cuts);
    assert!(4 * all.resumes > expected, "{} resumes", all.resumes);
    println!(
        "{} cuts, {} resumes, {} bytes up, {} bytes down",
        all.cuts, all.resumes, all.up, all.down
    );
}
