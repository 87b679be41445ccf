//! Configuration and scripts that change under a running gateway.

mod common;

use std::net::SocketAddr;
use std::os::unix::fs::symlink;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use common::{Gateway, Pattern, connect, echoed, soon};

const CONFIG: &str = "listeners:
  - {name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [route]}
hosts: [{name: echo, addr: 'builtin:echo'}]
hooks: [{name: route, lua: route.lua, timeout: 2s}]
";

const OPEN: &str = "function access() return true end\n";
const SHUT: &str = "function access() return false, 'shut' end\n";

async fn is_let_in(gateway: &Gateway) -> bool {
    let stream = connect(gateway.addr()).await;
    let log = gateway.log();
    let decided = log.wait("a decision", |line| {
        line["id"] == stream.id()
            && (line["message"] == "session opened" || line["message"] == "session closed")
    });
    decided.await["message"] == "session opened"
}

#[tokio::test]
async fn a_saved_script_takes_effect() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    let mut live = connect(gateway.addr()).await;
    echoed(&mut live, b"first").await;
    gateway.save("route.lua", SHUT);
    assert_eq!(gateway.log().nth("reloaded", 0).await["generation"], 2);
    assert!(!is_let_in(&gateway).await);
    echoed(&mut live, b"still there").await;
    // Written in place, too.
    std::fs::write(gateway.directory().join("route.lua"), OPEN).unwrap();
    assert_eq!(gateway.log().nth("reloaded", 1).await["generation"], 3);
    assert!(is_let_in(&gateway).await);
    echoed(&mut live, b"all the time").await;
}

#[tokio::test]
async fn a_broken_script_changes_nothing() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    gateway.save("route.lua", "function access()\n  return nonsense(\nend\n");
    let failed = gateway.log().nth("reload failed, nothing changed", 0).await;
    assert!(
        failed["error"].as_str().unwrap().contains("route.lua:3:"),
        "{failed}"
    );
    assert!(is_let_in(&gateway).await);
    gateway.save("route.lua", SHUT);
    gateway.log().nth("reloaded", 0).await;
    assert!(!is_let_in(&gateway).await);
}

#[tokio::test]
async fn a_broken_configuration_changes_nothing() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    gateway.save(
        "config.yaml",
        &format!("{CONFIG}scp: {{resume_wait: 10}}\n"),
    );
    let failed = gateway.log().nth("reload failed, nothing changed", 0).await;
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("config.yaml:5:") && error.contains("scp.resume_wait"),
        "{error}"
    );
    assert!(is_let_in(&gateway).await);
    // All or nothing: the script is fine and saved, the configuration is not.
    gateway.save("route.lua", SHUT);
    gateway.log().nth("reload failed, nothing changed", 1).await;
    assert!(is_let_in(&gateway).await);
    gateway.save("config.yaml", CONFIG);
    gateway.log().nth("reloaded", 0).await;
    assert!(!is_let_in(&gateway).await);
}

#[tokio::test]
async fn a_required_module_is_watched() {
    let script = "local rules = require 'rules'\nfunction access() return rules.open end\n";
    let files = [
        ("route.lua", script),
        ("rules.lua", "return {open = true}\n"),
    ];
    let gateway = Gateway::start_among(&files, CONFIG).await;
    assert!(is_let_in(&gateway).await);
    gateway.save("rules.lua", "return {open = false}\n");
    gateway.log().nth("reloaded", 0).await;
    assert!(!is_let_in(&gateway).await);
}

#[tokio::test]
async fn a_configmap_is_swapped() {
    // As Kubernetes lays it out: files are links into ..data, which is a link that is replaced.
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    let directory = gateway.directory();
    for (version, script) in [("..v1", OPEN), ("..v2", SHUT)] {
        std::fs::create_dir(directory.join(version)).unwrap();
        std::fs::write(directory.join(version).join("route.lua"), script).unwrap();
    }
    symlink("..v1", directory.join("..data")).unwrap();
    let mut config = CONFIG.replace("route.lua", "..data/route.lua");
    gateway.save("config.yaml", &config);
    gateway.log().nth("reloaded", 0).await;
    assert!(is_let_in(&gateway).await);
    symlink("..v2", directory.join("..new")).unwrap();
    std::fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    gateway.log().nth("reloaded", 1).await;
    assert!(!is_let_in(&gateway).await);
    config.push_str("node: 3\n");
    gateway.save("config.yaml", &config);
    gateway.log().nth("reloaded", 2).await;
    assert_eq!(connect(gateway.addr()).await.id() >> 24, 3);
}

#[tokio::test]
async fn a_signal_reloads() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    gateway.signal(libc::SIGHUP);
    assert_eq!(gateway.log().nth("reloaded", 0).await["generation"], 2);
}

