//! Sessions as the admin interface shows them.

use std::net::SocketAddr;

use hyper::StatusCode;
use serde_json::{Value, json};
use stablegate::client::{fastway, snet};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::{CONFIG, SCRIPTED};
use crate::common::http::{Answer, delete, get};
use crate::common::{Gateway, Raw, Server, connect, connect_with, echoed, options, soon};

const EVERYTHING: &str = "admin: 127.0.0.1:0
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp}
  - {name: snets, bind: ['tcp://127.0.0.1:0'], session: snet}
  - {name: raw, bind: ['tcp://127.0.0.1:0'], session: plain}
  - {name: players, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}
hosts: [{name: echo, addr: 'builtin:echo'}]
";

async fn list(admin: SocketAddr, query: &str) -> Vec<Value> {
    let page = get(admin, &format!("/sessions{query}")).await.good();
    page["sessions"].as_array().unwrap().clone()
}

/// Asks until the answer is as wanted, for what no line of the log tells.
async fn until(admin: SocketAddr, path: &str, wanted: impl Fn(&Answer) -> bool) -> Answer {
    let asking = async {
        loop {
            let answer = get(admin, path).await;
            if wanted(&answer) {
                return answer;
            }
            tokio::task::yield_now().await;
        }
    };
    soon(path, asking).await
}

#[tokio::test]
async fn sessions_of_all_kinds_are_there() {
    let gateway = Gateway::start(EVERYTHING).await;
    let admin = gateway.admin().await;
    assert_eq!(list(admin, "").await, [] as [Value; 0]);
    let mut scp = connect(gateway.addr()).await;
    echoed(&mut scp, b"one").await;
    let kcp = gateway.addrs("game")[1];
    let kcp = format!("kcp://{kcp}").parse().unwrap();
    let mut over_kcp = connect_with(stablegate::client::scp::Options::new(kcp)).await;
    echoed(&mut over_kcp, b"four").await;
    let address = gateway.addrs("snets")[0].to_string().parse().unwrap();
    let connecting = snet::Stream::connect(snet::Options::new(address));
    let mut snet = soon("a session", connecting).await.unwrap();
    echoed(&mut snet, b"three").await;
    let mut plain = TcpStream::connect(gateway.addrs("raw")[0]).await.unwrap();
    plain.write_all(b"hello").await.unwrap();
    let mut back = [0; 5];
    let reading = tokio::io::AsyncReadExt::read_exact(&mut plain, &mut back);
    soon("the echo", reading).await.unwrap();
    let player = TcpStream::connect(gateway.addrs("players")[0])
        .await
        .unwrap();
    let player = fastway::Endpoint::client(player, fastway::Options::default());
    gateway.log().nth("endpoint joined", 0).await;

    until(admin, "/sessions?listener=raw", |answer| {
        answer.json()["sessions"][0]["sent_bytes"] == 5
    })
    .await;
    let all = list(admin, "").await;
    let kinds: Vec<_> = all
        .iter()
        .map(|s| (&s["listener"], &s["session"], &s["transport"]))
        .collect();
    for kind in [
        ("game", "scp", "tcp"),
        ("game", "scp", "kcp"),
        ("snets", "snet", "tcp"),
        ("raw", "plain", "tcp"),
        ("players", "plain", "tcp"),
    ] {
        let (listener, session, transport) = (json!(kind.0), json!(kind.1), json!(kind.2));
        assert!(
            kinds.contains(&(&listener, &session, &transport)),
            "{kinds:?}"
        );
    }
    assert_eq!(all.len(), 5);
    let of = |listener: &str| all.iter().find(|s| s["listener"] == listener).unwrap();
    let raw = of("raw");
    assert!(raw["id"].as_u64().unwrap() > 1 << 32, "{raw}");
    assert_eq!(raw["client_addr"], plain.local_addr().unwrap().to_string());
    assert_eq!(
        (&raw["target"], &raw["host"]),
        (&json!("builtin:echo"), &json!("echo"))
    );
    assert_eq!(
        (&raw["received_bytes"], &raw["sent_bytes"]),
        (&json!(5), &json!(5))
    );
    assert_eq!(raw["state"], "live");
    assert!(of("players")["endpoint"].as_u64().is_some());
    assert!(all.iter().any(|s| s["id"] == snet.id()));

    // Each of them can be looked at.
    for session in &all {
        let explained = get(admin, &format!("/sessions/{}", session["id"]))
            .await
            .good();
        assert_eq!(explained["id"], session["id"]);
        // Over KCP it may be less than the millisecond that its clock has.
        let least = if session["transport"] == "tcp" {
            1e-6
        } else {
            0.0
        };
        let trip = explained["round_trip_seconds"].as_f64();
        assert!(
            trip.is_some_and(|trip| (least..10.0).contains(&trip)),
            "{explained}"
        );
        let resumes = session["session"] != "plain";
        assert_eq!(
            explained["replay_buffer"].is_object(),
            resumes,
            "{explained}"
        );
    }
    drop(player);
}

