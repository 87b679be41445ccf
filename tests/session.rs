//! Sessions from end to end: the gateway's process between real sockets.

mod common;

use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use serde_json::Value;
use stablegate::client::scp::{Options, Stream};
use stablegate::crypto::Dialect;
use stablegate::proto::proxy_header::{UNKNOWN_V1, UNKNOWN_V2};
use stablegate::proto::scp::message::Code;
use stablegate::transport::Address;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use common::*;

/// Moved over a slow link.
const BULK: u64 = 50_000_000;
/// Bytes per second of that link.
const RATE: u64 = 12_000_000;
const CUTS: u64 = 10;

async fn echo_gateway() -> Gateway {
    Gateway::start(&scp_to("builtin:echo", "")).await
}

fn options(addr: SocketAddr) -> Options {
    Options::new(addr.to_string().parse::<Address>().unwrap())
}

#[tokio::test]
async fn the_builtin_host_echoes() {
    let gateway = echo_gateway().await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("hello").await;
    client.echo(&"long ".repeat(2000)).await;
    let opened = gateway.log().of(client.id, "session opened").await;
    let local = client.socket().local_addr().unwrap().to_string();
    assert_eq!(opened["listener"], "game");
    assert_eq!(opened["client"], *local);
}

#[tokio::test]
async fn a_server_is_chosen_by_name_and_echoes() {
    let (one, two) = (Server::start().await, Server::start().await);
    let gateway = Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n\
         hosts: [{{name: one, addr: '{}'}}, {{name: two, addr: '{}'}}]",
        one.addr, two.addr
    ))
    .await;
    // Every form of a hello: with and without a trailing newline, flags, and more lines.
    for (more, server) in [
        ("\none", &one),
        ("\ntwo", &two),
        ("\none\n", &one),
        ("\ntwo\n0", &two),
        ("\none\n\n", &one),
        ("\ntwo\n0\nversion 7\ngzip", &two),
    ] {
        let mut client = Raw::open(gateway.addr(), Dialect::Current, more).await;
        let mut connection = server.accept().await;
        client.send(b"question").await;
        assert_eq!(read(&mut connection, 8).await, b"question");
        connection.write_all(b"answer").await.unwrap();
        assert_eq!(client.receive(6).await, b"answer");
    }
}

/// sproto's packing, written from its description and checked against the vectors: the product's
/// own encoder cannot vouch for itself.
fn pack(raw: &[u8]) -> Vec<u8> {
    let mut words = raw.chunks(8).map(|chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        word
    });
    let filled = |word: &[u8; 8]| word.iter().filter(|byte| **byte != 0).count();
    let mut out = Vec::new();
    let mut next = words.next();
    while let Some(word) = next {
        next = words.next();
        if filled(&word) == 8 {
            let mut run = word.to_vec();
            while let Some(word) = next.filter(|word| filled(word) >= 6 && run.len() < 256 * 8) {
                run.extend_from_slice(&word);
                next = words.next();
            }
            out.extend_from_slice(&[0xff, (run.len() / 8 - 1) as u8]);
            out.append(&mut run);
        } else {
            out.push((0..8).fold(0, |tag, n| tag | u8::from(word[n] != 0) << n));
            out.extend(word.iter().filter(|byte| **byte != 0));
        }
    }
    out
}

fn announcement(kind: u16, remote: &str, local: &str) -> Vec<u8> {
    let mut raw = vec![3, 0];
    raw.extend_from_slice(&(2 * (u32::from(kind) + 1)).to_le_bytes()[..2]);
    raw.extend_from_slice(&[1, 0, 2, 0, 2, 0, 0, 0, 0, 0]);
    for addr in [remote, local] {
        raw.extend_from_slice(&(addr.len() as u32).to_le_bytes());
        raw.extend_from_slice(addr.as_bytes());
    }
    record(pack(&raw))
}

#[tokio::test]
async fn the_server_is_told_who_came() {
    let vectors: Value = serde_json::from_str(include_str!("vectors/sproto.json")).unwrap();
    let vectors = vectors["announce"].as_array().unwrap();
    assert!(!vectors.is_empty());
    for vector in vectors {
        let text = |key: &str| vector[key].as_str().unwrap();
        let kind = vector["type"].as_u64().unwrap() as u16;
        if kind > 32_766 {
            // No setting: its header has another form.
            continue;
        }
        let frame = announcement(kind, text("remote_addr"), text("local_addr"));
        assert_eq!(frame, unhex(text("frame_hex")), "{vector}");
    }
    let server = Server::start().await;
    for kind in [0, 1, 254, 255, 32_766] {
        let config = scp_to(server.addr, &format!("announce: {{sproto: {kind}}}"));
        let gateway = Gateway::start(&config).await;
        let mut client = Raw::connect(gateway.addr()).await;
        let mut connection = server.accept().await;
        let remote = client.socket().local_addr().unwrap().to_string();
        let expected = announcement(kind, &remote, &gateway.addr().to_string());
        assert_eq!(read(&mut connection, expected.len()).await, expected);
        client.send(b"first").await;
        assert_eq!(read(&mut connection, 5).await, b"first");
        // Not again on a resume.
        client.resume(gateway.addr()).await;
        client.send(b"second").await;
        assert_eq!(read(&mut connection, 6).await, b"second");
    }
}

