//! The state machine over simulated networks, against itself, against the crate
//! `kcp` and against recorded datagrams of xtaci/kcp-go.

use std::cell::RefCell;
use std::hash::RandomState;
use std::io;
use std::rc::Rc;
use std::time::Duration;

use proptest::prelude::*;

use super::segment::{Command, HEADER_LEN, Header, Segment, SegmentError};
use super::{InputError, Kcp, Settings};
use crate::netem::{Badness, Link, Random};
use crate::strangers::{COPIES, Claim, Strangers};
use crate::udp::Path;

const CONV: u32 = 0x1234_5678;

const PERFECT: Badness = Badness {
    loss: 0,
    duplicate: 0,
    reorder: 0,
    delay: 5,
    jitter: 0,
};
const MOBILE: Badness = Badness {
    loss: 5,
    duplicate: 2,
    reorder: 5,
    delay: 30,
    jitter: 15,
};
const AWFUL: Badness = Badness {
    loss: 30,
    duplicate: 10,
    reorder: 20,
    delay: 40,
    jitter: 40,
};
const SHUFFLED: Badness = Badness {
    loss: 0,
    duplicate: 5,
    reorder: 40,
    delay: 10,
    jitter: 60,
};
const NETWORKS: [Badness; 4] = [PERFECT, MOBILE, AWFUL, SHUFFLED];

/// One end of a simulated session.
trait End {
    fn input(&mut self, datagram: &[u8], now: u32);
    fn write(&mut self, data: &[u8], now: u32) -> usize;
    fn read(&mut self, out: &mut [u8]) -> usize;
    fn transmit(&mut self, now: u32, send: &mut dyn FnMut(&[u8]));
    /// Milliseconds until it wants to transmit.
    fn wait(&self, now: u32) -> Option<u32>;
    fn is_done(&self) -> bool;
}

impl End for Kcp {
    fn input(&mut self, datagram: &[u8], now: u32) {
        self.handle_datagram(datagram, now)
            .expect("peers of tests send no garbage");
    }

    fn write(&mut self, data: &[u8], now: u32) -> usize {
        Kcp::write(self, data, now)
    }

    fn read(&mut self, out: &mut [u8]) -> usize {
        Kcp::read(self, out)
    }

    fn transmit(&mut self, now: u32, send: &mut dyn FnMut(&[u8])) {
        let mut out = [0; 1500];
        while let Some(len) = self.poll_transmit(now, &mut out) {
            send(&out[..len]);
        }
    }

    fn wait(&self, now: u32) -> Option<u32> {
        let wait = self.next_deadline()?.wrapping_sub(now);
        assert!(wait > 0 && wait < 1 << 30, "drained, so due later: {wait}");
        Some(wait)
    }

    fn is_done(&self) -> bool {
        self.unacked() == 0
    }
}

/// The crate `kcp`, which knows nothing of ours.
struct Oracle {
    kcp: kcp::Kcp<Outbox>,
    outbox: Outbox,
    window: usize,
    read: Vec<u8>,
}

#[derive(Clone, Default)]
struct Outbox(Rc<RefCell<Vec<Vec<u8>>>>);

