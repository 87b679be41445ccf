//! How sessions begin: what a hello asks for, and what the server is told.

use serde_json::Value;
use stablegate::client::scp::{Options, Stream};
use stablegate::internal::crypto::Dialect;
use stablegate::internal::proto::proxy_header::{UNKNOWN_V1, UNKNOWN_V2};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::echo_gateway;
use crate::common::*;

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
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/sproto.json")).unwrap();
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
async fn the_log_tells_the_server_of_a_session() {
    let gateway = echo_gateway().await;
    let client = Raw::connect(gateway.addr()).await;
    let opened = gateway.log().of(client.id, "session opened").await;
    let told = opened.as_object().unwrap().values();
    let told: Vec<_> = told.filter(|value| *value == "builtin:echo").collect();
    assert_eq!(told.len(), 1, "{opened}");
}
