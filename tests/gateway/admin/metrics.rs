//! What Prometheus reads.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::process::Stdio;
use std::time::Duration;

use stablegate::client::scp::Options;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::common::http::{get, post};
use crate::common::{
    Cut, Gateway, Raw, ask, connect, connect_with, dead_addr, echoed, options, record, skipped,
    soon,
};

const DOCS: &str = include_str!("../../../docs/metrics.md");
const DASHBOARD: &str = include_str!("../../../examples/grafana/stablegate.json");
const ALERTS: &str = include_str!("../../../examples/grafana/alerts.yaml");

const CONFIG: &str = "admin: 127.0.0.1:0
listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp, hooks: [route]}
  - {name: snets, bind: ['tcp://127.0.0.1:0'], session: snet, snet: {handshake_timeout: 300ms}}
hosts:
  - {name: echo, addr: 'builtin:echo', weight: 1000000}
hooks: [{name: route, lua: route.lua, timeout: 5s, on_error: skip}]
";

const SCRIPT: &str = "
function access(session)
  if session.target == 'nobody' then return false, 'go' end
  if session.target == 'bug' then error('oops') end
end
function select_target(session)
  if session.target == 'dead' then return {addr = DEAD} end
end
";

/// The samples by their names and labels, as they are written.
async fn samples(admin: SocketAddr) -> BTreeMap<String, f64> {
    let answer = get(admin, "/metrics").await;
    assert_eq!(
        answer.headers["content-type"],
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

async fn scripted() -> (Gateway, SocketAddr) {
    let dead = format!("DEAD = '{}'\n{SCRIPT}", dead_addr().await);
    let gateway = Gateway::start_among(&[("route.lua", &dead)], CONFIG).await;
    let admin = gateway.admin().await;
    (gateway, admin)
}

fn to(gateway: &Gateway, target: &str) -> Options {
    Options {
        target: Some(target.to_owned()),
        ..options(gateway.addr())
    }
}

#[tokio::test]
async fn what_happens_is_counted() {
    let (gateway, admin) = scripted().await;
    let before = samples(admin).await;
    assert!(
        !before
            .keys()
            .any(|name| name.starts_with("stablegate_accepts_total"))
    );

    let mut client = connect(gateway.addr()).await;
    echoed(&mut client, b"12345678").await;
    client.cutter().cut();
    echoed(&mut client, b"12").await;
    let resumed = gateway.log().of(client.id(), "session resumed").await;
    assert_eq!(resumed["listener"], "game");
    let kcp = format!("kcp://{}", gateway.addrs("game")[1])
        .parse()
        .unwrap();
    let mut over_kcp = connect_with(Options::new(kcp)).await;
    echoed(&mut over_kcp, b"1234").await;
    for target in ["nobody", "bug", "dead"] {
        let client = connect_with(to(&gateway, target)).await;
        let message = match target {
            "bug" => "session opened",
            _ => "session closed",
        };
        gateway.log().of(client.id(), message).await;
    }
    // A resume of what is not there, one with a wrong key, and nonsense.
    let mut raw = Raw::connect(gateway.addr()).await;
    raw.echo("1").await;
    let wrong = format!("{}\n1\n0\nAAAAAAAAAAA=", raw.id);
    for text in ["1\n1\n0\nAAAAAAAAAAA=", &wrong, "nonsense"] {
        ask(gateway.addr(), record(text)).await;
    }
    ask(gateway.addrs("snets")[0], [7; 32]).await;
    for n in 0..4 {
        gateway.log().nth("handshake failed", n).await;
    }
    raw.leave(Cut::Close);
    raw.resume(gateway.addr()).await;
    gateway.log().of(raw.id, "session resumed").await;
    post(admin, "/reload").await.good();
    gateway.save("route.lua", "nonsense");
    gateway.log().nth("reload failed, nothing changed", 0).await;

    let after = samples(admin).await;
    let game = |name: &str, more: &str| format!("stablegate_{name}{{listener=\"game\"{more}}}");
    for (name, value) in [
        // Three came back: two after a cut, one with a wrong key, one for nothing; and nonsense.
        (game("accepts_total", ",transport=\"tcp\""), 10.0),
        (game("accepts_total", ",transport=\"kcp\""), 1.0),
        (
            "stablegate_accepts_total{listener=\"snets\",transport=\"tcp\"}".to_owned(),
            1.0,
        ),
        (
            game(
                "handshake_failures_total",
                ",session=\"scp\",reason=\"resume_refused\"",
            ),
            2.0,
        ),
        (
            game("resume_failures_total", ",session=\"scp\",code=\"404\""),
            1.0,
        ),
        (
            game("resume_failures_total", ",session=\"scp\",code=\"401\""),
            1.0,
        ),
        (
            game("resumes_total", ",transport=\"tcp\",session=\"scp\""),
            2.0,
        ),
        (game("sessions_opened_total", ",session=\"scp\""), 6.0),
        (game("sessions_closed_total", ",reason=\"denied\""), 1.0),
        (
            game("sessions_closed_total", ",reason=\"connect_failed\""),
            1.0,
        ),
        (game("received_bytes_total", ""), 15.0),
        (game("sent_bytes_total", ""), 15.0),
        (game("sessions", ",transport=\"kcp\",session=\"scp\""), 1.0),
        (
            "stablegate_upstream_connect_failures_total{host=\"\",reason=\"refused\"}".to_owned(),
            1.0,
        ),
        (
            "stablegate_host_sessions{host=\"echo\",addr=\"builtin:echo\"}".to_owned(),
            4.0,
        ),
        (
            "stablegate_hook_call_seconds_count{hook=\"route\",decision=\"access\"}".to_owned(),
            6.0,
        ),
        (
            "stablegate_hook_denials_total{hook=\"route\",decision=\"access\"}".to_owned(),
            1.0,
        ),
        (
            "stablegate_hook_errors_total{hook=\"route\",decision=\"access\",kind=\"script\"}"
                .to_owned(),
            1.0,
        ),
        (
            "stablegate_reloads_total{result=\"success\"}".to_owned(),
            1.0,
        ),
        (
            "stablegate_reloads_total{result=\"failure\"}".to_owned(),
            1.0,
        ),
        ("stablegate_last_reload_successful".to_owned(), 0.0),
        ("stablegate_generation".to_owned(), 2.0),
        (
            "stablegate_kcp_passive_opens_total{bind=\"kcp://127.0.0.1:0 of game, 0\"}".to_owned(),
            1.0,
        ),
    ] {
        assert_eq!(after.get(&name), Some(&value), "{name}: {after:#?}");
    }
    let failures = |listener: &str| -> f64 {
        let prefix = format!("stablegate_handshake_failures_total{{listener=\"{listener}\"");
        let of_it = after.iter().filter(|(name, _)| name.starts_with(&prefix));
        of_it.map(|(_, value)| value).sum()
    };
    assert_eq!((failures("game"), failures("snets")), (3.0, 1.0));
    for name in [
        &*game("replay_buffer_bytes", ""),
        "process_resident_memory_bytes",
        "process_cpu_seconds_total",
        "process_open_fds",
        "process_max_fds",
        "process_threads",
        "stablegate_script_interpreters",
    ] {
        assert!(after[name] > 0.0, "{name}");
    }
    let started = after["process_start_time_seconds"];
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs_f64();
    assert!((now - 3600.0..now + 2.0).contains(&started), "{started}");

    // Gauges go back.
    client.shutdown().await.unwrap();
    let sessions = get(admin, "/sessions").await.good();
    for session in sessions["sessions"].as_array().unwrap() {
        let path = format!("/sessions/{}", session["id"]);
        crate::common::http::delete(admin, &path).await;
    }
    for n in 0..6 {
        gateway.log().nth("session closed", n).await;
    }
    let gone = async {
        loop {
            let now = samples(admin).await;
            let live = now
                .iter()
                .filter(|(name, _)| name.starts_with("stablegate_sessions{"));
            if live.map(|(_, value)| value).sum::<f64>() == 0.0 {
                return now;
            }
            tokio::task::yield_now().await;
        }
    };
    let gone = soon("all to be gone", gone).await;
    assert_eq!(gone[&game("replay_buffer_bytes", "")], 0.0);
    assert_eq!(gone[&game("sessions_away", "")], 0.0);
    assert_eq!(
        gone[&game("sessions_closed_total", ",reason=\"kicked\"")],
        4.0
    );
    assert_eq!(gone[&game("received_bytes_total", "")], 15.0);
}

#[tokio::test]
async fn limits_and_the_health_of_hosts_are_told() {
    let config = format!(
        "admin: 127.0.0.1:0
listeners:
  - {{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, limits: {{connections: 1}}}}
hosts: [{{name: gone, addr: '{}'}}]
upstream: {{eject: {{failures: 1, for: 1h}}}}
",
        dead_addr().await
    );
    let gateway = Gateway::start(&config).await;
    let admin = gateway.admin().await;
    let host = |status: &serde_json::Value| status["hosts"][0]["health"].clone();
    assert_eq!(host(&get(admin, "/status").await.good()), "healthy");
    let client = connect(gateway.addr()).await;
    gateway.log().of(client.id(), "session closed").await;
    assert_eq!(host(&get(admin, "/status").await.good()), "ejected");
    let now = samples(admin).await;
    let down = now
        .iter()
        .find(|(name, _)| name.starts_with("stablegate_host_healthy{"));
    assert_eq!(down.unwrap().1, &0.0);
    assert_eq!(
        now["stablegate_upstream_connect_failures_total{host=\"gone\",reason=\"refused\"}"],
        1.0
    );
    assert_eq!(
        now["stablegate_refusals_total{listener=\"game\",limit=\"connections\"}"],
        0.0
    );
    // Twice as many connections as sessions, and no more. Any of them may be reset before it is
    // known to be there: the place of the session that ended is free a moment after its log line.
    let addr = gateway.addr();
    let waiting = [
        TcpStream::connect(addr).await,
        TcpStream::connect(addr).await,
        TcpStream::connect(addr).await,
    ];
    gateway.log().nth("connection refused", 0).await;
    let accepted = async {
        loop {
            let now = samples(admin).await;
            if now["stablegate_accepts_total{listener=\"game\",transport=\"tcp\"}"] >= 4.0 {
                return now;
            }
        }
    };
    let now = soon("all to be accepted", accepted).await;
    let refused: f64 = now
        .iter()
        .filter(|(name, _)| name.starts_with("stablegate_refusals_total{"))
        .map(|(_, count)| count)
        .sum();
    assert!(refused >= 1.0, "{now:#?}");
    let accepted = now["stablegate_accepts_total{listener=\"game\",transport=\"tcp\"}"];
    // The first, those that wait, and those that were refused.
    assert!(accepted >= 2.0 + refused, "{now:#?}");
    drop(waiting);
}

#[tokio::test]
async fn the_status_tells_of_hooks() {
    let (gateway, admin) = scripted().await;
    for target in ["nobody", "bug"] {
        let client = connect_with(to(&gateway, target)).await;
        let message = if target == "bug" {
            "session opened"
        } else {
            "session closed"
        };
        gateway.log().of(client.id(), message).await;
    }
    let status = get(admin, "/status").await.good();
    let hook = &status["hooks"][0];
    assert_eq!(
        (&hook["name"], &hook["errors"]),
        (&"route".into(), &1.into())
    );
    let file = gateway.directory().join("route.lua");
    assert_eq!(hook["file"], file.to_str().unwrap());
    let digest = Command::new("sha256sum").arg(&file).output().await.unwrap();
    let digest = String::from_utf8(digest.stdout).unwrap();
    assert_eq!(hook["sha256"], digest.split_once(' ').unwrap().0);
    let error = hook["last_error"]["message"].as_str().unwrap();
    assert!(
        error.contains("route.lua:") && error.contains("oops"),
        "{error}"
    );
    let access = &hook["decisions"][0];
    assert_eq!(
        (&access["decision"], &access["calls"]),
        (&"access".into(), &2.into())
    );
    assert_eq!(
        (&access["errors"], &access["denials"]),
        (&1.into(), &1.into())
    );
    let latency = &access["latency_seconds"];
    let of = |name: &str| latency[name].as_f64().unwrap();
    assert!(
        0.0 < of("p50") && of("p50") <= of("p90") && of("p90") <= of("max"),
        "{latency}"
    );

    // Counts go on over a reload, and what was loaded is another.
    std::fs::write(&file, "function access() end\n").unwrap();
    post(admin, "/reload").await.good();
    let status = get(admin, "/status").await.good();
    assert_ne!(status["hooks"][0]["sha256"], hook["sha256"]);
    assert_eq!(status["hooks"][0]["decisions"][0]["calls"], 2);
}

#[tokio::test]
async fn kcp_counters_have_the_names_of_kcp_go() {
    let (gateway, admin) = scripted().await;
    let kcp = format!("kcp://{}", gateway.addrs("game")[1])
        .parse()
        .unwrap();
    let mut client = connect_with(Options::new(kcp)).await;
    echoed(&mut client, b"1234").await;
    let snmp = get(admin, "/kcp/snmp").await.good();
    assert_eq!(
        (&snmp["PassiveOpens"], &snmp["CurrEstab"]),
        (&1.into(), &1.into())
    );
    assert!(snmp["BytesReceived"].as_u64().unwrap() > 4, "{snmp}");
    let binds = snmp["binds"].as_array().unwrap();
    assert_eq!(
        (binds.len(), &binds[0]["bind"]),
        (1, &"kcp://127.0.0.1:0".into())
    );
    assert!(binds[0]["InPkts"].as_u64().unwrap() > 0);
}

/// The names in the tables of the documentation.
fn documented() -> BTreeSet<&'static str> {
    let rows = DOCS.lines().filter_map(|line| line.strip_prefix("| `"));
    rows.filter_map(|row| row.split_once("` |"))
        .map(|(name, _)| name)
        .filter(|name| !name.starts_with("goscon") && !name.contains('*'))
        .collect()
}

#[tokio::test]
async fn what_is_exposed_is_what_is_documented() {
    let (_gateway, admin) = scripted().await;
    let body = get(admin, "/metrics").await.body;
    let types = body.lines().filter_map(|line| line.strip_prefix("# TYPE "));
    let mut exposed = BTreeSet::new();
    for (name, kind) in types.map(|line| line.split_once(' ').unwrap()) {
        assert!(exposed.insert(name), "{name} twice");
        let row = DOCS
            .lines()
            .find(|line| line.starts_with(&format!("| `{name}` |")));
        let documented = row.unwrap_or_else(|| panic!("{name} is not documented"));
        assert!(documented.contains(&format!("| {kind} |")), "{documented}");
        assert_eq!(kind == "counter", name.ends_with("_total"), "{name}");
    }
    assert_eq!(exposed, documented());
}

#[test]
fn examples_ask_for_what_there_is() {
    serde_json::from_str::<serde_json::Value>(DASHBOARD).unwrap();
    let documented = documented();
    for text in [DASHBOARD, ALERTS] {
        let mut found = 0;
        for word in text.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')) {
            if !word.starts_with("stablegate_") && !word.starts_with("process_") {
                continue;
            }
            found += 1;
            let bare = ["_bucket", "_count", "_sum"]
                .iter()
                .find_map(|suffix| word.strip_suffix(suffix));
            assert!(
                documented.contains(word) || bare.is_some_and(|b| documented.contains(b)),
                "{word}"
            );
        }
        assert!(found > 5);
    }
}

