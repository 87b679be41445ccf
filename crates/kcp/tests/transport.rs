//! KCP over real sockets, through a bad network where a test wants one.

mod common;

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use common::Pattern;
use common::network::{Badness, Network};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate_kcp::fec::Shape;
use stablegate_kcp::segment::{Command, Header, Segment};
use stablegate_kcp::{Config, Listener, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;
use tokio::time::Instant;

const LOCAL: &str = "127.0.0.1:0";
/// Bytes written, and read, at once.
const PIECE: usize = 40_000;

const LOSSY: Badness = Badness {
    loss: 1,
    duplicate: 1,
    reorder: 1,
    delay: 5,
    jitter: 2,
};
const MOBILE: Badness = Badness {
    loss: 5,
    duplicate: 2,
    reorder: 5,
    delay: 5,
    jitter: 5,
};
const AWFUL: Badness = Badness {
    loss: 30,
    duplicate: 10,
    reorder: 20,
    delay: 5,
    jitter: 20,
};
const SHUFFLED: Badness = Badness {
    loss: 0,
    duplicate: 5,
    reorder: 40,
    delay: 5,
    jitter: 30,
};

fn fec(data: usize, parity: usize) -> Config {
    Config {
        fec: Some(Shape::new(data, parity).unwrap()),
        ..Config::default()
    }
}

async fn send(stream: &mut (impl AsyncWriteExt + Unpin), name: u64, len: u64) {
    let mut sent = Pattern::new(name);
    while sent.position() < len {
        let piece = sent.next(PIECE.min((len - sent.position()) as usize));
        stream.write_all(piece).await.unwrap();
    }
}

async fn receive(stream: &mut (impl AsyncReadExt + Unpin), name: u64, len: u64) {
    let mut received = Pattern::new(name);
    let mut buffer = vec![0; PIECE];
    while received.position() < len {
        let read = stream.read(&mut buffer).await.unwrap();
        assert!(read > 0 && received.position() + read as u64 <= len);
        received.check(&buffer[..read]);
    }
}

/// Sends `len` bytes each way at once.
async fn exchange(a: Stream, b: Stream, len: u64) {
    let (mut a_from, mut a_to) = tokio::io::split(a);
    let (mut b_from, mut b_to) = tokio::io::split(b);
    tokio::join!(
        send(&mut a_to, 1, len),
        send(&mut b_to, 2, len),
        receive(&mut a_from, 2, len),
        receive(&mut b_from, 1, len),
    );
}

#[track_caller]
fn accept(listener: &Listener) -> impl Future<Output = Stream> {
    common::soon("a session", listener.accept())
}

/// A session between a client and `listener`, dialled at `addr`.
async fn pair(listener: &Listener, addr: SocketAddr, settings: &Config) -> (Stream, Stream) {
    let mut client = Stream::connect(addr, settings).unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut server = accept(listener).await;
    let mut hello = [0; 5];
    server.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"hello");
    (client, server)
}

/// A bind with one socket, whose loop takes what comes in order.
fn one_socket() -> Config {
    Config {
        reuseport: 1,
        ..Config::default()
    }
}

