//! A session with traffic in both directions, over a network that breaks all the time.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::{Cutter, Stream};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::common::{Budget, Cut, Pattern, Relay, seed, soon};

/// What a session writes at once, bytes, and how long it pauses after that, milliseconds.
const PIECE: std::ops::Range<usize> = 1..2000;
const PAUSE: std::ops::Range<u64> = 5..60;

/// Runs a test by a seed, which is shown if it fails.
pub async fn seeded<F>(test: impl FnOnce(u64) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let seed = seed();
    if let Err(panicked) = tokio::spawn(test(seed)).await {
        panic!("with STABLEGATE_SEED={seed}: {panicked}");
    }
}

/// When there is traffic, and when it is disturbed.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    until: Instant,
    /// The last part of the time is without cuts: it shows that everybody came back.
    calm: Duration,
    /// A session is left alone for this long at least and at most between two cuts, milliseconds.
    peace: (u64, u64),
    /// Whether a cut may be an end of stream, not only a reset.
    closes: bool,
    /// The cuts of a session that are to be expected.
    pub cuts: u64,
}

impl Plan {
    /// For so much time from now on, once all sessions are there.
    pub fn new(time: Duration) -> Self {
        let calm = (time / 3).min(Duration::from_secs(2));
        let disturbed = (time - calm).as_millis() as u64;
        let peace = (100, (disturbed / 2).clamp(101, 3000));
        Self {
            until: Instant::now() + time,
            calm,
            peace,
            closes: true,
            cuts: 2 * disturbed / (peace.0 + peace.1),
        }
    }

    /// The same without ends of stream: snet's first version knows no refusal, and takes three of
    /// them in a row for one.
    pub fn with_resets_only(self) -> Self {
        Self {
            closes: false,
            ..self
        }
    }
}

/// How much there is to come, once that is known.
type Total = watch::Sender<Option<u64>>;

/// What sessions moved, in payload bytes, and what happened to them.
#[derive(Debug, Default)]
pub struct Moved {
    pub up: u64,
    pub down: u64,
    pub resumes: u64,
    pub cuts: u64,
}

/// Runs one session by a plan: its client, its server, and the link between, if there is one.
/// Everything it moves is checked, and over a link so is its end: KCP has none that a client could
/// see. The client is returned for the gateway to take its time with the end.
pub async fn session(
    name: u64,
    client: Stream,
    connection: TcpStream,
    link: Option<Relay>,
    mut rng: StdRng,
    plan: Plan,
) -> (Moved, Stream) {
    let until = plan.until;
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
    let cuts = cut(link.as_ref(), cutter, &mut cuts, plan).await;
    let (to_client, to_server) = (to_client.await.unwrap(), to_server.await.unwrap());
    let mut from_client = from_client.await.unwrap();
    // Nobody tells a session that its connection broke but who reads or writes: so it is read until
    // its server has everything, too.
    let mut more = [0];
    let from_server = tokio::select! {
        from_server = from_server => from_server.unwrap(),
        read = from_client.read(&mut more) => panic!("session {name} goes on: {read:?}"),
    };
    let mut client = from_client.unsplit(to_client);
    // Everything has arrived, so the server may end it.
    drop(from_server.reunite(to_server).unwrap());
    if link.is_some() {
        let end = soon("the end of a session", client.read(&mut [0])).await;
        assert_eq!(end.unwrap(), 0, "session {name} goes on");
    }
    let moved = Moved {
        up: up_known.borrow().unwrap(),
        down: down_known.borrow().unwrap(),
        resumes: client.resumes(),
        cuts,
    };
    (moved, client)
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
async fn cut(link: Option<&Relay>, cutter: Cutter, rng: &mut StdRng, plan: Plan) -> u64 {
    let until = plan.until - plan.calm;
    let (least, most) = plan.peace;
    let mut cuts = 0;
    loop {
        let next = Instant::now() + Duration::from_millis(rng.random_range(least..most));
        if next > until {
            return cuts;
        }
        tokio::time::sleep_until(next).await;
        cuts += 1;
        let how = match plan.closes && rng.random() {
            true => Cut::Close,
            false => Cut::Reset,
        };
        match (link, rng.random_range(0..4)) {
            (None, _) | (_, 0) => cutter.cut(),
            // The resume breaks off in its handshake, or some way behind.
            (Some(link), 1) => {
                let handshake = rng.random();
                let most = if handshake { 60 } else { 5000 };
                link.spend(Budget {
                    up: rng.random_range(1..most),
                    down: rng.random_range(1..most),
                    cut: how,
                });
                link.cut(how);
            }
            (Some(link), _) => link.cut(how),
        }
    }
}