impl io::Write for Outbox {
    fn write(&mut self, datagram: &[u8]) -> io::Result<usize> {
        self.0.borrow_mut().push(datagram.to_vec());
        Ok(datagram.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Oracle {
    fn new(settings: &Settings) -> Self {
        let outbox = Outbox::default();
        let mut kcp = if settings.stream {
            kcp::Kcp::new_stream(CONV, outbox.clone())
        } else {
            kcp::Kcp::new(CONV, outbox.clone())
        };
        kcp.set_mtu(settings.mtu.into()).expect("usable mtu");
        kcp.set_wndsize(settings.send_window, settings.receive_window);
        kcp.set_nodelay(
            settings.nodelay,
            settings.interval.as_millis() as i32,
            settings.resend.into(),
            settings.no_congestion,
        );
        // It stops sending at a dead link, which 30 % loss may look like.
        kcp.set_maximum_resend_times(1000);
        kcp.update(0).expect("outbox takes all");
        Self {
            kcp,
            outbox,
            window: settings.send_window.into(),
            read: Vec::new(),
        }
    }
}

impl End for Oracle {
    fn input(&mut self, datagram: &[u8], _now: u32) {
        self.kcp.input(datagram).expect("ours sends no garbage");
    }

    fn write(&mut self, data: &[u8], _now: u32) -> usize {
        if data.is_empty() || self.kcp.wait_snd() >= self.window {
            return 0;
        }
        let data = &data[..data.len().min(5_000)];
        self.kcp.send(data).expect("short enough")
    }

    fn read(&mut self, out: &mut [u8]) -> usize {
        let mut message = [0; 65_536];
        while let Ok(len) = self.kcp.recv(&mut message) {
            self.read.extend(&message[..len]);
        }
        let len = self.read.len().min(out.len());
        out[..len].copy_from_slice(&self.read[..len]);
        self.read.drain(..len);
        len
    }

    fn transmit(&mut self, now: u32, send: &mut dyn FnMut(&[u8])) {
        self.kcp.update(now).expect("outbox takes all");
        for datagram in self.outbox.0.borrow_mut().drain(..) {
            send(&datagram);
        }
    }

    fn wait(&self, now: u32) -> Option<u32> {
        Some(self.kcp.check(now).max(1))
    }

    fn is_done(&self) -> bool {
        self.kcp.wait_snd() == 0
    }
}

/// The end that is dialled: it has a session once its peer has answered a challenge.
struct Door {
    strangers: Strangers,
    settings: Settings,
    challenges: Vec<[u8; HEADER_LEN]>,
    session: Option<Kcp>,
}

const PEER: std::net::SocketAddr =
    std::net::SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 1);

impl Door {
    fn new(settings: &Settings) -> Self {
        Self {
            strangers: Strangers::new(RandomState::new(), 1 << 20),
            settings: settings.clone(),
            challenges: Vec::new(),
            session: None,
        }
    }
}

impl End for Door {
    fn input(&mut self, datagram: &[u8], now: u32) {
        if let Some(session) = &mut self.session {
            return session.input(datagram, now);
        }
        let path = Path {
            peer: PEER,
            from: None,
        };
        match Claim::read(datagram).expect("a segment") {
            Claim::Opens(conv) => {
                let (challenge, _) = self.strangers.open(path, conv, false, datagram, now.into());
                let challenge = challenge.encode(self.settings.receive_window);
                self.challenges.extend([challenge; COPIES]);
            }
            Claim::Answers(conv, timestamp) => {
                assert!(self.strangers.is_proof((PEER, conv), timestamp, now.into()));
                let mut session = Kcp::new(conv, &self.settings);
                let kept = self.strangers.take((PEER, conv));
                kept.datagrams().for_each(|it| session.input(it, now));
                session.input(datagram, now);
                self.session = Some(session);
            }
            Claim::Sends(conv) => {
                self.strangers.keep((PEER, conv), datagram);
            }
        }
    }

    fn write(&mut self, data: &[u8], now: u32) -> usize {
        self.session.as_mut().map_or(0, |it| it.write(data, now))
    }

    fn read(&mut self, out: &mut [u8]) -> usize {
        self.session.as_mut().map_or(0, |it| it.read(out))
    }

    fn transmit(&mut self, now: u32, send: &mut dyn FnMut(&[u8])) {
        while let Some(challenge) = self.strangers.poll(now.into()) {
            self.challenges
                .push(challenge.encode(self.settings.receive_window));
        }
        for challenge in self.challenges.drain(..) {
            send(&challenge);
        }
        if let Some(session) = &mut self.session {
            session.transmit(now, send);
        }
    }

    fn wait(&self, now: u32) -> Option<u32> {
        let due = self.strangers.deadline();
        let due = due.map(|at| (at as u32).saturating_sub(now).max(1));
        let session = self.session.as_ref().and_then(|it| it.wait(now));
        due.into_iter().chain(session).min()
    }

    fn is_done(&self) -> bool {
        self.session.as_ref().is_some_and(|it| it.unacked() == 0)
    }
}

/// How one end uses its session.
#[derive(Clone, Copy)]
struct Use {
    /// Bytes to write, in writes of up to `write_size`.
    bytes: usize,
    write_size: usize,
    /// Bytes read per 10 ms.
    read_rate: usize,
}

/// As fast as it goes.
fn bytes(len: usize) -> Use {
    Use {
        bytes: len,
        write_size: 16_384,
        read_rate: usize::MAX,
    }
}

/// Bytes that show where in a transfer they belong.
struct Pattern(Vec<u8>);

impl Pattern {
    /// A prime, so that it falls in with no length of segments.
    const PERIOD: usize = 65_521;
    const LONGEST: usize = 65_536;

    fn new() -> Self {
        let byte = |i: usize| ((i % Self::PERIOD).wrapping_mul(2_654_435_761) >> 11) as u8;
        Self((0..Self::PERIOD + Self::LONGEST).map(byte).collect())
    }

    /// Those of `range`, which is no longer than [`LONGEST`](Self::LONGEST).
    fn at(&self, range: std::ops::Range<usize>) -> &[u8] {
        let start = range.start % Self::PERIOD;
        &self.0[start..start + range.len()]
    }
}

/// Plays both ends until everything written on either side was read and
/// acknowledged; gives the simulated milliseconds it took.
fn play(
    ends: [&mut dyn End; 2],
    uses: [Use; 2],
    badness: Badness,
    seed: u64,
    first_clock: u32,
) -> u64 {
    let mut links = [Link::new(badness, seed), Link::new(badness, !seed)];
    let mut written = [0; 2];
    let mut read = [0; 2];
    let mut buffer = vec![0; Pattern::LONGEST];
    let pattern = Pattern::new();
    let mut time = 0u64;
    loop {
        let now = first_clock.wrapping_add(time as u32);
        let mut next = u64::MAX;
        for side in 0..2 {
            while let Some(datagram) = links[1 - side].receive(time) {
                ends[side].input(&datagram, now);
            }
            let mut allowance = match uses[side].read_rate {
                usize::MAX => usize::MAX,
                rate if time.is_multiple_of(10) => rate,
                _ => 0,
            };
            while allowance > 0 {
                let most = allowance.min(buffer.len());
                let len = ends[side].read(&mut buffer[..most]);
                if len == 0 {
                    break;
                }
                assert!(
                    buffer[..len] == *pattern.at(read[side]..read[side] + len),
                    "bytes {}.. differ",
                    read[side]
                );
                read[side] += len;
                allowance -= len;
            }
            while written[side] < uses[side].bytes {
                let end = uses[side].bytes.min(written[side] + uses[side].write_size);
                let taken = ends[side].write(pattern.at(written[side]..end), now);
                written[side] += taken;
                if taken == 0 {
                    break;
                }
            }
            let link = &mut links[side];
            ends[side].transmit(now, &mut |datagram| link.send(datagram, time));
            if let Some(wait) = ends[side].wait(now) {
                next = next.min(time + u64::from(wait));
            }
            if uses[side].read_rate < usize::MAX && read[side] < uses[1 - side].bytes {
                next = next.min(time / 10 * 10 + 10);
            }
        }
        let through = read[0] == uses[1].bytes && read[1] == uses[0].bytes;
        if through && ends.iter().all(|end| end.is_done()) {
            return time;
        }
        for link in &links {
            next = next.min(link.next_arrival().unwrap_or(u64::MAX));
        }
        assert!(next < 3_600_000, "stuck at {time} ms: {read:?}");
        time = next;
    }
}

fn pair(settings: &Settings) -> (Kcp, Kcp) {
    (Kcp::new(CONV, settings), Kcp::new(CONV, settings))
}

/// Moves what `from` has to send over to `to`; gives the datagrams' lengths.
fn pass(from: &mut Kcp, to: &mut Kcp, now: u32) -> Vec<usize> {
    let mut lengths = Vec::new();
    from.transmit(now, &mut |datagram| {
        lengths.push(datagram.len());
        to.input(datagram, now);
    });
    lengths
}

fn push(sn: u32, una: u32, payload: &[u8]) -> Vec<u8> {
    segment(Command::Push, sn, una, 100, payload)
}

fn segment(command: Command, sn: u32, una: u32, window: u16, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        conv: CONV,
        command,
        fragment: 0,
        window,
        timestamp: 0,
        sn,
        una,
    };
    [&header.encode(payload.len() as u32)[..], payload].concat()
}

#[test]
fn bytes_survive_every_network() {
    for (seed, badness) in (1..).zip(NETWORKS) {
        for window in [4, 32, 2048] {
            for (stream, write_delay) in [(true, false), (true, true), (false, false)] {
                let settings = Settings {
                    send_window: window,
                    receive_window: window,
                    stream,
                    write_delay,
                    ..Settings::default()
                };
                let (mut a, mut b) = pair(&settings);
                play(
                    [&mut a, &mut b],
                    [bytes(100_000), bytes(130_000)],
                    badness,
                    seed,
                    0,
                );
            }
        }
    }
}

fn a_long_transfer_survives(badness: Badness) {
    let (mut a, mut b) = pair(&Settings::default());
    let long = bytes(50_000_000);
    play([&mut a, &mut b], [long, long], badness, 21, 0);
    for stats in [a.stats(), b.stats()] {
        assert_eq!(
            (stats.sent_bytes, stats.received_bytes),
            (50_000_000, 50_000_000)
        );
    }
}

#[test]
fn a_long_transfer_survives_a_perfect_network() {
    a_long_transfer_survives(PERFECT);
}

#[test]
fn a_long_transfer_survives_a_mobile_network() {
    a_long_transfer_survives(MOBILE);
}

#[test]
fn a_long_transfer_survives_an_awful_network() {
    a_long_transfer_survives(AWFUL);
}

#[test]
fn a_long_transfer_survives_a_shuffled_network() {
    a_long_transfer_survives(SHUFFLED);
}

#[test]
fn numbers_and_clock_wrap() {
    for (seed, badness) in (31..).zip(NETWORKS) {
        let settings = Settings::default();
        let (up, down) = (u32::MAX - 70, u32::MAX - 3);
        let mut a = Kcp::starting_at(CONV, &settings, up, down);
        let mut b = Kcp::starting_at(CONV, &settings, down, up);
        play(
            [&mut a, &mut b],
            [bytes(400_000), bytes(300_000)],
            badness,
            seed,
            u32::MAX - 150,
        );
    }
}

#[test]
fn congestion_control_gets_through() {
    let settings = Settings {
        no_congestion: false,
        nodelay: false,
        ..Settings::default()
    };
    for (seed, badness) in (41..).zip(NETWORKS) {
        let (mut a, mut b) = pair(&settings);
        play(
            [&mut a, &mut b],
            [bytes(200_000), bytes(50_000)],
            badness,
            seed,
            0,
        );
    }
}

#[test]
fn small_writes_and_slow_readers() {
    for (seed, badness) in (51..).zip(NETWORKS) {
        for receive_window in [2, 64] {
            let settings = Settings {
                receive_window,
                ..Settings::default()
            };
            let slow = Use {
                bytes: 30_000,
                write_size: 100,
                read_rate: 2_000,
            };
            let (mut a, mut b) = pair(&settings);
            play([&mut a, &mut b], [slow, slow], badness, seed, 0);
        }
    }
}

#[test]
fn mtu_bounds_datagrams() {
    for (mtu, longest) in [
        (568, 568),
        (1392, 1392),
        (0, 128),
        (1500, 1500),
        (9000, 1500),
    ] {
        let settings = Settings {
            mtu,
            ..Settings::default()
        };
        let (mut a, mut b) = pair(&settings);
        a.write(Pattern::new().at(0..30_000), 0);
        let mut lengths = Vec::new();
        for now in 0..100 {
            lengths.extend(pass(&mut a, &mut b, now));
            pass(&mut b, &mut a, now);
        }
        let most = lengths.iter().max().copied();
        assert_eq!(most, Some(longest));
        assert_eq!(b.readable(), 30_000);
    }
}

#[test]
fn the_oracle_understands_us_and_we_it() {
    for (seed, badness) in (61..).zip(NETWORKS) {
        for window in [32, 256] {
            for stream in [true, false] {
                let settings = Settings {
                    send_window: window,
                    receive_window: window.max(128),
                    stream,
                    ..Settings::default()
                };
                let mut ours = Kcp::new(CONV, &settings);
                let mut theirs = Oracle::new(&settings);
                play(
                    [&mut ours, &mut theirs],
                    [bytes(150_000), bytes(150_000)],
                    badness,
                    seed,
                    0,
                );
            }
        }
    }
}

#[test]
fn messages_keep_their_boundaries() {
    let settings = Settings {
        stream: false,
        ..Settings::default()
    };
    let mut ours = Kcp::new(CONV, &settings);
    let mut theirs = Oracle::new(&settings);
    let lengths = [1usize, 1376, 1377, 20_000, 7, 3 * 1376];
    let pattern = Pattern::new();
    let mut expected = Vec::new();
    for len in lengths {
        let message = pattern.at(len..2 * len);
        expected.push(message);
        assert_eq!(ours.write(message, 0), len);
        theirs.kcp.send(message).expect("fits");
    }
    let (mut from_us, mut from_them) = (Vec::new(), Vec::new());
    for now in 0..2_000 {
        ours.transmit(now, &mut |datagram| theirs.input(datagram, now));
        theirs.transmit(now, &mut |datagram| ours.input(datagram, now));
        while let Ok(len) = theirs.kcp.peeksize() {
            let mut message = vec![0; len];
            theirs.kcp.recv(&mut message).expect("peeked");
            from_us.push(message);
        }
        while let Some(len) = ours.message_len() {
            let mut message = vec![0; len];
            assert_eq!(ours.read(&mut message), len);
            from_them.push(message);
        }
    }
    assert!(from_us == expected && from_them == expected);
}

#[test]
fn recorded_exchanges() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vectors/kcp.json");
    let text = std::fs::read_to_string(path).expect("recorded exchanges are there");
    let recorded: serde_json::Value = serde_json::from_str(&text).expect("json");
    let mut played = 0;
    for exchange in recorded["exchanges"].as_array().expect("a list") {
        if exchange["fec_data"] != 0 {
            continue;
        }
        played += 1;
        let conv = exchange["conv"].as_u64().expect("a number") as u32;
        let len = exchange["payload_len"].as_u64().expect("a number") as usize;
        let payload: Vec<u8> = (0..len).map(|i| (i * 7 + (i >> 8)) as u8).collect();
        let mut client = Kcp::new(conv, &Settings::default());
        let mut server = Kcp::new(conv, &Settings::default());
        let mut received: Vec<u8> = Vec::new();
        let mut our_pushes = Vec::new();
        let mut their_pushes = Vec::new();
        assert_eq!(client.write(&payload, 0), len);
        client.transmit(0, &mut |datagram| collect(datagram, &mut our_pushes));
        let datagrams = exchange["datagrams"].as_array().expect("a list");
        for (now, datagram) in (1..).zip(datagrams) {
            let bytes = unhex(datagram[1].as_str().expect("hex"));
            if datagram[0] == "c" {
                if now == 1 {
                    assert_eq!(Claim::read(&bytes), Some(Claim::Opens(conv)));
                }
                collect(&bytes, &mut their_pushes);
                server.input(&bytes, now);
                let mut echo = vec![0; len];
                let taken = server.read(&mut echo);
                received.extend(&echo[..taken]);
                assert_eq!(server.write(&echo[..taken], now), taken);
                server.transmit(now, &mut |_| {});
            } else {
                client.input(&bytes, now);
                client.transmit(now, &mut |_| {});
            }
        }
        assert!(received == payload, "the server's side");
        assert_eq!(server.unacked(), 0);
        let mut echoed = vec![0; len];
        assert_eq!(client.read(&mut echoed), len);
        assert!(echoed == payload, "the client's side");
        assert_eq!(client.unacked(), 0);
        their_pushes.sort();
        their_pushes.dedup();
        assert!(our_pushes == their_pushes, "we cut and number as they do");
    }
    assert_eq!(played, 3);

