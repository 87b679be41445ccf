//! Where sessions go, and how servers are reached.

mod common;

use std::collections::HashMap;
use std::net::SocketAddr;

use stablegate::crypto::Dialect;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use common::*;

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
        let fallen = gateway.log().all("falling back to any host");
        assert!(fallen.is_empty(), "{fallen:?}");
    }
}

#[tokio::test]
async fn a_name_that_is_not_found_goes_to_any_host() {
    let (known, dead) = (named("k").await, dead_addr().await);
    let resolve = format!("upstream: {{resolve: {{port: {}}}}}", dead.port());
    let gateway = gateway(&[("x", known, 1)], &resolve).await;
    // Found, but nobody is there.
    assert_eq!(reached(&gateway, "localhost", 1).await, [('k', 1)].into());
    gateway.log().nth("falling back to any host", 0).await;
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
