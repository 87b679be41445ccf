//! What nobody should send, and what it must not do to others.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use stablegate::internal::crypto::Dialect;
use stablegate::internal::proto::scp::message::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::Barrier;

use crate::common::*;

const MALFORMED: &[u8] = b"\x00\x050\n400";
const UNAUTHORIZED: &[u8] = b"\x00\x050\n401";
const USED: &[u8] = b"\x00\x050\n403";
const NOT_FOUND: &[u8] = b"\x00\x050\n404";
const NOT_ACCEPTABLE: &[u8] = b"\x00\x050\n406";

/// A public key that nothing is wrong with.
const KEY: &str = "AQAAAAAAAAA=";

/// A gateway, and a session that should feel nothing of what follows.
async fn victim() -> (Gateway, Raw) {
    let gateway = Gateway::start(&scp_to("builtin:echo", "")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("before").await;
    (gateway, client)
}

/// The session's live connection works, and its next index has not been used up.
async fn is_unharmed(gateway: &Gateway, client: &mut Raw) {
    client.echo("still here").await;
    client.resume(gateway.addr()).await;
    client.echo("and back").await;
}

/// The text of a request with another line in the place of one.
fn with_line(text: &str, at: usize, line: impl ToString) -> String {
    let mut lines: Vec<_> = text.split('\n').map(str::to_owned).collect();
    lines[at] = line.to_string();
    lines.join("\n")
}

#[tokio::test]
async fn malformed_requests_get_400() {
    let (gateway, mut client) = victim().await;
    let good = client.request(1, client.received);
    let mut requests: Vec<Vec<u8>> = [
        "",
        "\n",
        "0",
        "0\n",
        "0\n\n",
        "hello",
        "-1\n1\n0\nAAAAAAAAAAA=",
        "+1\n1\n0\nAAAAAAAAAAA=",
        "4294967296\n1\n0\nAAAAAAAAAAA=",
        "99999999999999999999999\n1\n0\nAAAAAAAAAAA=",
        " 1\n1\n0\nAAAAAAAAAAA=",
        // Keys: no base64, the wrong alphabet, the wrong size, zero.
        "0\n!!!!",
        "0\n-_8AAAAAAAA=",
        "0\nAQAAAAAAAA==",
        "0\nAQ==",
        "0\nAAAAAAAAAAA=",
        "0\nAAAAAAAAAAA=\nlobby\n0",
        // Flags.
        "0\nAQAAAAAAAAA=\n\nx",
        "0\nAQAAAAAAAAA=\n\n-1",
        "0\nAQAAAAAAAAA=\n\n4294967296",
    ]
    .map(|text| text.as_bytes().to_vec())
    .into();
    // Resumes: too few lines, too many, no numbers, no hmac.
    let lines: Vec<&str> = good.split('\n').collect();
    for count in 1..4 {
        requests.push(lines[..count].join("\n").into());
    }
    requests.push(format!("{good}\n\n").into());
    requests.push(format!("{good}\nmore").into());
    for at in 1..3 {
        for wrong in ["", "x", "-1", "4294967296", "1 "] {
            requests.push(with_line(&good, at, wrong).into());
        }
    }
    for wrong in ["", "x", "AAAA", "AAAAAAAAAAAA", "AAAAAAAAAAAAAAAA"] {
        requests.push(with_line(&good, 3, wrong).into());
    }
    requests.push(vec![0; 100]);
    requests.push(vec![0xff; 4096]);
    requests.push([good.as_bytes(), &[0x80]].concat());
    for request in &requests {
        let shown = String::from_utf8_lossy(request);
        assert_eq!(
            ask(gateway.addr(), record(request)).await,
            MALFORMED,
            "{shown:?}"
        );
    }
    let failed = gateway
        .log()
        .nth("handshake failed", requests.len() - 1)
        .await;
    assert_eq!(failed["reason"], "malformed", "{failed}");
    is_unharmed(&gateway, &mut client).await;
}

#[tokio::test]
async fn garbage_is_refused() {
    let (gateway, mut client) = victim().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"[..],
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        &[0xff; 100_000],
    ] {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        socket.write_all(garbage).await.unwrap();
        let mut answer = vec![0; MALFORMED.len()];
        let reading = socket.read_exact(&mut answer);
        soon("an answer", reading).await.unwrap();
        assert_eq!(answer, MALFORMED);
    }
    is_unharmed(&gateway, &mut client).await;
}