    fn collect(mut datagram: &[u8], pushes: &mut Vec<(u32, u8, Vec<u8>)>) {
        while !datagram.is_empty() {
            let (segment, rest) = Segment::decode(datagram).expect("whole");
            let header = segment.header;
            if header.command == Command::Push {
                pushes.push((header.sn, header.fragment, segment.payload.to_vec()));
            }
            datagram = rest;
        }
    }

    fn unhex(text: &str) -> Vec<u8> {
        (0..text.len())
            .step_by(2)
            .map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hex"))
            .collect()
    }
}

#[test]
fn an_echo_rides_with_its_acknowledgement_and_leaves_nothing_behind() {
    let (mut a, mut b) = pair(&Settings::default());
    assert_eq!((a.next_deadline(), a.heap_size()), (None, 0));
    for now in 0..100 {
        let now = now * 20;
        let mut message = [7; 100];
        a.write(&message, now);
        let lengths = pass(&mut a, &mut b, now);
        assert!(now == 0 || lengths == [124], "{lengths:?}");
        assert_eq!(b.read(&mut message), 100);
        b.write(&message, now);
        assert_eq!(pass(&mut b, &mut a, now), [148]);
        assert_eq!(a.read(&mut message), 100);
        assert_eq!(pass(&mut a, &mut b, now), [0; 0], "within the interval");
        assert_eq!(a.next_deadline(), Some(now + 10));
        assert_eq!(pass(&mut a, &mut b, now + 10), [24]);
        assert_eq!((a.next_deadline(), b.next_deadline()), (None, None));
    }
    let held = size_of::<Kcp>() + a.heap_size();
    assert!(held < 1_600, "{held}");
}