#[tokio::test]
async fn flag_one_keeps_the_client_secret() {
    let server = Server::start().await;
    for (announce, nobody) in [
        ("sproto: 1", &[][..]),
        ("proxy_header: v1", UNKNOWN_V1),
        ("proxy_header: v2", UNKNOWN_V2),
    ] {
        let config = scp_to(server.addr, &format!("announce: {{{announce}}}"));
        let gateway = Gateway::start(&config).await;
        for flags in ["1", "3"] {
            let more = format!("\n\n{flags}");
            let mut client = Raw::open(gateway.addr(), Dialect::Current, &more).await;
            let mut connection = server.accept().await;
            client.send(b"first").await;
            let expected = [nobody, b"first"].concat();
            let got = read(&mut connection, expected.len()).await;
            assert_eq!(got, expected, "{announce}");
        }
        let _client = Raw::open(gateway.addr(), Dialect::Current, "\n\n2").await;
        let mut connection = server.accept().await;
        let told = read(&mut connection, nobody.len().max(5)).await;
        assert!(told != nobody && told != b"first", "{announce}");
    }
}

#[tokio::test]
async fn a_proxy_header_tells_it_to_others() {
    let server = Server::start().await;
    for (version, session) in [
        ("v1", "scp"),
        ("v2", "scp"),
        ("v1", "plain"),
        ("v2", "plain"),
    ] {
        let gateway = Gateway::start(&format!(
            "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: {session}}}]\n\
             hosts: [{{name: server, addr: '{}'}}]\n\
             announce: {{proxy_header: {version}}}",
            server.addr
        ))
        .await;
        let local = gateway.addr();
        let (remote, _client) = if session == "scp" {
            let mut client = Raw::connect(local).await;
            (client.socket().local_addr().unwrap(), Ok(client))
        } else {
            let client = TcpStream::connect(local).await.unwrap();
            (client.local_addr().unwrap(), Err(client))
        };
        let expected = if version == "v1" {
            let (from, to) = (remote.port(), local.port());
            format!("PROXY TCP4 127.0.0.1 127.0.0.1 {from} {to}\r\n").into_bytes()
        } else {
            let fixed = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\x7f\x00\x00\x01\x7f\x00\x00\x01";
            let (from, to) = (remote.port().to_be_bytes(), local.port().to_be_bytes());
            [&fixed[..], &from, &to].concat()
        };
        let mut connection = server.accept().await;
        assert_eq!(read(&mut connection, expected.len()).await, expected);
    }
}

#[tokio::test]
async fn ids_carry_the_node_number() {
    for node in [0, 7, 255] {
        let config = scp_to("builtin:echo", &format!("node: {node}"));
        let gateway = Gateway::start(&config).await;
        let mut ids = Vec::new();
        for _ in 0..20 {
            let client = Raw::connect(gateway.addr()).await;
            assert_eq!(client.id >> 24, node);
            assert_ne!(client.id & 0xff_ffff, 0);
            ids.push(client.id);
        }
        let counted = ids.windows(2).filter(|pair| pair[1] == pair[0] + 1);
        assert!(counted.count() < 2, "{ids:?}");
    }
}

#[derive(Clone, Copy, Debug)]
enum Break {
    Close,
    Reset,
    /// The request for a resume breaks off, too.
    HalfARecord,
}

#[tokio::test]
async fn a_session_goes_on_after_a_break() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    for broken in [Break::Close, Break::Reset, Break::HalfARecord] {
        let mut client = Raw::connect(gateway.addr()).await;
        let mut connection = server.accept().await;
        let (mut up, mut down) = (Pattern::new(1), Pattern::new(2));
        let (mut up_check, mut down_check) = (up.clone(), down.clone());
        for round in 1..=5 {
            // Some of it arrives, some is lost on the way up, some on the way down.
            client.send(up.next(3000)).await;
            client.lose(up.next(1000));
            connection.write_all(down.next(5000)).await.unwrap();
            down_check.check(&client.receive(2000).await);
            match broken {
                Break::Close => client.leave(Cut::Close),
                Break::Reset => client.leave(Cut::Reset),
                Break::HalfARecord => {
                    let request = record(client.request(round, client.received));
                    let mut half = TcpStream::connect(gateway.addr()).await.unwrap();
                    half.write_all(&request[..request.len() / 2]).await.unwrap();
                }
            }
            client.resume(gateway.addr()).await;
            up_check.check(&read(&mut connection, 4000).await);
            down_check.check(&client.receive(3000).await);
            assert_eq!(client.received, down.position(), "{broken:?}");
        }
        drop(connection);
        assert_eq!(client.receive_to_end().await, b"");
        client.leave(Cut::Close);
        let closed = gateway.log().of(client.id, "session closed").await;
        assert_eq!(
            [&closed["received"], &closed["sent"], &closed["resumes"]],
            [20_000, 25_000, 5],
            "{closed}"
        );
        assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    }
}