#[tokio::test]
async fn a_record_beyond_a_handshake_is_refused_before_it_is_read() {
    let (gateway, mut client) = victim().await;
    for size in [4097u16, 10_000, u16::MAX] {
        // Nothing follows the size.
        assert_eq!(ask(gateway.addr(), size.to_be_bytes()).await, MALFORMED);
    }
    // The longest that is none, and no more than that.
    let long = format!("0\n{KEY}\n{}", "x".repeat(4096 - 3 - KEY.len()));
    assert_eq!(long.len(), 4096);
    let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
    socket.write_all(&record(&long)).await.unwrap();
    let answer = soon("an answer", read_record(&mut socket)).await;
    assert!(!answer.starts_with(b"0\n"), "{answer:?}");
    is_unharmed(&gateway, &mut client).await;
}

#[tokio::test]
async fn a_slow_handshake_runs_out_of_time() {
    let config = scp_to("builtin:echo", "scp: {handshake_timeout: 400ms}");
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("before").await;
    let hello = record(format!("0\n{KEY}\nlobby\n0"));
    // Silent; in the size; in the text; drop by drop.
    for (count, sent) in [0, 1, 2, hello.len() - 1].into_iter().enumerate() {
        let started = Instant::now();
        let answer = ask(gateway.addr(), &hello[..sent]).await;
        assert_eq!(answer, b"");
        assert!(started.elapsed() >= Duration::from_millis(400));
        let failed = gateway.log().nth("handshake failed", count).await;
        assert_eq!(failed["reason"], "timeout", "{failed}");
    }
    let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
    let mut drops = tokio::time::interval(Duration::from_millis(50));
    let dripping = async {
        let mut answer = [0; 64];
        for byte in &hello[..hello.len() - 1] {
            tokio::select! {
                read = socket.read(&mut answer) => return read.unwrap_or(0),
                _ = drops.tick() => {}
            }
            if socket.write_all(&[*byte]).await.is_err() {
                return 0;
            }
        }
        panic!("it had time for {} bytes", hello.len() - 1);
    };
    assert_eq!(soon("the end of a slow handshake", dripping).await, 0);
    let failed = gateway.log().nth("handshake failed", 4).await;
    assert_eq!(failed["reason"], "timeout", "{failed}");
    is_unharmed(&gateway, &mut client).await;
}

#[tokio::test]
async fn truncated_records_get_no_answer() {
    let (gateway, mut client) = victim().await;
    let requests = [
        record(format!("0\n{KEY}\nlobby\n0")),
        record(client.request(1, client.received)),
    ];
    let mut count = 0;
    for request in requests {
        for len in 1..request.len() {
            let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
            socket.write_all(&request[..len]).await.unwrap();
            socket.shutdown().await.unwrap();
            assert_eq!(read_to_end(&mut socket).await, b"", "{len} bytes");
            let failed = gateway.log().nth("handshake failed", count).await;
            assert_eq!(failed["reason"], "connection", "{failed}");
            count += 1;
        }
    }
    is_unharmed(&gateway, &mut client).await;
}

#[tokio::test]
async fn a_resume_that_is_not_the_owners_is_refused() {
    let (gateway, mut client) = victim().await;
    let mut thief = Raw::connect(gateway.addr()).await;
    thief.echo("mine").await;
    let good = client.request(1, client.received);
    // No such session: the id of nobody, and the one an attacker would count to.
    for id in [1, client.id ^ 1, client.id.wrapping_add(1), u32::MAX] {
        assert!(id != thief.id && id != 0);
        let text = with_line(&good, 0, id);
        assert_eq!(ask(gateway.addr(), record(text)).await, NOT_FOUND, "{id}");
    }
    // Somebody else's id, with the thief's signature of it.
    let own = std::mem::replace(&mut thief.id, client.id);
    let stolen = thief.request(1, 0);
    thief.id = own;
    let wrong = [
        stolen,
        with_line(&good, 3, "AAAAAAAAAAA="),
        // Signed, but not for that.
        with_line(&good, 1, 2),
        with_line(&good, 1, "01"),
        with_line(&good, 2, 5),
    ];
    for text in wrong {
        assert_eq!(
            ask(gateway.addr(), record(&text)).await,
            UNAUTHORIZED,
            "{text}"
        );
    }
    is_unharmed(&gateway, &mut client).await;
    is_unharmed(&gateway, &mut thief).await;
}

