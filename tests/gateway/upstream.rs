//! Where sessions go, and how servers are reached.

use std::collections::HashMap;
use std::net::SocketAddr;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use stablegate::client::Address;
use stablegate::client::scp::{Options, Stream};
use stablegate::internal::crypto::Dialect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::*;

/// A gateway with these hosts: name, address and weight.
async fn gateway(hosts: &[(&str, SocketAddr, u32)], more: &str) -> Gateway {
    let hosts = hosts.iter().map(|(name, addr, weight)| {
        format!("- {{name: {name}, addr: '{addr}', weight: {weight}}}\n")
    });
    let hosts: String = hosts.collect();
    Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n\
         hosts:\n{hosts}{more}"
    ))
    .await
}

/// A server that says its name.
async fn named(name: &'static str) -> SocketAddr {
    named_on(name, "127.0.0.1:0".parse().unwrap()).await
}

async fn named_on(name: &'static str, addr: SocketAddr) -> SocketAddr {
    let server = Server::start_on(addr).await;
    let addr = server.addr;
    tokio::spawn(async move {
        loop {
            let mut connection = server.accept_whenever().await;
            connection.write_all(name.as_bytes()).await.unwrap();
            tokio::spawn(async move { read_to_end(&mut connection).await });
        }
    });
    addr
}

/// How often each server was reached by sessions that ask for `target`. Names are one letter.
async fn reached(gateway: &Gateway, target: &str, count: usize) -> HashMap<char, usize> {
    let mut reached = HashMap::new();
    for _ in 0..count {
        let more = format!("\n{target}");
        let mut client = Raw::open(gateway.addr(), Dialect::Current, &more).await;
        let name = client.receive(1).await[0];
        *reached.entry(name.into()).or_default() += 1;
    }
    reached
}

#[tokio::test]
async fn sessions_are_spread_by_weight_over_the_hosts_of_a_name() {
    let (a, b, c) = (named("a").await, named("b").await, named("c").await);
    let gateway = gateway(&[("x", a, 10), ("x", b, 90), ("y", c, 1000)], "").await;
    let x = reached(&gateway, "x", 100).await;
    assert_eq!(x.get(&'c'), None);
    assert!(x[&'a'] > 0 && x[&'a'] < x[&'b'], "{x:?}");
    assert_eq!(reached(&gateway, "y", 20).await, [('c', 20)].into());
}

#[tokio::test]
async fn unknown_and_missing_names_go_to_any_host() {
    let (a, b) = (named("a").await, named("b").await);
    let gateway = gateway(&[("x", a, 1), ("y", b, 1)], "").await;
    for target in ["nobody", "", "X", "x "] {
        let reached = reached(&gateway, target, 40).await;
        assert!(
            reached[&'a'] > 0 && reached[&'b'] > 0,
            "{target:?} {reached:?}"
        );
    }
}

#[tokio::test]
async fn another_host_of_the_name_is_tried_when_one_refuses() {
    let (dead, a, b) = (dead_addr().await, named("a").await, named("b").await);
    // Nearly always the first choice.
    let hosts = [("x", dead, 1_000_000), ("x", a, 1), ("y", b, 1_000_000)];
    let gateway = gateway(&hosts, "").await;
    assert_eq!(reached(&gateway, "x", 20).await, [('a', 20)].into());
    let retried = gateway.log().nth("trying another host", 10).await;
    assert_eq!(retried["next"], a.to_string(), "{retried}");
}

#[tokio::test]
async fn a_second_host_that_refuses_is_the_last() {
    let (dead, deader, b) = (dead_addr().await, dead_addr().await, named("b").await);
    let gateway = gateway(&[("x", dead, 1), ("x", deader, 1), ("y", b, 1)], "").await;
    let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nx").await;
    assert_eq!(client.receive_to_end().await, b"");
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "connect_failed", "{closed}");
    assert_eq!(gateway.log().all("trying another host").len(), 1);
}

#[tokio::test]
async fn all_addresses_of_a_name_are_tried() {
    let found = tokio::net::lookup_host("localhost:1").await.unwrap();
    let found: Vec<SocketAddr> = found.collect();
    assert!(!found.is_empty());
    // A server on one of them, whichever; nothing on the others.
    for mut addr in found {
        addr.set_port(0);
        let port = named_on("a", addr).await.port();
        let config = scp_to(format!("localhost:{port}"), "");
        let gateway = Gateway::start(&config).await;
        assert_eq!(reached(&gateway, "", 10).await, [('a', 10)].into());
    }
}