#[tokio::test]
async fn a_resume_closes_the_connection_before_it() {
    let gateway = echo_gateway().await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("one").await;
    for _ in 0..5 {
        let mut old = client.resume(gateway.addr()).await.unwrap();
        let mut rest = Vec::new();
        let end = soon("the old connection's end", old.read_to_end(&mut rest)).await;
        assert!(end.is_ok() && rest.is_empty(), "{end:?} {rest:?}");
        client.echo("two").await;
    }
}

#[tokio::test]
async fn what_the_old_connection_delivered_counts() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    let (mut sent, mut got) = (Pattern::new(1), Pattern::new(1));
    for _ in 0..20 {
        client.send(sent.next(20_000)).await;
        // At once: the gateway may not have read all of it yet. What it says it has, it has.
        let old = client.resume(gateway.addr()).await;
        got.check(&read(&mut connection, 20_000).await);
        drop(old);
    }
}

#[tokio::test]
async fn a_session_resumes_on_any_address_of_the_gateway() {
    let gateway = Gateway::start(
        "listeners:\n\
         - {name: game, bind: ['tcp://127.0.0.1:0', 'tcp://127.0.0.1:0'], session: scp}\n\
         - {name: other, bind: ['tcp://127.0.0.1:0'], session: scp, scp: {hmac: legacy}}\n\
         hosts: [{name: echo, addr: 'builtin:echo'}]",
    )
    .await;
    let [first, second] = *gateway.addrs("game") else {
        panic!("two addresses");
    };
    let third = gateway.addrs("other")[0];
    let mut client = Raw::connect(first).await;
    for addr in [second, third, first] {
        client.send(b"hello").await;
        client.resume(addr).await;
        assert_eq!(client.receive(5).await, b"hello");
        assert_eq!(client.socket().peer_addr().unwrap(), addr);
    }
}

#[tokio::test]
async fn the_last_bytes_arrive_when_the_server_closes() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    // More than the gateway may send ahead.
    let (mut sent, mut got) = (Pattern::new(1), Pattern::new(1));
    let sending = async {
        while sent.position() < 300_000 {
            let bytes = sent.next(10_000);
            connection.write_all(bytes).await.unwrap();
        }
        drop(connection);
    };
    let ((), rest) = tokio::join!(sending, client.receive_to_end());
    got.check(&rest);
    assert_eq!(got.position(), sent.position());
    let (addr, text) = (gateway.addr(), client.request(1, client.received));
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!(ask(addr, record(text)).await, b"\x00\x050\n404");
}

#[tokio::test]
async fn the_last_bytes_wait_for_a_client_that_is_away() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    let (mut sent, mut got) = (Pattern::new(1), Pattern::new(1));
    connection.write_all(sent.next(1000)).await.unwrap();
    got.check(&client.receive(1000).await);
    client.leave(Cut::Close);
    connection.write_all(sent.next(20_000)).await.unwrap();
    connection.shutdown().await.unwrap();
    client.resume(gateway.addr()).await;
    got.check(&client.receive(5000).await);
    // Away once more, with the end on its way.
    client.leave(Cut::Close);
    client.resume(gateway.addr()).await;
    got.check(&client.receive_to_end().await);
    assert_eq!(got.position(), 21_000);
    let (addr, text) = (gateway.addr(), client.request(3, client.received));
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!(closed["resumes"], 2);
    assert_eq!(ask(addr, record(text)).await, b"\x00\x050\n404");
}

#[tokio::test]
async fn a_download_survives_ten_cuts() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let link = Relay::start_with(gateway.addr(), Some(RATE)).await;
    let mut client = Stream::connect(options(link.addr)).await.unwrap();
    let mut connection = server.accept().await;
    let sending = tokio::spawn(async move {
        let mut sent = Pattern::new(1);
        while sent.position() < BULK {
            let bytes = sent.next((BULK - sent.position()).min(16 * 1024) as usize);
            connection.write_all(bytes).await.unwrap();
        }
    });
    let mut got = Pattern::new(1);
    let mut cuts = 0;
    let mut buffer = vec![0; 16 * 1024];
    while got.position() < BULK {
        let reading = client.read(&mut buffer);
        let len = soon("bytes of the download", reading).await.unwrap();
        assert_ne!(len, 0, "the end after {} bytes", got.position());
        got.check(&buffer[..len]);
        if cuts < CUTS && got.position() > (cuts + 1) * BULK / (CUTS + 1) {
            cut(&link, cuts).await;
            cuts += 1;
        }
    }
    sending.await.unwrap();
    let end = soon("the end of the download", client.read(&mut buffer)).await;
    assert_eq!(end.unwrap(), 0);
    assert!(client.resumes() >= CUTS);
    let closed = gateway.log().of(client.id(), "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!(closed["sent"], BULK);
}