#[test]
fn grown_buffers_are_given_back_once() {
    let (mut a, mut b) = pair(&Settings::default());
    let time = play(
        [&mut a, &mut b],
        [bytes(1 << 20), bytes(1 << 20)],
        MOBILE,
        71,
        0,
    );
    let mut now = time as u32;
    // What is still under way got lost; the last acknowledgements go out.
    for end in [&mut a, &mut b] {
        assert!(end.heap_size() > 10_000);
        let mut wakes = 0;
        while let Some(deadline) = end.next_deadline() {
            now = now.max(deadline);
            end.transmit(now, &mut |_| {});
            wakes += 1;
        }
        assert!(wakes <= 2, "{wakes}");
        assert!(end.heap_size() < 1_024, "{}", end.heap_size());
    }
}

#[test]
fn full_segments_make_equal_datagrams() {
    let (mut a, mut b) = pair(&Settings::default());
    b.write(b"x", 0);
    pass(&mut b, &mut a, 0);
    a.write(Pattern::new().at(0..30_000), 20);
    let lengths = pass(&mut a, &mut b, 20);
    let (last, full) = lengths.split_last().expect("some");
    assert!(full.iter().all(|len| *len == 1400), "{lengths:?}");
    assert_eq!(*last, HEADER_LEN + 30_000 % 1376 + HEADER_LEN);
}