#[tokio::test]
async fn names_no_host_has_are_looked_up() {
    let (known, found) = (named("k").await, named("f").await);
    for (prefix, suffix, name) in [
        ("", "", "localhost"),
        ("local", "", "host"),
        ("", "host", "local"),
        ("lo", "st", "calho"),
    ] {
        let port = found.port();
        let resolve = format!(
            "upstream: {{resolve: {{prefix: '{prefix}', suffix: '{suffix}', port: {port}, \
             pattern: '^[cahlost]+$'}}}}"
        );
        let gateway = gateway(&[("host-1", known, 1), ("lo", known, 1)], &resolve).await;
        assert_eq!(
            reached(&gateway, name, 3).await,
            [('f', 3)].into(),
            "{name}"
        );
        // A host that has the name comes first; a name that does not fit is not looked up; nor
        // is a missing one.
        for name in ["host-1", "lo", "HOST", "127.0.0.1", "nobody", ""] {
            assert_eq!(
                reached(&gateway, name, 1).await,
                [('k', 1)].into(),
                "{name}"
            );
        }
        let fallen = gateway.log().all("falling back to another host");
        assert!(fallen.is_empty(), "{fallen:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_found_goes_to_any_host() {
    let (known, dead) = (named("k").await, dead_addr().await);
    let resolve = format!(
        "upstream: {{resolve: {{port: {}, pattern: '^[a-z]+$'}}}}",
        dead.port()
    );
    let gateway = gateway(&[("x", known, 1)], &resolve).await;
    // Found, but nobody is there.
    assert_eq!(reached(&gateway, "localhost", 1).await, [('k', 1)].into());
    gateway.log().nth("falling back to another host", 0).await;
    // Without hosts there is nothing to fall back to.
    let gateway = Gateway::start(&format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n{resolve}"
    ))
    .await;
    for name in ["localhost", ""] {
        let more = format!("\n{name}");
        let mut client = Raw::open(gateway.addr(), Dialect::Current, &more).await;
        assert_eq!(client.receive_to_end().await, b"");
        client.leave(Cut::Close);
        let closed = gateway.log().of(client.id, "session closed").await;
        assert_eq!(closed["reason"], "connect_failed", "{closed}");
    }
}

/// Bytes each way through two gateways.
const CHAINED: u64 = 3_000_000;

#[tokio::test(flavor = "multi_thread")]
async fn two_gateways_in_a_row_lose_nothing() {
    let server = Server::start().await;
    // The last gateway announces whom the first one speaks for.
    let inner = scp_to(server.addr, "announce: {proxy_header: v1}").replace(
        "session: scp",
        "session: scp, proxy_header: {from: [127.0.0.1]}",
    );
    let inner = Gateway::start(&inner).await;
    let inner_link = Relay::start(inner.addr()).await;
    let outer = scp_to(
        inner_link.addr,
        "upstream: {session: scp, proxy_header: v2}",
    );
    let outer = Gateway::start(&outer).await;
    let outer_link = Relay::start(outer.addr()).await;
    let address = outer_link.addr.to_string().parse::<Address>().unwrap();
    let client = Stream::connect(Options {
        target: Some("server".to_owned()),
        ..Options::new(address)
    });
    let client = client.await.unwrap();
    let id = client.id();
    let mut connection = server.accept().await;
    let opened = outer.log().of(id, "session opened").await;
    let from: SocketAddr = opened["client"].as_str().unwrap().parse().unwrap();
    let expected = format!(
        "PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n",
        from.port(),
        outer.addr().port()
    );
    let announced = read(&mut connection, expected.len()).await;
    assert_eq!(String::from_utf8(announced).unwrap(), expected);

    let (from_client, to_client) = tokio::io::split(client);
    let (from_server, to_server) = connection.into_split();
    let up = tokio::spawn(send(1, to_client));
    let down = tokio::spawn(send(2, to_server));
    let (progress, moved) = tokio::sync::watch::channel(0);
    let got_up = tokio::spawn(check(1, from_server, progress));
    let (progress, _) = tokio::sync::watch::channel(0);
    let got_down = tokio::spawn(check(2, from_client, progress));
    let seed = seed();
    let cutting = cut_both(StdRng::seed_from_u64(seed), moved, &outer_link, &inner_link);
    let cuts = soon("all cuts", cutting).await;
    assert!(cuts > 10, "seed {seed}");

    let to_client = soon("all bytes sent", up).await.unwrap();
    let to_server = soon("all bytes sent", down).await.unwrap();
    let from_server = soon("all bytes at the server", got_up).await.unwrap();
    let from_client = soon("all bytes at the client", got_down).await.unwrap();
    let mut client = from_client.unsplit(to_client);
    assert!(client.resumes() > 0);
    drop(from_server.reunite(to_server).unwrap());
    let end = soon("the end of the session", client.read_u8()).await;
    assert_eq!(end.unwrap_err().kind(), std::io::ErrorKind::UnexpectedEof);
    let closed = outer.log().of(id, "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!([&closed["received"], &closed["sent"]], [CHAINED, CHAINED]);
    let closed = inner.log().nth("session closed", 0).await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert!(closed["resumes"].as_u64().unwrap() > 0, "{closed}");
}

/// Breaks one link or the other, at random places of the first half of what moves up: the rest
/// shows that nothing is stuck afterwards.
async fn cut_both(
    mut rng: StdRng,
    mut moved: tokio::sync::watch::Receiver<u64>,
    outer: &Relay,
    inner: &Relay,
) -> usize {
    let (mut at, mut cuts) = (0, 0);
    loop {
        at += rng.random_range(20_000..150_000);
        if at > CHAINED / 2 {
            return cuts;
        }
        moved.wait_for(|moved| *moved >= at).await.unwrap();
        let cut = if rng.random() { Cut::Close } else { Cut::Reset };
        let link = if rng.random() { outer } else { inner };
        if rng.random_ratio(1, 4) {
            // The resume that follows breaks off in its handshake.
            let budget = Budget {
                up: rng.random_range(1..60),
                down: rng.random_range(1..20),
                cut,
            };
            link.spend(budget);
        }
        link.cut(cut);
        cuts += 1;
    }
}

async fn send<W: tokio::io::AsyncWrite + Unpin>(name: u64, mut to: W) -> W {
    let mut sent = Pattern::new(name);
    while sent.position() < CHAINED {
        let bytes = sent.next((CHAINED - sent.position()).min(4096) as usize);
        to.write_all(bytes).await.unwrap();
    }
    to.flush().await.unwrap();
    to
}

async fn check<R: tokio::io::AsyncRead + Unpin>(
    name: u64,
    mut from: R,
    progress: tokio::sync::watch::Sender<u64>,
) -> R {
    let mut got = Pattern::new(name);
    let mut buffer = vec![0; 16 * 1024];
    while got.position() < CHAINED {
        let len = from.read(&mut buffer).await.unwrap();
        assert_ne!(len, 0, "the end after {} bytes", got.position());
        got.check(&buffer[..len]);
        progress.send_replace(got.position());
    }
    from
}

#[tokio::test]
async fn the_second_gateway_is_asked_for_the_clients_target() {
    let (a, b) = (named("a").await, named("b").await);
    let inner = gateway(&[("x", a, 1), ("y", b, 1)], "").await;
    let outer = Gateway::start(&scp_to(inner.addr(), "upstream: {session: scp}")).await;
    assert_eq!(reached(&outer, "x", 5).await, [('a', 5)].into());
    assert_eq!(reached(&outer, "y", 5).await, [('b', 5)].into());
    // A server that speaks no scp is one that cannot be had.
    let server = Server::start().await;
    let outer = Gateway::start(&scp_to(server.addr, "upstream: {session: scp}")).await;
    let mut client = Raw::connect(outer.addr()).await;
    let mut connection: TcpStream = server.accept().await;
    connection.write_all(b"HTTP/1.1 400\r\n\r\n").await.unwrap();
    assert_eq!(client.receive_to_end().await, b"");
    client.leave(Cut::Close);
    let closed = outer.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "connect_failed", "{closed}");
}

/// What a client asks for is passed on to a server of scp, as far as it fits.
#[tokio::test]
async fn a_target_that_is_too_long_to_be_passed_on_is_its_clients_fault() {
    let inner = Gateway::start(&scp_to("builtin:echo", "")).await;
    let config = scp_to(
        inner.addr(),
        "upstream: {session: scp, eject: {failures: 1}}\n\
         hooks: [{name: told, lua: told.lua, timeout: 5s}]\n",
    )
    .replace("session: scp}]", "session: scp, hooks: [told]}]");
    let script = "function closed(session) gateway.log.info('told', session.reason) end";
    let outer = Gateway::start_among(&[("told.lua", script)], &config).await;
    let hello = |target: &[u8]| record([b"0\nAQAAAAAAAAA=\n", target].concat());
    // Bytes that are no UTF-8 take three in the text that they become.
    let odd = [0xff; 3000];
    for (n, target) in [&odd[..], &[b'x'; 4081]].into_iter().enumerate() {
        let mut socket = TcpStream::connect(outer.addr()).await.unwrap();
        socket.write_all(&hello(target)).await.unwrap();
        assert!(!soon("an answer", read_record(&mut socket)).await.is_empty());
        assert_eq!(read_to_end(&mut socket).await, b"");
        let closed = outer.log().nth("session closed", n).await;
        assert_eq!(closed["reason"], "target_too_long", "{closed}");
        outer.log().nth("told target_too_long", n).await;
    }
    // The longest that fits.
    let longest = format!("\n{}\n{}", "x".repeat(4057), u32::MAX);
    let mut client = Raw::open(outer.addr(), Dialect::Current, &longest).await;
    client.echo("through both").await;
    for message in ["host ejected", "panicked"] {
        assert!(outer.log().all(message).is_empty());
    }
}

/// The timers of connections to that address, as Linux counts them: 2 is keepalive.
fn timers(to: SocketAddr) -> Vec<u8> {
    let SocketAddr::V4(to) = to else {
        panic!("{to} is not IPv4")
    };
    let ip = u32::from_ne_bytes(to.ip().octets());
    let remote = format!("{ip:08X}:{:04X}", to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().skip(1);
    let fields = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let timer = |fields: Vec<&str>| {
        // The remote address, the state, and the timer with its time.
        let established = fields[2] == remote && fields[3] == "01";
        established.then(|| u8::from_str_radix(&fields[5][..2], 16).unwrap())
    };
    fields.filter_map(timer).collect()
}

/// Waits until a connection to that address waits for nothing but perhaps its keepalive.
async fn idle_timer(to: SocketAddr) -> u8 {
    let looking = async {
        loop {
            if let [timer @ (0 | 2)] = timers(to)[..] {
                return timer;
            }
            tokio::task::yield_now().await;
        }
    };
    soon("one idle connection", looking).await
}

#[tokio::test]
async fn idle_connections_to_servers_are_probed() {
    for (keepalive, timer) in [("", 2), (", keepalive: 1s", 2), (", keepalive: 0s", 0)] {
        let server = Server::start().await;
        let config = format!("upstream: {{session: plain{keepalive}}}");
        let gateway = Gateway::start(&scp_to(server.addr, &config)).await;
        let mut client = Raw::connect(gateway.addr()).await;
        let mut connection = server.accept().await;
        client.send(b"hello").await;
        assert_eq!(read(&mut connection, 5).await, b"hello");
        assert_eq!(idle_timer(server.addr).await, timer, "{keepalive}");

        // By scp, before and after a resume.
        let inner = Gateway::start(&scp_to("builtin:echo", "")).await;
        let link = Relay::start(inner.addr()).await;
        let config = format!("upstream: {{session: scp{keepalive}}}");
        let outer = Gateway::start(&scp_to(link.addr, &config)).await;
        let mut client = Raw::connect(outer.addr()).await;
        client.echo("hello").await;
        assert_eq!(idle_timer(link.addr).await, timer, "{keepalive}");
        link.cut(Cut::Reset);
        client.echo("and again").await;
        assert_eq!(idle_timer(link.addr).await, timer, "{keepalive}");
    }
}

/// Whoever closes, the other may go on as long as something moves.
#[tokio::test]
async fn a_plain_session_of_one_side_ends() {
    let server = Server::start().await;
    let config = scp_to(server.addr, "tcp: {linger: 50ms}\n").replace("scp", "plain");
    let gateway = Gateway::start(&config).await;
    for (n, server_closes) in [true, false].into_iter().enumerate() {
        let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
        let mut connection = server.accept().await;
        let (closing, other) = match server_closes {
            true => (&mut connection, &mut client),
            false => (&mut client, &mut connection),
        };
        closing.shutdown().await.unwrap();
        assert_eq!(read_to_end(other).await, b"");
        let closed = gateway.log().nth("session closed", n).await;
        assert_eq!(closed["reason"], "half_closed", "{closed}");
        // So does the one that had closed learn that nothing follows.
        let read = soon("the end", closing.read(&mut [0])).await;
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    gateway.save("config.yaml", &config.replace("50ms", "0s"));
    gateway.log().nth("reloaded", 0).await;
    let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut connection = server.accept().await;
    connection.shutdown().await.unwrap();
    assert_eq!(read_to_end(&mut client).await, b"");
    client.write_all(b"still here").await.unwrap();
    assert_eq!(read(&mut connection, 10).await, b"still here");
}