#[tokio::test]
async fn an_upload_survives_ten_cuts() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let link = Relay::start_with(gateway.addr(), Some(RATE)).await;
    let client = Stream::connect(options(link.addr)).await.unwrap();
    let mut connection = server.accept().await;
    let (mut from_gateway, mut to_gateway) = tokio::io::split(client);
    let sending = tokio::spawn(async move {
        let mut sent = Pattern::new(1);
        while sent.position() < BULK {
            let bytes = sent.next((BULK - sent.position()).min(16 * 1024) as usize);
            to_gateway.write_all(bytes).await.unwrap();
        }
        to_gateway.shutdown().await.unwrap();
        to_gateway
    });
    let waiting = tokio::spawn(async move {
        let end = from_gateway.read(&mut [0; 1]).await;
        (from_gateway, end)
    });
    let mut got = Pattern::new(1);
    let mut cuts = 0;
    let mut buffer = vec![0; 16 * 1024];
    while got.position() < BULK {
        let reading = connection.read(&mut buffer);
        let len = soon("bytes of the upload", reading).await.unwrap();
        assert_ne!(len, 0, "the end after {} bytes", got.position());
        got.check(&buffer[..len]);
        if cuts < CUTS && got.position() > (cuts + 1) * BULK / (CUTS + 1) {
            cut(&link, cuts).await;
            cuts += 1;
        }
    }
    let to_gateway = sending.await.unwrap();
    drop(connection);
    let (from_gateway, end) = soon("the end of the session", waiting).await.unwrap();
    assert_eq!(end.unwrap(), 0);
    let client = from_gateway.unsplit(to_gateway);
    assert!(client.resumes() >= CUTS);
    let closed = gateway.log().of(client.id(), "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!(closed["received"], BULK);
}

/// Breaks the link's one connection, each time in another way.
async fn cut(link: &Relay, n: u64) {
    link.live(1).await;
    link.cut(if n.is_multiple_of(2) {
        Cut::Close
    } else {
        Cut::Reset
    });
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_its_server() {
    const TOTAL: u64 = 24_000_000;
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    let mut sent = Pattern::new(1);
    let mut pending: &[u8] = &[];
    // Until the server could send nothing for a while. Were nothing holding it back, it would
    // come to the end.
    while sent.position() < TOTAL {
        if pending.is_empty() {
            pending = sent.next(16 * 1024);
        }
        match timeout(Duration::from_millis(300), connection.write(pending)).await {
            Ok(len) => pending = &pending[len.unwrap()..],
            Err(_) => break,
        }
    }
    assert!(sent.position() < TOTAL / 2, "{} bytes", sent.position());
    // Another session does not feel it.
    let mut other = Raw::connect(gateway.addr()).await;
    let mut other_connection = server.accept().await;
    other.send(b"hello").await;
    assert_eq!(read(&mut other_connection, 5).await, b"hello");
    // The way up is open, and so is the way down once the client reads.
    client.send(b"up").await;
    assert_eq!(read(&mut connection, 2).await, b"up");
    let sending = tokio::spawn(async move {
        connection.write_all(pending).await.unwrap();
        while sent.position() < TOTAL {
            let bytes = sent.next((TOTAL - sent.position()).min(16 * 1024) as usize);
            connection.write_all(bytes).await.unwrap();
        }
    });
    let mut got = Pattern::new(1);
    while got.position() < TOTAL {
        let len = (TOTAL - got.position()).min(64 * 1024) as usize;
        got.check(&client.receive(len).await);
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn a_session_nobody_comes_back_to_ends() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "scp: {resume_wait: 300ms}")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    client.send(b"last words").await;
    let (addr, text) = (gateway.addr(), client.request(1, 0));
    client.leave(Cut::Close);
    assert_eq!(read_to_end(&mut connection).await, b"last words");
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "client_gone", "{closed}");
    assert!(closed["duration_ms"].as_u64().unwrap() >= 300, "{closed}");
    assert_eq!(ask(addr, record(text)).await, b"\x00\x050\n404");
}