#[test]
fn acknowledgements_of_a_flood_do_not_wait() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    let mut sent = Vec::new();
    for sn in 0..58 {
        kcp.input(&push(sn, 0, b"."), 0);
        kcp.transmit(0, &mut |datagram| sent.push(datagram.to_vec()));
    }
    assert_eq!(sent.len(), 1);
    let (ack, _) = Segment::decode(&sent[0]).expect("an ack");
    assert_eq!((ack.header.sn, ack.header.una), (57, 58));
}

#[test]
fn missing_segments_are_sent_again_when_later_ones_arrive() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    let mut lengths = Vec::new();
    for _ in 0..6 {
        kcp.write(&[1; 1376], 0);
    }
    kcp.transmit(0, &mut |_| {});
    let mut resent = |kcp: &mut Kcp, now| {
        lengths.clear();
        kcp.transmit(now, &mut |datagram| lengths.push(datagram.len()));
        lengths.len()
    };
    kcp.input(&segment(Command::Ack, 3, 1, 100, &[]), 5);
    assert_eq!(resent(&mut kcp, 5), 2, "1 and 2, nothing new to send");
    assert_eq!(kcp.stats().early_retransmitted_segments, 2);
    kcp.write(&[1; 1376], 6);
    kcp.input(&segment(Command::Ack, 5, 1, 100, &[]), 6);
    assert_eq!(
        resent(&mut kcp, 6),
        1,
        "only the new one, 4 has one witness"
    );
    kcp.input(&segment(Command::Ack, 6, 1, 100, &[]), 7);
    assert_eq!(resent(&mut kcp, 7), 1, "4 has two");
    let mut overtaken = segment(Command::Ack, 6, 1, 100, &[]);
    overtaken[8] = 6;
    kcp.input(&overtaken, 8);
    assert_eq!(resent(&mut kcp, 8), 0, "within the disorder of the path");
    overtaken[8] = 7;
    kcp.input(&overtaken, 9);
    assert_eq!(resent(&mut kcp, 9), 2, "1 and 2 were overtaken again");
    assert_eq!(kcp.stats().fast_retransmitted_segments, 3);
    assert_eq!(kcp.stats().lost_segments, 0);
    assert_eq!(resent(&mut kcp, 500), 3, "timeout");
    assert_eq!(kcp.stats().lost_segments, 3);
    kcp.input(&segment(Command::Ack, 6, 7, 100, &[]), 501);
    assert_eq!((kcp.unacked(), kcp.next_deadline()), (0, Some(1501)));
}

/// An acknowledgement names the newest copy of a segment. Taking it for a fast answer to that would
/// keep the timeout below the time that the peer waits, and have everything sent again for ever.
#[test]
fn who_holds_acknowledgements_back_soon_gets_nothing_twice() {
    let mut us = Kcp::new(CONV, &Settings::default());
    let holding = Settings {
        interval: Duration::from_millis(100),
        ..Settings::default()
    };
    let mut peer = Kcp::new(CONV, &holding);
    let mut now = 0;
    let mut message = [7; 10];
    for _ in 0..20 {
        us.write(&message, now);
        pass(&mut us, &mut peer, now);
        peer.read(&mut message);
        peer.write(&message, now);
        pass(&mut peer, &mut us, now);
        us.read(&mut message);
        now += 20;
    }
    let mut resent = Vec::new();
    for _ in 0..30 {
        let before = us.stats().retransmitted_segments;
        us.write(&message, now);
        for _ in 0..200 {
            pass(&mut us, &mut peer, now);
            pass(&mut peer, &mut us, now);
            now += 1;
        }
        peer.read(&mut message);
        assert_eq!(us.unacked(), 0);
        resent.push(us.stats().retransmitted_segments - before);
    }
    assert!(resent[0] > 0, "the peer had answered at once before");
    assert_eq!(resent[8..], [0; 22], "{resent:?}");
}