#[tokio::test]
async fn an_index_counts_once() {
    let (gateway, mut client) = victim().await;
    // None has been used, but 0 is none.
    let zero = record(client.request(0, client.received));
    assert_eq!(ask(gateway.addr(), zero).await, USED);
    is_unharmed(&gateway, &mut client).await;
    let first = record(client.request(1, client.received));
    // Gaps are fine.
    client.index = 9;
    client.resume(gateway.addr()).await;
    client.echo("tenth").await;
    for index in [1, 9, 10] {
        let used = record(client.request(index, client.received));
        assert_eq!(ask(gateway.addr(), used).await, USED, "{index}");
    }
    // Recorded on the wire and played again.
    assert_eq!(ask(gateway.addr(), &first).await, USED);
    is_unharmed(&gateway, &mut client).await;
    // The last one there is.
    client.index = u32::MAX - 1;
    client.resume(gateway.addr()).await;
    client.echo("last").await;
    let wrapped = record(client.request(0, client.received));
    assert_eq!(ask(gateway.addr(), wrapped).await, USED);
    client.echo("still here").await;
}

#[tokio::test]
async fn a_replayed_resume_is_refused_while_its_session_lives_on() {
    let (gateway, mut client) = victim().await;
    for round in 1..=3 {
        let request = record(client.request(round, client.received));
        client.resume(gateway.addr()).await;
        assert_eq!(ask(gateway.addr(), &request).await, USED);
        client.echo("still here").await;
        client.leave(Cut::Reset);
        assert_eq!(ask(gateway.addr(), &request).await, USED, "while away");
    }
    client.resume(gateway.addr()).await;
    client.echo("and back").await;
}

#[tokio::test]
async fn what_cannot_be_sent_again_gets_406() {
    let config = scp_to("builtin:echo", "scp: {replay_buffer: 4KiB}");
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::connect(gateway.addr()).await;
    // Ahead of all that was sent.
    for received in [1, 1000, 1 << 31] {
        let ahead = record(client.request(1, received));
        assert_eq!(
            ask(gateway.addr(), ahead).await,
            NOT_ACCEPTABLE,
            "{received}"
        );
    }
    for _ in 0..20 {
        client.echo(&"x".repeat(1000)).await;
    }
    let sent = client.received;
    assert_eq!(sent, 20_000);
    for received in [sent + 1, sent - 4097, 0, u64::from(u32::MAX)] {
        let refused = record(client.request(1, received));
        assert_eq!(
            ask(gateway.addr(), refused).await,
            NOT_ACCEPTABLE,
            "{received}"
        );
    }
    is_unharmed(&gateway, &mut client).await;
    // The oldest that it does have.
    let text = client.request(2, client.received - 4096);
    let (mut socket, answer) = client.ask(gateway.addr(), &text).await;
    assert_eq!(
        (answer.code, u64::from(answer.received)),
        (Code::Ok, client.sent())
    );
    let again = read(&mut socket, 4096).await;
    assert_eq!(again.len(), 4096);
    // It was 403 before it would be 406, and 401 before that, and 404 first of all.
    let used = record(client.request(2, 0));
    assert_eq!(ask(gateway.addr(), used).await, USED);
    let text = with_line(&client.request(2, 0), 3, "AAAAAAAAAAA=");
    assert_eq!(ask(gateway.addr(), record(&text)).await, UNAUTHORIZED);
    let text = with_line(&text, 0, client.id ^ 1);
    assert_eq!(ask(gateway.addr(), record(text)).await, NOT_FOUND);
}

