//! A bad network for datagrams: a relay that loses, doubles, delays and shuffles datagrams by a seed.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::net::UdpSocket;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Chances in percent, times in milliseconds.
#[derive(Debug, Clone, Copy)]
pub struct Badness {
    pub loss: u32,
    pub duplicate: u32,
    /// Of being held back by as much again.
    pub reorder: u32,
    pub delay: u64,
    pub jitter: u64,
}

/// Stands between clients and one server. Ends when dropped.
pub struct Network {
    pub addr: SocketAddr,
    relaying: JoinHandle<()>,
}

type Datagram = (Vec<u8>, Arc<UdpSocket>, SocketAddr);

impl Network {
    pub async fn new(server: SocketAddr, badness: Badness, seed: u64) -> Self {
        Self::passing(server, badness, seed, |_| true).await
    }

    /// A network that loses whatever `passes` says no to, each time.
    pub async fn passing(
        server: SocketAddr,
        badness: Badness,
        seed: u64,
        passes: fn(&[u8]) -> bool,
    ) -> Self {
        let front = Arc::new(open().await);
        let addr = front.local_addr().unwrap();
        let rng = StdRng::seed_from_u64(seed);
        let relaying = tokio::spawn(relay(front, server, badness, rng, passes));
        Self { addr, relaying }
    }
}

impl Drop for Network {
    fn drop(&mut self) {
        self.relaying.abort();
    }
}

/// A socket that loses nothing by itself, as far as the system lets it.
async fn open() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let reference = socket2::SockRef::from(&socket);
    reference.set_recv_buffer_size(4 << 20).unwrap();
    socket
}

async fn relay(
    front: Arc<UdpSocket>,
    server: SocketAddr,
    badness: Badness,
    mut rng: StdRng,
    passes: fn(&[u8]) -> bool,
) {
    let (sender, mut receiver) = mpsc::unbounded_channel::<Datagram>();
    let mut backs = HashMap::<SocketAddr, Arc<UdpSocket>>::new();
    let mut readers = tokio::task::JoinSet::new();
    let mut under_way = BinaryHeap::new();
    let mut datagrams = HashMap::new();
    let mut number = 0u64;
    let mut buffer = vec![0; 65_536];
    loop {
        let next = under_way.peek().map(|Reverse((at, _))| *at);
        let (bytes, out, to) = tokio::select! {
            biased;
            () = sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                let Some(Reverse((_, number))) = under_way.pop() else { continue };
                let (bytes, out, to): Datagram = datagrams.remove(&number).unwrap();
                let _ = out.send_to(&bytes, to).await;
                continue;
            }
            received = front.recv_from(&mut buffer) => {
                let (len, from) = received.unwrap();
                let back = match backs.get(&from) {
                    Some(back) => back.clone(),
                    None => {
                        let back = Arc::new(open().await);
                        let (reading, to) = (back.clone(), sender.clone());
                        let front = front.clone();
                        readers.spawn(async move {
                            let mut buffer = vec![0; 65_536];
                            while let Ok(len) = reading.recv(&mut buffer).await {
                                let _ = to.send((buffer[..len].to_vec(), front.clone(), from));
                            }
                        });
                        backs.insert(from, back.clone());
                        back
                    }
                };
                (buffer[..len].to_vec(), back, server)
            }
            Some(datagram) = receiver.recv() => datagram,
        };
        let mut happens = |chance: u32| rng.random_range(0..100) < chance;
        if happens(badness.loss) || !passes(&bytes) {
            continue;
        }
        let copies = 1 + u32::from(happens(badness.duplicate));
        let held = u64::from(happens(badness.reorder));
        for _ in 0..copies {
            let wait = badness.delay + rng.random_range(0..=badness.jitter);
            let wait = wait + held * (badness.delay + badness.jitter);
            number += 1;
            let at = Instant::now() + Duration::from_millis(wait);
            under_way.push(Reverse((at, number)));
            datagrams.insert(number, (bytes.clone(), out.clone(), to));
        }
    }
}