#[test]
fn a_closed_window_is_probed_and_its_opening_told() {
    let settings = Settings {
        receive_window: 8,
        ..Settings::default()
    };
    let (mut a, mut b) = pair(&settings);
    a.write(Pattern::new().at(0..20 * 1376), 0);
    pass(&mut a, &mut b, 0);
    pass(&mut b, &mut a, 10);
    assert_eq!(b.readable(), 8 * 1376);
    let mut now = 10;
    while a.unacked() > 12 * 1376 {
        now += 200;
        pass(&mut a, &mut b, now);
        pass(&mut b, &mut a, now + 10);
        now += 10;
    }
    // Segments beyond the window time out until then; the probe comes when none are in flight.
    assert!(a.unacked() > 0);
    b.read(&mut [0; 1376]);
    assert_eq!(pass(&mut b, &mut a, now), [0; 0], "a slit is not worth it");
    b.read(&mut [0; 7 * 1376]);
    assert_eq!(pass(&mut b, &mut a, now), [24], "told");
    for _ in 0..100 {
        now += 50;
        pass(&mut a, &mut b, now);
        b.read(&mut [0; 9_999]);
        pass(&mut b, &mut a, now);
    }
    assert_eq!(a.unacked(), 0);

    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.input(&segment(Command::WindowTell, 0, 0, 0, &[]), 0);
    kcp.write(b"blocked", 0);
    kcp.transmit(0, &mut |_| panic!("the window is closed"));
    let mut asked = Vec::new();
    while asked.len() < 20 {
        let deadline = kcp.next_deadline().expect("a probe");
        kcp.transmit(deadline, &mut |_| asked.push(deadline));
    }
    let waits: Vec<u32> = asked.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert_eq!((asked[0], waits[0], waits[18]), (500, 750, 120_000));
}

#[test]
fn nobody_probes_while_an_answer_is_due() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.write(b"x", 0);
    kcp.transmit(0, &mut |_| {});
    kcp.input(&segment(Command::WindowTell, 0, 0, 0, &[]), 1);
    kcp.write(b"blocked", 1);
    for _ in 0..8 {
        let deadline = kcp.next_deadline().expect("a timeout");
        kcp.transmit(deadline, &mut |datagram| {
            let (again, _) = Segment::decode(datagram).expect("whole");
            assert_eq!(
                (again.header.command, again.payload),
                (Command::Push, &b"x"[..])
            );
        });
    }
}

#[test]
fn a_peer_that_never_moves_una_keeps_nobody_awake() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.write(&[0; 30 * 1376], 0);
    for now in [0, 1_000, 2_000] {
        kcp.transmit(now, &mut |_| {});
    }
    for sn in 0..30 {
        let mut ack = segment(Command::Ack, sn, 0, 99, &[]);
        ack[8..12].fill(0x77);
        kcp.input(&ack, 2_100);
    }
    let mut wakes = 0;
    while let Some(wait) = kcp.next_deadline().map(|at| at.wrapping_sub(2_100)) {
        kcp.transmit(2_100 + wait, &mut |_| panic!("all arrived"));
        wakes += 1;
        assert!(wakes <= 2);
    }
    assert_eq!(kcp.unacked(), 0);
}

#[test]
fn a_challenge_costs_no_byte() {
    for (seed, badness) in (1..).zip(NETWORKS) {
        let settings = Settings::default();
        let mut client = Oracle::new(&settings);
        let mut server = Door::new(&settings);
        let uses = [bytes(200_000), bytes(200_000)];
        play([&mut client, &mut server], uses, badness, seed, 0);
        let mut client = Kcp::new(CONV, &settings);
        let mut server = Door::new(&settings);
        play([&mut client, &mut server], uses, badness, seed, 0);
    }
}

/// With a fifth of all datagrams lost either way, clients as the original makes them are answered
/// within two seconds.
#[test]
fn a_lossy_network_keeps_nobody_waiting_at_the_door() {
    const CLIENTS: u64 = 500;
    let badness = Badness {
        loss: 20,
        delay: 30,
        jitter: 10,
        ..Badness::default()
    };
    let original = Settings {
        nodelay: false,
        interval: Duration::from_millis(100),
        resend: 0,
        no_congestion: false,
        ..Settings::default()
    };
    for (settings, least) in [(original, 98), (Settings::default(), 98)] {
        let mut soon = 0;
        for seed in 0..CLIENTS {
            let mut links = [Link::new(badness, seed), Link::new(badness, !seed)];
            let mut client = Oracle::new(&settings);
            let mut server = Door::new(&Settings::default());
            client.write(b"hello", 0);
            let mut hello = [0; 5];
            let answered = (0..2_000u32).any(|now| {
                while let Some(datagram) = links[0].receive(now.into()) {
                    server.input(&datagram, now);
                }
                while let Some(datagram) = links[1].receive(now.into()) {
                    client.input(&datagram, now);
                }
                if server.read(&mut hello) > 0 {
                    server.write(&hello, now);
                }
                client.transmit(now, &mut |it| links[0].send(it, now.into()));
                server.transmit(now, &mut |it| links[1].send(it, now.into()));
                client.read(&mut hello) > 0
            });
            soon += u64::from(answered);
        }
        let percent = soon * 100 / CLIENTS;
        println!("{percent} % of {settings:?}");
        assert!(percent >= least, "{percent} % with {settings:?}");
    }
}