#[tokio::test]
async fn the_older_dialect_is_a_setting() {
    let config = scp_to("builtin:echo", "scp: {hmac: legacy}");
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::open(gateway.addr(), Dialect::Legacy, "").await;
    client.echo("hello").await;
    client.resume(gateway.addr()).await;
    client.echo("hello again").await;
    // A client that speaks the current one is told apart by its hmac.
    let other = Raw::connect(gateway.addr()).await;
    let request = record(other.request(1, 0));
    assert_eq!(ask(gateway.addr(), request).await, b"\x00\x050\n401");
    // The library speaks it, too.
    let mut stream = Stream::connect(Options {
        dialect: Dialect::Legacy,
        ..options(gateway.addr())
    })
    .await
    .unwrap();
    stream.write_all(b"hello").await.unwrap();
    stream.cutter().cut();
    let mut back = [0; 5];
    let reading = stream.read_exact(&mut back);
    soon("the echo", reading).await.unwrap();
    assert_eq!((&back, stream.resumes()), (b"hello", 1));
}

async fn plain_gateway(server: SocketAddr) -> Gateway {
    Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: plain}}]\n\
         hosts: [{{name: server, addr: '{server}'}}]"
    ))
    .await
}

#[tokio::test]
async fn a_plain_client_may_stop_sending_first() {
    let server = Server::start().await;
    let gateway = plain_gateway(server.addr).await;
    let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut connection = server.accept().await;
    client.write_all(b"question").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut connection).await, b"question");
    connection.write_all(b"answer").await.unwrap();
    assert_eq!(read(&mut client, 6).await, b"answer");
    connection.write_all(b"more").await.unwrap();
    drop(connection);
    assert_eq!(read_to_end(&mut client).await, b"more");
    let closed = gateway.log().nth("session closed", 0).await;
    assert_eq!(closed["reason"], "closed", "{closed}");
    assert_eq!([&closed["received"], &closed["sent"]], [8, 10]);
}

#[tokio::test]
async fn a_plain_server_may_stop_sending_first() {
    let server = Server::start().await;
    let gateway = plain_gateway(server.addr).await;
    let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut connection = server.accept().await;
    connection.write_all(b"banner").await.unwrap();
    connection.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"banner");
    client.write_all(b"question").await.unwrap();
    assert_eq!(read(&mut connection, 8).await, b"question");
    client.write_all(b"more").await.unwrap();
    drop(client);
    assert_eq!(read_to_end(&mut connection).await, b"more");
    let closed = gateway.log().nth("session closed", 0).await;
    assert_eq!(closed["reason"], "closed", "{closed}");
    assert_eq!([&closed["received"], &closed["sent"]], [12, 6]);
}

#[tokio::test]
async fn what_is_peeked_is_forwarded_unchanged() {
    let server = Server::start().await;
    let gateway = Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp,\n  \
         peek: {{frame: u16be, timeout: 60s}}}}]\n\
         hosts: [{{name: server, addr: '{}'}}]",
        server.addr
    ))
    .await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.send(b"\x00\x05lo").await;
    // The session can be resumed before it has a server.
    client.resume(gateway.addr()).await;
    client.send(b"gin and more").await;
    let mut connection = server.accept().await;
    assert_eq!(read(&mut connection, 16).await, b"\x00\x05login and more");
    connection.write_all(b"welcome").await.unwrap();
    assert_eq!(client.receive(7).await, b"welcome");
}

#[tokio::test]
async fn a_refused_resume_is_told_of_whatever_its_client_does() {
    let more = "scp: {handshake_timeout: 1h}\n";
    let gateway = Gateway::start(&scp_to("builtin:echo", more)).await;
    let text = "1\n1\n0\nAAAAAAAAAAA=";
    let client = Raw::connect(gateway.addr()).await;
    let (_kept, answer) = client.ask(gateway.addr(), text).await;
    assert_eq!(answer.code, Code::NotFound);
    let refused = gateway.log().nth("handshake failed", 0).await;
    assert_eq!(refused["reason"], "resume_refused", "{refused}");
    let (reset, _) = client.ask(gateway.addr(), text).await;
    socket2::SockRef::from(&reset)
        .set_linger(Some(Duration::ZERO))
        .unwrap();
    drop(reset);
    let refused = gateway.log().nth("handshake failed", 1).await;
    assert_eq!(refused["reason"], "resume_refused", "{refused}");
}

#[tokio::test]
async fn who_says_nothing_holds_up_no_drain() {
    let more = "scp: {handshake_timeout: 1h, resume_wait: 1h}\n";
    let config = scp_to("builtin:echo", more);
    let mut gateway = Gateway::start_with(&config, &["--grace", "1h"]).await;
    let _silent = TcpStream::connect(gateway.addr()).await.unwrap();
    // Accepted after the silent one.
    ask(gateway.addr(), record("nonsense")).await;
    gateway.signal(libc::SIGTERM);
    let draining = gateway.log().nth("draining", 0).await;
    assert_eq!(draining["sessions"], 0, "{draining}");
    assert_eq!(gateway.exited().await.code(), Some(0));
    let stopping = gateway.log().nth("stopping", 0).await;
    assert_eq!(stopping["outcome"], "drained", "{stopping}");
}

