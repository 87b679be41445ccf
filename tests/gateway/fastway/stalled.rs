//! Whoever does not read holds up those who send to it, for a while, and costs little.

use bytes::Bytes;
use serde_json::Value;
use stablegate::client::fastway::{Endpoint, Version};
use stablegate::internal::proto::fastway::{Command, data};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;

use super::rig::{Raw, client, clients, config, connect, joined, passes, server, servers};
use crate::common::{Gateway, soon};

const V3: Version = Version::V3;

/// What each message says besides its number.
const MESSAGE: usize = 500_000;

/// More than what sockets and queues hold.
const MANY: u32 = 400;

/// What the gateway reads from one that offers without end is held back within these; bytes.
const SERVER_LIMIT: u64 = 16 << 20;
const CLIENT_LIMIT: u64 = 4 << 20;

fn message(conn: u32, number: u32) -> Bytes {
    let mut payload = vec![number as u8; MESSAGE];
    payload[..4].copy_from_slice(&number.to_le_bytes());
    data(conn, &payload)
}

/// A pair that talks beside what others do.
struct Beside {
    rounds: watch::Receiver<u64>,
    _ends: (Endpoint, Endpoint),
}

impl Beside {
    async fn new(gateway: &Gateway) -> Self {
        let (client, server) = (client(gateway, V3).await, server(gateway, V3, 9).await);
        let (near, far) = connect(&client, &server, 9).await;
        let (count, rounds) = watch::channel(0);
        tokio::spawn(async move {
            while !count.is_closed() {
                passes(&near, &far, "there").await;
                passes(&far, &near, "and back").await;
                count.send_modify(|count| *count += 1);
            }
        });
        Self {
            rounds,
            _ends: (client, server),
        }
    }

    /// Returns when it has talked for a while.
    async fn talk(&self) {
        let mut rounds = self.rounds.clone();
        let before = *rounds.borrow_and_update();
        let talking = rounds.wait_for(|count| *count >= before + 200);
        soon("a conversation", talking).await.unwrap();
    }
}

/// Sends messages until it is held back; returns the number of the last, and what is left of it.
async fn flood(from: &mut Raw, conn: u32, beside: &Beside) -> (u32, Bytes) {
    for number in 0..MANY {
        let mut frame = message(conn, number);
        while !frame.is_empty() {
            tokio::select! {
                biased;
                written = from.0.write_buf(&mut frame) => drop(written.unwrap()),
                () = beside.talk() => return (number, frame),
            }
        }
    }
    panic!("it is not held back");
}

/// A client and a server, one of which floods the other, beside a pair that talks.
async fn held_back(gateway: &Gateway, by_server: bool, limit: u64) {
    let beside = Beside::new(gateway).await;
    beside.talk().await;
    let mut server = Raw::server(servers(gateway, V3), 8).await;
    let local = server.0.local_addr().unwrap().to_string();
    joined(gateway, &local).await;
    let mut client = Raw::client(clients(gateway, V3)).await;
    let dial = Command::Dial { conn: 0, remote: 8 };
    client.say(V3, dial).await;
    let accepted = client.frame().await;
    let Ok(Command::Accept { conn, .. }) = Command::parse(V3, &accepted[8..]) else {
        panic!("{accepted:?}");
    };
    server.frame().await;

    let (mut from, mut to) = match by_server {
        true => (server, client),
        false => (client, server),
    };
    let before = gateway.resident();
    let (number, mut rest) = flood(&mut from, conn, &beside).await;
    let grown = gateway.resident().saturating_sub(before);
    println!("{number} messages, {grown} bytes");
    assert!(grown < 3 * limit, "{grown} bytes for {number} messages");
    // All of it is there once it is read, in order, and so is what comes afterwards.
    let last = message(conn, number + 1);
    let sending = async {
        from.0.write_all_buf(&mut rest).await.unwrap();
        from.0.write_all(&last).await.unwrap();
    };
    let reading = async {
        for number in 0..=number + 1 {
            let frame = to.frame().await;
            assert!(frame[..] == message(conn, number)[..], "message {number}");
        }
    };
    soon("all messages", async { tokio::join!(sending, reading) }).await;
    beside.talk().await;
}

#[tokio::test]
async fn a_client_waits_for_its_server() {
    let gateway = Gateway::start(&config(", stall_timeout: 10m")).await;
    held_back(&gateway, false, SERVER_LIMIT).await;
}

#[tokio::test]
async fn a_server_waits_for_its_client() {
    let gateway = Gateway::start(&config(", stall_timeout: 10m")).await;
    held_back(&gateway, true, CLIENT_LIMIT).await;
}

/// One that takes nothing holds up those who send to it only for so long.
#[tokio::test]
async fn who_stalls_is_cut_off() {
    let more = ", stall_timeout: 300ms, server_queue_bytes: 64KiB";
    let gateway = Gateway::start(&config(more)).await;
    let (dialler, good) = (client(&gateway, V3).await, server(&gateway, V3, 9).await);
    let (near, far) = connect(&dialler, &good, 9).await;
    let stalled = Raw::server(servers(&gateway, V3), 8).await;
    let local = stalled.0.local_addr().unwrap().to_string();
    joined(&gateway, &local).await;
    let to_stalled = soon("an answer", dialler.dial(8)).await.unwrap();
    let message = Bytes::from(vec![7; MESSAGE]);
    let flooding = async { while to_stalled.send(message.clone()).await.is_ok() {} };
    soon("the end of a connection", flooding).await;
    let fits = |line: &Value| line["message"] == "endpoint left" && line["client"] == local;
    let left = gateway.log().wait("why it was dropped", fits).await;
    assert_eq!(
        (&left["reason"], &left["detail"]),
        (
            &"slow_reader".into(),
            &"it kept others waiting for 300ms".into()
        )
    );
    // The one who sent to it goes on.
    passes(&near, &far, "to another").await;
}

/// Many who do not read take no more than is there for all of them.
#[tokio::test]
async fn queues_share_what_there_is() {
    const STALLED: u32 = 12;
    let more = ", stall_timeout: 10m, queue_memory: 16MiB, max_virtual_connections: 0";
    let gateway = Gateway::start(&config(more)).await;
    let beside = Beside::new(&gateway).await;
    beside.talk().await;
    let before = gateway.resident();
    let mut held = Vec::new();
    for id in 10..10 + STALLED {
        let server = Raw::server(servers(&gateway, V3), id).await;
        let local = server.0.local_addr().unwrap().to_string();
        joined(&gateway, &local).await;
        let mut client = Raw::client(clients(&gateway, V3)).await;
        let (conn, remote) = (0, id);
        client.say(V3, Command::Dial { conn, remote }).await;
        let accepted = client.frame().await;
        let Ok(Command::Accept { conn, .. }) = Command::parse(V3, &accepted[8..]) else {
            panic!("{accepted:?}");
        };
        flood(&mut client, conn, &beside).await;
        held.push((server, client));
    }
    let grown = gateway.resident().saturating_sub(before);
    println!("{grown} bytes");
    // Besides, each of those held back has a message that came and may not go.
    let held = u64::from(STALLED) * 2 * MESSAGE as u64;
    assert!(grown < 3 * (16 << 20) + held, "{grown} bytes");
    beside.talk().await;
}