/// Whether a program is there; says so if it is not.
async fn has(program: &str) -> bool {
    let there = Command::new(program)
        .arg("--version")
        .output()
        .await
        .is_ok();
    if !there {
        skipped(&format!("{program} is not installed"));
    }
    there
}

async fn promtool(arguments: &[&str], input: &str) {
    let mut child = Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stdin = child.stdin.take().unwrap();
    stdin.write_all(input.as_bytes()).await.unwrap();
    drop(stdin);
    let output = soon("promtool", child.wait_with_output()).await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "{said}");
    assert!(arguments.contains(&"rules") || said.is_empty(), "{said}");
}

#[tokio::test]
async fn promtool_has_nothing_to_say() {
    if !has("promtool").await {
        return;
    }
    let (gateway, admin) = scripted().await;
    let mut client = connect(gateway.addr()).await;
    echoed(&mut client, b"12345678").await;
    let bug = connect_with(to(&gateway, "bug")).await;
    gateway.log().of(bug.id(), "session opened").await;
    let dead = connect_with(to(&gateway, "dead")).await;
    gateway.log().of(dead.id(), "session closed").await;
    // A connection that says too little.
    let mut short = TcpStream::connect(gateway.addr()).await.unwrap();
    short.write_all(b"\0").await.unwrap();
    drop(short);
    gateway.log().nth("handshake failed", 0).await;
    let body = get(admin, "/metrics").await.body;
    promtool(&["check", "metrics"], &body).await;
    let alerts = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/grafana/alerts.yaml");
    promtool(&["check", "rules", alerts], "").await;
}