#[test]
fn a_challenge_is_answered_at_once_and_delivers_nothing() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.input(&push(u32::MAX, 0, b""), 5);
    let mut sent = Vec::new();
    kcp.transmit(5, &mut |datagram| sent.push(datagram.to_vec()));
    let (answer, rest) = Segment::decode(&sent[0]).expect("whole");
    assert_eq!((sent.len(), rest), (1, &b""[..]));
    let header = answer.header;
    assert_eq!((header.command, header.sn), (Command::Ack, u32::MAX));
    assert_eq!((kcp.readable(), header.una), (0, 0));
}

#[test]
fn an_acknowledgement_of_what_was_never_sent_is_no_sample() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    for sn in [0, 1, u32::MAX] {
        let mut ack = segment(Command::Ack, sn, 0, 32, &[]);
        ack[8..12].copy_from_slice(&5u32.to_le_bytes());
        kcp.input(&ack, 5);
    }
    assert_eq!(kcp.round_trip(), None);
}

#[test]
fn write_delay_waits_for_more() {
    let settings = Settings {
        write_delay: true,
        ..Settings::default()
    };
    let (mut a, mut b) = pair(&settings);
    a.write(b"some", 0);
    assert_eq!(pass(&mut a, &mut b, 0), [0; 0]);
    assert_eq!(a.next_deadline(), Some(10));
    a.write(b"more", 5);
    assert_eq!(pass(&mut a, &mut b, 9), [0; 0]);
    assert_eq!(pass(&mut a, &mut b, 10), [32]);
    a.write(b"goes with the acknowledgement", 11);
    pass(&mut b, &mut a, 20);
    assert_eq!(pass(&mut a, &mut b, 20), [53]);
    a.write(&[0; 2048 * 1376], 21);
    assert!(!pass(&mut a, &mut b, 21).is_empty(), "nothing to wait for");
}

/// A link that KCP calls dead is not given up: on a fast path 20 transmissions take only seconds
/// of outage, so a read timeout judges better.
#[test]
fn a_segment_is_sent_again_for_ever() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.write(b"anyone?", 0);
    let mut sent = 0;
    let mut now = 0;
    while sent < 20 {
        kcp.transmit(now, &mut |_| sent += 1);
        now = kcp.next_deadline().expect("it goes on");
    }
    let mut wait = 0;
    for _ in 0..1_000 {
        kcp.transmit(now, &mut |_| {});
        let next = kcp.next_deadline().expect("it goes on");
        wait = next.wrapping_sub(now);
        assert!(wait <= 60_000);
        now = next;
    }
    assert_eq!(wait, 60_000);
}

#[test]
fn bad_input_is_counted_and_good_segments_before_it_count() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    let mut bad = push(0, 0, b"good");
    bad.extend(push(1, 0, b"cut"));
    bad.pop();
    let error = kcp.handle_datagram(&bad, 0).expect_err("cut");
    assert!(matches!(
        error,
        InputError::Segment(SegmentError::Truncated { .. })
    ));
    assert_eq!(kcp.chunk(), b"good");
    let mut stranger = push(1, 0, b"x");
    stranger[0] ^= 1;
    assert!(matches!(
        kcp.handle_datagram(&stranger, 0),
        Err(InputError::OtherConversation(_))
    ));
    assert_eq!(
        kcp.handle_datagram(&push(1, 1, b"x"), 0),
        Err(InputError::NeverSent(1))
    );
    assert_eq!(
        kcp.handle_datagram(&push(1, 0, &[0; 1477]), 0),
        Err(InputError::Oversized(1477))
    );
    let mut trailing = push(1, 0, &[0; 1476]);
    trailing.extend([9; 23]);
    assert_eq!(kcp.handle_datagram(&trailing, 0), Ok(()));
    assert_eq!(kcp.stats().in_errors, 4);
    assert_eq!(kcp.readable(), 4 + 1476);
}

#[test]
fn pushes_outside_the_window_are_not_kept() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    let answer = |kcp: &mut Kcp, now| {
        let mut sns = Vec::new();
        kcp.transmit(now, &mut |datagram| {
            for segment in datagram.chunks(HEADER_LEN) {
                let (segment, _) = Segment::decode(segment).expect("acks");
                sns.push(segment.header.sn);
            }
        });
        sns
    };
    kcp.input(&push(2048, 0, b"beyond"), 0);
    kcp.input(&push(u32::MAX, 0, b"before"), 0);
    assert_eq!(answer(&mut kcp, 10), [u32::MAX]);
    kcp.input(&push(2047, 0, b"within"), 10);
    assert_eq!(answer(&mut kcp, 20), [2047]);
    assert_eq!(kcp.stats().repeated_segments, 2);
    assert_eq!(kcp.readable(), 0);
}

#[test]
fn a_flood_without_answers_in_between_stays_in_bounds() {
    let settings = Settings {
        receive_window: 16,
        ..Settings::default()
    };
    let mut kcp = Kcp::new(CONV, &settings);
    for _ in 0..10_000 {
        kcp.input(&push(5, 0, b"x"), 0);
        kcp.input(&push(7, 0, b"x"), 0);
    }
    assert!(kcp.heap_size() < 10_000, "{}", kcp.heap_size());
}

#[test]
fn an_overtaken_datagram_does_not_close_the_window() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.write(b"x", 0);
    kcp.transmit(0, &mut |_| {});
    kcp.input(&segment(Command::Ack, 0, 1, 100, &[]), 10);
    kcp.input(&segment(Command::WindowTell, 0, 0, 0, &[]), 11);
    kcp.write(b"y", 12);
    let mut sent = 0;
    kcp.transmit(12, &mut |_| sent += 1);
    assert_eq!(sent, 1);
}