/// Sends all requests at the same moment, from as many tasks. An answer is empty where the
/// connection was closed instead.
async fn at_once(addr: SocketAddr, requests: Vec<Vec<u8>>) -> Vec<(TcpStream, Vec<u8>)> {
    let barrier = std::sync::Arc::new(Barrier::new(requests.len()));
    let asking = requests.into_iter().map(|request| {
        let barrier = barrier.clone();
        tokio::spawn(async move {
            let mut socket = TcpStream::connect(addr).await.unwrap();
            barrier.wait().await;
            socket.write_all(&request).await.unwrap();
            let answer = soon("an answer", async {
                match socket.peek(&mut [0]).await {
                    Ok(1) => read_record(&mut socket).await,
                    _ => Vec::new(),
                }
            });
            let answer = answer.await;
            (socket, answer)
        })
    });
    let mut answers = Vec::new();
    for asked in asking.collect::<Vec<_>>() {
        answers.push(asked.await.unwrap());
    }
    answers
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_resumes_with_one_index_one_is_accepted() {
    let (gateway, mut client) = victim().await;
    for round in 1..=30 {
        // Between two of them something is under way.
        client.send(b"under way").await;
        let request = record(client.request(round, client.received));
        let answers = at_once(gateway.addr(), vec![request; 4]).await;
        let (mut accepted, refused): (Vec<_>, Vec<_>) = answers
            .into_iter()
            .partition(|(_, answer)| answer != b"0\n403");
        assert_eq!((accepted.len(), refused.len()), (1, 3));
        let (socket, answer) = accepted.pop().unwrap();
        let expected = format!("{}\n200", client.sent());
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
        client.adopt(socket, round);
        assert_eq!(client.receive(9).await, b"under way");
        client.echo("back").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_resumes_with_different_indexes_the_higher_stays() {
    let (gateway, mut client) = victim().await;
    for round in 0..30 {
        client.send(b"under way").await;
        let (low, high) = (round * 2 + 1, round * 2 + 2);
        let requests = [low, high].map(|index| record(client.request(index, client.received)));
        let mut answers = at_once(gateway.addr(), requests.into()).await;
        let accepted = format!("{}\n200", client.sent()).into_bytes();
        let (socket, answer) = answers.pop().unwrap();
        assert_eq!(answer, accepted);
        // Accepted too early, too late, or replaced before it was answered.
        let (_lower, answer) = answers.pop().unwrap();
        let told = [&accepted[..], b"0\n403", b""];
        assert!(told.contains(&&answer[..]), "{answer:?}");
        client.adopt(socket, high);
        assert_eq!(client.receive(9).await, b"under way");
        client.echo("back").await;
    }
}

/// A session whose server cannot be had ends, and says why.
async fn ends_for_want_of_a_server(gateway: &Gateway, detail: &str) {
    let mut client = Raw::connect(gateway.addr()).await;
    assert_eq!(client.receive_to_end().await, b"");
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "connect_failed", "{closed}");
    assert!(
        closed["detail"].as_str().unwrap().contains(detail),
        "{closed}"
    );
    client.is_forgotten(gateway.addr()).await;
}

#[tokio::test]
async fn a_server_that_refuses_ends_the_session() {
    let gateway = Gateway::start(&scp_to(dead_addr().await, "")).await;
    ends_for_want_of_a_server(&gateway, "refused").await;
}

#[tokio::test]
async fn a_server_that_hangs_ends_the_session_in_time() {
    // Nobody accepts, and the queue is full.
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let listener = socket.listen(0).unwrap();
    let addr = listener.local_addr().unwrap();
    let _waiting = TcpStream::connect(addr).await.unwrap();
    let config = scp_to(addr, "upstream: {connect_timeout: 300ms}");
    let gateway = Gateway::start(&config).await;
    ends_for_want_of_a_server(&gateway, "no connection").await;
    // A client that leaves and comes back meanwhile is told the same.
    let config = scp_to(addr, "upstream: {connect_timeout: 2s}");
    let gateway = Gateway::start(&config).await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.leave(Cut::Reset);
    client.resume(gateway.addr()).await;
    assert_eq!(client.receive_to_end().await, b"");
    client.leave(Cut::Close);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "connect_failed", "{closed}");
}

#[tokio::test]
async fn a_server_that_closes_at_once_ends_the_session() {
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "")).await;
    for cut in [Cut::Close, Cut::Reset] {
        let mut client = Raw::open(gateway.addr(), Dialect::Current, "\nlobby").await;
        let connection = server.accept().await;
        let reasons: &[&str] = match cut {
            Cut::Close => &["upstream_closed"],
            Cut::Reset => {
                let options = socket2::SockRef::from(&connection);
                options.set_linger(Some(Duration::ZERO)).unwrap();
                // Whether it was ever connected is a matter of the moment.
                &["upstream_failed", "connect_failed"]
            }
        };
        drop(connection);
        assert_eq!(client.receive_to_end().await, b"");
        client.leave(Cut::Close);
        let closed = gateway.log().of(client.id, "session closed").await;
        assert!(
            reasons.contains(&closed["reason"].as_str().unwrap()),
            "{closed}"
        );
        client.is_forgotten(gateway.addr()).await;
    }
}

#[tokio::test]
async fn a_key_that_is_zero_mod_p_is_as_bad_as_zero() {
    let (gateway, mut client) = victim().await;
    // p in little-endian bytes.
    let request = record("0\nxf////////8=");
    assert_eq!(ask(gateway.addr(), request).await, MALFORMED);
    is_unharmed(&gateway, &mut client).await;
}
