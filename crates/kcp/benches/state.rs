//! Bytes pumped through two KCP states in memory, ours beside the crate `kcp`.
//! `cargo bench -p stablegate-kcp --bench state [megabytes]`
//!
//! Per round both sides handle what came, the writer fills up to 64 KiB, and the
//! simulated clock moves by 1 ms. `loss` drops each n-th datagram.

#[path = "transport/outbox.rs"]
mod outbox;

use std::time::{Duration, Instant};

use stablegate_kcp::{Kcp, Settings};

use outbox::Outbox;

const WRITE: usize = 65_536;
const MSS: usize = 1376;

fn main() {
    let megabytes: usize = std::env::args()
        .skip(1)
        .find_map(|text| text.parse().ok())
        .unwrap_or(1000);
    let bytes = megabytes * 1_000_000;
    for (name, loss, bytes) in [
        ("bulk", 0, bytes),
        ("bulk, 1 % lost", 100, bytes / 10),
        ("bulk, 10 % lost", 10, bytes / 10),
    ] {
        let ours = bulk_ours(bytes, loss);
        let theirs = bulk_theirs(bytes, loss);
        for (whose, took) in [("ours", ours), ("kcp 0.6", theirs)] {
            println!(
                "{name:16} {whose:8} {:7.1} ns/segment {:7.0} MB/s",
                took.as_nanos() as f64 / (bytes / MSS) as f64,
                bytes as f64 / 1e6 / took.as_secs_f64(),
            );
        }
        println!("{name:16} ratio    {:.3}", ratio(ours, theirs));
    }
    let messages = megabytes * 1000;
    let (ours, theirs) = (echo_ours(messages), echo_theirs(messages));
    for (whose, took) in [("ours", ours), ("kcp 0.6", theirs)] {
        println!(
            "echo 100 bytes   {whose:8} {:7.1} ns/round trip",
            took.as_nanos() as f64 / messages as f64
        );
    }
    println!("echo 100 bytes   ratio    {:.3}", ratio(ours, theirs));
}

fn ratio(ours: Duration, theirs: Duration) -> f64 {
    ours.as_secs_f64() / theirs.as_secs_f64()
}

fn pass(from: &mut Kcp, to: &mut Kcp, now: u32, out: &mut [u8], dropper: &mut Dropper) {
    while let Some(len) = from.poll_transmit(now, out) {
        if !dropper.drops() {
            to.handle_datagram(&out[..len], now).expect("good");
        }
    }
}

fn bulk_ours(bytes: usize, loss: usize) -> Duration {
    let settings = Settings::default();
    let (mut a, mut b) = (Kcp::new(1, &settings), Kcp::new(1, &settings));
    let data = vec![7; WRITE];
    let mut out = [0; 1400];
    let mut sink = vec![0; WRITE];
    let mut dropper = Dropper { every: loss, at: 0 };
    let (mut written, mut read, mut now) = (0, 0, 0u32);
    let start = Instant::now();
    while read < bytes {
        written += a.write(&data[..WRITE.min(bytes - written)], now);
        pass(&mut a, &mut b, now, &mut out, &mut dropper);
        loop {
            let len = b.read(&mut sink);
            read += len;
            if len < sink.len() {
                break;
            }
        }
        pass(&mut b, &mut a, now, &mut out, &mut Dropper::default());
        now += 1;
    }
    let took = start.elapsed();
    println!("  {now} rounds, {:?}", a.stats());
    took
}

fn bulk_theirs(bytes: usize, loss: usize) -> Duration {
    let mut a = Theirs::new();
    let mut b = Theirs::new();
    let data = vec![7; WRITE];
    let mut sink = vec![0; WRITE];
    let mut dropper = Dropper { every: loss, at: 0 };
    let (mut written, mut read, mut now) = (0, 0, 0u32);
    let start = Instant::now();
    while read < bytes {
        if a.kcp.wait_snd() < 2048 {
            let len = WRITE.min(bytes - written);
            if len > 0 {
                written += a.kcp.send(&data[..len]).expect("room");
            }
        }
        a.pass(&mut b, now, &mut dropper);
        while let Ok(len) = b.kcp.recv(&mut sink) {
            read += len;
        }
        b.pass(&mut a, now, &mut Dropper::default());
        now += 1;
    }
    let took = start.elapsed();
    println!("  {now} rounds");
    took
}

fn echo_ours(messages: usize) -> Duration {
    let settings = Settings::default();
    let (mut a, mut b) = (Kcp::new(1, &settings), Kcp::new(1, &settings));
    let mut out = [0; 1400];
    let mut message = [1; 100];
    let none = &mut Dropper::default();
    let start = Instant::now();
    for now in (0..messages as u32).map(|i| i * 20) {
        a.write(&message, now);
        pass(&mut a, &mut b, now, &mut out, none);
        assert_eq!(b.read(&mut message), 100);
        b.write(&message, now + 5);
        pass(&mut b, &mut a, now + 5, &mut out, none);
        assert_eq!(a.read(&mut message), 100);
        if let Some(deadline) = a.next_deadline() {
            pass(&mut a, &mut b, deadline, &mut out, none);
        }
    }
    start.elapsed()
}

fn echo_theirs(messages: usize) -> Duration {
    let mut a = Theirs::new();
    let mut b = Theirs::new();
    let mut message = [1; 100];
    let none = &mut Dropper::default();
    let start = Instant::now();
    for now in (0..messages as u32).map(|i| i * 20) {
        a.kcp.send(&message).expect("room");
        a.pass(&mut b, now, none);
        assert_eq!(b.kcp.recv(&mut message).expect("echo"), 100);
        b.kcp.send(&message).expect("room");
        b.pass(&mut a, now + 5, none);
        assert_eq!(a.kcp.recv(&mut message).expect("echo"), 100);
        a.pass(&mut b, now + 15, none);
    }
    start.elapsed()
}

#[derive(Default)]
struct Dropper {
    every: usize,
    at: usize,
}

impl Dropper {
    fn drops(&mut self) -> bool {
        self.at += 1;
        self.every > 0 && self.at.is_multiple_of(self.every)
    }
}

struct Theirs {
    kcp: kcp::Kcp<Outbox>,
    outbox: Outbox,
}

impl Theirs {
    fn new() -> Self {
        let outbox = Outbox::default();
        let mut kcp = kcp::Kcp::new_stream(1, outbox.clone());
        kcp.set_mtu(1400).expect("usable");
        kcp.set_wndsize(2048, 2048);
        kcp.set_nodelay(true, 10, 2, true);
        kcp.set_maximum_resend_times(10_000);
        kcp.update(0).expect("outbox takes all");
        Self { kcp, outbox }
    }

    fn pass(&mut self, to: &mut Self, now: u32, dropper: &mut Dropper) {
        // `update` sets its clock; the flush sends at once, as kcp-go does on write.
        self.kcp.update(now).expect("outbox takes all");
        self.kcp.flush().expect("outbox takes all");
        let (bytes, ends) = &mut *self.outbox.0.borrow_mut();
        let mut start = 0;
        for end in ends.drain(..) {
            if !dropper.drops() {
                to.kcp.input(&bytes[start..end]).expect("good");
            }
            start = end;
        }
        bytes.clear();
    }
}
