//! The recorded sessions, against a running gateway.

use serde_json::Value;
use stablegate::client::fastway::Version;
use stablegate::internal::proto::fastway::auth;

use super::rig::{Raw, clients, config, joined, servers};
use crate::common::{Gateway, unhex};

/// Plays client and server; whatever the gateway says must be what was recorded. Its challenge is
/// another one, so the server's answer is too. And the refusal of v2 was recorded as it was at
/// first, without the id.
async fn replay(gateway: &Gateway, version: Version) {
    let vectors: Value = serde_json::from_str(include_str!("../../vectors/fastway.json")).unwrap();
    let stream = &vectors[format!("v{}", version.number())]["stream"];
    let stream = stream.as_array().unwrap();
    let mut client = Raw::client(clients(gateway, version)).await;
    let local = client.0.local_addr().unwrap().to_string();
    assert_eq!(joined(gateway, &local).await, 1);
    let mut server = Raw(super::rig::tcp(servers(gateway, version)).await);
    let local = server.0.local_addr().unwrap().to_string();
    let challenge = server.read(auth::CHALLENGE_LEN).await.try_into().unwrap();
    server.send(&auth::answer(&challenge, b"sesame", 123)).await;
    assert_eq!(joined(gateway, &local).await, 123);
    for step in &stream[2..] {
        let mut bytes = unhex(step["hex"].as_str().unwrap());
        if version == Version::V2 && bytes == unhex("050000000000000003") {
            bytes = unhex("090000000000000003e7030000");
        }
        let link = match step["link"].as_str().unwrap() {
            "client" => &mut client,
            _ => &mut server,
        };
        if step["from"] == "gateway" {
            let heard = link.read(bytes.len()).await;
            assert_eq!(heard, bytes, "{version:?} {step}");
        } else {
            link.send(&bytes).await;
        }
    }
    // Nothing but the end follows.
    for mut link in [client, server] {
        tokio::io::AsyncWriteExt::shutdown(&mut link.0)
            .await
            .unwrap();
        let mut rest = Vec::new();
        let reading = tokio::io::AsyncReadExt::read_to_end(&mut link.0, &mut rest);
        crate::common::soon("the end", reading).await.unwrap();
        let close = match version {
            Version::V1 => "09000000000000000503000000",
            _ => "09000000000000000402000000",
        };
        // The client's end closes what it still had with the server.
        assert!(rest.is_empty() || rest == unhex(close), "{rest:?}");
    }
}

#[tokio::test]
async fn v1() {
    // At its end the gateway pings, once nobody has said anything for so long.
    let gateway = Gateway::start(&config(", idle: 2s")).await;
    replay(&gateway, Version::V1).await;
}

#[tokio::test]
async fn v2() {
    let gateway = Gateway::start(&config(", idle: 2s")).await;
    replay(&gateway, Version::V2).await;
}

#[tokio::test]
async fn v3() {
    let gateway = Gateway::start(&config("")).await;
    replay(&gateway, Version::V3).await;
}