#[tokio::test]
async fn lists_are_filtered_and_paged() {
    let server = Server::start().await;
    let config = EVERYTHING.replace(
        "hosts: [",
        &format!("hosts: [{{name: lobby, addr: '{}'}}, ", server.addr),
    );
    let gateway = Gateway::start(&config).await;
    let admin = gateway.admin().await;
    let mut clients = Vec::new();
    for n in 0..7 {
        let target = if n < 3 { "lobby" } else { "echo" };
        let options = stablegate::client::scp::Options {
            target: Some(target.to_owned()),
            ..options(gateway.addr())
        };
        clients.push(connect_with(options).await);
        gateway.log().nth("session opened", n).await;
    }
    let mut ids: Vec<u64> = clients.iter().map(|client| client.id()).collect();
    ids.sort_unstable();
    let mut seen = Vec::new();
    let mut path = "/sessions?limit=3".to_owned();
    loop {
        let page = get(admin, &path).await.good();
        assert_eq!(page["live"], 7);
        let sessions = page["sessions"].as_array().unwrap();
        assert!(sessions.len() <= 3);
        seen.extend(sessions.iter().map(|s| s["id"].as_u64().unwrap()));
        match page["next"].as_u64() {
            Some(next) => path = format!("/sessions?limit=3&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen, ids);

    let first = gateway.log().nth("session opened", 0).await;
    let client = first["client"].as_str().unwrap().to_owned();
    let lobby = server.addr;
    for (query, count) in [
        ("?listener=game", 7),
        ("?listener=raw", 0),
        ("?client=127.0.0.1", 7),
        ("?client=127.0.0.2", 0),
        (&format!("?client={client}"), 1),
        ("?target=lobby", 3),
        ("?target=builtin:echo", 4),
        (&format!("?target={lobby}"), 3),
        ("?target=elsewhere", 0),
        ("?target=lobby&listener=game&client=127.0.0.1&limit=2", 2),
        ("?state=live", 7),
        ("?state=ended", 0),
    ] {
        assert_eq!(list(admin, query).await.len(), count, "{query}");
    }
    for query in [
        "limit=0",
        "limit=1001",
        "limit=x",
        "after=-1",
        "colour=red",
        "state=gone",
    ] {
        let answer = get(admin, &format!("/sessions?{query}")).await;
        assert_eq!(answer.status, StatusCode::BAD_REQUEST, "{query}");
        assert!(!answer.error().is_empty());
    }
}

#[tokio::test]
async fn a_session_is_explained() {
    let script = "
function access(session) session.attrs.user = 'ann'; return true end
function select_target(session) return 'echo' end
function announce(session, target) return 'hello' end
";
    let gateway = Gateway::start_among(&[("route.lua", script)], SCRIPTED).await;
    let admin = gateway.admin().await;
    let options = stablegate::client::scp::Options {
        target: Some("somewhere".to_owned()),
        extra: vec!["v1.2".to_owned()],
        ..options(gateway.addr())
    };
    let mut client = connect_with(options).await;
    gateway.log().of(client.id(), "session opened").await;
    let explained = get(admin, &format!("/sessions/{}", client.id()))
        .await
        .good();
    assert_eq!(explained["requested"], "somewhere");
    assert_eq!(explained["extra"], json!(["v1.2"]));
    assert_eq!(explained["generation"], 1);
    let decisions = explained["decisions"].as_array().unwrap();
    let told: Vec<_> = decisions
        .iter()
        .map(|d| {
            json!([
                d["hook"],
                d["decision"],
                d["outcome"],
                d["input"],
                d["result"]
            ])
        })
        .collect();
    let attrs = json!({"user": "ann"});
    let expected = [
        json!(["route", "access", "allow", {}, {}]),
        json!(["builtin", "access", "allow", {"attrs": attrs}, {}]),
        json!(["route", "select_target", "target", {"attrs": attrs}, {"target": "echo"}]),
        json!(["route", "announce", "message", {"attrs": attrs, "target": "builtin:echo"}, {"bytes": 5}]),
    ];
    assert_eq!(told, expected);
    for decision in decisions {
        assert_eq!(decision["generation"], 1);
        let cost = decision["cost_seconds"].as_f64().unwrap();
        assert_eq!(cost > 0.0, decision["hook"] == "route", "{decision}");
    }

    // It comes back from another port.
    echoed_after(&mut client, b"hello").await;
    client.cutter().cut();
    echoed(&mut client, b"again").await;
    let path = format!("/sessions/{}", client.id());
    gateway.log().of(client.id(), "session resumed").await;
    let explained = get(admin, &path).await.good();
    assert_eq!(explained["resumes"], 1);
    let transports = explained["transports"].as_array().unwrap();
    assert_eq!(transports.len(), 2);
    assert_ne!(transports[0]["client_addr"], transports[1]["client_addr"]);
    assert_eq!(explained["client_addr"], transports[1]["client_addr"]);
    assert!(transports.iter().all(|t| t["transport"] == "tcp"));
    let replay = &explained["replay_buffer"];
    assert_eq!(replay["window_bytes"], 32 * 1024);
    assert_eq!(replay["kept_bytes"], 10, "{replay}");
}

/// Reads what the server was told first, which the echo sends back.
async fn echoed_after(client: &mut stablegate::client::Stream, text: &[u8]) {
    let mut back = vec![0; text.len()];
    let reading = tokio::io::AsyncReadExt::read_exact(client, &mut back);
    soon("the announcement", reading).await.unwrap();
    assert_eq!(back, text);
}

#[tokio::test]
async fn why_a_session_was_turned_away() {
    let script = "function access() return false, 'closed for maintenance' end";
    let gateway = Gateway::start_among(&[("route.lua", script)], SCRIPTED).await;
    let admin = gateway.admin().await;
    let client = connect(gateway.addr()).await;
    let closed = gateway.log().of(client.id(), "session closed").await;
    assert_eq!(closed["reason"], "denied");
    let path = format!("/sessions/{}", client.id());
    let explained = get(admin, &path).await.good();
    assert_eq!(explained["state"], "ended");
    assert_eq!(explained["ended"]["reason"], "denied");
    assert_eq!(
        explained["ended"]["detail"],
        "denied by hook route: closed for maintenance"
    );
    let denial = &explained["decisions"][0];
    assert_eq!(denial["outcome"], "deny");
    assert_eq!(
        denial["result"],
        json!({"reason": "closed for maintenance"})
    );
    until(admin, "/sessions?state=ended", |a| {
        a.json()["sessions"]
            .as_array()
            .is_some_and(|list| list.len() == 1)
    })
    .await;
}

#[tokio::test]
async fn a_kick_ends_a_session() {
    let gateway = Gateway::start(EVERYTHING).await;
    let admin = gateway.admin().await;
    let mut other = connect(gateway.addr()).await;
    echoed(&mut other, b"stays").await;
    let mut scp = Raw::connect(gateway.addr()).await;
    scp.echo("here").await;
    let plain = TcpStream::connect(gateway.addrs("raw")[0]).await.unwrap();
    let player = TcpStream::connect(gateway.addrs("players")[0])
        .await
        .unwrap();
    gateway.log().nth("endpoint joined", 0).await;
    gateway.log().nth("session opened", 2).await;
    for (listener, message) in [
        ("game", "session closed"),
        ("raw", "session closed"),
        ("players", "endpoint left"),
    ] {
        let sessions = list(admin, &format!("?listener={listener}")).await;
        let session = sessions.iter().find(|s| s["id"] != other.id()).unwrap();
        let path = format!("/sessions/{}", session["id"]);
        let answer = delete(admin, &path).await;
        assert_eq!(answer.status, StatusCode::ACCEPTED);
        assert_eq!(answer.json()["id"], session["id"]);
        let kicked = |line: &Value| {
            line["message"] == message
                && line["id"] == session["id"]
                && line["listener"] == listener
                && line["reason"] == "kicked"
        };
        gateway.log().wait("its end", kicked).await;
        assert_eq!(get(admin, &path).await.good()["state"], "ended");
        let answer = delete(admin, &path).await;
        assert_eq!(answer.status, StatusCode::NOT_FOUND);
        assert_eq!(answer.error(), "no such session");
    }
    // Its client is not let in again, nor is it left hanging.
    scp.is_forgotten(gateway.addr()).await;
    assert_eq!(scp.receive_to_end().await, b"");
    echoed(&mut other, b"still there").await;
    drop((plain, player));
    for id in ["0", "18446744073709551615", "x", "-1"] {
        let path = format!("/sessions/{id}");
        assert_eq!(delete(admin, &path).await.status, StatusCode::NOT_FOUND);
        assert_eq!(get(admin, &path).await.status, StatusCode::NOT_FOUND);
    }
}

#[tokio::test]
async fn one_that_waits_for_its_client_can_be_kicked_too() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("here").await;
    client.leave(crate::common::Cut::Close);
    let path = format!("/sessions/{}", client.id);
    let away = until(admin, &path, |a| a.json()["state"] == "away")
        .await
        .good();
    assert!(away["round_trip_seconds"].is_null());
    assert_eq!(
        get(admin, "/status").await.good()["listeners"][0]["away"],
        1
    );
    assert_eq!(delete(admin, &path).await.status, StatusCode::ACCEPTED);
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "kicked");
}