#[tokio::test]
async fn a_drain_lets_sessions_go_on_to_their_end() {
    let server = Server::start().await;
    let mut gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    gateway.signal(libc::SIGTERM);
    let draining = gateway.log().nth("draining", 0).await;
    assert_eq!(draining["sessions"], 1, "{draining}");
    gateway.signal(libc::SIGHUP);
    let ignored = "SIGHUP ignored: the gateway stops";
    gateway.log().nth(ignored, 0).await;
    for round in 0..2 {
        client.send(b"question").await;
        assert_eq!(read(&mut connection, 8).await, b"question");
        connection.write_all(b"answer").await.unwrap();
        assert_eq!(client.receive(6).await, b"answer");
        if round == 0 {
            client.resume(gateway.addr()).await;
        }
    }
    // A new session is refused, without an answer it could take for one.
    let hello = record("0\nAQAAAAAAAAA=");
    assert_eq!(ask(gateway.addr(), hello).await, b"");
    let refused = gateway.log().nth("handshake failed", 0).await;
    assert_eq!(refused["reason"], "draining", "{refused}");
    assert!(gateway.log().all("stopping").is_empty());
    drop(connection);
    assert_eq!(client.receive_to_end().await, b"");
    drop(client);
    assert_eq!(gateway.exited().await.code(), Some(0));
    let stopping = gateway.log().nth("stopping", 0).await;
    assert_eq!(stopping["outcome"], "drained", "{stopping}");
    assert_eq!(stopping["sessions"], 0, "{stopping}");
}

#[tokio::test]
async fn an_idle_gateway_stops_at_once() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let mut gateway = echo_gateway().await;
        gateway.signal(signal);
        assert_eq!(gateway.exited().await.code(), Some(0));
        let draining = gateway.log().nth("draining", 0).await;
        assert_eq!(draining["sessions"], 0, "{draining}");
    }
}

#[tokio::test]
async fn a_second_signal_ends_all_sessions() {
    let mut gateway = Gateway::start_with(
        &scp_to("builtin:echo", ""),
        // Longer than a test would wait.
        &["--grace", "10m"],
    )
    .await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("hello").await;
    gateway.signal(libc::SIGTERM);
    gateway.log().nth("draining", 0).await;
    gateway.signal(libc::SIGINT);
    assert_eq!(gateway.exited().await.code(), Some(0));
    assert_eq!(client.receive_to_end().await, b"");
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "shutdown", "{closed}");
    let stopping = gateway.log().nth("stopping", 0).await;
    assert_eq!(stopping["outcome"], "second signal", "{stopping}");
    assert_eq!(stopping["sessions"], 1, "{stopping}");
}

#[tokio::test]
async fn the_grace_period_ends() {
    let server = Server::start().await;
    let config = scp_to(server.addr, "");
    let mut gateway = Gateway::start_with(&config, &["--grace", "300ms"]).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    // This one is away.
    let mut away = Raw::connect(gateway.addr()).await;
    let _connection = server.accept().await;
    away.leave(Cut::Close);
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.exited().await.code(), Some(0));
    assert_eq!(client.receive_to_end().await, b"");
    assert_eq!(read_to_end(&mut connection).await, b"");
    let stopping = gateway.log().nth("stopping", 0).await;
    assert_eq!(stopping["outcome"], "grace period over", "{stopping}");
    assert_eq!(stopping["sessions"], 2, "{stopping}");
    for id in [client.id, away.id] {
        let closed = gateway.log().of(id, "session closed").await;
        assert_eq!(closed["reason"], "shutdown", "{closed}");
    }
}

#[tokio::test]
async fn a_resume_that_is_refused_leaves_the_library_client_with_an_error() {
    let gateway = Gateway::start(&scp_to("builtin:echo", "scp: {resume_wait: 200ms}")).await;
    let link = Relay::start(gateway.addr()).await;
    let mut client = Stream::connect(options(link.addr)).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    soon("the echo", client.read_exact(&mut back))
        .await
        .unwrap();
    // Away for longer than the gateway waits.
    link.stall(true);
    link.cut(Cut::Reset);
    let closed = gateway.log().of(client.id(), "session closed").await;
    assert_eq!(closed["reason"], "client_gone", "{closed}");
    link.stall(false);
    let error = soon("an error", client.read(&mut back)).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{error}");
    let expected = "the peer does not know the session any more";
    assert_eq!(error.to_string(), expected);
}

/// Writes until nothing is taken for a while. Returns how much was.
async fn fill(client: &mut Raw) -> u64 {
    let mut pattern = Pattern::new(1);
    let mut written = 0;
    loop {
        let bytes = client.lose(pattern.next(64 * 1024)).to_vec();
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let writing = client.socket().write(bytes);
            match timeout(Duration::from_millis(300), writing).await {
                Ok(len) => {
                    let len = len.unwrap();
                    written += len as u64;
                    bytes = &bytes[len..];
                }
                Err(_) => return written,
            }
        }
    }
}