#[tokio::test]
async fn listeners_come_and_go() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    let old = gateway.addr();
    let mut live = connect(old).await;
    echoed(&mut live, b"first").await;

    let second = "  - {name: second, bind: ['tcp://127.0.0.1:0'], session: scp}\nhosts:";
    gateway.save("config.yaml", &CONFIG.replace("hosts:", second));
    gateway.log().nth("reloaded", 0).await;
    let line = gateway.log().nth("listening", 1).await;
    assert_eq!(line["listener"], "second");
    let new: SocketAddr = line["addr"].as_str().unwrap().parse().unwrap();
    let mut other = connect(new).await;
    echoed(&mut other, b"on the new one").await;
    echoed(&mut live, b"on the old one").await;

    let only_second = CONFIG
        .replace("name: game", "name: second")
        .replace("hooks: [route]}", "hooks: []}");
    gateway.save("config.yaml", &only_second);
    gateway.log().nth("reloaded", 1).await;
    let gone = gateway.log().nth("stopped listening", 0).await;
    assert_eq!(gone["addr"], old.to_string());
    assert!(TcpStream::connect(old).await.is_err());
    echoed(&mut live, b"its listener is gone, it is not").await;
    echoed(&mut other, b"kept").await;
}

#[tokio::test]
async fn a_bind_that_cannot_be_opened_changes_nothing() {
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = format!(
        "  - {{name: second, bind: ['tcp://{}'], session: scp}}\nhosts:",
        taken.local_addr().unwrap()
    );
    gateway.save("config.yaml", &CONFIG.replace("hosts:", &second));
    let failed = gateway.log().nth("reload failed, nothing changed", 0).await;
    assert!(
        failed["error"]
            .as_str()
            .unwrap()
            .contains("cannot listen on tcp://"),
        "{failed}"
    );
    assert!(is_let_in(&gateway).await);
}

#[tokio::test]
async fn a_session_keeps_what_decided_it() {
    let script = |name: &str| {
        format!("function access() end\nfunction closed() gateway.log.info('told {name}') end\n")
    };
    let config = CONFIG.to_owned() + "scp: {resume_wait: 300ms}\n";
    let gateway = Gateway::start_among(&[("route.lua", &script("one"))], &config).await;
    let mut live = connect(gateway.addr()).await;
    echoed(&mut live, b"first").await;
    gateway.save("route.lua", &script("two"));
    gateway.log().nth("reloaded", 0).await;
    let mut late = connect(gateway.addr()).await;
    echoed(&mut late, b"second").await;
    drop((live, late));
    gateway.log().nth("told one", 0).await;
    gateway.log().nth("told two", 0).await;
}

/// Scripts and configuration change again and again while sessions run, lose their connections
/// and come back.
#[tokio::test]
async fn reloads_under_load() {
    const SESSIONS: u64 = 50;
    const RELOADS: usize = 10;
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], CONFIG).await;
    let (done, stop) = tokio::sync::watch::channel(false);
    let mut clients = Vec::new();
    for name in 0..SESSIONS {
        let mut stream = connect(gateway.addr()).await;
        let stop = stop.clone();
        clients.push(tokio::spawn(async move {
            let cutter = stream.cutter();
            let (mut sent, mut back) = (Pattern::new(name), Pattern::new(name));
            let mut buffer = vec![0; 4096];
            let mut rounds = 0;
            while !*stop.borrow() {
                stream.write_all(sent.next(4096)).await.unwrap();
                while back.position() < sent.position() {
                    let len = soon("the echo", stream.read(&mut buffer)).await.unwrap();
                    assert_ne!(len, 0, "the session ended");
                    back.check(&buffer[..len]);
                }
                rounds += 1;
                if rounds % (10 + name) == 0 {
                    cutter.cut();
                }
            }
            (rounds, stream.resumes())
        }));
    }
    for n in 0..RELOADS {
        if n % 2 == 0 {
            gateway.save("route.lua", &format!("{OPEN}-- {n}\n"));
        } else {
            gateway.save(
                "config.yaml",
                &format!("{CONFIG}scp: {{resume_wait: {n}0s}}\n"),
            );
        }
        gateway.log().nth("reloaded", n).await;
        let mut fresh = connect(gateway.addr()).await;
        echoed(&mut fresh, b"fresh").await;
    }
    done.send(true).unwrap();
    for client in clients {
        let (rounds, resumes) = client.await.unwrap();
        assert!(
            rounds > 0 && (rounds < 60 || resumes > 0),
            "{rounds} rounds, {resumes} resumes"
        );
    }
}
