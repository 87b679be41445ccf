//! The process of a gateway: what it logs, what its service manager hears of it, and how it ends.

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
use stablegate::internal::crypto::Dialect;
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UdpSocket, UnixDatagram};
use tokio::process::Command;
use tokio::sync::watch;

use crate::cli::{GOOD, here};
use crate::common::*;

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
