//! scp sessions that move between TCP and KCP again and again.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::scp::{Options, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

use crate::common::{Gateway, http, seed, soon};
use crate::time::time;

const SESSIONS: u64 = 200;

const CONFIG: &str = "
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp}
hosts: [{name: echo, addr: 'builtin:echo'}]
admin: 127.0.0.1:0
";

/// The byte at a position of a stream that nobody could make up.
fn byte(seed: u64, position: u64) -> u8 {
    let word = ((position / 8) ^ (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).to_le_bytes()[(position % 8) as usize]
}

/// Writes messages of random lengths and expects each byte back, until `end`; gives the count, and
/// how often the session came back.
async fn converse(stream: Stream, seed: u64, end: Instant) -> (u64, u64) {
    let mut random = StdRng::seed_from_u64(seed);
    let (mut from, mut to) = tokio::io::split(stream);
    let (told, mut total) = oneshot::channel();
    let writing = async move {
        let mut written = 0u64;
        let mut pace = interval(Duration::from_millis(50));
        while Instant::now() < end {
            let len = random.random_range(1..3_000);
            let message: Vec<u8> = (written..).take(len).map(|at| byte(seed, at)).collect();
            to.write_all(&message).await.unwrap();
            written += len as u64;
            pace.tick().await;
        }
        told.send(written).unwrap();
        to
    };
    let reading = async move {
        let mut read = 0u64;
        let mut known = None;
        let mut buffer = vec![0; 16 * 1024];
        while known != Some(read) {
            let len = tokio::select! {
                len = from.read(&mut buffer) => len.unwrap(),
                total = &mut total, if known.is_none() => {
                    known = Some(total.unwrap());
                    continue;
                }
            };
            assert!(len > 0, "ended after {read}");
            for (at, found) in (read..).zip(&buffer[..len]) {
                assert_eq!(*found, byte(seed, at), "at {at}");
            }
            read += len as u64;
        }
        (from, read)
    };
    let (to, (from, read)) = tokio::join!(writing, reading);
    (read, from.unsplit(to).resumes())
}

/// Sessions that lose their connections again and again, and go on over the next address.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_move_between_transports_under_traffic() {
    let seed = seed();
    println!("STABLEGATE_SEED={seed}");
    let gateway = Gateway::start(CONFIG).await;
    let [tcp, kcp] = ["tcp", "kcp"].map(|transport| {
        let addr = gateway.addrs("game")[usize::from(transport == "kcp")];
        let address = format!("{transport}://{addr}");
        address.parse::<Address>().unwrap()
    });
    let mut streams = Vec::new();
    for n in 0..SESSIONS {
        let addresses = match n % 4 {
            0 => vec![kcp.clone()],
            1 | 2 => vec![kcp.clone(), tcp.clone()],
            _ => vec![tcp.clone(), kcp.clone()],
        };
        let options = Options {
            addresses,
            ..Options::new(kcp.clone())
        };
        let stream = soon("a session", Stream::connect(options)).await;
        streams.push((seed ^ n, stream.unwrap()));
    }
    let end = Instant::now() + time();
    let peace = 100..(time() / 4).as_millis().clamp(101, 1500) as u64;
    let mut conversations = JoinSet::new();
    for (seed, stream) in streams {
        let cutter = stream.cutter();
        let peace = peace.clone();
        conversations.spawn(async move {
            let mut random = StdRng::seed_from_u64(seed);
            let cutting = async {
                loop {
                    let peace = Duration::from_millis(random.random_range(peace.clone()));
                    tokio::time::sleep(peace).await;
                    cutter.cut();
                }
            };
            tokio::select! {
                read = converse(stream, seed, end) => read,
                () = cutting => unreachable!(),
            }
        });
    }
    let (mut bytes, mut resumes) = (0, 0);
    while let Some(moved) = conversations.join_next().await {
        let moved = moved.unwrap();
        bytes += moved.0;
        resumes += moved.1;
    }
    println!("{bytes} bytes, {resumes} resumes");
    assert!(bytes > SESSIONS * 1_000 && resumes > SESSIONS);
    let metrics = http::get(gateway.admin().await, "/metrics").await.body;
    let opened = metrics
        .lines()
        .filter(|line| line.starts_with("stablegate_kcp_passive_opens_total"))
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap());
    let opened = opened.sum::<f64>() as u64;
    // Each session has three connections or more, and half of them or all over KCP.
    assert!(opened > SESSIONS, "{opened} over KCP");
}
