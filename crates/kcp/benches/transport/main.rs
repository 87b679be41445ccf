//! KCP over real sockets: CPU time of an echo server on this transport against one that drives the
//! crate `kcp` plainly over quinn-udp, in the same run and with the same clients.
//!
//! `cargo bench -p stablegate-kcp --bench transport [megabytes]`, or `… --bench transport serve
//! ADDRESS` for an echo server alone, against which other clients can be run.
//!
//! On two shared cores in November 2026: bulk 0.41 to 0.50 against 0.52 to 0.63 CPU s/GB (ratio 0.69
//! to 0.90, mostly 0.78; in a slow hour 0.80 against 0.91; with 60 MB up to 1.0), messages of 100
//! bytes 5.1 against 5.5 CPU µs (0.92 to 0.94; in three of twelve runs 1.04 to 1.09), of 500 sessions
//! with 40 a second each 8.1 to 10.2 against 9.6 to 12.8 (0.72 to 0.88). On other days messages took
//! 3.0 to 5.8 against 3.5 to 6.0 (0.82 to 1.0).
//!
//! Measured there with a client of kcp-go 5.6 against its own echo server and against this one, at
//! an earlier state: bulk 8.0 against 1.7 CPU s/GB (ratio 0.21), messages of 100 bytes, 20 sessions
//! with 1,000 a second each, 27.5 against 10.6 CPU µs (0.39). With a whole gateway, a plain listener
//! and `builtin:echo`, and kcp-go 5.4: bulk 10.5 to 11.7 against 4.0 to 4.7 (0.38 to 0.43), messages
//! 21.5 to 22.6 against 9.9 to 12.3 (0.44 to 0.56).
//!
//! Of the time for a small message four fifths and more are the kernel's, which no server on UDP is
//! spared: sampled, 86 of 100 parts on one day and 79 on another, which alone are 0.80 and 0.72 of
//! what the baseline takes in all. Of 86 parts 58 go into sending (a datagram to the host itself is
//! received in the same call, by the client's socket: 18), 15 into receiving and 13 into sleeping;
//! the messages themselves, the session's task and the runtime share 14. With 20 sessions there are
//! 4.6 messages to a round of three system calls; the baseline sends each with a call of its own, but
//! as it is slower, more wait for it at once, and it sleeps less often. Sleeping less by looking again
//! before it, or sending before receiving more, gained nothing; collecting datagrams for a while
//! would, and make each of them late.
//!
//! Bulk depends on the processor's cache: with several runs of 64 KB received at once it took 0.43 to
//! 0.58 CPU s/GB in an hour in which it took 0.41 to 0.43 with one.

mod outbox;
mod plain;

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::mpsc;
use std::time::Duration;

