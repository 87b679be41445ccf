//! Who does not keep to the protocol is dropped, and nobody else notices.

use bytes::Bytes;
use serde_json::Value;
use stablegate::client::fastway::{Connection, Endpoint, Error, Version};
use stablegate::internal::proto::fastway::{Command, auth, data};
use tokio::io::AsyncWriteExt;

use super::rig::{self, Raw, client, clients, config, connect, passes, server, servers};
use crate::common::{Gateway, soon};

/// A client and a server that behave.
struct Bystanders {
    _ends: (Endpoint, Endpoint),
    a: Connection,
    b: Connection,
}

impl Bystanders {
    async fn new(gateway: &Gateway) -> Self {
        let server = server(gateway, Version::V3, 9).await;
        let client = client(gateway, Version::V3).await;
        let (a, b) = connect(&client, &server, 9).await;
        Self {
            _ends: (client, server),
            a,
            b,
        }
    }

    async fn notice_nothing(&self) {
        passes(&self.a, &self.b, "undisturbed").await;
        passes(&self.b, &self.a, "undisturbed").await;
    }
}

/// Why the endpoint with this address was dropped.
async fn reason(gateway: &Gateway, raw: &Raw) -> (String, String) {
    let local = raw.0.local_addr().unwrap().to_string();
    let fits =
        |line: &Value| line["message"] == "endpoint left" && line["client"] == local.as_str();
    let line = gateway.log().wait("why it was dropped", fits).await;
    let text = |key: &str| line[key].as_str().unwrap().to_owned();
    (text("reason"), text("detail"))
}

#[tokio::test]
async fn of_every_kind() {
    let gateway = Gateway::start(&config(", max_packet: 1KiB")).await;
    let bystanders = Bystanders::new(&gateway).await;
    let conn = bystanders.a.id();
    let say = |version, command: Command| command.encode(version).unwrap().to_vec();
    let not_its_own = format!("virtual connection {conn} is not its own");
    let (v1, v2, v3) = (Version::V1, Version::V2, Version::V3);
    let cases = [
        (
            vec![0, 0, 0, 0],
            "a frame of length 0, which leaves no room for a connection id",
        ),
        (
            vec![3, 0, 0, 0, 1, 1, 1],
            "a frame of length 3, which leaves no room for a connection id",
        ),
        (vec![1, 4, 0, 0], "a frame of length 1025, more than 1024"),
        (vec![255; 4], "a frame of length 4294967295, more than 1024"),
        (data(0, b"").to_vec(), "a command without a type"),
        (data(0, b"\x07").to_vec(), "unknown command 7"),
        (
            data(0, b"\x00\x01\x00").to_vec(),
            "command 0 lacks arguments",
        ),
        (data(0, b"\x00\x01\x00\x00\x00\x06").to_vec(), ""),
        (data(0, b"\x05\x01\x00").to_vec(), ""),
        (data(conn, b"mine").to_vec(), &*not_its_own),
        (data(conn, b"").to_vec(), &*not_its_own),
        (say(v1, Command::Close { conn }), &*not_its_own),
        (say(v3, Command::Close { conn }), &*not_its_own),
        (say(v1, Command::Dial { conn, remote: 9 }), &*not_its_own),
        (
            say(
                v1,
                Command::Dial {
                    conn: 500,
                    remote: 9,
                },
            ),
            "virtual connection 500 is not its own",
        ),
        (
            say(v1, Command::New).repeat(1025),
            "too many connections opened and not dialled",
        ),
        (
            [
                say(v2, Command::Ping),
                data(0, b"\x01\x01\0\0\0\x01\0\0\0").to_vec(),
            ]
            .concat(),
            "a Accept command, which this side never sends",
        ),
        (
            [say(v3, Command::Ping), data(0, b"\x04\x01").to_vec()].concat(),
            "command 4 lacks arguments",
        ),
    ];
    for (bytes, detail) in cases {
        let mut offender = Raw::client(clients(&gateway, v3)).await;
        if detail.is_empty() {
            // No offence: more than enough arguments, and a ping with some.
            offender.send(&bytes).await;
            offender.frame().await;
            continue;
        }
        // Byte by byte, and more behind it.
        for byte in bytes.chunks(1 + bytes.len() / 64) {
            // It may have had enough by then.
            let _ = offender.0.write_all(byte).await;
        }
        let _ = offender.0.write_all(&[0; 100]).await;
        offender.is_closed().await;
        let expected = ("protocol_error".to_owned(), detail.to_owned());
        assert_eq!(reason(&gateway, &offender).await, expected);
        bystanders.notice_nothing().await;
    }
    // A server can do no more.
    let mut offender = Raw::server(servers(&gateway, v2), 77).await;
    offender.send(&data(conn, b"mine")).await;
    offender.is_closed().await;
    assert_eq!(reason(&gateway, &offender).await.1, not_its_own);
    bystanders.notice_nothing().await;
}

#[tokio::test]
async fn data_for_nobody_is_answered_with_a_close() {
    let gateway = Gateway::start(&config("")).await;
    for version in Version::ALL {
        let mut server = Raw::server(servers(&gateway, version), 9).await;
        server.send_data(4000, b"anybody?").await;
        server.hears(version, Command::Close { conn: 4000 }).await;
        // And a close of nothing with nothing.
        server.say(version, Command::Close { conn: 4000 }).await;
        server.send_data(4001, b"").await;
        server.hears(version, Command::Close { conn: 4001 }).await;
    }
}

