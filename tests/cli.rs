//! The commands, as somebody types them.

mod common;

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::SocketAddr as UnixAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use stablegate::client::kcp::fec::Shape;
use stablegate::config::Config;
use stablegate::crypto::Dialect;
use stablegate::proto::proxy_header::UNKNOWN_V1;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpStream, UdpSocket, UnixDatagram};
use tokio::process::Command;
use tokio::sync::watch;

use common::*;

const GOOD: &str = "\
node: 7
listeners:
  - name: game
    bind: [tcp://127.0.0.1:0]
    session: scp
    scp: {resume_wait: 1m}
hosts:
  - {name: echo, addr: 'builtin:echo'}
";

fn here() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

#[tokio::test]
async fn check_says_that_a_file_is_good() {
    let directory = here();
    fs::write(directory.path().join("config.yaml"), GOOD).unwrap();
    fs::write(directory.path().join("other.yaml"), GOOD).unwrap();
    for (arguments, name) in [
        (&["check"][..], "config.yaml"),
        (&["check", "-c", "other.yaml"], "other.yaml"),
        (&["check", "--config", "other.yaml"], "other.yaml"),
    ] {
        let output = run(directory.path(), arguments).await;
        assert_eq!((output.code, &*output.stderr), (Some(0), ""));
        let expected = format!("{name}: good: 1 listeners, 1 hosts, 0 hooks\n");
        assert_eq!(output.stdout, expected);
    }
}

#[tokio::test]
async fn who_reads_no_further_ends_the_command() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_stablegate"))
        .arg("reference")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().await.unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[tokio::test]
async fn limits_of_a_hook_are_those_of_the_configuration() {
    let directory = here();
    fs::write(directory.path().join("hook.lua"), "function access() end").unwrap();
    for (option, value, expected) in [
        ("--memory", "64", "`64` lacks a unit: write 64B"),
        ("--memory", "2000GiB", "`2000GiB` must be 1MiB to 1GiB"),
        ("--timeout", "0s", "`0s` must be more than 0s"),
    ] {
        let arguments = ["hook", "call", "hook.lua", "access", option, value];
        let output = run(directory.path(), &arguments).await;
        assert_eq!(output.code, Some(2));
        assert!(output.stderr.contains(expected), "{}", output.stderr);
    }
    let arguments = ["hook", "call", "hook.lua", "access", "--memory", "64MiB"];
    assert_eq!(run(directory.path(), &arguments).await.code, Some(0));
}

#[tokio::test]
async fn check_names_file_line_and_key() {
    let directory = here();
    let path = directory.path().join("config.yaml");
    for (from, to, expected) in [
        (
            "node: 7",
            "node: 256",
            "config.yaml:1: node: 256 must be 0 to 255",
        ),
        (
            "resume_wait: 1m",
            "resume_wait: 60",
            "config.yaml:6: listeners[0].scp.resume_wait: `60` lacks a unit",
        ),
        (
            "    session: scp",
            "    sessions: scp",
            "config.yaml:5: listeners[0].sessions: unknown key",
        ),
        (
            "builtin:echo",
            "builtin:ping",
            "config.yaml:8: hosts[0].addr: unknown host `builtin:ping`",
        ),
        (
            "    session: scp",
            "    session: scp\n    hooks: [gone]",
            "config.yaml:6: listeners[0].hooks[0]: no hook is named `gone`",
        ),
    ] {
        let text = GOOD.replacen(from, to, 1);
        assert_ne!(text, GOOD);
        fs::write(&path, text).unwrap();
        for arguments in [&["check"][..], &["check", "--dump"], &["run"], &[]] {
            let output = run(directory.path(), arguments).await;
            assert_eq!(output.code, Some(1), "{arguments:?} {}", output.stderr);
            assert_eq!(output.stdout, "");
            let message = output.stderr.strip_prefix("stablegate: ");
            assert!(message.unwrap().starts_with(expected), "{}", output.stderr);
        }
    }
    fs::remove_file(&path).unwrap();
    let output = run(directory.path(), &["check"]).await;
    assert_eq!(output.code, Some(1));
    let expected = "stablegate: config.yaml: cannot be read: ";
    assert!(output.stderr.starts_with(expected), "{}", output.stderr);
}

#[tokio::test]
async fn a_dump_is_the_same_configuration() {
    let directory = here();
    let path = directory.path().join("config.yaml");
    fs::write(&path, GOOD).unwrap();
    let output = run(directory.path(), &["check", "--dump"]).await;
    assert_eq!(output.code, Some(0), "{}", output.stderr);
    let dumped = Config::parse(&output.stdout, &path).unwrap();
    assert_eq!(dumped, Config::load(&path).unwrap());
    // Defaults are spelled out.
    for key in [
        "handshake_timeout: 30s",
        "resume_wait: 1m",
        "replay_buffer: 64KiB",
    ] {
        assert!(output.stdout.contains(key), "{}", output.stdout);
    }
    // And it is its own dump.
    fs::write(&path, &output.stdout).unwrap();
    let again = run(directory.path(), &["check", "--dump"]).await;
    assert_eq!(again.stdout, output.stdout);
}

#[tokio::test]
async fn version_and_help_are_there() {
    let directory = here();
    let output = run(directory.path(), &["--version"]).await;
    let version = concat!("stablegate ", env!("CARGO_PKG_VERSION"), "\n");
    assert_eq!((output.code, &*output.stdout), (Some(0), version));
    let help = run(directory.path(), &["--help"]).await;
    assert_eq!((help.code, &*help.stderr), (Some(0), ""));
    let (_, examples) = help.stdout.split_once("Examples:").unwrap();
    for example in [
        "stablegate run -c staging.yaml --grace 60s",
        "stablegate check --dump",
        "stablegate connect 127.0.0.1:1248 --cut-every 2s",
        "stablegate echo 127.0.0.1:9000",
        "stablegate hook call ",
    ] {
        assert!(examples.contains(example), "{}", help.stdout);
    }
    for command in ["run", "check", "connect", "echo", "hook"] {
        let output = run(directory.path(), &[command, "--help"]).await;
        assert_eq!(output.code, Some(0), "{}", output.stderr);
        assert!(
            output.stdout.contains("Usage: stablegate "),
            "{}",
            output.stdout
        );
    }
    for misuse in [
        &["walk"][..],
        &["connect"],
        &["check", "--loudly"],
        &["echo", "nowhere"],
    ] {
        let output = run(directory.path(), misuse).await;
        assert_eq!((output.code, &*output.stdout), (Some(2), ""), "{misuse:?}");
        assert!(output.stderr.starts_with("error: "), "{}", output.stderr);
    }
}

#[tokio::test]
async fn echo_sends_back_what_it_gets() {
    let directory = here();
    let mut echo = command(
        directory.path(),
        &["echo", "127.0.0.1:0", "--log-format", "json"],
    )
    .stderr(Stdio::piped())
    .spawn()
    .unwrap();
    let log = Log::read(echo.stderr.take().unwrap());
    let listening = log.nth("listening", 0).await;
    let addr = listening["addr"].as_str().unwrap();
    let mut connection = TcpStream::connect(addr).await.unwrap();
    let mut pattern = Pattern::new(1);
    connection
        .write_all(pattern.clone().next(100_000))
        .await
        .unwrap();
    connection.shutdown().await.unwrap();
    pattern.check(&read_to_end(&mut connection).await);
    assert_eq!(pattern.position(), 100_000);
    let closed = log.nth("closed", 0).await;
    assert_eq!(closed["bytes"], 100_000, "{closed}");
    // Twice on one address is an error.
    let again = run(directory.path(), &["echo", addr]).await;
    assert_eq!(again.code, Some(1), "{}", again.stderr);
    assert!(again.stderr.contains("stablegate: "), "{}", again.stderr);
}

fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stablegate"));
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUST_LOG")
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

#[tokio::test]
async fn connect_types_through_cuts() {
    let directory = here();
    let gateway = Gateway::start(&scp_to("builtin:echo", "")).await;
    let addr = gateway.addr().to_string();
    let mut client = command(directory.path(), &["connect", &addr, "--cut-every", "50ms"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let mut output = BufReader::new(client.stdout.take().unwrap()).lines();
    let mut errors = BufReader::new(client.stderr.take().unwrap()).lines();
    let line = soon("the first line", errors.next_line()).await.unwrap();
    let id: u32 = line
        .unwrap()
        .strip_prefix("connected, session ")
        .unwrap()
        .parse()
        .unwrap();
    // Line by line, until it has been cut a few times.
    let typing = async {
        let mut n = 0;
        loop {
            n += 1;
            let line = format!("line {n}");
            input
                .write_all(format!("{line}\n").as_bytes())
                .await
                .unwrap();
            assert_eq!(output.next_line().await.unwrap(), Some(line));
            if gateway.log().all("session resumed").len() >= 5 {
                return n;
            }
        }
    };
    let lines = soon("lines between cuts", typing).await;
    let line = soon("word of the cuts", errors.next_line()).await.unwrap();
    assert_eq!(line.unwrap(), "-- cutting the connection");
    drop(input);
    let status = soon("the end", client.wait()).await.unwrap();
    assert_eq!(status.code(), Some(0));
    assert_eq!(soon("the end", output.next_line()).await.unwrap(), None);
    let resumed = gateway.log().of(id, "session resumed").await;
    assert_eq!(resumed["transport"], "tcp", "{resumed}");
    assert!(lines > 1);
}

#[tokio::test]
async fn connect_copies_a_file() {
    let directory = here();
    let server = Server::start().await;
    let gateway = Gateway::start(&scp_to(server.addr, "announce: {proxy_header: v1}")).await;
    let addr = gateway.addr().to_string();
    let arguments = ["connect", &addr, "--target", "server", "--flags", "1"];
    let mut client = command(directory.path(), &arguments)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = client.stdin.take().unwrap();
    let typing = tokio::spawn(async move {
        let mut sent = Pattern::new(1);
        while sent.position() < 500_000 {
            input.write_all(sent.next(4096)).await.unwrap();
        }
        sent.position()
    });
    let mut connection = server.accept().await;
    let total = soon("the input", typing).await.unwrap();
    let nobody = read(&mut connection, UNKNOWN_V1.len()).await;
    assert_eq!(nobody, UNKNOWN_V1, "as the flag wants it");
    let got = read(&mut connection, total as usize).await;
    Pattern::new(1).check(&got);
    // The server ends it.
    connection.write_all(b"goodbye\n").await.unwrap();
    drop(connection);
    let output = soon("the end", client.wait_with_output()).await.unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(0), "{errors}");
    assert_eq!(output.stdout, b"goodbye\n");
    assert!(
        errors.contains("the gateway closed the session"),
        "{errors}"
    );
}

#[tokio::test]
async fn connect_says_why_it_cannot() {
    let directory = here();
    let dead = dead_addr().await.to_string();
    let output = run(directory.path(), &["connect", &dead]).await;
    assert_eq!((output.code, &*output.stdout), (Some(1), ""));
    let expected = format!("stablegate: cannot connect to tcp://{dead}: ");
    assert!(output.stderr.starts_with(&expected), "{}", output.stderr);
    // Nobody listens there over UDP either.
    let output = run(directory.path(), &["connect", &format!("kcp://{dead}")]).await;
    let expected = "stablegate: no answer to the handshake: connection refused\n";
    assert_eq!((output.code, &*output.stderr), (Some(1), expected));
    // No gateway, but it answers.
    let server = Server::start().await;
    let addr = server.addr.to_string();
    let arguments = ["connect", &addr];
    let asking = run(directory.path(), &arguments);
    let answering = async {
        let mut connection = server.accept().await;
        connection.write_all(b"HTTP/1.1 400\r\n\r\n").await.unwrap();
        let mut rest = Vec::new();
        let _ = connection.read_to_end(&mut rest).await;
    };
    let (output, ()) = tokio::join!(asking, answering);
    assert_eq!((output.code, &*output.stdout), (Some(1), ""));
    assert!(output.stderr.contains("is no scp"), "{}", output.stderr);
}

#[tokio::test]
async fn logs_are_lines_for_people_unless_json_is_wanted() {
    let directory = here();
    for (format, json) in [(&["--log-format", "json"][..], true), (&[], false)] {
        let mut echo = command(directory.path(), &["echo", "127.0.0.1:0"])
            .args(format)
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(echo.stderr.take().unwrap()).lines();
        let line = soon("a line", lines.next_line()).await.unwrap().unwrap();
        assert!(line.contains("listening"), "{line}");
        let parsed: Result<Value, _> = serde_json::from_str(&line);
        assert_eq!(parsed.is_ok(), json, "{line}");
    }
}

#[tokio::test]
async fn the_log_format_may_stand_before_the_command() {
    let directory = here();
    fs::write(directory.path().join("config.yaml"), GOOD).unwrap();
    let arguments = ["--log-format", "json", "check"];
    let output = run(directory.path(), &arguments).await;
    assert_eq!((output.code, &*output.stderr), (Some(0), ""));
}

/// The socket of a service manager, by a path or in the abstract namespace, and its name.
fn manager(directory: &Path, is_abstract: bool) -> (UnixDatagram, OsString) {
    let (address, name) = if is_abstract {
        let name = format!("stablegate-{:x}", rand::random::<u128>());
        let address = UnixAddr::from_abstract_name(&name).unwrap();
        (address, format!("@{name}").into())
    } else {
        let path = directory.join("notify");
        (UnixAddr::from_pathname(&path).unwrap(), path.into())
    };
    let socket = std::os::unix::net::UnixDatagram::bind_addr(&address).unwrap();
    socket.set_nonblocking(true).unwrap();
    (UnixDatagram::from_std(socket).unwrap(), name)
}

/// The next notification.
async fn told(socket: &UnixDatagram) -> String {
    let mut buffer = [0; 100];
    let len = soon("a notification", socket.recv(&mut buffer)).await;
    String::from_utf8(buffer[..len.unwrap()].to_vec()).unwrap()
}

fn monotonic_usec() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    assert_eq!(result, 0);
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}

#[tokio::test]
async fn systemd_is_told() {
    for is_abstract in [false, true] {
        let directory = here();
        let (socket, name) = manager(directory.path(), is_abstract);
        let environment = [("NOTIFY_SOCKET", name.as_os_str())];
        let mut gateway = Gateway::start_under(GOOD, &environment).await;
        assert_eq!(told(&socket).await, "READY=1\n");
        for good in [true, false] {
            let asked = monotonic_usec();
            gateway.signal(libc::SIGHUP);
            let reloading = told(&socket).await;
            let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=");
            let since: i64 = since.unwrap().trim_end().parse().unwrap();
            assert!((asked..=monotonic_usec()).contains(&since), "{reloading}");
            assert_eq!(told(&socket).await, "READY=1\n");
            let outcome = match good {
                true => "reloaded",
                false => "reload failed, nothing changed",
            };
            gateway.log().nth(outcome, 0).await;
            std::fs::remove_file(gateway.directory().join("config.yaml")).ok();
        }
        gateway.signal(libc::SIGTERM);
        assert_eq!(told(&socket).await, "STOPPING=1\n");
        assert!(gateway.exited().await.success());
    }
}

/// A watchdog hears of the process that it watches, and of no other.
#[tokio::test]
async fn a_watchdog_is_fed() {
    let directory = here();
    fs::write(directory.path().join("config.yaml"), without_admin(GOOD)).unwrap();
    for (watched, is_fed) in [
        ("unset WATCHDOG_PID", true),
        ("WATCHDOG_PID=$$", true),
        ("WATCHDOG_PID=1", false),
    ] {
        let (socket, name) = manager(directory.path(), true);
        let script = format!("{watched}; exec \"$0\"");
        let mut gateway = Command::new("sh")
            .args(["-c", &script, env!("CARGO_BIN_EXE_stablegate")])
            .current_dir(directory.path())
            .env("NOTIFY_SOCKET", &name)
            .env("WATCHDOG_USEC", "20000")
            .env("WATCHDOG_PID", "2")
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        assert_eq!(told(&socket).await, "READY=1\n");
        if is_fed {
            for _ in 0..5 {
                assert_eq!(told(&socket).await, "WATCHDOG=1\n", "{watched}");
            }
        }
        let pid = gateway.id().unwrap() as libc::pid_t;
        // SAFETY: the child has not been reaped, so the id is still its own.
        assert_eq!(unsafe { libc::kill(pid, libc::SIGTERM) }, 0);
        let rest = async {
            while told(&socket).await == "WATCHDOG=1\n" {
                assert!(is_fed, "{watched}");
            }
        };
        soon("word of the end", rest).await;
        assert!(soon("its exit", gateway.wait()).await.unwrap().success());
    }
}

/// Passes datagrams on between one client and a gateway, until it is told to lose them all.
struct Hole {
    addr: SocketAddr,
    loses: Arc<AtomicBool>,
    /// How many the gateway has sent in vain.
    lost: watch::Receiver<usize>,
}

impl Hole {
    async fn new(gateway: SocketAddr) -> Self {
        let near = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let far = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        far.connect(gateway).await.unwrap();
        let addr = near.local_addr().unwrap();
        let loses = Arc::new(AtomicBool::new(false));
        let (counter, lost) = watch::channel(0);
        let losing = loses.clone();
        tokio::spawn(async move {
            let (mut up, mut down) = ([0; 2048], [0; 2048]);
            let mut client = None;
            loop {
                tokio::select! {
                    Ok((len, from)) = near.recv_from(&mut up) => {
                        client = Some(from);
                        if !losing.load(Ordering::Relaxed) {
                            let _ = far.send(&up[..len]).await;
                        }
                    }
                    Ok(len) = far.recv(&mut down) => match client {
                        Some(client) if !losing.load(Ordering::Relaxed) => {
                            let _ = near.send_to(&down[..len], client).await;
                        }
                        _ => counter.send_modify(|lost| *lost += 1),
                    },
                }
            }
        });
        Self { addr, loses, lost }
    }
}

/// How long a gateway takes from the end of its grace to its own, with a client over KCP that is
/// gone before it has got everything, or without.
async fn time_to_stop(arguments: &[&str], signals: usize, with_a_client: bool) -> Duration {
    let server = Server::start().await;
    let config = scp_to(server.addr, "").replace("tcp://", "kcp://");
    let mut gateway = Gateway::start_with(&config, arguments).await;
    let mut hole = Hole::new(gateway.addr()).await;
    let mut clients = Vec::new();
    if with_a_client {
        let mut options = options(gateway.addr());
        options.addresses = vec![format!("kcp://{}", hole.addr).parse().unwrap()];
        let mut client = connect_with(options).await;
        let mut connection = server.accept().await;
        client.write_all(b"hello").await.unwrap();
        assert_eq!(read(&mut connection, 5).await, b"hello");
        hole.loses.store(true, Ordering::Relaxed);
        connection.write_all(&[7; 10_000]).await.unwrap();
        soon("bytes in vain", hole.lost.wait_for(|lost| *lost > 0))
            .await
            .unwrap();
        clients.push((client, connection));
    }
    for _ in 0..signals {
        gateway.signal(libc::SIGTERM);
        gateway.log().nth("draining", 0).await;
    }
    gateway.log().nth("stopping", 0).await;
    let stopping = Instant::now();
    assert!(gateway.exited().await.success());
    stopping.elapsed()
}

#[tokio::test]
async fn who_is_gone_keeps_no_gateway_from_stopping() {
    for (arguments, signals) in [(["--grace", "10ms"], 1), (["--grace", "1h"], 2)] {
        let alone = time_to_stop(&arguments, 1, false).await;
        let took = time_to_stop(&arguments, signals, true).await;
        // It would have a quarter of a minute, were there time.
        let most = alone + Duration::from_secs(10);
        assert!(took < most, "{took:?}, {alone:?} without anybody");
    }
}

#[tokio::test]
async fn what_a_client_says_stays_on_its_line_of_the_log() {
    let directory = here();
    let config = format!(
        "admin: \"\"\n{}hooks: [{{name: deny, lua: deny.lua}}]\n",
        GOOD.replace("session: scp\n", "session: scp\n    hooks: [deny]\n")
    );
    fs::write(directory.path().join("config.yaml"), config).unwrap();
    let script = "function access(session)
        gateway.log.warn('a ' .. session.target)
        return false, 'b ' .. session.target .. '\\nforged'
    end";
    fs::write(directory.path().join("deny.lua"), script).unwrap();
    let mut gateway = command(directory.path(), &["run"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let mut line = async || soon("a line", log.next_line()).await.unwrap().unwrap();
    let listening = line().await;
    let addr = listening.split_once("addr=").unwrap().1.parse().unwrap();
    let target = "\n\u{1b}[2Jlobby\rforged\u{85}forged";
    Raw::open(addr, Dialect::Current, target).await;
    let said = line().await;
    assert!(
        said.contains(r"a \x1b[2Jlobby\rforged\u{85}forged"),
        "{said}"
    );
    let closed = line().await;
    let expected = r"b \u{1b}[2Jlobby\rforged\u{85}forged\nforged";
    assert!(closed.contains(expected), "{closed}");
    // Nor does it change how the line reads, or make it long.
    let target = format!(
        "\n\u{2028}a\u{202e}b\u{2069}c\u{61c}\u{200f}{}",
        "Q".repeat(400)
    );
    Raw::open(addr, Dialect::Current, &target).await;
    let shown = r"\u{2028}a\u{202e}b\u{2069}c\u{61c}\u{200f}Q";
    let said = line().await;
    assert!(said.contains(&format!("a {shown}")), "{said}");
    let closed = line().await;
    assert!(closed.contains(&format!("b {shown}")), "{closed}");
    assert!(
        (200..256).contains(&closed.matches('Q').count()),
        "{closed}"
    );
}

#[tokio::test]
async fn a_log_of_objects_shows_no_deceptive_characters() {
    let config = GOOD.replace("session: scp\n", "session: scp\n    hooks: [deny]\n")
        + "hooks: [{name: deny, lua: deny.lua}]\n";
    let script = "function access(session) gateway.log.warn(session.target) return false, session.target end";
    let directory = here();
    fs::write(directory.path().join("config.yaml"), without_admin(&config)).unwrap();
    fs::write(directory.path().join("deny.lua"), script).unwrap();
    let mut gateway = command(directory.path(), &["run", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap()).lines();
    let mut line = async || soon("a line", log.next_line()).await.unwrap().unwrap();
    let listening: Value = serde_json::from_str(&line().await).unwrap();
    let addr = listening["addr"].as_str().unwrap().parse().unwrap();
    let target = "\u{7f}\u{85}\u{2028}\u{2029}\u{202a}\u{202e}\u{2066}\u{2069}\u{200e}\u{61c}";
    Raw::open(addr, Dialect::Current, &format!("\n{target}")).await;
    for key in ["message", "detail"] {
        let line = line().await;
        assert!(line.is_ascii(), "{line}");
        let object: Value = serde_json::from_str(&line).unwrap();
        assert!(object[key].as_str().unwrap().contains(target), "{line}");
    }
}

#[tokio::test]
async fn error_correction_that_only_clients_have_is_told_once() {
    let config = without_admin(&GOOD.replace("tcp://", "kcp://"));
    let gateway = Gateway::start(&config).await;
    let addr = gateway.addr().to_string();
    for n in 0..2 {
        let mut options = options(gateway.addr());
        options.addresses = vec![format!("kcp://{addr}").parse().unwrap()];
        options.kcp.fec = Shape::new(10, 3).ok();
        echoed(&mut connect_with(options).await, b"hello").await;
        gateway.log().nth("session opened", n).await;
    }
    let message = "client uses forward error correction, fec_data and fec_parity here are off";
    let told = gateway.log().all(message);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0]["level"], "WARN");
    assert_eq!(told[0]["addr"], addr);
}

#[tokio::test]
async fn there_is_no_core_file() {
    use std::os::unix::process::ExitStatusExt;

    let mut gateway = Gateway::start(GOOD).await;
    let pid = gateway.pid();
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // As much as may be allowed here.
    // SAFETY: the child has not been reaped, and the limit is used during the calls only.
    let set = unsafe {
        libc::prlimit(pid, libc::RLIMIT_CORE, std::ptr::null(), &mut limit);
        limit.rlim_cur = limit.rlim_max;
        libc::prlimit(pid, libc::RLIMIT_CORE, &limit, std::ptr::null_mut())
    };
    assert_eq!(set, 0, "{}", std::io::Error::last_os_error());
    gateway.signal(libc::SIGABRT);
    let status = gateway.exited().await;
    assert_eq!(status.signal(), Some(libc::SIGABRT));
    assert!(!status.core_dumped());
}
