//! Configuration and scripts that change under a running gateway.

use std::ffi::CString;
use std::fs::File;
use std::net::SocketAddr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;

use serde_json::Value;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::{Gateway, Pattern, connect, echoed, soon};

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

/// What may stand where a file should.
#[derive(Debug, Clone, Copy)]
enum Odd {
    Pipe,
    Directory,
    Device,
    Socket,
    Huge,
}

impl Odd {
    const ALL: [Self; 5] = [
        Self::Pipe,
        Self::Directory,
        Self::Device,
        Self::Socket,
        Self::Huge,
    ];

    fn put(self, path: &Path) {
        match self {
            Self::Pipe => {
                let path = CString::new(path.as_os_str().as_bytes()).unwrap();
                // SAFETY: the path ends with a zero.
                assert_eq!(unsafe { libc::mkfifo(path.as_ptr(), 0o600) }, 0);
            }
            Self::Directory => std::fs::create_dir(path).unwrap(),
            Self::Device => symlink("/dev/zero", path).unwrap(),
            Self::Socket => drop(UnixListener::bind(path).unwrap()),
            Self::Huge => File::create(path).unwrap().set_len(HUGE).unwrap(),
        }
    }

    fn take(self, path: &Path) {
        match self {
            Self::Directory => std::fs::remove_dir(path).unwrap(),
            _ => std::fs::remove_file(path).unwrap(),
        }
    }

    fn said(self) -> &'static str {
        match self {
            Self::Huge => "larger than ",
            _ => "not a regular file",
        }
    }
}

/// The length of a file that holds nothing, bytes.
const HUGE: u64 = 1 << 30;

#[tokio::test]
async fn what_is_no_file_is_refused_at_once() {
    let files = [
        ("route.lua", "require 'rules'\nfunction access() end\n"),
        ("rules.lua", "return {}\n"),
        ("token", "a token that nobody guesses\n"),
        ("plugin.wat", "(module)\n"),
    ];
    let config = format!("admin: {{bind: '127.0.0.1:0', token_file: token}}\n{CONFIG}");
    let gateway = Gateway::start_among(&files, &config).await;
    let mut live = connect(gateway.addr()).await;
    let log = gateway.log();
    let before = gateway.resident();
    for (name, content) in files.into_iter().chain([("config.yaml", config.as_str())]) {
        let path = gateway.directory().join(name);
        if name == "plugin.wat" {
            let hook = config.replace("hooks: [{", "hooks: [{name: p, wasm: plugin.wat}, {");
            gateway.save("config.yaml", &hook);
            // The module is no plugin: this is how it is found out that it has been looked at.
            let said = |line: &Value| error(line).contains("exports none of");
            log.wait("a plugin that does nothing", said).await;
        }
        for odd in Odd::ALL {
            std::fs::remove_file(&path).unwrap();
            odd.put(&path);
            gateway.signal(libc::SIGHUP);
            let said =
                |line: &Value| error(line).contains(name) && error(line).contains(odd.said());
            log.wait(&format!("{name}: {odd:?}"), said).await;
            echoed(&mut live, b"meanwhile").await;
            odd.take(&path);
            log.forget();
            gateway.save(name, content);
            gateway.signal(libc::SIGHUP);
            match name {
                "plugin.wat" => {
                    let said = |line: &Value| error(line).contains("exports none of");
                    log.wait("the plugin again", said).await
                }
                _ => log.nth("reloaded", 0).await,
            };
            log.forget();
        }
        if name == "plugin.wat" {
            gateway.save("config.yaml", &config);
            log.nth("reloaded", 0).await;
            log.forget();
        }
    }
    let grown = gateway.resident().saturating_sub(before);
    assert!(grown < HUGE / 8, "{grown} bytes");
}

fn error(line: &Value) -> &str {
    line["error"].as_str().unwrap_or_default()
}

/// A script that takes its time to be loaded for the second time, and says when it begins to.
const SLOW_AGAIN: &str = "if gateway.shared.get('loaded') then
  gateway.log.info('loading')
  while true do end
end
gateway.shared.set('loaded', true)
function access() end
";

