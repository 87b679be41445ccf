//! Every version with every other.

use bytes::Bytes;
use stablegate::client::fastway::{Connection, Endpoint, Error, Version};

use super::rig::{self, client, config, connect, passes, server};
use crate::common::{Gateway, soon};

/// All pairs of versions, with a server's id for each.
fn pairs() -> impl Iterator<Item = (Version, Version, u32)> {
    let pairs = Version::ALL
        .into_iter()
        .flat_map(|of_client| Version::ALL.map(|of_server| (of_client, of_server)));
    pairs.zip(10..).map(|((c, s), id)| (c, s, id))
}

async fn closed(connection: &Connection) -> Error {
    soon("the end of a connection", connection.receive())
        .await
        .unwrap_err()
}

/// Reaches the client of a version: it must have spoken for v1 to be known.
async fn pair(gateway: &Gateway, versions: (Version, Version, u32)) -> (Endpoint, Endpoint, u32) {
    let (of_client, of_server, id) = versions;
    let server = server(gateway, of_server, id).await;
    let client = client(gateway, of_client).await;
    let (dialled, accepted) = connect(&client, &server, id).await;
    assert_eq!(dialled.remote(), id);
    passes(&dialled, &accepted, "to the server").await;
    passes(&accepted, &dialled, "to the client").await;
    let client_id = accepted.remote();
    (client, server, client_id)
}

#[tokio::test]
async fn dialled_from_either_end_and_closed_from_either_end() {
    let gateway = Gateway::start(&config("")).await;
    for versions in pairs() {
        let (client, server, client_id) = pair(&gateway, versions).await;
        let ends = [
            (&client, &server, versions.2),
            (&server, &client, client_id),
        ];
        for (from, to, id) in ends {
            for closing in 0..2 {
                let (a, b) = connect(from, to, id).await;
                passes(&a, &b, "one").await;
                passes(&b, &a, "two").await;
                let last = "said before the end";
                let (closer, other) = if closing == 0 { (a, b) } else { (b, a) };
                closer.send(last).await.unwrap();
                closer.close();
                assert_eq!(soon("it", other.receive()).await, Ok(Bytes::from(last)));
                assert_eq!(closed(&other).await, Error::Closed);
                assert_eq!(closed(&closer).await, Error::Closed);
                assert_eq!(other.send("late").await, Err(Error::Closed));
            }
        }
    }
}

#[tokio::test]
async fn refused() {
    let gateway = Gateway::start(&config("")).await;
    for versions in pairs() {
        let (client, server, client_id) = pair(&gateway, versions).await;
        for endpoint in [&client, &server] {
            let refused = soon("an answer", endpoint.dial(4000)).await;
            assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
        }
        // Answers find the dials they belong to.
        let (a, b, c) = tokio::join!(
            client.dial(versions.2),
            client.dial(4000),
            client.dial(versions.2)
        );
        assert_eq!(b.map(|c| c.id()), Err(Error::Refused));
        let accepted = [
            server.accept().await.unwrap(),
            server.accept().await.unwrap(),
        ];
        let ids = accepted.each_ref().map(Connection::id);
        assert_eq!([a.unwrap().id(), c.unwrap().id()], ids);
        assert!(accepted.iter().all(|c| c.remote() == client_id));
    }
}

#[tokio::test]
async fn a_lost_end_closes_its_connections() {
    let gateway = Gateway::start(&config("")).await;
    for versions in pairs() {
        for lost in 0..2 {
            let (client, server, client_id) = pair(&gateway, versions).await;
            let one = connect(&client, &server, versions.2).await;
            let two = connect(&server, &client, client_id).await;
            let (gone, left) = if lost == 0 {
                (client, [one.1, two.0])
            } else {
                (server, [one.0, two.1])
            };
            gone.close();
            for connection in left {
                assert_eq!(closed(&connection).await, Error::Closed);
            }
            assert_eq!(soon("its end", gone.closed()).await, Error::Closed);
        }
    }
}

#[tokio::test]
async fn a_server_that_connects_again_replaces_itself() {
    let gateway = Gateway::start(&config("")).await;
    let old = server(&gateway, Version::V2, 9).await;
    let client = client(&gateway, Version::V3).await;
    let (connection, other) = connect(&client, &old, 9).await;
    let new = server(&gateway, Version::V1, 9).await;
    soon("the end of the old one", old.closed()).await;
    closed(&other).await;
    assert_eq!(closed(&connection).await, Error::Closed);
    let (a, b) = connect(&client, &new, 9).await;
    passes(&a, &b, "hello").await;
    let fits = |line: &serde_json::Value| line["reason"] == "replaced";
    gateway.log().wait("why the old one ended", fits).await;
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let gateway = Gateway::start(&config(", max_virtual_connections: 3")).await;
    let server = server(&gateway, Version::V3, 9).await;
    for version in Version::ALL {
        let client = client(&gateway, version).await;
        let mut connections = Vec::new();
        for _ in 0..3 {
            connections.push(connect(&client, &server, 9).await);
        }
        let refused = soon("an answer", client.dial(9)).await;
        assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
        // A server may.
        let id = connections[0].1.remote();
        let more = connect(&server, &client, id).await;
        passes(&more.0, &more.1, "more").await;
        for (near, far) in connections.drain(..2).chain([more]) {
            near.close();
            closed(&far).await;
            closed(&near).await;
        }
        connect(&client, &server, 9).await;
    }
}

