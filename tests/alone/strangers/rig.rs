//! Live traffic, and what is done to the gateway beside it.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use quinn_udp::{Transmit, UdpSocketState};
use stablegate::client::Stream;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::common::{Gateway, connect_with, http, soon};

/// How often traffic with and without an attack is compared.
const ROUNDS: usize = 5;

/// Sessions that send a message and have it back, again and again.
pub struct Traffic {
    took: Arc<Took>,
    sessions: JoinSet<()>,
    /// The time that 99 of 100 messages took at most in each round alone, and under attack.
    alone: Vec<Duration>,
    attacked: Vec<Duration>,
}

/// How long messages took that were sent and came back while one thing was measured.
#[derive(Default)]
struct Took {
    /// The number of what is measured; even while nothing is.
    phase: AtomicUsize,
    times: Mutex<Vec<Duration>>,
}

impl Traffic {
    /// Opens so many sessions at each of the addresses, each of which sends a message in every
    /// `pause`.
    pub async fn start(addresses: &[String], each: usize, pause: Duration) -> Self {
        let took = Arc::<Took>::default();
        let mut sessions = JoinSet::new();
        for address in addresses {
            for n in 0..each {
                let stream = connect_with(options_of(address)).await;
                let first = pause * n as u32 / each as u32;
                sessions.spawn(converse(stream, took.clone(), first, pause));
            }
        }
        Self {
            took,
            sessions,
            alone: Vec::new(),
            attacked: Vec::new(),
        }
    }

    /// Runs `alone` and `attack` in turn for a part of `length` each, while both are measured. What
    /// they return is dropped at the end of each.
    pub async fn compare<A, B>(
        &mut self,
        length: Duration,
        mut alone: impl AsyncFnMut() -> A,
        mut attack: impl AsyncFnMut() -> B,
    ) {
        for _ in 0..ROUNDS {
            let begun = alone().await;
            let took = self.measure(length / ROUNDS as u32).await;
            self.alone.push(took);
            drop(begun);
            let begun = attack().await;
            let took = self.measure(length / ROUNDS as u32).await;
            self.attacked.push(took);
            drop(begun);
        }
    }

    /// The time that 99 of 100 messages take at most for so long.
    async fn measure(&mut self, length: Duration) -> Duration {
        self.took.phase.fetch_add(1, Ordering::Relaxed);
        tokio::select! {
            ended = self.sessions.join_next() => panic!("a session has ended: {ended:?}"),
            () = tokio::time::sleep(length) => {}
        }
        self.took.phase.fetch_add(1, Ordering::Relaxed);
        let mut times = std::mem::take(&mut *self.took.times.lock().unwrap());
        assert!(times.len() > 100, "{} messages", times.len());
        times.sort_unstable();
        times[times.len() * 99 / 100]
    }

    /// Nobody's messages take much longer for what a stranger does. Most rounds count: others on
    /// the machine may hold up one.
    pub fn assert_unharmed(&mut self) {
        println!("alone {:?}, attacked {:?}", self.alone, self.attacked);
        self.attacked.sort_unstable();
        let (alone, attacked) = (self.alone.iter().max(), self.attacked[ROUNDS / 2]);
        let alone = *alone.expect("it was measured");
        assert!(attacked <= 3 * alone, "{attacked:?}, alone {alone:?}");
    }
}

/// The sum of a metric over its labels.
pub async fn metric(gateway: &Gateway, name: &str) -> u64 {
    let text = http::get(gateway.admin().await, "/metrics").await.body;
    let values = text.lines().filter(|line| line.starts_with(name));
    let value = |line: &str| line.rsplit(' ').next()?.parse::<f64>().ok();
    values.filter_map(value).sum::<f64>() as u64
}

pub fn options_of(address: &str) -> stablegate::client::scp::Options {
    stablegate::client::scp::Options::new(address.parse().unwrap())
}

async fn converse(mut stream: Stream, took: Arc<Took>, first: Duration, pause: Duration) {
    let mut turns = tokio::time::interval_at(tokio::time::Instant::now() + first, pause);
    let message = [7; 64];
    let mut back = [0; 64];
    loop {
        turns.tick().await;
        let phase = took.phase.load(Ordering::Relaxed);
        let sent = Instant::now();
        stream.write_all(&message).await.unwrap();
        soon("an echo", stream.read_exact(&mut back)).await.unwrap();
        assert_eq!(stream.resumes(), 0);
        let mut times = took.times.lock().unwrap();
        if phase % 2 == 1 && took.phase.load(Ordering::Relaxed) == phase {
            times.push(sent.elapsed());
        }
    }
}

/// Datagrams that claim to come from all over the loopback network.
pub struct Flood {
    stop: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Flood {
    /// Sends what `datagram` makes of a number, so many in a second.
    pub fn start(to: SocketAddr, rate: u64, datagram: fn(u32) -> Vec<u8>) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = thread::spawn(move || {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).unwrap();
            let state = UdpSocketState::new((&socket).into()).unwrap();
            let begun = Instant::now();
            let mut sent = 0;
            while !stopped.load(Ordering::Relaxed) {
                while sent < begun.elapsed().as_millis() as u64 * rate / 1_000 {
                    let number = sent as u32;
                    let [_, b, c, d] = number.wrapping_mul(2_654_435_761).to_be_bytes();
                    let contents = datagram(number);
                    let transmit = Transmit {
                        destination: to,
                        ecn: None,
                        contents: &contents,
                        segment_size: None,
                        src_ip: Some(Ipv4Addr::new(127, b, c, d.max(1)).into()),
                    };
                    // Nobody may be there.
                    let _ = state.try_send((&socket).into(), &transmit);
                    sent += 1;
                }
                thread::sleep(Duration::from_millis(1));
            }
        });
        Self {
            stop,
            thread: Some(thread),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}

/// Threads that compute until they are dropped.
pub struct Busy {
    stop: Arc<AtomicBool>,
    threads: Vec<thread::JoinHandle<()>>,
}

impl Busy {
    pub fn start(threads: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let compute = |stop: Arc<AtomicBool>| move || while !stop.load(Ordering::Relaxed) {};
        let threads = (0..threads).map(|_| thread::spawn(compute(stop.clone())));
        Self {
            threads: threads.collect(),
            stop,
        }
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let ended = thread.join();
            assert!(ended.is_ok() || thread::panicking());
        }
    }
}