#[tokio::test]
async fn servers_without_the_key() {
    let gateway = Gateway::start(&config(", auth_timeout: 300ms")).await;
    let bystanders = Bystanders::new(&gateway).await;
    let addr = servers(&gateway, Version::V3);
    let mut liar = Raw::client(addr).await;
    let challenge = liar.read(8).await.try_into().unwrap();
    liar.send(&auth::answer(&challenge, b"sesam", 9)).await;
    liar.is_closed().await;
    assert_eq!(reason(&gateway, &liar).await.0, "unauthorized");
    let mut slow = Raw::client(addr).await;
    slow.send(&[0; 19]).await;
    slow.is_closed().await;
    assert_eq!(reason(&gateway, &slow).await.0, "timeout");
    // The id of the one who was there is still its own.
    bystanders.notice_nothing().await;
    let endpoint = Endpoint::server(
        rig::tcp(addr).await,
        10,
        b"wrong",
        rig::options(Version::V3),
    );
    let endpoint = endpoint.await.unwrap();
    soon("the end", endpoint.closed()).await;
}

#[tokio::test]
async fn a_slow_reader_is_cut() {
    let gateway = Gateway::start(&config(", client_queue: 16")).await;
    let bystanders = Bystanders::new(&gateway).await;
    let server = server(&gateway, Version::V3, 10).await;
    let mut slow = Raw::narrow(clients(&gateway, Version::V3)).await;
    slow.say(
        Version::V3,
        Command::Dial {
            conn: 0,
            remote: 10,
        },
    )
    .await;
    let to_slow = soon("a dial", server.accept()).await.unwrap();
    let other = client(&gateway, Version::V2).await;
    let (near, far) = connect(&other, &server, 10).await;
    // Neither the bystanders nor those who share its server wait for it.
    let message = Bytes::from(vec![7; 32 * 1024]);
    let flooding = async {
        loop {
            if let Err(end) = to_slow.send(message.clone()).await {
                return end;
            }
            passes(&far, &near, "in time").await;
            bystanders.notice_nothing().await;
        }
    };
    assert_eq!(soon("the slow one's end", flooding).await, Error::Closed);
    let left = reason(&gateway, &slow).await;
    assert_eq!(
        (&*left.0, &*left.1),
        ("slow_reader", "more than 16 frames wait for it")
    );
    passes(&near, &far, "still here").await;
    bystanders.notice_nothing().await;
    slow.is_closed().await;
}

#[tokio::test]
async fn a_burst_is_no_slow_reader() {
    const FRAMES: u32 = 1500;
    let gateway = Gateway::start(&config("")).await;
    let (v3, remote) = (Version::V3, 1);
    let mut client = Raw::client(clients(&gateway, v3)).await;
    let local = client.0.local_addr().unwrap().to_string();
    assert_eq!(rig::joined(&gateway, &local).await, remote);
    let mut server = Raw::server(servers(&gateway, v3), 9).await;
    let times = |of: &dyn Fn(u32) -> Bytes| (1..=FRAMES).map(of).collect::<Vec<_>>().concat();
    // Each in one write: many connections, data on one of them, and the end of all.
    let dial = Command::Dial { conn: 0, remote };
    server.send(&times(&|_| dial.encode(v3).unwrap())).await;
    for conn in 1..=FRAMES {
        client.hears(v3, Command::Connect { conn, remote: 9 }).await;
    }
    server.send(&times(&|_| data(1, &[7; 20]))).await;
    for _ in 0..FRAMES {
        assert_eq!(client.frame().await, data(1, &[7; 20]));
    }
    let close = |conn| Command::Close { conn }.encode(v3).unwrap();
    server.send(&times(&close)).await;
    for conn in 1..=FRAMES {
        client.hears(v3, Command::Close { conn }).await;
    }
}

#[tokio::test]
async fn draining_ends_with_the_last_connection() {
    let mut gateway = Gateway::start(&config("")).await;
    let server = server(&gateway, Version::V3, 9).await;
    let client = client(&gateway, Version::V3).await;
    let (a, b) = connect(&client, &server, 9).await;
    let idle = super::rig::server(&gateway, Version::V2, 10).await;
    gateway.signal(libc::SIGTERM);
    // Who has no connection goes first.
    soon("the end of one who idles", idle.closed()).await;
    passes(&a, &b, "to the end").await;
    let refused = soon("an answer", client.dial(9)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    a.close();
    soon("the end", client.closed()).await;
    soon("the end", server.closed()).await;
    assert!(soon("the exit", gateway.exited()).await.success());
    drop(b);
}

#[tokio::test]
async fn draining_delivers_what_was_sent() {
    const MESSAGES: usize = 400;
    let mut gateway = Gateway::start(&config(", client_queue_bytes: 16MiB")).await;
    let server = server(&gateway, Version::V3, 9).await;
    let mut slow = Raw::narrow(clients(&gateway, Version::V3)).await;
    let (conn, remote) = (0, 9);
    slow.say(Version::V3, Command::Dial { conn, remote }).await;
    let to_slow = soon("a dial", server.accept()).await.unwrap();
    let message = Bytes::from(vec![7; 20_000]);
    for _ in 0..MESSAGES {
        soon("room", to_slow.send(message.clone())).await.unwrap();
    }
    to_slow.close();
    // Once this is answered the gateway has all of it.
    let refused = soon("an answer", server.dial(4000)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    gateway.signal(libc::SIGTERM);
    soon("the server's end", server.closed()).await;
    let conn = to_slow.id();
    slow.hears(Version::V3, Command::Accept { conn, remote })
        .await;
    for _ in 0..MESSAGES {
        assert_eq!(slow.frame().await[8..], message);
    }
    slow.hears(Version::V3, Command::Close { conn }).await;
    slow.is_closed().await;
    drop(slow);
    assert!(soon("the exit", gateway.exited()).await.success());
}