/// What balancers do that look whether somebody listens is counted, and nothing to tell of.
#[tokio::test]
async fn who_connects_and_closes_is_counted() {
    let config = CONFIG.replace(
        "hosts:",
        "  - {name: behind, bind: ['tcp://127.0.0.1:0'], session: scp, \
         proxy_header: {from: [127.0.0.1]}}\nhosts:",
    );
    let config = config
        .replace(", hooks: [route]", "")
        .replace("hooks: [{", "x: [{");
    let config = config.split("x: [{").next().unwrap();
    let environment = [("RUST_LOG", "stablegate=debug".as_ref())];
    let gateway = Gateway::start_under(config, &environment).await;
    let admin = gateway.admin().await;
    // One that is announced by its balancer may also have nothing to say.
    let local = b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0";
    let mut times = 0;
    for (listener, first) in [
        ("game", &b""[..]),
        ("snets", b""),
        ("behind", b""),
        ("behind", local),
    ] {
        for is_reset in [false, true] {
            let mut socket = TcpStream::connect(gateway.addrs(listener)[0])
                .await
                .unwrap();
            socket.write_all(first).await.unwrap();
            if is_reset {
                let options = socket2::SockRef::from(&socket);
                options.set_linger(Some(Duration::ZERO)).unwrap();
            }
            drop(socket);
            let line = gateway.log().nth("nothing was said", times).await;
            assert_eq!(
                (&line["level"], &line["listener"]),
                (&"DEBUG".into(), &listener.into())
            );
            times += 1;
        }
    }
    let samples = samples(admin).await;
    for (listener, session, count) in [
        ("game", "scp", 2.0),
        ("snets", "snet", 2.0),
        ("behind", "scp", 4.0),
    ] {
        let name = format!(
            "stablegate_handshake_failures_total{{listener=\"{listener}\",session=\"{session}\",reason=\"silent\"}}"
        );
        assert_eq!(samples.get(&name), Some(&count), "{name} {samples:?}");
    }
    assert!(gateway.log().all("handshake failed").is_empty());
}