#[test]
fn a_window_asked_for_is_told() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.input(&segment(Command::WindowAsk, 0, 0, 9, &[]), 7);
    assert_eq!(kcp.next_deadline(), Some(7));
    let mut told = Vec::new();
    kcp.transmit(7, &mut |datagram| told = datagram.to_vec());
    let (tell, _) = Segment::decode(&told).expect("whole");
    assert_eq!(
        (tell.header.command, tell.header.window),
        (Command::WindowTell, 2048)
    );
    assert_eq!(kcp.next_deadline(), None);
}

#[test]
fn gaps_are_reported_before_data() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    [1, 2, 4]
        .into_iter()
        .for_each(|sn| kcp.input(&push(sn, 0, b"x"), 0));
    kcp.write(&[0; 2 * 1376], 10);
    let mut lengths = Vec::new();
    kcp.transmit(10, &mut |datagram| lengths.push(datagram.len()));
    assert_eq!(lengths, [3 * HEADER_LEN, 1400, 1400]);
}

#[test]
fn recovered_datagrams_carry_data_but_no_news_of_the_path() {
    let mut kcp = Kcp::new(CONV, &Settings::default());
    kcp.write(b"x", 0);
    kcp.transmit(0, &mut |_| {});
    let closed = segment(Command::Push, 0, 1, 0, b"late");
    kcp.handle_recovered(&closed, 50).expect("good");
    assert_eq!((kcp.chunk(), kcp.unacked()), (&b"late"[..], 0));
    kcp.write(b"y", 50);
    let mut sent = 0;
    kcp.transmit(50, &mut |_| sent += 1);
    assert_eq!(sent, 1, "its closed window is old");
    let late = segment(Command::Ack, 1, 2, 100, &[]);
    kcp.handle_recovered(&late, 5_000).expect("good");
    kcp.write(b"z", 5_000);
    kcp.transmit(5_000, &mut |_| {});
    assert_eq!(kcp.next_deadline(), Some(5_200), "untouched first timeout");
}

#[test]
fn random_datagrams_leave_a_session_alive_and_small() {
    let settings = Settings {
        receive_window: 64,
        ..Settings::default()
    };
    let mut random = Random(81);
    let (mut a, mut b) = pair(&settings);
    for now in 0..20_000u32 {
        let len = random.below(200) as usize;
        let mut noise: Vec<u8> = (0..len).map(|_| random.next() as u8).collect();
        if len >= 8 && random.below(2) == 0 {
            noise[..4].copy_from_slice(&CONV.to_le_bytes());
            noise[4] = 85;
        }
        let _ = b.handle_datagram(&noise, now);
        if now % 100 == 0 {
            let mut message = [3; 100];
            a.write(&message, now);
            pass(&mut a, &mut b, now);
            assert_eq!(b.read(&mut message), 100);
            pass(&mut b, &mut a, now + 50);
        }
    }
    assert!(b.heap_size() < 2_000);
}

/// A segment that passes most checks, with everything in it arbitrary near the window.
fn plausible() -> impl Strategy<Value = Vec<u8>> {
    let near = prop_oneof![0u32..40, any::<u32>()];
    (
        81u8..=84,
        any::<u8>(),
        any::<u16>(),
        any::<u32>(),
        near,
        prop_oneof![Just(0u32), 0u32..6, any::<u32>()],
        proptest::collection::vec(any::<u8>(), 0..60),
        prop_oneof![9 => Just(0u32), 1 => any::<u32>()],
    )
        .prop_map(|(command, frg, wnd, ts, sn, una, payload, lie)| {
            let mut bytes = CONV.to_le_bytes().to_vec();
            bytes.extend([command, frg]);
            bytes.extend(wnd.to_le_bytes());
            for word in [ts, sn, una, (payload.len() as u32).wrapping_add(lie)] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(payload);
            bytes
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn anything_received_neither_panics_nor_grows(
        datagrams in proptest::collection::vec(
            prop_oneof![
                4 => proptest::collection::vec(plausible(), 1..6).prop_map(|s| s.concat()),
                1 => proptest::collection::vec(any::<u8>(), 0..100),
            ],
            1..120,
        ),
        writes in proptest::collection::vec(0usize..3_000, 120),
        steps in proptest::collection::vec(0u32..50, 120),
    ) {
        let window = 16;
        let settings = Settings { send_window: window, receive_window: window, ..Settings::default() };
        let mut kcp = Kcp::starting_at(CONV, &settings, 0, 0);
        let mut now = u32::MAX - 500;
        for ((datagram, write), step) in datagrams.iter().zip(writes).zip(steps) {
            now = now.wrapping_add(step);
            let _ = kcp.handle_datagram(datagram, now);
            kcp.write(&vec![0; write], now);
            let mut out = [0; 1400];
            let mut sent = 0;
            while kcp.poll_transmit(now, &mut out).is_some() {
                sent += 1;
                prop_assert!(sent < 200, "sends without end");
            }
            if step % 3 == 0 {
                kcp.read(&mut [0; 50]);
            }
            // Two windows of segments in power-of-two rings, one more of cells, and lists.
            prop_assert!(kcp.heap_size() < 5 * 16 * 1500, "{}", kcp.heap_size());
        }
    }
}
