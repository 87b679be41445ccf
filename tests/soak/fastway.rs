//! A hundred clients with eight virtual connections each, dialling, sending, closing and being
//! cut at random: every message is delivered in order, or its connection is reported closed.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::fastway::{Connection, Endpoint, Error, Version};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};

use crate::common::{Gateway, seed, soon};
use crate::rig::{self, config, options, server};
use crate::time::time;

const CLIENTS: u64 = 100;
const CONNECTIONS: u64 = 8;
const SERVERS: u32 = 4;

#[derive(Default)]
struct Books {
    /// By connection and whether the dialling end sent.
    sent: Mutex<HashMap<(u32, bool), u64>>,
    /// And whether the end was told by somebody, not by a cut.
    received: Mutex<HashMap<(u32, bool), (u64, bool)>>,
    /// What each connection's client is connected by.
    lines: Mutex<HashMap<u32, Arc<Line>>>,
    /// What servers have sent. A client may be cut before it knows of a connection.
    by_server: Mutex<HashSet<(u32, bool)>>,
    refused: AtomicU64,
    cuts: AtomicU64,
    over: AtomicBool,
}

/// A physical connection that can be cut.
struct Line {
    endpoint: Endpoint,
    socket: socket2::Socket,
    cut: AtomicBool,
}

impl Line {
    async fn client(gateway: &Gateway, version: Version) -> Self {
        // Servers dial clients that have said nothing yet, so their version must be known.
        let listener = match version {
            Version::V1 => "clients1",
            Version::V2 => "clients2",
            Version::V3 => "clients",
        };
        let stream = rig::tcp(gateway.addrs(listener)[0]).await;
        let socket = socket2::SockRef::from(&stream).try_clone().unwrap();
        Self {
            endpoint: Endpoint::client(stream, options(version)),
            socket,
            cut: AtomicBool::new(false),
        }
    }

    /// As if the network had: neither end can say another word.
    fn cut(&self) {
        self.cut.store(true, Ordering::SeqCst);
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }
}

fn message(conn: u32, n: u64, len: usize) -> Bytes {
    let mut bytes = conn.to_le_bytes().to_vec();
    bytes.extend(n.to_le_bytes());
    bytes.resize(12 + len, n as u8);
    bytes.into()
}

/// Sends messages until it has enough or the connection is over.
async fn talk(connection: &Connection, dialled: bool, books: &Books, rng: &mut StdRng) {
    let id = connection.id();
    let wanted = rng.random_range(0..200);
    let mut sent = 0;
    while sent < wanted && !books.over.load(Ordering::Relaxed) {
        let len = rng.random_range(0..300);
        if connection.send(message(id, sent, len)).await.is_err() {
            break;
        }
        sent += 1;
        if rng.random_ratio(1, 8) {
            tokio::task::yield_now().await;
        }
    }
    books.sent.lock().unwrap().insert((id, dialled), sent);
}

/// Whether it is the dialling end that closes a connection, when it has said all.
fn dialler_closes(id: u32) -> bool {
    id.is_multiple_of(2)
}

/// Receives until the connection is over, checking that nothing is missing between.
async fn listen(connection: &Connection, dialled: bool, books: &Books) {
    let id = connection.id();
    let mut received = 0u64;
    while let Ok(message) = connection.receive().await {
        assert_eq!(message[..4], id.to_le_bytes());
        assert_eq!(message[4..12], received.to_le_bytes(), "of connection {id}");
        assert!(message[12..].iter().all(|byte| *byte == received as u8));
        received += 1;
    }
    let line = books.lines.lock().unwrap().get(&id).cloned();
    let told = line.is_some_and(|line| !line.cut.load(Ordering::SeqCst));
    let mut books = books.received.lock().unwrap();
    books.insert((id, !dialled), (received, told));
}

/// Both ends talk; one closes when it has said all, whatever the other still has to say.
async fn converse(
    connection: Connection,
    dialled: bool,
    line: Option<Arc<Line>>,
    books: Arc<Books>,
    mut rng: StdRng,
) {
    let id = connection.id();
    match line {
        Some(line) => drop(books.lines.lock().unwrap().insert(id, line)),
        None => drop(books.by_server.lock().unwrap().insert((id, dialled))),
    }
    let talking = async {
        talk(&connection, dialled, &books, &mut rng).await;
        if dialled == dialler_closes(connection.id()) {
            connection.close();
        }
    };
    tokio::join!(talking, listen(&connection, dialled, &books));
}

async fn accept_all(endpoint: Endpoint, line: Option<Arc<Line>>, books: Arc<Books>, seed: u64) {
    let mut talks = JoinSet::new();
    let mut rng = StdRng::seed_from_u64(seed);
    while let Ok(connection) = endpoint.accept().await {
        let rng = StdRng::seed_from_u64(rng.random());
        talks.spawn(converse(
            connection,
            false,
            line.clone(),
            books.clone(),
            rng,
        ));
    }
    while let Some(talked) = talks.join_next().await {
        talked.unwrap();
    }
}