/// Far more than any test has patience for.
const PATIENT: &str = "load_timeout: 100s, timeout: 100s";

#[tokio::test]
async fn a_reload_that_takes_long_is_no_reason_to_go_on() {
    let config = CONFIG.replace("timeout: 2s", PATIENT);
    for stop in [libc::SIGTERM, libc::SIGINT] {
        let mut gateway = Gateway::start_among(&[("route.lua", SLOW_AGAIN)], &config).await;
        gateway.signal(libc::SIGHUP);
        gateway.log().nth("loading", 0).await;
        gateway.signal(stop);
        assert!(gateway.exited().await.success());
    }
}

#[tokio::test]
async fn a_start_that_takes_long_is_no_reason_to_go_on() {
    let config = CONFIG.replace("timeout: 2s", PATIENT);
    let script = "gateway.log.info('loading')\nwhile true do end\n";
    for stop in [libc::SIGTERM, libc::SIGINT] {
        let mut gateway = Gateway::begin_among(&[("route.lua", script)], &config, |_| ());
        gateway.log().nth("loading", 0).await;
        gateway.signal(stop);
        assert!(gateway.exited().await.success());
    }
}

#[tokio::test]
async fn a_script_that_loads_for_ever_ends_a_reload() {
    let config = CONFIG.replace("timeout: 2s", "load_timeout: 300ms");
    let gateway = Gateway::start_among(&[("route.lua", OPEN)], &config).await;
    gateway.save("route.lua", "while true do end");
    gateway.log().nth("reload failed, nothing changed", 0).await;
    assert!(is_let_in(&gateway).await);
    gateway.save("route.lua", SHUT);
    gateway.log().nth("reloaded", 0).await;
    assert!(!is_let_in(&gateway).await);
}

/// Says when it begins to be loaded, and takes a second or two.
const SLOW: &str = "gateway.log.info('loading')
for i = 1, 50000000 do end
function access() end
";

#[tokio::test]
async fn what_is_saved_during_start_up_takes_effect() {
    let config = CONFIG.replace("timeout: 2s", PATIENT);
    let mut gateway = Gateway::begin_among(&[("route.lua", SLOW)], &config, |_| ());
    gateway.log().nth("loading", 0).await;
    gateway.save("config.yaml", &format!("{config}node: 3\n"));
    gateway.listens().await;
    gateway.log().nth("reloaded", 0).await;
    assert_eq!(connect(gateway.addr()).await.id() >> 24, 3);
}

#[tokio::test]
async fn what_is_saved_during_a_reload_takes_effect() {
    let config = CONFIG.replace("timeout: 2s", PATIENT);
    let files = [("route.lua", OPEN), ("late.lua", SLOW)];
    let gateway = Gateway::start_among(&files, &config).await;
    // A hook that nobody has watched so far.
    let late = config.replace("route.lua", "late.lua");
    gateway.save("config.yaml", &late);
    gateway.log().nth("loading", 0).await;
    gateway.save("late.lua", SHUT);
    gateway.log().nth("reloaded", 1).await;
    assert!(!is_let_in(&gateway).await);
}

#[tokio::test]
async fn the_directory_it_was_started_in_may_go() {
    let mut gateway = Gateway::begin_among(&[("route.lua", OPEN)], CONFIG, |command| {
        let here = command.as_std().get_current_dir().unwrap().join("release");
        std::fs::create_dir(&here).unwrap();
        command.current_dir(here).args(["-c", "../config.yaml"]);
    });
    gateway.listens().await;
    std::fs::remove_dir(gateway.directory().join("release")).unwrap();
    gateway.signal(libc::SIGHUP);
    assert_eq!(gateway.log().nth("reloaded", 0).await["generation"], 2);
    gateway.save("route.lua", SHUT);
    gateway.log().nth("reloaded", 1).await;
    assert!(!is_let_in(&gateway).await);
}

/// Scripts and configuration change again and again while sessions run, lose their connections
/// and come back.
#[tokio::test]
async fn reloads_under_load() {
    const SESSIONS: u64 = 20;
    const RELOADS: usize = 6;
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