#[tokio::test]
async fn endpoints_that_say_nothing_are_kept_by_pings() {
    let gateway = Gateway::start(&config(", idle: 500ms")).await;
    let mut silent = Vec::new();
    for (at, version) in Version::ALL.into_iter().enumerate() {
        let options = stablegate::client::fastway::Options {
            ping: std::time::Duration::from_millis(100),
            ..rig::options(version)
        };
        let stream = rig::tcp(rig::servers(&gateway, version)).await;
        let id = at as u32 + 1;
        let server = Endpoint::server(stream, id, b"sesame", options.clone())
            .await
            .unwrap();
        let stream = rig::tcp(rig::clients(&gateway, version)).await;
        let client = Endpoint::client(stream, options);
        let refused = soon("an answer", client.dial(4000)).await;
        assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
        silent.extend([client, server]);
    }
    // One that does not answer is gone after two intervals, and says how long that is.
    let mut dead = rig::Raw::server(rig::servers(&gateway, Version::V2), 99).await;
    dead.hears(
        Version::V2,
        stablegate::internal::proto::fastway::Command::Ping,
    )
    .await;
    dead.is_closed().await;
    let mut dead = rig::Raw::server(rig::servers(&gateway, Version::V3), 98).await;
    dead.is_closed().await;
    for endpoint in &silent {
        let refused = soon("an answer", endpoint.dial(4000)).await;
        assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    }
}

#[tokio::test]
async fn messages_of_every_size() {
    let gateway = Gateway::start(&config(", max_packet: 64KiB")).await;
    let server = server(&gateway, Version::V3, 9).await;
    let options = stablegate::client::fastway::Options {
        max_packet: 64 * 1024,
        ..rig::options(Version::V3)
    };
    let stream = rig::tcp(rig::clients(&gateway, Version::V3)).await;
    let client = Endpoint::client(stream, options);
    let (a, b) = connect(&client, &server, 9).await;
    let longest = 64 * 1024 - 4;
    for len in [1, 2, 1023, 1024, 1025, 16 * 1024, longest - 1, longest] {
        let message = Bytes::from(vec![len as u8; len]);
        a.send(message.clone()).await.unwrap();
        assert_eq!(soon("a message", b.receive()).await, Ok(message));
    }
    assert_eq!(a.send(Bytes::new()).await, Err(Error::Empty));
    let (len, max) = (longest + 1, longest);
    let refused = a.send(vec![0; len]).await;
    assert_eq!(refused, Err(Error::TooLong { len, max }));
    passes(&a, &b, "still there").await;
}

#[tokio::test]
async fn one_who_does_not_receive_holds_up_nobody_else() {
    let gateway = Gateway::start(&config("")).await;
    let server = server(&gateway, Version::V3, 9).await;
    let options = stablegate::client::fastway::Options {
        receive_queue: 3,
        ..rig::options(Version::V3)
    };
    let stream = rig::tcp(rig::clients(&gateway, Version::V3)).await;
    let client = Endpoint::client(stream, options);
    let (full, to_full) = connect(&client, &server, 9).await;
    let (other, to_other) = connect(&client, &server, 9).await;
    for n in 0..4u8 {
        to_full.send(vec![n + 1]).await.unwrap();
    }
    passes(&to_other, &other, "beside").await;
    assert_eq!(closed(&to_full).await, Error::Closed);
    for n in 0..3u8 {
        assert_eq!(full.receive().await, Ok(Bytes::from(vec![n + 1])));
    }
    assert_eq!(closed(&full).await, Error::Overflow);
}

#[tokio::test]
async fn dropping_the_handles_closes() {
    let gateway = Gateway::start(&config("")).await;
    let server = server(&gateway, Version::V3, 9).await;
    let client = client(&gateway, Version::V3).await;
    let (a, b) = connect(&client, &server, 9).await;
    let clone = a.clone();
    drop(a);
    passes(&clone, &b, "a clone is the same").await;
    clone.send("bye").await.unwrap();
    drop(clone);
    assert_eq!(b.receive().await, Ok(Bytes::from("bye")));
    assert_eq!(closed(&b).await, Error::Closed);
    // A connection keeps its endpoint; one that waits to be accepted does not.
    let (a, b) = connect(&client, &server, 9).await;
    let _waiting = soon("an answer", server.dial(b.remote())).await.unwrap();
    drop(client);
    passes(&a, &b, "alone").await;
    drop(a);
    assert_eq!(closed(&b).await, Error::Closed);
    assert_eq!(closed(&_waiting).await, Error::Closed);
}