/// What the system has acknowledged for the gateway is what the gateway has.
#[tokio::test]
async fn all_that_was_acknowledged_counts() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    // Fast at first, so that the buffers of the gateway's system grow. Then the server stops.
    let mut got = Pattern::new(1);
    let reading = async {
        let mut buffer = vec![0; 256 * 1024];
        while got.position() < 40_000_000 {
            let len = connection.read(&mut buffer).await.unwrap();
            got.check(&buffer[..len]);
        }
    };
    let sending = fill(&mut client);
    let (written, ()) = soon("a full buffer", async { tokio::join!(sending, reading) }).await;
    let acknowledged = written - client.unacknowledged();
    let forwarded = got.position();
    let request = client.request(1, client.received);
    let (_socket, answer) = client.ask(gateway.addr(), &request).await;
    let received = u64::from(answer.received);
    assert!(
        received >= acknowledged,
        "acknowledged {acknowledged}, counted {received}, forwarded {forwarded}"
    );
}

/// Echoes through the library, which only reads when its connection breaks.
#[tokio::test]
async fn what_was_lost_is_sent_again_although_nobody_writes() {
    let gateway = echo_gateway().await;
    let link = Relay::start(gateway.addr()).await;
    let mut client = Stream::connect(options(link.addr)).await.unwrap();
    link.live(1).await;
    link.stall(true);
    client.write_all(b"question").await.unwrap();
    client.flush().await.unwrap();
    link.cut(Cut::Reset);
    link.stall(false);
    let mut back = [0; 8];
    let reading = client.read_exact(&mut back);
    soon("the echo", reading).await.unwrap();
    assert_eq!((&back, client.resumes()), (b"question", 1));
}

/// The same between two gateways, with a client that has said all it has to say.
#[tokio::test]
async fn what_was_lost_behind_a_half_close_is_sent_again() {
    let server = Server::start().await;
    let inner = Gateway::start(&scp_to(server.addr, "")).await;
    let link = Relay::start(inner.addr()).await;
    let outer = Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: plain}}]\n\
         hosts: [{{name: inner, addr: '{}'}}]\n\
         upstream: {{session: scp}}",
        link.addr
    ))
    .await;
    let mut client = TcpStream::connect(outer.addr()).await.unwrap();
    let mut connection = server.accept().await;
    client.write_all(b"one").await.unwrap();
    assert_eq!(read(&mut connection, 3).await, b"one");
    link.stall(true);
    let mut up = link.up();
    let before = *up.borrow();
    client.write_all(b"two").await.unwrap();
    client.shutdown().await.unwrap();
    let held = up.wait_for(|up| *up == before + 3);
    soon("the last word on the link", held).await.unwrap();
    link.cut(Cut::Reset);
    link.stall(false);
    assert_eq!(read(&mut connection, 3).await, b"two");
}

/// One task reads, another has given up writing: the reader is still told of the session's end.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_learns_of_the_end_whatever_a_writer_does() {
    let gateway = echo_gateway().await;
    let mut client = Stream::connect(Options {
        resume_wait: Duration::from_secs(2),
        ..options(gateway.addr())
    })
    .await
    .unwrap();
    let mut back = [0; 5];
    client.write_all(b"hello").await.unwrap();
    soon("the echo", client.read_exact(&mut back))
        .await
        .unwrap();
    drop(gateway);
    let (mut from, mut to) = tokio::io::split(client);
    let reader = tokio::spawn(async move { from.read_u8().await });
    let (done, never) = tokio::sync::oneshot::channel::<()>();
    let writer = tokio::spawn(async move {
        // More than the replay buffer takes, tried and given up until the reader has long been
        // waiting.
        let bytes = vec![0; 1 << 20];
        for _ in 0..5 {
            let writing = timeout(Duration::from_millis(100), to.write_all(&bytes)).await;
            assert!(writing.is_err(), "{writing:?}");
        }
        let _ = never.await;
    });
    let read = soon("the end of the session", reader).await.unwrap();
    assert_eq!(read.unwrap_err().kind(), std::io::ErrorKind::TimedOut);
    drop(done);
    writer.await.unwrap();
}

