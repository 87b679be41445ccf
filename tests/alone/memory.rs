//! What strangers, clients and servers can make the gateway hold, as the system counts it.

use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use socket2::{Domain, Socket, Type};
use stablegate::internal::crypto::Dialect;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;
use tokio::time::interval;

use crate::beside_others;
use crate::common::gateway::resident;
use crate::common::*;

/// A server whose system takes little before it is read.
async fn narrow_server() -> (TcpListener, std::net::SocketAddr) {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    socket.set_nonblocking(true).unwrap();
    let any = "127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap();
    socket.bind(&any.into()).unwrap();
    socket.listen(1024).unwrap();
    let listener = TcpListener::from_std(socket.into()).unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

/// Clients that send all they can to servers that read nothing, and lose their connections again
/// and again: what each connection has delivered stays in it, and is there when the server reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_comes_back_to_a_stuck_server_takes_little() {
    let _turn = beside_others().await;
    const SESSIONS: u64 = 40;
    // More than the systems between gateway and server hold.
    const EACH: u64 = 6 << 20;
    const ROUNDS: usize = 5;
    let (server, addr) = narrow_server().await;
    let config = scp_to(addr, "admin: 127.0.0.1:0\nscp: {resume_wait: 1h}");
    let gateway = Gateway::start(&config).await;
    let admin = gateway.admin().await;
    let mut sessions = Vec::new();
    for name in 0..SESSIONS {
        let options = stablegate::client::scp::Options {
            resume_wait: Duration::from_secs(3600),
            ..options(gateway.addr())
        };
        let client = connect_with(options).await;
        let (connection, _) = soon("the gateway", server.accept()).await.unwrap();
        sessions.push((name, client, connection));
    }
    let before = gateway.resident();
    let mut cutters = Vec::new();
    let mut connections = Vec::new();
    let mut clients = tokio::task::JoinSet::new();
    for (name, mut client, connection) in sessions {
        cutters.push(client.cutter());
        connections.push((name, client.id(), connection));
        clients.spawn(async move {
            let mut sent = Pattern::new(name);
            while sent.position() < EACH {
                let bytes = sent.next((EACH - sent.position()).min(16 * 1024) as usize);
                client.write_all(bytes).await.unwrap();
            }
            client.flush().await.unwrap();
            client
        });
    }
    // What waits in connections that were lost is told.
    let unread = async || {
        let mut each = Vec::new();
        for (_, id, _) in &connections {
            let explained = http::get(admin, &format!("/sessions/{id}")).await.good();
            let unread = &explained["replay_buffer"]["unread_bytes"];
            each.push(unread.as_u64().unwrap());
        }
        each
    };
    // Until all are stuck, and for some rounds more.
    let mut pace = interval(Duration::from_millis(500));
    let mut rounds = 0;
    let cutting = async {
        while rounds < ROUNDS {
            pace.tick().await;
            cutters.iter().for_each(|cutter| cutter.cut());
            let unread = unread().await;
            rounds += usize::from(unread.iter().all(|unread| *unread > 0));
        }
    };
    soon("all that they can send", cutting).await;
    let each = gateway.resident().saturating_sub(before) / SESSIONS;
    assert!(each < 1 << 20, "{each} bytes each");
    let unread: u64 = unread().await.into_iter().sum();
    println!("{each} bytes of memory each, {unread} unread in all");

    let mut readers = tokio::task::JoinSet::new();
    for (name, _, mut connection) in connections {
        readers.spawn(async move {
            let mut got = Pattern::new(name);
            let mut space = vec![0; 64 * 1024];
            while got.position() < EACH {
                let reading = connection.read(&mut space);
                let len = soon("bytes of a session", reading).await.unwrap();
                assert_ne!(len, 0, "the end after {}", got.position());
                got.check(&space[..len]);
            }
            connection
        });
    }
    let (clients, _connections) = (clients.join_all().await, readers.join_all().await);
    assert!(clients.iter().all(|client| client.resumes() > 0));
}

/// However a hello is cut into lines, a session holds no more of it than its text.
#[tokio::test]
async fn a_hello_of_many_lines_takes_no_more_than_its_text() {
    let _turn = beside_others().await;
    const SESSIONS: u64 = 2_000;
    const LEN: usize = 4_000;
    let config = scp_to("builtin:echo", "scp: {resume_wait: 1h}");
    let hellos = [
        String::new(),
        format!("\n\n0\n{}", "x".repeat(LEN)),
        format!("\n\n0{}", "\n".repeat(LEN)),
    ];
    let mut each = Vec::new();
    for hello in hellos {
        let gateway = Gateway::start(&config).await;
        let open = async |count| {
            for _ in 0..count {
                let mut client = Raw::open(gateway.addr(), Dialect::Current, &hello).await;
                client.echo("hello").await;
                // It waits for its client.
                client.leave(Cut::Close);
            }
        };
        open(200).await;
        let before = gateway.resident();
        open(SESSIONS).await;
        each.push((gateway.resident() - before) / SESSIONS);
    }
    let [none, one, many] = each[..] else {
        unreachable!();
    };
    println!("{none} bytes without more, {one} with one line, {many} with {LEN}");
    let most = none + 5 * LEN as u64 / 4;
    assert!(one < most && many < most);
}

