//! The commands, as somebody types them.

use std::fs;
use std::path::Path;
use std::process::Stdio;

use stablegate::config::Config;
use stablegate::internal::proto::proxy_header::UNKNOWN_V1;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::process::Command;

use crate::common::*;

pub const GOOD: &str = "\
node: 7
listeners:
  - name: game
    bind: [tcp://127.0.0.1:0]
    session: scp
    scp: {resume_wait: 1m}
hosts:
  - {name: echo, addr: 'builtin:echo'}
";

pub fn here() -> tempfile::TempDir {
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

/// One file serves all replicas: each takes its number from its host name.
#[tokio::test]
async fn a_node_may_be_the_ordinal_of_its_host() {
    let directory = here();
    let text = GOOD.replacen("node: 7", "node: ordinal", 1);
    fs::write(directory.path().join("config.yaml"), text).unwrap();
    for (host, code, told) in [
        ("stablegate-12", 0, "node: 12\n"),
        (
            "stablegate",
            1,
            "config.yaml:1: node: the host name `stablegate` does",
        ),
    ] {
        let script = format!("echo {host} > /proc/sys/kernel/hostname && exec \"$@\"");
        let output = Command::new("unshare")
            .args([
                "--user",
                "--map-root-user",
                "--uts",
                "sh",
                "-c",
                &script,
                "sh",
            ])
            .args([env!("CARGO_BIN_EXE_stablegate"), "check", "--dump"])
            .current_dir(&directory)
            .output()
            .await;
        let Ok(output) = output else {
            return skipped("unshare");
        };
        let stderr = String::from_utf8_lossy(&output.stderr);
        if stderr.starts_with("unshare: ") {
            return skipped("leave to name a host");
        }
        assert_eq!(output.status.code(), Some(code), "{stderr}");
        let stdout = String::from_utf8_lossy(&output.stdout);
        assert!(
            stdout.contains(told) || stderr.contains(told),
            "{stdout}{stderr}"
        );
    }
}

#[tokio::test]
async fn check_lets_a_script_demand_what_it_needs() {
    let directory = here();
    let script = "local key = assert(gateway.config.key, 'config.key is missing')\n\
                  function access() return key ~= nil end\n";
    fs::write(directory.path().join("a.lua"), script).unwrap();
    for (settings, code) in [("{}", 1), ("{key: sesame}", 0)] {
        let hooks = format!("hooks: [{{name: a, lua: a.lua, config: {settings}}}]\n");
        fs::write(
            directory.path().join("config.yaml"),
            format!("{GOOD}{hooks}"),
        )
        .unwrap();
        let output = run(directory.path(), &["check"]).await;
        assert_eq!(output.code, Some(code), "{}", output.stderr);
        let said = output.stderr.contains("a.lua:1: config.key is missing");
        assert_eq!(said, code == 1, "{}", output.stderr);
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
            "config.yaml:1: node: 256 must be 0 to 255, or ordinal",
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
        (
            "node: 7",
            "node: 7\nhooks:\n- name: gone\n  lua: scripts/gone.lua",
            "config.yaml:4: hooks[0].lua: scripts/gone.lua: No such file or directory",
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