use stablegate_kcp::{Config, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Rounds alternate between the servers; the median of each counts.
const ROUNDS: usize = 5;
const MESSAGE: usize = 100;
/// Sessions that send as fast as they are answered, and those that send as players do.
const TALKERS: usize = 20;
const PLAYERS: usize = 500;
const PACE: Duration = Duration::from_millis(25);

fn main() {
    let megabytes: u64 = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(200);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some("serve") {
        let addr = arguments.next().expect("an address");
        runtime.block_on(async { ours(addr.parse().expect("an address")).1.await });
    }
    let servers: [(&str, Serve); 2] = [("stablegate", ours), ("kcp 0.6", plain::serve)];
    let mut bulk_costs = [const { Vec::new() }; 2];
    let mut message_costs = [const { Vec::new() }; 2];
    let mut paced_costs = [const { Vec::new() }; 2];
    for _ in 0..ROUNDS {
        for (at, (name, serve)) in servers.iter().enumerate() {
            let server = Server::start(name, *serve);
            let before = server.cpu();
            runtime.block_on(bulk(server.addr, megabytes * 1_000_000));
            let spent = server.cpu() - before;
            bulk_costs[at].push(spent.as_secs_f64() / (megabytes as f64 / 1e3));
            for (costs, talkers, count, pause) in [
                (&mut message_costs, TALKERS, 20_000, None),
                (&mut paced_costs, PLAYERS, 80, Some(PACE)),
            ] {
                let before = server.cpu();
                runtime.block_on(talk(server.addr, talkers, count, pause));
                let spent = server.cpu() - before;
                costs[at].push(spent.as_secs_f64() * 1e6 / (count * talkers) as f64);
            }
        }
    }
    let report = |what: &str, unit: &str, costs: &mut [Vec<f64>; 2]| {
        let medians = costs.each_mut().map(|costs| {
            costs.sort_by(f64::total_cmp);
            costs[costs.len() / 2]
        });
        for ((name, _), median) in servers.iter().zip(medians) {
            println!("{what:10} {name:10} {median:7.2} {unit}");
        }
        println!("{what:10} ratio      {:7.2}", medians[0] / medians[1]);
    };
    report("bulk echo", "CPU s/GB", &mut bulk_costs);
    report("100 bytes", "CPU µs/message", &mut message_costs);
    report("players", "CPU µs/message", &mut paced_costs);
}

/// An echo server in a thread of its own, whose CPU time can be asked for.
struct Server {
    addr: SocketAddr,
    ask: tokio::sync::mpsc::UnboundedSender<mpsc::Sender<Duration>>,
}

/// Opens a socket and gives its address and what is to be run.
type Serve = fn(SocketAddr) -> (SocketAddr, Pin<Box<dyn Future<Output = ()>>>);

impl Server {
    fn start(name: &str, serve: Serve) -> Self {
        let (ask, mut asked) = tokio::sync::mpsc::unbounded_channel::<mpsc::Sender<Duration>>();
        let (started, addr) = mpsc::channel();
        let thread = std::thread::Builder::new().name(name.to_owned());
        let run = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(async {
                let (addr, serving) = serve(([127, 0, 0, 1], 0).into());
                started.send(addr).expect("waited for");
                let answering = async {
                    while let Some(reply) = asked.recv().await {
                        reply.send(thread_cpu()).expect("waited for");
                    }
                };
                tokio::select! {
                    () = serving => {}
                    () = answering => {}
                }
            });
        };
        thread.spawn(run).expect("a thread");
        Self {
            addr: addr.recv().expect("an address"),
            ask,
        }
    }

    fn cpu(&self) -> Duration {
        let (reply, answer) = mpsc::channel();
        self.ask.send(reply).expect("it runs");
        answer.recv().expect("an answer")
    }
}

/// What this thread has used of the processor, in the kernel too.
fn thread_cpu() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

fn ours(addr: SocketAddr) -> (SocketAddr, Pin<Box<dyn Future<Output = ()>>>) {
    let config = Config {
        reuseport: 1,
        ..Config::default()
    };
    let listener = Listener::bind(addr, &config).expect("a socket");
    let addr = listener.local_addr();
    let serving = async move {
        loop {
            let mut stream = listener.accept().await;
            tokio::spawn(async move {
                let mut buffer = vec![0; 16 * 1024];
                while let Ok(len @ 1..) = stream.read(&mut buffer).await {
                    if stream.write_all(&buffer[..len]).await.is_err() {
                        return;
                    }
                }
            });
        }
    };
    (addr, Box::pin(serving))
}

fn client(addr: SocketAddr) -> Stream {
    Stream::connect(addr, &Config::default()).expect("a socket")
}

async fn bulk(addr: SocketAddr, bytes: u64) {
    let (mut from, mut to) = tokio::io::split(client(addr));
    let writing = async {
        let chunk = vec![7; 16 * 1024];
        let mut left = bytes as usize;
        while left > 0 {
            let len = chunk.len().min(left);
            to.write_all(&chunk[..len]).await.expect("it is there");
            left -= len;
        }
    };
    let reading = async {
        let mut buffer = vec![0; 64 * 1024];
        let mut left = bytes as usize;
        while left > 0 {
            left -= from.read(&mut buffer).await.expect("it is there");
        }
    };
    tokio::join!(writing, reading);
}

/// Each talker sends a message when the echo of the one before has come, and not sooner than
/// `pause` after that one.
async fn talk(addr: SocketAddr, talkers: usize, count: usize, pause: Option<Duration>) {
    let mut talking = tokio::task::JoinSet::new();
    for _ in 0..talkers {
        talking.spawn(async move {
            let mut stream = client(addr);
            let mut message = [1; MESSAGE];
            let mut pace = pause.map(tokio::time::interval);
            for _ in 0..count {
                if let Some(pace) = &mut pace {
                    pace.tick().await;
                }
                stream.write_all(&message).await.expect("it is there");
                stream.read_exact(&mut message).await.expect("it is there");
            }
        });
    }
    talking.join_all().await;
}
