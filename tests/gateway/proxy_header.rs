//! Clients behind those who say with a PROXY protocol header whom they speak for.

use std::net::SocketAddr;

use stablegate::client::scp::{Options, Stream};
use stablegate::internal::proto::proxy_header::{UNKNOWN_V1, encode_v1, encode_v2};
use stablegate::internal::proto::scp::FLAG_NO_ANNOUNCEMENT;
use stablegate::internal::proto::sproto;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpSocket, TcpStream};

use crate::common::*;

const CLIENT: &str = "203.0.113.7:4242";
const V6_CLIENT: &str = "[2001:db8::7]:4242";
const ENTRANCE: &str = "198.51.100.1:443";

/// Says who a session is from, as hooks see it.
const SCRIPT: &str = "function access(session)
  gateway.log.info('access', session.client_addr, session.gateway_addr)
end
";

/// A gateway that believes 127.0.0.1 and nobody else.
async fn trusting(session: &str, host: impl std::fmt::Display, more: &str) -> Gateway {
    let config = format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: {session}, \
         hooks: [route], proxy_header: {{from: [127.0.0.1, '10.0.0.0/8']}}}}]\n\
         hosts: [{{name: server, addr: '{host}'}}]\n\
         hooks: [{{name: route, lua: route.lua, timeout: 2s}}]\n{more}"
    );
    Gateway::start_among(&[("route.lua", SCRIPT)], &config).await
}

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn headers() -> [(Vec<u8>, &'static str); 4] {
    let entrance = addr(ENTRANCE);
    [
        (encode_v1(addr(CLIENT), entrance), CLIENT),
        (encode_v2(addr(CLIENT), entrance), CLIENT),
        (encode_v1(addr(V6_CLIENT), entrance), V6_CLIENT),
        (encode_v2(addr(V6_CLIENT), entrance), V6_CLIENT),
    ]
}

/// Bytes behind a header are the client's, and come back.
async fn echoes(socket: &mut TcpStream) {
    socket.write_all(b"hello").await.unwrap();
    assert_eq!(read(socket, 5).await, b"hello");
}

#[tokio::test]
async fn the_client_is_who_the_header_says() {
    let gateway = trusting("plain", "builtin:echo", "").await;
    for (n, (header, client)) in headers().into_iter().enumerate() {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        // The first bytes in the same segment.
        socket
            .write_all(&[&header[..], b"first"].concat())
            .await
            .unwrap();
        assert_eq!(read(&mut socket, 5).await, b"first");
        echoes(&mut socket).await;
        let opened = gateway.log().nth("session opened", n).await;
        assert_eq!(opened["client"], client, "{opened}");
        let told = format!("access {client} {ENTRANCE}");
        gateway.log().nth(&told, 0).await;
    }
}

#[tokio::test]
async fn a_header_in_two_pieces_at_every_place() {
    let gateway = trusting("plain", "builtin:echo", "").await;
    for (header, _) in headers() {
        for cut in 1..header.len() {
            let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
            socket.set_nodelay(true).unwrap();
            socket.write_all(&header[..cut]).await.unwrap();
            socket.write_all(&header[cut..]).await.unwrap();
            echoes(&mut socket).await;
        }
    }
}

#[tokio::test]
async fn the_sender_itself_keeps_its_address() {
    let gateway = trusting("plain", "builtin:echo", "").await;
    let local = [
        &encode_v2(addr(CLIENT), addr(ENTRANCE))[..12],
        b"\x20\x00\x00\x00",
    ]
    .concat();
    for (n, header) in [&b"PROXY UNKNOWN\r\n"[..], &local].into_iter().enumerate() {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        socket.write_all(header).await.unwrap();
        echoes(&mut socket).await;
        let opened = gateway.log().nth("session opened", n).await;
        assert_eq!(opened["client"], socket.local_addr().unwrap().to_string());
    }
}

#[tokio::test]
async fn without_a_good_header_the_trusted_are_turned_away() {
    let gateway = trusting("scp", "builtin:echo", "").await;
    let v2 = encode_v2(addr(CLIENT), addr(ENTRANCE));
    let mut wrong: Vec<Vec<u8>> = [
        &record("0\nAQAAAAAAAAA=")[..],
        b"GET / HTTP/1.1\r\n\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 4242\r\n",
        b"PROXY TCP4 203.0.113.7 198.51.100.1 4242 99999\r\n",
        b"PROXY TCP6 203.0.113.7 198.51.100.1 4242 443\r\n",
        &[b"PROXY TCP4 ".as_slice(), &[b'1'; 200]].concat(),
    ]
    .map(<[u8]>::to_vec)
    .into();
    for (at, byte) in [(12, 0x31), (12, 0x2f), (13, 0x51), (15, 11)] {
        let mut header = v2.clone();
        header[at] = byte;
        wrong.push(header);
    }
    for (n, bytes) in wrong.iter().enumerate() {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        socket.write_all(bytes).await.unwrap();
        let failed = gateway.log().nth("handshake failed", n).await;
        assert_eq!(failed["reason"], "proxy_header", "{bytes:?} {failed}");
    }
    let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
    socket.write_all(&v2[..20]).await.unwrap();
    drop(socket);
    let failed = gateway.log().nth("handshake failed", wrong.len()).await;
    assert_eq!(failed["reason"], "connection", "{failed}");
}

/// Balancers add much, and speak for themselves however they like.
#[tokio::test]
async fn headers_are_skipped_as_far_as_they_say() {
    let gateway = trusting("plain", "builtin:echo", "").await;
    for (n, (command, family, len, is_named)) in [
        (0x21, 0x11, 13, true),
        (0x21, 0x11, 4081, true),
        (0x21, 0x11, 65_535, true),
        (0x20, 0x11, 4081, false),
        (0x20, 0x00, 65_535, false),
        (0x20, 0x51, 7, false),
        (0x20, 0xff, 0, false),
    ]
    .into_iter()
    .enumerate()
    {
        let mut header = encode_v2(addr(CLIENT), addr(ENTRANCE));
        (header[12], header[13]) = (command, family);
        header[14..16].copy_from_slice(&u16::to_be_bytes(len));
        header.resize(16 + usize::from(len), 7);
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        let own = socket.local_addr().unwrap().to_string();
        socket
            .write_all(&[&header[..], b"first"].concat())
            .await
            .unwrap();
        assert_eq!(read(&mut socket, 5).await, b"first");
        echoes(&mut socket).await;
        let opened = gateway.log().nth("session opened", n).await;
        assert_eq!(opened["client"], if is_named { CLIENT } else { &own });
    }
}

#[tokio::test]
async fn nobody_else_is_believed() {
    let gateway = trusting("scp", "builtin:echo", "").await;
    let stranger = async || {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(addr("127.0.0.2:0")).unwrap();
        socket.connect(gateway.addr()).await.unwrap()
    };
    for (n, (header, _)) in headers().into_iter().enumerate() {
        let mut socket = stranger().await;
        socket.write_all(&header).await.unwrap();
        socket.shutdown().await.unwrap();
        let failed = gateway.log().nth("handshake failed", n).await;
        // A message that is too long, or the beginning of one.
        let reason = ["record_too_long", "connection"][n % 2];
        assert_eq!(failed["reason"], reason, "{failed}");
        assert!(
            failed["client"].as_str().unwrap().starts_with("127.0.0.2:"),
            "{failed}"
        );
    }
    let mut socket = stranger().await;
    socket.write_all(&record("0\nAQAAAAAAAAA=")).await.unwrap();
    assert!(!soon("an answer", read_record(&mut socket)).await.is_empty());
    let opened = gateway.log().nth("session opened", 0).await;
    assert!(
        opened["client"].as_str().unwrap().starts_with("127.0.0.2:"),
        "{opened}"
    );
}

#[tokio::test]
async fn the_server_is_told_of_the_real_client() {
    for version in ["v1", "v2"] {
        let server = Server::start().await;
        let announce = format!("announce: {{proxy_header: {version}}}");
        let gateway = trusting("plain", server.addr, &announce).await;
        for (header, _) in &headers()[..2] {
            let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
            socket.write_all(header).await.unwrap();
            let mut connection = server.accept().await;
            let expected = match version {
                "v1" => encode_v1(addr(CLIENT), addr(ENTRANCE)),
                _ => encode_v2(addr(CLIENT), addr(ENTRANCE)),
            };
            assert_eq!(read(&mut connection, expected.len()).await, expected);
        }
    }
}

/// One that wants its address kept secret gets a header that names nobody, lest it send another.
#[tokio::test]
async fn no_client_can_do_without_its_header() {
    let server = Server::start().await;
    let announce = "announce: {sproto: 1, proxy_header: v1}";
    let gateway = trusting("scp", server.addr, announce).await;
    let options = Options {
        preface: encode_v1(addr(CLIENT), addr(ENTRANCE)).into(),
        flags: FLAG_NO_ANNOUNCEMENT,
        ..options(gateway.addr())
    };
    let mut client = soon("a session", Stream::connect(options)).await.unwrap();
    client
        .write_all(b"PROXY TCP4 6.6.6.6 6.6.6.6 6 6\r\n")
        .await
        .unwrap();
    let mut connection = server.accept().await;
    assert_eq!(read(&mut connection, 15).await, UNKNOWN_V1);
    assert_eq!(read(&mut connection, 18).await, b"PROXY TCP4 6.6.6.6");
}

/// Behind a gateway that says who its clients are, the next one announces as if it were the first.
#[tokio::test]
async fn the_last_gateway_announces_what_it_was_told() {
    let server = Server::start().await;
    let announce = "announce: {sproto: 1}";
    let inner = trusting("scp", server.addr, announce).await;
    let told = "upstream: {session: scp, proxy_header: v2}";
    for (flags, announced) in [(0, true), (FLAG_NO_ANNOUNCEMENT, false)] {
        let outer = Gateway::start(&scp_to(inner.addr(), told)).await;
        let options = Options {
            flags,
            ..options(outer.addr())
        };
        let mut client = soon("a session", Stream::connect(options)).await.unwrap();
        client.write_all(b"hello").await.unwrap();
        let opened = outer.log().nth("session opened", 0).await;
        let from = opened["client"].as_str().unwrap();
        let announcement = sproto::announcement(1, from, &outer.addr().to_string());
        let mut expected = if announced { announcement } else { Vec::new() };
        expected.extend_from_slice(b"hello");
        let mut connection = server.accept().await;
        assert_eq!(read(&mut connection, expected.len()).await, expected);
    }
}

#[tokio::test]
async fn limits_count_the_real_source() {
    let config = "listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: plain, \
         limits: {per_source: 1}, proxy_header: {from: [127.0.0.1]}}]\n\
         hosts: [{name: server, addr: 'builtin:echo'}]\n";
    let gateway = Gateway::start(config).await;
    let mut live = Vec::new();
    for client in [
        "192.0.2.1:1",
        "192.0.2.2:1",
        "[2001:db8::1]:1",
        "[2001:db8:0:1::]:1",
    ] {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        let header = encode_v1(addr(client), addr(ENTRANCE));
        socket.write_all(&header).await.unwrap();
        echoes(&mut socket).await;
        live.push(socket);
    }
    for client in ["192.0.2.1:2", "[::ffff:192.0.2.2]:9", "[2001:db8::2:1]:1"] {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        let header = encode_v2(addr(client), addr(ENTRANCE));
        socket.write_all(&header).await.unwrap();
        let ended = soon(
            "the end",
            tokio::io::AsyncReadExt::read(&mut socket, &mut [0]),
        )
        .await;
        assert!(matches!(ended, Ok(0) | Err(_)), "{client} {ended:?}");
    }
    let refused = gateway.log().nth("connection refused", 0).await;
    assert_eq!(refused["limit"], "per_source", "{refused}");
    // Whichever of them is told of first.
    let told = ["192.0.2.1:2", "192.0.2.2:9", "[2001:db8::2:1]:1"];
    assert!(
        told.iter().any(|told| refused["client"] == *told),
        "{refused}"
    );
    for socket in &mut live {
        echoes(socket).await;
    }
}

/// The second of two gateways knows clients as the first one does, also when the connection
/// between them breaks.
#[tokio::test]
async fn the_next_gateway_is_told_on_each_connection() {
    for version in ["v1", "v2"] {
        let inner = trusting("scp", "builtin:echo", "").await;
        let link = Relay::start(inner.addr()).await;
        let upstream = format!("upstream: {{session: scp, proxy_header: {version}}}");
        let outer = Gateway::start(&scp_to(link.addr, &upstream)).await;
        let mut client = connect(outer.addr()).await;
        echoed(&mut client, b"hello").await;
        let opened = outer.log().nth("session opened", 0).await;
        let seen = inner.log().nth("session opened", 0).await;
        assert_eq!(seen["client"], opened["client"], "{seen}");
        let from = opened["client"].as_str().unwrap();
        inner
            .log()
            .nth(&format!("access {from} {}", outer.addr()), 0)
            .await;
        link.cut(Cut::Reset);
        echoed(&mut client, b"and again").await;
        let resumed = inner.log().nth("session resumed", 0).await;
        assert_eq!(resumed["client"], opened["client"], "{resumed}");
    }
}

#[tokio::test]
async fn a_client_can_come_back_through_another_entrance() {
    let gateway = trusting("scp", "builtin:echo", "").await;
    let options = Options {
        preface: encode_v2(addr(CLIENT), addr(ENTRANCE)).into(),
        ..options(gateway.addr())
    };
    let mut client = soon("a session", Stream::connect(options)).await.unwrap();
    echoed(&mut client, b"hello").await;
    client.cutter().cut();
    echoed(&mut client, b"again").await;
    let resumed = gateway.log().nth("session resumed", 0).await;
    assert_eq!(resumed["client"], CLIENT, "{resumed}");
}