/// What arrived at the gateway counts, also if the break shows first when it writes.
#[tokio::test]
async fn a_break_found_while_writing_loses_nothing_that_came_before() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    // The server does not read.
    let written = fill(&mut client).await;
    let acknowledged = written - client.unacknowledged();
    client.leave(Cut::Reset);
    // Enough for the gateway to be at it.
    for _ in 0..20 {
        connection.write_all(&[0; 100]).await.unwrap();
        let mut other = Raw::connect(gateway.addr()).await;
        let mut other_connection = server.accept().await;
        other.send(b"hello").await;
        assert_eq!(read(&mut other_connection, 5).await, b"hello");
    }
    let request = client.request(1, client.received);
    let (_socket, answer) = client.ask(gateway.addr(), &request).await;
    let received = u64::from(answer.received);
    assert!(
        received >= acknowledged,
        "acknowledged {acknowledged}, counted {received}"
    );
}

/// A session whose server takes nothing may not have its bytes pile up in the gateway.
#[tokio::test]
async fn resumes_do_not_get_around_back_pressure() {
    const LIMIT: u64 = 12 << 20;
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    let chunk = vec![0; 32 * 1024];
    loop {
        client.send(&chunk).await;
        let arrived = async {
            while client.unacknowledged() > 0 {
                tokio::task::yield_now().await;
            }
        };
        soon("room in the gateway's system", arrived).await;
        client.index += 1;
        let request = client.request(client.index, 0);
        let (socket, answer) = {
            let mut asking = pin!(client.ask(gateway.addr(), &request));
            let Ok(answered) = timeout(Duration::from_secs(1), &mut asking).await else {
                // It takes no more until its server does, and then all.
                let all = client.sent();
                assert!(all < LIMIT, "took in {all} bytes");
                let reading = read(&mut connection, all as usize);
                let (_, (_, answer)) = tokio::join!(reading, asking);
                assert_eq!(u64::from(answer.received), all);
                return;
            };
            answered
        };
        assert_eq!(u64::from(answer.received), client.sent());
        client.go_on(socket, answer).await;
    }
}

/// The server has closed; a client that stays but does not read cannot hold the session.
#[tokio::test]
async fn a_session_without_a_server_ends_though_its_client_does_not_read() {
    let server = Server::start().await;
    let config = scp_to(
        server.addr,
        "scp: {resume_wait: 500ms, replay_buffer: 64MiB}",
    );
    let gateway = Gateway::start(&config).await;
    let client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    connection.write_all(&vec![0; 16 << 20]).await.unwrap();
    drop(connection);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "undelivered", "{closed}");
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_handshakes() {
    let config = scp_to("builtin:echo", "scp: {handshake_timeout: 10m}");
    let mut gateway = Gateway::start_with(&config, &["--grace", "10m"]).await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("hello").await;
    // Accepted before the other one is.
    let _silent = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut other = Raw::connect(gateway.addr()).await;
    other.echo("hello").await;
    gateway.signal(libc::SIGTERM);
    gateway.log().nth("draining", 0).await;
    gateway.signal(libc::SIGTERM);
    assert_eq!(gateway.exited().await.code(), Some(0));
}

#[tokio::test]
async fn a_plain_session_with_the_builtin_host_ends_with_its_client() {
    let gateway = Gateway::start(
        "listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: plain}]\n\
         hosts: [{name: echo, addr: 'builtin:echo'}]",
    )
    .await;
    let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
    client.write_all(b"hello").await.unwrap();
    client.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"hello");
    drop(client);
    gateway.log().nth("session closed", 0).await;
}

#[tokio::test]
async fn the_log_tells_the_server_of_a_session() {
    let gateway = echo_gateway().await;
    let client = Raw::connect(gateway.addr()).await;
    let opened = gateway.log().of(client.id, "session opened").await;
    let told = opened.as_object().unwrap().values();
    let told: Vec<_> = told.filter(|value| *value == "builtin:echo").collect();
    assert_eq!(told.len(), 1, "{opened}");
}

/// Uploads through the library, which nobody reads from.
#[tokio::test]
async fn a_writer_notices_a_break_by_itself() {
    const TOTAL: u64 = 200_000;
    for how in [Cut::Reset, Cut::Close] {
        let server = Server::start().await;
        let gateway = Gateway::start(&scp_to(server.addr, "")).await;
        let link = Relay::start(gateway.addr()).await;
        let mut client = Stream::connect(options(link.addr)).await.unwrap();
        let mut connection = server.accept().await;
        link.live(1).await;
        link.stall(true);
        let mut sending = tokio::spawn(async move {
            let mut sent = Pattern::new(1);
            while sent.position() < TOTAL {
                let bytes = sent.next((TOTAL - sent.position()) as usize);
                client.write_all(bytes).await.unwrap();
            }
            client.shutdown().await.unwrap();
            client
        });
        // All it may send ahead is under way.
        let early = timeout(Duration::from_millis(300), &mut sending).await;
        assert!(early.is_err());
        link.cut(how);
        link.stall(false);
        let got = read(&mut connection, TOTAL as usize).await;
        Pattern::new(1).check(&got);
        let client = soon("the writer", sending).await.unwrap();
        assert_eq!(client.resumes(), 1, "{how:?}");
    }
}
