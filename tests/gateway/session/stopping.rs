//! A gateway that is told to stop, and the sessions that it has by then.

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::echo_gateway;
use crate::common::*;

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