async fn dial_on(
    line: Arc<Line>,
    remote: impl Fn(&mut StdRng) -> u32,
    books: Arc<Books>,
    mut rng: StdRng,
) {
    while !books.over.load(Ordering::Relaxed) {
        match soon("an answer", line.endpoint.dial(remote(&mut rng))).await {
            Ok(connection) => {
                let rng = StdRng::seed_from_u64(rng.random());
                let talk = converse(connection, true, Some(line.clone()), books.clone(), rng);
                soon("the end of a conversation", talk).await;
            }
            Err(Error::Refused) => {
                books.refused.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
            Err(_) => return,
        }
    }
}

/// A client's life: lines, one after the other, each cut at some time.
async fn client_life(gateway: Arc<Gateway>, n: u64, books: Arc<Books>, end: Instant, seed: u64) {
    let mut rng = StdRng::seed_from_u64(seed ^ n);
    let longest = (time() / 2).min(Duration::from_secs(8));
    while Instant::now() < end {
        let version = Version::ALL[rng.random_range(0..3)];
        let line = Arc::new(Line::client(&gateway, version).await);
        let mut tasks = JoinSet::new();
        let endpoint = line.endpoint.clone();
        let accepting = accept_all(endpoint, Some(line.clone()), books.clone(), rng.random());
        tasks.spawn(accepting);
        for _ in 0..CONNECTIONS {
            let rng = StdRng::seed_from_u64(rng.random());
            let remote = |rng: &mut StdRng| rng.random_range(1..=SERVERS + 1);
            tasks.spawn(dial_on(line.clone(), remote, books.clone(), rng));
        }
        let life = rng.random_range(Duration::from_millis(100)..longest);
        let until = end.min(Instant::now() + life);
        // Nothing of it ends before: this is how long it lives.
        let early = timeout_at(until, line.endpoint.closed()).await;
        assert!(early.is_err(), "{early:?}");
        if until < end {
            line.cut();
            books.cuts.fetch_add(1, Ordering::Relaxed);
            soon("the end of a cut line", line.endpoint.closed()).await;
        } else {
            books.over.store(true, Ordering::Relaxed);
            // Dialled connections end by themselves; then nobody is left to accept.
            while tasks.len() > 1 {
                soon("a task", tasks.join_next()).await.unwrap().unwrap();
            }
            line.cut.store(true, Ordering::SeqCst);
            line.endpoint.close();
        }
        while let Some(ended) = soon("a task", tasks.join_next()).await {
            ended.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_message_is_accounted_for() {
    let seed = seed();
    println!("STABLEGATE_SEED={seed}");
    let gateway = Arc::new(Gateway::start(&config(", max_virtual_connections: 12")).await);
    let books = Arc::<Books>::default();
    let end = Instant::now() + time();
    let mut rng = StdRng::seed_from_u64(seed);
    let mut lives = JoinSet::new();
    let mut server_tasks = JoinSet::new();
    let mut ends = Vec::new();
    for id in 1..=SERVERS {
        let version = Version::ALL[id as usize % 3];
        let endpoint = server(&gateway, version, id).await;
        server_tasks.spawn(accept_all(
            endpoint.clone(),
            None,
            books.clone(),
            rng.random(),
        ));
        // Servers dial clients too, whoever has the id by then.
        let books = books.clone();
        let dialler = endpoint.clone();
        let mut rng = StdRng::seed_from_u64(rng.random());
        lives.spawn(async move {
            while !books.over.load(Ordering::Relaxed) {
                let ids = CLIENTS as u32 + books.cuts.load(Ordering::Relaxed) as u32;
                let client = rng.random_range(1..=ids);
                match soon("an answer", dialler.dial(client)).await {
                    Ok(connection) => {
                        let rng = StdRng::seed_from_u64(rng.random());
                        let talk = converse(connection, true, None, books.clone(), rng);
                        soon("the end of a conversation", talk).await;
                    }
                    Err(error) => assert_eq!(error, Error::Refused),
                }
            }
        });
        ends.push(endpoint);
    }
    for n in 1..=CLIENTS {
        lives.spawn(client_life(gateway.clone(), n, books.clone(), end, seed));
    }
    while let Some(life) = lives.join_next().await {
        life.unwrap();
    }
    ends.iter().for_each(Endpoint::close);
    while let Some(ended) = server_tasks.join_next().await {
        ended.unwrap();
    }

    let sent = books.sent.lock().unwrap();
    let received = books.received.lock().unwrap();
    let (mut messages, mut delivered, mut whole) = (0, 0, 0);
    let mut unaccepted = 0;
    let by_server = books.by_server.lock().unwrap();
    for (&(id, by_dialler), &sent) in &*sent {
        let Some(&(got, told)) = received.get(&(id, by_dialler)) else {
            assert!(
                by_server.contains(&(id, by_dialler)),
                "{id} has no other end"
            );
            unaccepted += 1;
            continue;
        };
        // Who closes has said all, and that arrives before the end.
        if by_dialler == dialler_closes(id) && told {
            assert_eq!(got, sent, "of connection {id}");
            whole += 1;
        }
        assert!(got <= sent, "of connection {id}: {got} of {sent}");
        messages += sent;
        delivered += got;
    }
    let cuts = books.cuts.load(Ordering::Relaxed);
    let refused = books.refused.load(Ordering::Relaxed);
    println!(
        "{messages} messages in {} directions, {delivered} delivered, {whole} directions must be whole, \
         {cuts} cuts, {refused} refused, {unaccepted} unaccepted",
        sent.len()
    );
    let directions = sent.len() as u64;
    // Each client's first line is cut in the first half of the time.
    assert!(cuts >= CLIENTS);
    assert!(directions > CLIENTS * CONNECTIONS && messages > 3 * directions);
    // Servers that are not there, and clients with as many connections as they may have.
    assert!(20 * refused > directions);
    // Of the eight that a client has, and those by which it was dialled.
    assert!(unaccepted <= cuts * CONNECTIONS, "{unaccepted}");
    // The gateway has found nobody at fault.
    for line in gateway.log().all("endpoint left") {
        let reason = line["reason"].as_str().unwrap();
        assert!(matches!(reason, "closed" | "client_gone"), "{line}");
    }
}
