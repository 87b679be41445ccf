//! Sessions as they should be: versions, hellos, hooks, timeouts, ends.

use std::net::SocketAddr;

use stablegate::client::Stream;
use stablegate::client::snet::Options;
use stablegate::internal::proto::snet::Version;
use stablegate::internal::proto::snet::message::REFUSED;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::raw::{Raw, VERSIONS, dial, read, read_to_end};
use crate::common::{self, Gateway, Server, echoed, soon};

/// One snet listener called `game` with these settings.
fn config(settings: &str, server: impl std::fmt::Display) -> String {
    format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: snet}}]\n\
         snet: {{{settings}}}\n\
         hosts: [{{name: server, addr: '{server}'}}]\n"
    )
}

pub fn options(addr: SocketAddr, version: Version, encrypt: bool) -> Options {
    Options {
        version,
        encrypt,
        retry: std::time::Duration::from_millis(20),
        ..Options::new(addr.to_string().parse().unwrap())
    }
}

async fn connect(addr: SocketAddr, version: Version) -> Stream {
    let stream = Stream::connect(options(addr, version, true));
    soon("a session", stream).await.unwrap()
}

#[tokio::test]
async fn a_session_goes_on_over_many_connections() {
    for encrypt in [true, false] {
        let settings = format!("encrypt: {encrypt}");
        let gateway = Gateway::start(&config(&settings, "builtin:echo")).await;
        for version in VERSIONS {
            let stream = Stream::connect(options(gateway.addr(), version, encrypt));
            let mut stream = soon("a session", stream).await.unwrap();
            for n in 1..=5 {
                stream.cutter().cut();
                echoed(&mut stream, format!("round {n}").as_bytes()).await;
                assert_eq!(stream.resumes(), n);
            }
            let low = stream.id() as u8;
            assert!(low != 0x00 && low != 0xff);
        }
    }
}

#[tokio::test]
async fn one_version_only() {
    let gateway = Gateway::start(&config("version: 1", "builtin:echo")).await;
    let mut first = Raw::connect(gateway.addr(), Version::V1).await;
    first.resume(gateway.addr()).await;
    first.echo("one").await;
    let gateway = Gateway::start(&config("version: 2", "builtin:echo")).await;
    let mut second = Raw::connect(gateway.addr(), Version::V2).await;
    second.resume(gateway.addr()).await;
    second.echo("two").await;
    let mut socket = dial(gateway.addr(), &[0x01]).await;
    assert_eq!(read_to_end(&mut socket).await, b"");
    let failed = gateway.log().nth("handshake failed", 0).await;
    assert_eq!(failed["reason"], "malformed", "{failed}");
}

/// Version 1 with padding, without, and in pieces. No byte of it is taken for payload.
#[tokio::test]
async fn hellos_of_all_lengths() {
    let gateway = Gateway::start(&config("", "builtin:echo")).await;
    for version in VERSIONS {
        let (bytes, _) = Raw::hello(version);
        let shortest = match version {
            Version::V1 => 16,
            Version::V2 => 9,
        };
        for len in [shortest, bytes.len()] {
            for pieces in [vec![&bytes[..len]], bytes[..len].chunks(1).collect()] {
                let mut socket = dial(gateway.addr(), &[]).await;
                for piece in pieces {
                    socket.write_all(piece).await.unwrap();
                }
                let (_, hello) = Raw::hello(version);
                let mut raw = Raw::answered(socket, hello, version).await;
                raw.echo("\0\0 first").await;
                raw.resume(gateway.addr()).await;
                raw.echo("then").await;
            }
        }
    }
}

#[tokio::test]
async fn hooks_see_an_snet_session() {
    let script = r#"
        function access(session)
          local facts = { session.session, session.transport, session.flags, #session.extra,
                          tostring(session.target), session.first_data }
          if table.concat(facts, ",") ~= "snet,tcp,0,0,nil,let " then
            return false, table.concat(facts, ",")
          end
          return session.id ~= 0
        end
        function select_target() return "echo" end
        function announce(session, target) return session.session .. " " end
        function closed(session)
          gateway.log.info("told of " .. session.session .. " " .. session.reason)
        end
    "#;
    let config = "listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: snet, \
                  hooks: [a], peek: {bytes: 4}}]\n\
                  hosts: [{name: x, addr: 'x:1'}, {name: echo, addr: 'builtin:echo'}]\n\
                  hooks: [{name: a, lua: a.lua}]\n";
    let gateway = Gateway::start_among(&[("a.lua", script)], config).await;
    for version in VERSIONS {
        let mut stream = connect(gateway.addr(), version).await;
        stream.write_all(b"let me in").await.unwrap();
        let mut back = [0; 14];
        let reading = stream.read_exact(&mut back);
        soon("the announcement and the echo", reading)
            .await
            .unwrap();
        assert_eq!(&back, b"snet let me in");
        // Without peeking it would have got further.
        let mut other = connect(gateway.addr(), version).await;
        other.write_all(b"lets see").await.unwrap();
        let end = soon("the end", other.read(&mut back)).await.unwrap();
        assert_eq!(end, 0);
        let closed = gateway.log().of(other.id(), "session closed").await;
        assert_eq!(closed["reason"], "denied", "{closed}");
        assert_eq!(closed["detail"], "denied by hook a: snet,tcp,0,0,nil,lets");
    }
    let told = |line: &serde_json::Value| line.to_string().contains("told of snet denied");
    gateway.log().wait("what closed was told", told).await;
}

