//! Sessions that lose their connections and come back: what each side has counts.

use std::pin::pin;
use std::time::Duration;

use stablegate::client::scp::{Options, Stream};
use stablegate::internal::crypto::Dialect;
use stablegate::internal::proto::scp::message::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::{Bystander, echo_gateway, watched_gateway};
use crate::common::*;

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
async fn a_session_nobody_comes_back_to_ends() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "scp: {resume_wait: 300ms}")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    let mut connection = server.accept().await;
    client.send(b"last words").await;
    client.leave(Cut::Close);
    assert_eq!(read_to_end(&mut connection).await, b"last words");
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "client_gone", "{closed}");
    assert!(closed["duration_ms"].as_u64().unwrap() >= 300, "{closed}");
    client.is_forgotten(gateway.addr()).await;
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

/// Writes until something is over, and then until nothing is taken any more. Returns how much was.
async fn fill(client: &mut Raw, bystander: &Bystander, first: impl Future<Output = ()>) -> u64 {
    let mut first = pin!(first);
    let mut is_over = false;
    let mut pattern = Pattern::new(1);
    let mut written = 0;
    loop {
        let bytes = client.lose(pattern.next(64 * 1024)).to_vec();
        let mut bytes = &bytes[..];
        while !bytes.is_empty() {
            let writing = client.socket().write(bytes);
            let len = if is_over {
                match bystander.outlasts(writing).await {
                    Some(len) => len.unwrap(),
                    None => return written,
                }
            } else {
                tokio::select! {
                    len = writing => len.unwrap(),
                    () = &mut first => {
                        is_over = true;
                        continue;
                    }
                }
            };
            written += len as u64;
            bytes = &bytes[len..];
        }
    }
}

/// What the system has acknowledged for the gateway is what the gateway has.
#[tokio::test]
async fn all_that_was_acknowledged_counts() {
    let server = Server::start().await;
    let (gateway, bystander) = watched_gateway(&server).await;
    let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
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
    let filling = fill(&mut client, &bystander, reading);
    let written = soon("a full buffer", filling).await;
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
            // The session may have ended by then.
            assert!(!matches!(writing, Ok(Ok(()))));
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
    let (gateway, bystander) = watched_gateway(&server).await;
    let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
    let mut connection = server.accept().await;
    // The server does not read.
    let written = fill(&mut client, &bystander, async {}).await;
    let acknowledged = written - client.unacknowledged();
    client.leave(Cut::Reset);
    // Enough for the gateway to be at it.
    for _ in 0..20 {
        connection.write_all(&[0; 100]).await.unwrap();
        let mut other = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
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
    let (gateway, bystander) = watched_gateway(&server).await;
    let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nserver").await;
    let mut connection = server.accept().await;
    let chunk = vec![0; 65_536];
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
            let Some(answered) = bystander.outlasts(&mut asking).await else {
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

/// Uploads through the library, which nobody reads from.
#[tokio::test]
async fn a_writer_notices_a_break_by_itself() {
    const TOTAL: u64 = 200_000;
    for how in [Cut::Reset, Cut::Close] {
        let server = Server::start().await;
        let (gateway, bystander) = watched_gateway(&server).await;
        let link = Relay::start(gateway.addr()).await;
        let to_server = Options {
            target: Some("server".to_owned()),
            ..options(link.addr)
        };
        let mut client = connect_with(to_server).await;
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
        let early = bystander.outlasts(&mut sending).await;
        assert!(early.is_none());
        link.cut(how);
        link.stall(false);
        let got = read(&mut connection, TOTAL as usize).await;
        Pattern::new(1).check(&got);
        let client = soon("the writer", sending).await.unwrap();
        assert_eq!(client.resumes(), 1, "{how:?}");
    }
}