/// A log that nobody reads takes what it may, then lines are dropped; whoever reads again is told.
#[tokio::test]
async fn a_log_that_nobody_reads_is_bounded() {
    let _turn = beside_others().await;
    const LIMIT: u64 = 16 << 20;
    let directory = tempfile::tempdir().unwrap();
    let script = "function access() for _ = 1, 100 do gateway.log.info(('x'):rep(8000)) end end";
    let config =
        "listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [talk]}]
hosts: [{name: echo, addr: 'builtin:echo'}]
hooks: [{name: talk, lua: talk.lua, timeout: 10s}]";
    std::fs::write(directory.path().join("talk.lua"), script).unwrap();
    std::fs::write(directory.path().join("config.yaml"), without_admin(config)).unwrap();
    let mut gateway = command(directory.path(), &["run", "--log-format", "json"])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut log = BufReader::new(gateway.stderr.take().unwrap());
    let mut line = String::new();
    soon("a line", log.read_line(&mut line)).await.unwrap();
    let listening: Value = serde_json::from_str(&line).unwrap();
    let addr = listening["addr"].as_str().unwrap().parse().unwrap();
    let pid = gateway.id().unwrap();
    // Loads what a session takes, and what the script does.
    Raw::connect(addr).await.echo("hello").await;
    let before = resident(pid);
    for _ in 0..79 {
        Raw::connect(addr).await.echo("hello").await;
    }
    let grown = resident(pid) - before;
    println!("{grown} bytes for 64 MB of log");
    assert!(grown < 5 * LIMIT / 4, "{grown}");
    // Of 8,000 lines those that fit are there, and how many there were beside them.
    let (mut whole, mut dropped) = (0, None);
    while dropped.is_none() {
        line.clear();
        let read = soon("a line", log.read_line(&mut line)).await.unwrap();
        assert!(read > 0, "the end of the log");
        let object: Value = serde_json::from_str(&line).unwrap();
        match object["message"].as_str().unwrap() {
            "the log was not read, lines dropped" => dropped = object["lines"].as_u64(),
            message => whole += u64::from(message.starts_with("xxx")),
        }
    }
    let (whole, dropped) = (whole, dropped.unwrap());
    assert!(
        whole >= LIMIT / 10_000 && whole + dropped >= 8_000 - LIMIT / 8_000 / 2,
        "{whole} {dropped}"
    );
}

/// Memory goes back to the system when it is not needed any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peak_of_memory_passes() {
    let _turn = beside_others().await;
    const PEAK: u64 = 500_000_000;
    // Not so large that the system hands each out by itself.
    const EACH: usize = 64 * 1024;
    let server = Server::start().await;
    let more = "scp: {resume_wait: 1ms, replay_buffer: 128KiB}\nreplay_memory: 0B";
    let gateway = Gateway::start(&scp_to(server.addr, more)).await;
    let peak = async |sessions: u64| {
        let mut all = Vec::new();
        for _ in 0..sessions {
            let client = Raw::connect(gateway.addr()).await;
            let mut connection = server.accept().await;
            connection.write_all(&[1; EACH]).await.unwrap();
            all.push((client, connection));
        }
        for (client, connection) in &mut all {
            client.receive(EACH).await;
            connection.write_all(&[2; EACH]).await.unwrap();
        }
        for (client, _) in &mut all {
            client.receive(EACH).await;
        }
        gateway.resident()
    };
    peak(20).await;
    let before = gateway.resident();
    let most = peak(PEAK / (2 * EACH as u64)).await;
    println!("{before} before, {most} at most");
    assert!(most > before + PEAK * 9 / 10, "{most}");
    let falling = async {
        let mut pace = interval(Duration::from_millis(100));
        while gateway.resident() > 2 * before {
            pace.tick().await;
        }
    };
    let fell = tokio::time::timeout(PATIENCE, falling).await;
    println!("{} after", gateway.resident());
    assert!(
        fell.is_ok(),
        "{before} before, {most} at most, {} after",
        gateway.resident()
    );
}
