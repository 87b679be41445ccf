//! Many sessions, much traffic and a network that breaks all the time.

mod common;

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::scp::{Cutter, Options, Stream};
use stablegate::transport::Address;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use common::*;

const SESSIONS: u64 = 200;
const TIME: Duration = Duration::from_secs(30);
/// The last part of the time is without cuts: it shows that everybody came back.
const CALM: Duration = Duration::from_secs(2);
/// What a session writes at once, bytes, and how long it pauses after that, milliseconds.
const PIECE: std::ops::Range<usize> = 1..2000;
const PAUSE: std::ops::Range<u64> = 5..60;
/// How long a session is left alone between two cuts, milliseconds.
const PEACE: std::ops::Range<u64> = 100..3000;

/// How much there is to come, once that is known.
type Total = watch::Sender<Option<u64>>;

#[derive(Default)]
struct Moved {
    up: u64,
    down: u64,
    resumes: u64,
    cuts: u64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_sessions_lose_nothing() {
    let seed = seed();
    let soaking = tokio::spawn(soak(seed)).await;
    if let Err(panicked) = soaking {
        panic!("with STABLEGATE_SEED={seed}: {panicked}");
    }
}

async fn soak(seed: u64) {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut rng = StdRng::seed_from_u64(seed);
    let until = Instant::now() + TIME;
    let mut sessions = JoinSet::new();
    for name in 0..SESSIONS {
        // One after the other, so that the ends belong together.
        let link = Relay::start(gateway.addr()).await;
        let address = link.addr.to_string().parse::<Address>().unwrap();
        let client = Stream::connect(Options::new(address));
        let client = soon("a session", client).await.unwrap();
        let connection = server.accept().await;
        let rng = StdRng::seed_from_u64(rng.random());
        sessions.spawn(session(name, client, connection, link, rng, until));
    }
    let mut all = Moved::default();
    while let Some(moved) = sessions.join_next().await {
        let moved = moved.unwrap();
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
    assert!(all.cuts > 10 * SESSIONS, "{} cuts", all.cuts);
    assert!(all.resumes > 5 * SESSIONS, "{} resumes", all.resumes);
    println!(
        "{} cuts, {} resumes, {} bytes up, {} bytes down",
        all.cuts, all.resumes, all.up, all.down
    );
}

/// One session: its client, its server, and the link between.
async fn session(
    name: u64,
    client: Stream,
    connection: TcpStream,
    link: Relay,
    mut rng: StdRng,
    until: Instant,
) -> Moved {
    let [mut cuts, up, down] = [(); 3].map(|()| StdRng::seed_from_u64(rng.random()));
    let cutter = client.cutter();
    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = connection.into_split();
    let (up_total, up_known) = watch::channel(None);
    let (down_total, down_known) = watch::channel(None);
    // Tasks of their own, as each half is woken by itself then.
    let to_client = tokio::spawn(write(2 * name, to_client, up, until, up_total));
    let to_server = tokio::spawn(write(2 * name + 1, to_server, down, until, down_total));
    let from_server = tokio::spawn(read_all(2 * name, from_server, up_known.clone()));
    let from_client = tokio::spawn(read_all(2 * name + 1, from_client, down_known.clone()));
    let cuts = cut(&link, cutter, &mut cuts, until - CALM).await;
    let (to_client, to_server) = (to_client.await.unwrap(), to_server.await.unwrap());
    let (from_client, from_server) = (from_client.await.unwrap(), from_server.await.unwrap());
    let mut client = from_client.unsplit(to_client);
    // Everything has arrived, so the server may end it.
    drop(from_server.reunite(to_server).unwrap());
    let mut more = [0; 1];
    let end = soon("the end of a session", client.read(&mut more)).await;
    assert_eq!(end.unwrap(), 0, "session {name} goes on");
    Moved {
        up: up_known.borrow().unwrap(),
        down: down_known.borrow().unwrap(),
        resumes: client.resumes(),
        cuts,
    }
}

/// Writes until it is time to stop, and says how much that was.
async fn write<W: AsyncWrite + Unpin>(
    name: u64,
    mut to: W,
    mut rng: StdRng,
    until: Instant,
    total: Total,
) -> W {
    let mut sent = Pattern::new(name);
    while Instant::now() < until {
        let bytes = sent.next(rng.random_range(PIECE));
        soon("room to write", to.write_all(bytes)).await.unwrap();
        sleep(Duration::from_millis(rng.random_range(PAUSE))).await;
    }
    soon("a flush", to.flush()).await.unwrap();
    total.send_replace(Some(sent.position()));
    to
}

/// Reads and checks everything there is.
async fn read_all<R: AsyncRead + Unpin>(
    name: u64,
    mut from: R,
    mut total: watch::Receiver<Option<u64>>,
) -> R {
    let mut got = Pattern::new(name);
    let mut buffer = [0; 4096];
    loop {
        let known = *total.borrow_and_update();
        if known == Some(got.position()) {
            return from;
        }
        assert!(known.is_none_or(|total| total > got.position()));
        let reading = async {
            tokio::select! {
                len = from.read(&mut buffer) => Some(len),
                _ = total.changed(), if known.is_none() => None,
            }
        };
        if let Some(len) = soon(&format!("bytes of pattern {name}"), reading).await {
            let len = len.unwrap_or_else(|error| panic!("pattern {name}: {error}"));
            assert_ne!(len, 0, "pattern {name} ends after {} bytes", got.position());
            got.check(&buffer[..len]);
        }
    }
}

/// Breaks the session's connections in all ways, and counts.
async fn cut(link: &Relay, cutter: Cutter, rng: &mut StdRng, until: Instant) -> u64 {
    let mut cuts = 0;
    loop {
        let next = Instant::now() + Duration::from_millis(rng.random_range(PEACE));
        if next > until {
            return cuts;
        }
        tokio::time::sleep_until(next).await;
        cuts += 1;
        let how = if rng.random() { Cut::Close } else { Cut::Reset };
        match rng.random_range(0..4) {
            0 => cutter.cut(),
            // The resume breaks off in its record, or some way behind.
            1 => {
                let record = rng.random();
                let most = if record { 60 } else { 5000 };
                link.spend(Budget {
                    up: rng.random_range(1..most),
                    down: rng.random_range(1..most),
                    cut: how,
                });
                link.cut(how);
            }
            _ => link.cut(how),
        }
    }
}
