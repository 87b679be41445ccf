//! What the gateway can be told, and what it says of itself.

use hyper::StatusCode;
use tokio::net::TcpStream;

use super::{CONFIG, SCRIPTED};
use crate::common::http::{get, post};
use crate::common::{Gateway, connect, echoed, run, soon};

const OPEN: &str = "function access() return true end\n";

#[tokio::test]
async fn a_reload_says_what_is_wrong_and_where() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], SCRIPTED).await;
    let admin = gateway.admin().await;
    assert!(get(admin, "/status").await.good()["last_reload"].is_null());
    let done = post(admin, "/reload").await.good();
    assert_eq!(done["generation"], 2);
    let last = &get(admin, "/status").await.good()["last_reload"];
    assert_eq!(
        (&last["succeeded"], &last["generation"]),
        (&true.into(), &2.into())
    );
    assert!(last.get("error").is_none());

    let broken = format!("{SCRIPTED}scp: {{resume_wait: 10}}\n");
    std::fs::write(gateway.directory().join("config.yaml"), &broken).unwrap();
    let answer = post(admin, "/reload").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    let error = &answer.json()["error"];
    assert_eq!(
        (&error["line"], &error["key"]),
        (&5.into(), &"scp.resume_wait".into())
    );
    assert!(
        error["file"].as_str().unwrap().ends_with("config.yaml"),
        "{error}"
    );
    assert!(
        error["message"].as_str().unwrap().contains("lacks a unit"),
        "{error}"
    );
    let status = get(admin, "/status").await.good();
    assert_eq!(status["generation"], 2);
    assert_eq!(&status["last_reload"]["error"], error);

    gateway.save("config.yaml", SCRIPTED);
    std::fs::write(
        gateway.directory().join("route.lua"),
        "\nfunction access( end",
    )
    .unwrap();
    let answer = post(admin, "/reload").await;
    let error = &answer.json()["error"];
    assert_eq!(error["line"], 2, "{error}");
    assert!(
        error["file"].as_str().unwrap().ends_with("/route.lua"),
        "{error}"
    );
}

#[tokio::test]
async fn a_drain_turns_new_sessions_away() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    let mut live = connect(gateway.addr()).await;
    echoed(&mut live, b"before").await;
    assert_eq!(get(admin, "/readyz").await.good()["ready"], true);
    let answer = post(admin, "/drain").await;
    assert_eq!(answer.status, StatusCode::ACCEPTED);
    assert_eq!(answer.json()["sessions"], 1);
    let ready = get(admin, "/readyz").await;
    assert_eq!(ready.status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(ready.json()["ready"], false);
    assert_eq!(get(admin, "/healthz").await.status, StatusCode::OK);
    assert_eq!(get(admin, "/status").await.good()["draining"], true);
    live.cutter().cut();
    echoed(&mut live, b"and came back").await;
    assert_eq!(live.resumes(), 1);
    // It goes on until it is told to end.
    drop(live);
    let again = post(admin, "/drain").await;
    assert_eq!(again.status, StatusCode::ACCEPTED);
    get(admin, "/healthz").await.good();
}

#[tokio::test]
async fn a_drained_gateway_stays_until_it_is_told_to_end() {
    let mut gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    post(admin, "/drain").await;
    get(admin, "/healthz").await.good();
    gateway.signal(libc::SIGTERM);
    assert!(gateway.exited().await.success());
}

#[tokio::test]
async fn the_configuration_is_shown_without_secrets() {
    let config = "admin: 127.0.0.1:0
listeners:
  - {name: servers, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-server, hooks: [h]}
fastway: {auth_key: open sesame}
hooks: [{name: h, lua: h.lua, config: {password: [swordfish], depth: {of: secrets}}}]
";
    let gateway = Gateway::start_among(&[("h.lua", OPEN)], config).await;
    let answer = get(gateway.admin().await, "/config").await;
    for secret in ["sesame", "swordfish", "secrets"] {
        assert!(!answer.body.contains(secret), "{}", answer.body);
    }
    let shown = answer.good();
    assert_eq!(shown["listeners"][0]["fastway"]["auth_key"], "(hidden)");
    let hidden = serde_json::json!({"password": "(hidden)", "depth": "(hidden)"});
    assert_eq!(shown["hooks"][0]["config"], hidden);
    assert_eq!(
        shown["scp"],
        serde_json::Value::Null,
        "as `check --dump`: by listener"
    );
    assert_eq!(shown["listeners"][0]["scp"]["resume_wait"], "30s");
}

#[tokio::test]
async fn it_moves_with_the_configuration() {
    let gateway = Gateway::start(CONFIG).await;
    let first = gateway.admin().await;
    gateway.save(
        "config.yaml",
        &CONFIG.replace("127.0.0.1:0\nl", "127.0.0.2:0\nl"),
    );
    let line = gateway.log().nth("admin interface open", 1).await;
    let second = line["addr"].as_str().unwrap().parse().unwrap();
    get(second, "/healthz").await.good();
    gateway.log().nth("reloaded", 0).await;
    let closed = async { while TcpStream::connect(first).await.is_ok() {} };
    soon("the end of the old address", closed).await;

    // Where it cannot be, nothing changes.
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("admin: {}\n", taken.local_addr().unwrap());
    let config = CONFIG.replace("admin: 127.0.0.1:0\n", &taken);
    let moved = format!("{config}node: 9\n");
    std::fs::write(gateway.directory().join("config.yaml"), &moved).unwrap();
    let answer = post(second, "/reload").await;
    assert_eq!(answer.status, StatusCode::UNPROCESSABLE_ENTITY);
    assert!(
        answer
            .error()
            .starts_with("cannot open the admin interface on 127.0.0.1:")
    );
    assert_eq!(get(second, "/status").await.good()["node"], 0);

    let off = CONFIG.replace("admin: 127.0.0.1:0\n", "admin: ''\n");
    gateway.save("config.yaml", &off);
    gateway.log().nth("reloaded", 1).await;
    let closed = async { while TcpStream::connect(second).await.is_ok() {} };
    soon("the end of the second address", closed).await;
    echoed(&mut connect(gateway.addr()).await, b"all the same").await;
}

#[tokio::test]
async fn a_port_that_is_taken_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = taken.local_addr().unwrap();
    let directory = tempfile::tempdir().unwrap();
    let config = CONFIG.replace("admin: 127.0.0.1:0", &format!("admin: {addr}"));
    std::fs::write(directory.path().join("config.yaml"), config).unwrap();
    let output = run(directory.path(), &["run"]).await;
    assert_eq!(output.code, Some(1));
    let said = format!("cannot open the admin interface on {addr}: ");
    assert!(output.stderr.contains(&said), "{}", output.stderr);
    assert!(
        output.stderr.contains("the key `admin` moves it"),
        "{}",
        output.stderr
    );
}

/// Loading a script or compiling a plugin may take its time.
#[tokio::test]
async fn a_reload_keeps_nobody_waiting() {
    let config = SCRIPTED.replace("timeout: 5s", "load_timeout: 2s");
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], &config).await;
    let admin = gateway.admin().await;
    gateway.save("route.lua", "while true do end\n");
    gateway.log().nth("files have changed", 0).await;
    get(admin, "/status").await.good();
    let metrics = get(admin, "/metrics").await;
    assert_eq!(metrics.status, StatusCode::OK);
    let failed = "reload failed, nothing changed";
    assert!(gateway.log().all(failed).is_empty());
    gateway.log().nth(failed, 0).await;
}