/// Whoever does not finish a handshake in time is sent away, at each step of it.
#[tokio::test]
async fn handshakes_that_take_too_long() {
    let gateway = Gateway::start(&config("handshake_timeout: 200ms", "builtin:echo")).await;
    let addr = gateway.addr();
    let mut raw = Raw::connect(addr, Version::V2).await;
    raw.echo("before").await;
    let resume = raw.resume_request();
    let (hello, _) = Raw::hello(Version::V2);
    for (n, (sent, answer)) in [
        (&[][..], 0),
        (&hello[..5], 0),
        (&hello, 24),
        (&resume[..40], 0),
        (&resume, 24),
    ]
    .into_iter()
    .enumerate()
    {
        let mut socket = dial(addr, sent).await;
        assert_eq!(read_to_end(&mut socket).await.len(), answer, "{n}");
        let failed = gateway.log().nth("handshake failed", n).await;
        assert_eq!(failed["reason"], "timeout", "{failed}");
    }
    raw.echo("after").await;
}

#[tokio::test]
async fn a_client_that_does_not_come_back() {
    let gateway = Gateway::start(&config("resume_wait: 200ms", "builtin:echo")).await;
    for version in VERSIONS {
        let mut raw = Raw::connect(gateway.addr(), version).await;
        raw.echo("before").await;
        raw.socket.shutdown().await.unwrap();
        let closed = gateway.log().of(raw.id(), "session closed").await;
        assert_eq!(closed["reason"], "client_gone", "{closed}");
        let mut socket = dial(gateway.addr(), &raw.resume_request()).await;
        let refusal: &[u8] = match version {
            Version::V1 => &[],
            Version::V2 => &REFUSED,
        };
        assert_eq!(read_to_end(&mut socket).await, refusal);
    }
}

/// The server ends the session: the client is told so by the refusal of its resume.
#[tokio::test]
async fn the_end_of_a_session() {
    let server = Server::start().await;
    let gateway = Gateway::start(&config("", server.addr)).await;
    for version in VERSIONS {
        let mut stream = connect(gateway.addr(), version).await;
        let mut connection = server.accept().await;
        connection.write_all(b"bye").await.unwrap();
        drop(connection);
        let mut all = Vec::new();
        soon("the end", stream.read_to_end(&mut all)).await.unwrap();
        assert_eq!(all, b"bye");
        let closed = gateway.log().of(stream.id(), "session closed").await;
        assert_eq!(closed["reason"], "upstream_closed", "{closed}");
    }
}

#[tokio::test]
async fn no_new_sessions_while_draining() {
    let gateway = Gateway::start(&config("", "builtin:echo")).await;
    let mut live = Raw::connect(gateway.addr(), Version::V2).await;
    live.echo("before").await;
    gateway.signal(libc::SIGTERM);
    gateway.log().nth("draining", 0).await;
    let (hello, _) = Raw::hello(Version::V2);
    let mut late = dial(gateway.addr(), &hello).await;
    assert_eq!(read_to_end(&mut late).await, REFUSED);
    live.resume(gateway.addr()).await;
    live.echo("after").await;
}

#[tokio::test]
async fn the_command_connects() {
    let encrypted = Gateway::start(&config("", "builtin:echo")).await;
    let plain = Gateway::start(&config("encrypt: false", "builtin:echo")).await;
    let connects = async |gateway: &Gateway, session: &str| {
        let addr = gateway.addr().to_string();
        let arguments = ["connect", &addr, "--session", session];
        let output = common::run(gateway.directory(), &arguments).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(
            output.stderr.starts_with("connected, session "),
            "{}",
            output.stderr
        );
    };
    // At once, as each listens for a while at its end.
    tokio::join!(
        connects(&encrypted, "snet"),
        connects(&encrypted, "snet,v1"),
        connects(&plain, "snet,plain"),
        connects(&plain, "snet,v1,plain"),
    );
    let addr = encrypted.addr().to_string();
    let arguments = ["connect", &addr, "--session", "snet", "--target", "x"];
    let output = common::run(encrypted.directory(), &arguments).await;
    assert_eq!(output.code, Some(1));
    assert!(output.stderr.contains("--session scp"), "{}", output.stderr);
}

/// What a client without encryption sends is on the wire as it is.
#[tokio::test]
async fn plain_is_plain() {
    let server = Server::start().await;
    let gateway = Gateway::start(&config("encrypt: false", server.addr)).await;
    let mut raw = Raw::connect(gateway.addr(), Version::V2).await;
    let mut connection = server.accept().await;
    raw.socket.write_all(b"as it is").await.unwrap();
    assert_eq!(common::read(&mut connection, 8).await, b"as it is");
    connection.write_all(b"and back").await.unwrap();
    assert_eq!(read(&mut raw.socket, 8).await, b"and back");
}