fn listen(settings: &Config) -> Listener {
    Listener::bind(LOCAL.parse().unwrap(), settings).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_both_ways() {
    for (bind, len) in [("127.0.0.1:0", 50_000_000), ("[::1]:0", 4_000_000)] {
        let settings = Config::default();
        let listener = Listener::bind(bind.parse().unwrap(), &settings).unwrap();
        let addr = listener.local_addr();
        let (client, server) = pair(&listener, addr, &settings).await;
        assert_eq!((client.peer_addr(), server.local_addr()), (addr, addr));
        assert_eq!(client.local_addr(), server.peer_addr());
        exchange(client, server, len).await;
    }
}

/// As much each way as `STABLEGATE_SOAK` says: 6 MB, or 60 MB in half a minute.
async fn bulk_survives(badness: Badness) {
    let settings = Config::default();
    let listener = listen(&settings);
    let network = Network::new(listener.local_addr(), badness, 4).await;
    let (client, server) = pair(&listener, network.addr, &settings).await;
    exchange(client, server, 2_000_000 * common::soak().as_secs()).await;
    let counters = listener.control().counters().await;
    assert!(counters.stats.retransmitted_segments > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_survives_a_lossy_network() {
    bulk_survives(LOSSY).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_survives_a_mobile_network() {
    bulk_survives(MOBILE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_survives_an_awful_network() {
    bulk_survives(AWFUL).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_survives_a_shuffled_network() {
    bulk_survives(SHUFFLED).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_byte_survives_with_error_correction() {
    let mut exchanges = tokio::task::JoinSet::new();
    for (seed, settings) in [(2, fec(10, 3)), (3, fec(3, 3))] {
        for (badness, len) in [(MOBILE, 1_000_000), (AWFUL, 300_000)] {
            let settings = settings.clone();
            exchanges.spawn(async move {
                let listener = listen(&settings);
                let network = Network::new(listener.local_addr(), badness, seed).await;
                let (client, server) = pair(&listener, network.addr, &settings).await;
                exchange(client, server, len).await;
            });
        }
    }
    while let Some(result) = exchanges.join_next().await {
        result.unwrap();
    }
}

/// A datagram with one segment.
fn segment(conv: u32, command: Command, sn: u32, payload: &[u8]) -> Vec<u8> {
    let header = Header {
        conv,
        command,
        fragment: 0,
        window: 128,
        timestamp: 0,
        sn,
        una: 0,
    };
    let mut datagram = header.encode(payload.len() as u32).to_vec();
    datagram.extend(payload);
    datagram
}

/// The serial number of what a listener challenges strangers with.
const CHALLENGE: u32 = u32::MAX;

/// Receives the challenge of a conversation.
async fn challenge(client: &UdpSocket, conv: u32) -> Header {
    let mut buffer = [0; 1500];
    loop {
        let receiving = common::soon("a challenge", client.recv(&mut buffer));
        let len = receiving.await.unwrap();
        let (segment, _) = Segment::decode(&buffer[..len]).unwrap();
        if segment.header.conv == conv && segment.header.sn == CHALLENGE {
            assert!(segment.payload.is_empty());
            assert_eq!(segment.header.command, Command::Push);
            return segment.header;
        }
    }
}

fn answer(challenge: Header) -> [u8; 24] {
    let header = Header {
        command: Command::Ack,
        ..challenge
    };
    header.encode(0)
}

/// Opens a conversation with `hello` and shows that this address receives.
async fn open(client: &UdpSocket, listener: &Listener, conv: u32, hello: &[u8]) -> Stream {
    let opener = segment(conv, Command::Push, 0, hello);
    client.send(&opener).await.unwrap();
    let challenge = challenge(client, conv).await;
    client.send(&answer(challenge)).await.unwrap();
    accept(listener).await
}

async fn stranger(listener: &Listener) -> UdpSocket {
    let client = UdpSocket::bind(LOCAL).await.unwrap();
    client.connect(listener.local_addr()).await.unwrap();
    client
}

#[tokio::test]
async fn a_restarted_client_takes_over_behind_its_port() {
    let listener = listen(&Config::default());
    let client = stranger(&listener).await;
    let push = |conv, sn, payload| {
        let datagram = segment(conv, Command::Push, sn, payload);
        let client = &client;
        async move { client.send(&datagram).await.unwrap() }
    };
    let mut hello = [0; 5];

    push(1, 0, b"hello").await;
    let known = challenge(&client, 1).await;
    client.send(&answer(known)).await.unwrap();
    let mut first = accept(&listener).await;
    first.read_exact(&mut hello).await.unwrap();
    // Of another conversation, but no opener.
    push(2, 2, b"x").await;

    // Until somebody is seen to be there, both live.
    push(3, 0, b"again").await;
    let challenge = challenge(&client, 3).await;
    push(1, 1, b"!").await;
    assert_eq!(first.read_u8().await.unwrap(), b'!');
    first.write_u8(b'?').await.unwrap();
    client.send(&answer(challenge)).await.unwrap();
    let mut second = accept(&listener).await;
    second.read_exact(&mut hello).await.unwrap();
    assert_eq!(&hello, b"again");
    let error = first.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(first.write_all(b"x").await.is_err());

    // Late datagrams of the session before do not take over in turn.
    client.send(&answer(known)).await.unwrap();
    push(1, 0, b"hello").await;
    push(3, 1, b"?").await;
    assert_eq!(second.read_u8().await.unwrap(), b'?');
    let counters = listener.control().counters().await;
    assert_eq!(
        (counters.passive_opens, counters.stranger_datagrams),
        (2, 2)
    );
    assert_eq!(counters.connections, 1);
}

/// One datagram with a forged source once ended the session of that address.
#[tokio::test]
async fn a_forged_opener_ends_nobody() {
    let listener = listen(&one_socket());
    let client = stranger(&listener).await;
    let mut session = open(&client, &listener, 1, b"h").await;
    assert_eq!(session.read_u8().await.unwrap(), b'h');
    for conv in 2..1_000 {
        let forged = segment(conv, Command::Push, 0, b"forged");
        client.send(&forged).await.unwrap();
        let mut ack = answer(challenge(&client, conv).await);
        ack[8] ^= 1;
        client.send(&ack).await.unwrap();
    }
    let still = segment(1, Command::Push, 1, b"!");
    client.send(&still).await.unwrap();
    assert_eq!(session.read_u8().await.unwrap(), b'!');
    let counters = listener.control().counters().await;
    assert_eq!((counters.passive_opens, counters.connections), (1, 1));
}

/// Only the timestamp of the challenge proves anything, and a datagram may hold one guess.
#[tokio::test]
async fn an_address_is_not_proven_by_guessing_or_waiting() {
    let listener = listen(&one_socket());
    let client = stranger(&listener).await;
    let opener = segment(7, Command::Push, 0, b"h");
    client.send(&opener).await.unwrap();
    let right = challenge(&client, 7).await;
    let wrong = |by: u32| {
        let timestamp = right.timestamp.wrapping_add(by);
        answer(Header { timestamp, ..right })
    };
    for by in 1..1_000 {
        client.send(&wrong(by)).await.unwrap();
        let second = [wrong(by), answer(right)].concat();
        client.send(&second).await.unwrap();
    }
    let other = answer(Header { conv: 8, ..right });
    client.send(&other).await.unwrap();
    // Forgotten, not let in.
    let control = listener.control();
    let forgotten = async { while control.counters().await.half_open > 0 {} };
    common::soon("an end of it", forgotten).await;
    let counters = control.counters().await;
    assert_eq!((counters.passive_opens, counters.connections), (0, 0));
    assert_eq!(counters.stranger_datagrams, 2 * 999 + 1);
    // Whoever has received it comes in even now, though nothing was kept.
    client.send(&answer(right)).await.unwrap();
    client.send(&opener).await.unwrap();
    let mut session = accept(&listener).await;
    assert_eq!(session.read_u8().await.unwrap(), b'h');
}

/// With the headers of IP and UDP, and whatever the opener is.
#[tokio::test]
async fn a_silent_address_is_sent_three_times_what_came_from_it_at_most() {
    const HEADERS: usize = 28;
    let with_fec = Config {
        reuseport: 1,
        ..fec(10, 3)
    };
    let shard = |datagram: &[u8]| {
        let size = (datagram.len() as u16 + 2).to_le_bytes();
        [&[0, 0, 0, 0, 0xf1, 0][..], &size, datagram].concat()
    };
    let silent = async |settings: Config, opener: Vec<u8>| {
        let listener = listen(&settings);
        let client = stranger(&listener).await;
        client.send(&opener).await.unwrap();
        let control = listener.control();
        let known = async { while control.counters().await.half_open == 0 {} };
        common::soon("a challenge", known).await;
        let forgotten = async { while control.counters().await.half_open > 0 {} };
        common::soon("an end of it", forgotten).await;
        let mut buffer = [0; 1500];
        let (mut count, mut bytes) = (0, 0);
        while let Ok(len) = client.try_recv(&mut buffer) {
            count += 1;
            bytes += len + HEADERS;
        }
        assert!(
            (3..=4).contains(&count),
            "two at once, and two by time at most"
        );
        assert!(bytes <= 3 * (opener.len() + HEADERS), "{bytes} bytes");
        assert_eq!(control.counters().await.passive_opens, 0);
    };
    let least = segment(7, Command::Push, 0, b"");
    let long = segment(7, Command::Push, 0, &[1; 1_000]);
    tokio::join!(
        silent(with_fec.clone(), shard(&least)),
        silent(with_fec, shard(&long)),
        silent(one_socket(), least),
        silent(one_socket(), long),
    );
}

/// However many strangers there are, whoever answers comes in.
#[tokio::test]
async fn a_flood_of_openers_keeps_nobody_out() {
    let listener = listen(&one_socket());
    let addr = listener.local_addr();
    for conv in 0..20_000u32 {
        let [_, b, c, d] = conv.to_be_bytes();
        let from = SocketAddr::from(([127, 1 + b, c, d], 0));
        let stranger = UdpSocket::bind(from).await.unwrap();
        let opener = segment(conv, Command::Push, 0, b"h");
        stranger.send_to(&opener, addr).await.unwrap();
        if conv % 1_000 == 0 {
            let mut client = Stream::connect(addr, &Config::default()).unwrap();
            client.write_all(b"hello").await.unwrap();
            let mut server = accept(&listener).await;
            assert_eq!(server.peer_addr(), client.local_addr());
            server.write_u8(7).await.unwrap();
            assert_eq!(client.read_u8().await.unwrap(), 7);
        }
    }
    let counters = listener.control().counters().await;
    assert_eq!(counters.passive_opens, 20);
}

/// A session's timestamps tell nothing of another's.
#[tokio::test]
async fn timestamps_are_a_sessions_own() {
    let listener = listen(&one_socket());
    let mut stamps = Vec::new();
    for conv in 0..2 {
        let client = stranger(&listener).await;
        let mut server = open(&client, &listener, conv, b"h").await;
        server.write_u8(1).await.unwrap();
        let mut buffer = [0; 1500];
        let stamp = loop {
            let len = client.recv(&mut buffer).await.unwrap();
            let (segment, _) = Segment::decode(&buffer[..len]).unwrap();
            if segment.header.command == Command::Push && segment.header.sn == 0 {
                break segment.header.timestamp;
            }
        };
        stamps.push(stamp);
    }
    assert!(stamps[0].abs_diff(stamps[1]) > 1_000, "{stamps:?}");
}

#[tokio::test]
async fn a_listener_that_has_ended_counts_nothing() {
    let listener = listen(&one_socket());
    let control = listener.control().clone();
    listener.close().await;
    let counters = common::soon("counters", control.counters()).await;
    assert_eq!(counters.connections, 0);
}

#[tokio::test]
async fn what_was_written_is_delivered_after_the_stream_is_gone() {
    let lossy = Badness {
        loss: 20,
        duplicate: 0,
        reorder: 0,
        delay: 2,
        jitter: 2,
    };
    let settings = Config::default();
    let listener = listen(&settings);
    let network = Network::new(listener.local_addr(), lossy, 7).await;
    let (mut client, mut server) = pair(&listener, network.addr, &settings).await;
    send(&mut server, 5, 100_000).await;
    send(&mut client, 6, 100_000).await;
    drop(client);
    receive(&mut server, 6, 100_000).await;
    drop(server);

    let (mut client, mut server) = pair(&listener, network.addr, &settings).await;
    send(&mut server, 5, 100_000).await;
    let closing = tokio::spawn(listener.close());
    drop(server);
    receive(&mut client, 5, 100_000).await;
    drop(client);
    // It waits for the sessions, and for no longer.
    closing.await.unwrap();
}

#[tokio::test]
async fn a_shut_stream_ends_once_the_peer_has_everything() {
    let settings = Config::default();
    let listener = listen(&settings);
    let (mut client, mut server) = pair(&listener, listener.local_addr(), &settings).await;
    server.write_all(b"bye").await.unwrap();
    server.shutdown().await.unwrap();
    assert!(server.write_all(b"x").await.is_err());
    // The other direction stays open as long as something comes.
    client.write_all(b"so long").await.unwrap();
    let mut rest = Vec::new();
    server.read_to_end(&mut rest).await.unwrap();
    assert_eq!((&*rest, server.unacked()), (&b"so long"[..], 0));
    let mut bye = [0; 3];
    client.read_exact(&mut bye).await.unwrap();
    assert_eq!(&bye, b"bye");
}

#[tokio::test]
async fn silence_breaks_a_stream() {
    let impatient = Config {
        read_timeout: Some(Duration::from_millis(300)),
        ..Config::default()
    };
    let listener = listen(&impatient);
    let start = Instant::now();
    let (mut client, mut server) = pair(&listener, listener.local_addr(), &Config::default()).await;
    let error = server.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(300));

    // Changed settings are those of new sessions.
    listener.control().set(&Config::default());
    let (mut second, mut patient) =
        pair(&listener, listener.local_addr(), &Config::default()).await;
    // One of the former settings that begins later ends first.
    let other = listen(&impatient);
    let (_third, mut later) = pair(&other, other.local_addr(), &Config::default()).await;
    let ended = tokio::select! {
        read = patient.read_u8() => panic!("nothing to read and nothing wrong: {read:?}"),
        ended = later.read_u8() => ended,
    };
    assert_eq!(ended.unwrap_err().kind(), io::ErrorKind::TimedOut);
    second.write_u8(7).await.unwrap();
    assert_eq!(patient.read_u8().await.unwrap(), 7);
    let _ = client.shutdown().await;
}

#[tokio::test]
async fn nobody_there() {
    let free = UdpSocket::bind(LOCAL).await.unwrap();
    let addr = free.local_addr().unwrap();
    drop(free);
    let mut client = Stream::connect(addr, &Config::default()).unwrap();
    client.write_all(b"hello").await.unwrap();
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionRefused);
}

#[tokio::test]
async fn a_port_is_not_shared_with_strangers() {
    let listener = listen(&Config::default());
    let second = Listener::bind(listener.local_addr(), &Config::default());
    assert_eq!(second.unwrap_err().kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn a_dropped_listener_is_there_for_as_long_as_its_sessions() {
    let settings = Config::default();
    let listener = listen(&settings);
    let (addr, control) = (listener.local_addr(), listener.control().clone());
    let (client, server) = pair(&listener, addr, &settings).await;
    drop(listener);
    let reopened = control.reopen(&settings).await.expect("a session is there");
    let (second_client, second_server) = pair(&reopened, addr, &settings).await;
    exchange(client, server, 10_000).await;
    exchange(second_client, second_server, 10_000).await;
    // The streams are gone by now.
    reopened.close().await;
    assert!(control.reopen(&settings).await.is_none());
    Listener::bind(addr, &settings).unwrap();
}

#[tokio::test]
async fn replies_come_from_the_address_that_was_sent_to() {
    let listener = Listener::bind("0.0.0.0:0".parse().unwrap(), &Config::default()).unwrap();
    let port = listener.local_addr().port();
    for ip in ["127.0.0.1", "127.0.0.7"] {
        let addr = SocketAddr::new(ip.parse().unwrap(), port);
        // Its socket hears nobody else.
        let (mut client, mut server) = pair(&listener, addr, &Config::default()).await;
        assert_eq!(server.local_addr(), addr);
        server.write_u8(1).await.unwrap();
        assert_eq!(client.read_u8().await.unwrap(), 1);
    }
}

/// kcp-go's client understands nothing else.
#[tokio::test]
async fn a_client_without_error_correction_is_answered_without() {
    let listener = listen(&fec(10, 3));
    let client = stranger(&listener).await;
    let mut server = open(&client, &listener, 7, b"hello").await;
    server.write_all(b"world").await.unwrap();
    let mut datagram = [0; 1500];
    let len = common::soon("an answer", client.recv(&mut datagram)).await;
    let (answer, _) = Segment::decode(&datagram[..len.unwrap()]).unwrap();
    assert_eq!(answer.header.conv, 7);
    assert!(server.fec_stats().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_cost_nothing() {
    let settings = fec(10, 3);
    let listener = listen(&settings);
    let (client, server) = pair(&listener, listener.local_addr(), &settings).await;
    let addr = listener.local_addr();
    let conv = client.conv();
    let flood = tokio::spawn(async move {
        let mut random = StdRng::seed_from_u64(11);
        let stranger = UdpSocket::bind(LOCAL).await.unwrap();
        let mut openers = Vec::new();
        for _ in 0..200 {
            openers.push(UdpSocket::bind(LOCAL).await.unwrap());
        }
        for round in 0..20_000usize {
            let mut datagram = vec![0; random.random_range(0..1500)];
            random.fill(&mut datagram[..]);
            match random.random_range(0..5) {
                0 => {}
                1 => {
                    // Truncated.
                    let whole = segment(random.random(), Command::Push, 0, &datagram);
                    datagram = whole[..random.random_range(0..whole.len())].to_vec();
                }
                2 => datagram = segment(random.random(), Command::Push, 1, &datagram),
                // The session's own conversation, from elsewhere.
                3 => datagram = segment(conv, Command::Push, 1, &datagram),
                _ => {
                    // Looks right; one in ten stands where an opener would.
                    let sn = u32::from(round % 10 != 0);
                    datagram = segment(random.random(), Command::Push, sn, &datagram);
                }
            }
            stranger.send_to(&datagram, addr).await.unwrap();
            let opener = segment(random.random(), Command::Push, 0, b"x");
            let socket = &openers[round % openers.len()];
            socket.send_to(&opener, addr).await.unwrap();
        }
    });
    exchange(client, server, 3_000_000).await;
    flood.await.unwrap();
    let counters = listener.control().counters().await;
    assert!(counters.connections <= 1, "{counters:?}");
    assert_eq!(counters.connections_max, 1);
    assert_eq!(counters.passive_opens, 1);
}
