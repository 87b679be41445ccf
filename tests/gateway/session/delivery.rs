//! What is sent arrives, whole and to its end, and waits where nobody takes it.

use std::net::SocketAddr;

use stablegate::client::scp::Stream;
use stablegate::internal::crypto::Dialect;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::watched_gateway;
use crate::common::*;

/// Moved over a slow link.
const BULK: u64 = 20_000_000;

/// Bytes per second of that link.
const RATE: u64 = 12_000_000;

const CUTS: u64 = 10;

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
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    client.is_forgotten(gateway.addr()).await;
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
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    assert_eq!(closed["resumes"], 2);
    client.is_forgotten(gateway.addr()).await;
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
    let (gateway, bystander) = watched_gateway(&server).await;
    let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
    let mut connection = server.accept().await;
    let mut sent = Pattern::new(1);
    let mut pending: &[u8] = &[];
    // Until the server could send nothing for a while. Were nothing holding it back, it would
    // come to the end.
    while sent.position() < TOTAL {
        if pending.is_empty() {
            pending = sent.next(16 * 1024);
        }
        match bystander.outlasts(connection.write(pending)).await {
            Some(len) => pending = &pending[len.unwrap()..],
            None => break,
        }
    }
    assert!(sent.position() < TOTAL / 2, "{} bytes", sent.position());
    // Another session does not feel it.
    let mut other = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
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
