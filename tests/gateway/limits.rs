//! How much of the gateway its clients may take, and what happens beyond.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use stablegate::client::scp::Stream;
use stablegate::client::snet;
use stablegate::gateway::{self, Limit};
use stablegate::internal::proto::scp::message::Code;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::*;

/// A public key that nothing is wrong with, in a request for a new session.
const HELLO: &str = "0\nAQAAAAAAAAA=";

fn config(listener: &str) -> String {
    format!(
        "listeners: [{{name: game, {listener}}}]\n\
         hosts: [{{name: echo, addr: 'builtin:echo'}}]\n"
    )
}

fn scp(limits: &str) -> String {
    config(&format!(
        "bind: ['tcp://127.0.0.1:0'], session: scp, limits: {{{limits}}}, \
         scp: {{handshake_timeout: 1h, resume_wait: 1h}}"
    ))
}

/// The line that says for the first time that a limit was reached.
async fn reached(gateway: &Gateway, limit: &str) -> Value {
    let fits = |line: &Value| line["message"] == "connection refused" && line["limit"] == limit;
    gateway.log().wait(limit, fits).await
}

/// Connects, says that, and tells whether the other end closes without a word, however.
async fn is_turned_away(socket: io::Result<TcpStream>, hello: &[u8]) -> bool {
    // It may be closed before anything has been said.
    let Ok(mut socket) = socket else {
        return true;
    };
    let _ = socket.write_all(hello).await;
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    let _ = soon("the end of a refused connection", reading).await;
    answer.is_empty()
}

/// Asks for a session that there is no room for.
async fn is_refused(addr: SocketAddr) -> bool {
    is_turned_away(TcpStream::connect(addr).await, &record(HELLO)).await
}

/// A connection from another loopback address.
async fn connect_from(from: [u8; 4], to: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind((from, 0).into()).unwrap();
    socket.connect(to).await
}

#[tokio::test]
async fn sessions_beyond_the_limit_are_refused_and_those_that_are_there_come_back() {
    let gateway = Gateway::start(&scp("connections: 2")).await;
    let mut first = Raw::connect(gateway.addr()).await;
    let mut second = Raw::connect(gateway.addr()).await;
    first.echo("one").await;
    second.echo("two").await;
    assert!(is_refused(gateway.addr()).await);
    let line = reached(&gateway, "connections").await;
    assert_eq!(
        (&line["listener"], &line["refused"]),
        (&"game".into(), &1.into())
    );
    for _ in 0..5 {
        first.leave(Cut::Reset);
        first.resume(gateway.addr()).await;
        first.echo("back").await;
        second.resume(gateway.addr()).await;
        second.echo("moved").await;
    }
    // One that waits for its client counts.
    second.leave(Cut::Close);
    assert!(is_refused(gateway.addr()).await);
    first.echo("all the time").await;
}

#[tokio::test]
async fn a_session_that_ends_makes_room() {
    let config = scp("connections: 1").replace("resume_wait: 1h", "resume_wait: 10ms");
    let gateway = Gateway::start(&config).await;
    for _ in 0..3 {
        let mut client = Raw::connect(gateway.addr()).await;
        client.echo("in").await;
        assert!(is_refused(gateway.addr()).await);
        client.leave(Cut::Reset);
        gateway.log().of(client.id, "session closed").await;
    }
    // A session that gets no server does not keep its place either.
    gateway.save(
        "config.yaml",
        &config.replace("builtin:echo", &dead_addr().await.to_string()),
    );
    gateway.log().nth("reloaded", 0).await;
    for _ in 0..3 {
        let mut client = Raw::connect(gateway.addr()).await;
        let closed = gateway.log().of(client.id, "session closed").await;
        assert_eq!(closed["reason"], "connect_failed");
        assert_eq!(client.receive_to_end().await, b"");
    }
}

#[tokio::test]
async fn each_source_has_its_own_limit() {
    let gateway = Gateway::start(&config(
        "bind: ['tcp://127.0.0.1:0'], session: plain, limits: {per_source: 2}",
    ))
    .await;
    let mut live = Vec::new();
    for from in [[127, 0, 0, 1], [127, 0, 0, 2]] {
        for _ in 0..2 {
            let mut socket = connect_from(from, gateway.addr()).await.unwrap();
            socket.write_all(b"hello").await.unwrap();
            assert_eq!(read(&mut socket, 5).await, b"hello");
            live.push(socket);
        }
        let refused = connect_from(from, gateway.addr()).await;
        assert!(is_turned_away(refused, b"hello").await);
    }
    let line = reached(&gateway, "per_source").await;
    assert!(
        line["client"].as_str().unwrap().starts_with("127.0.0.1:"),
        "{line}"
    );
    for socket in &mut live {
        socket.write_all(b"still").await.unwrap();
        assert_eq!(read(socket, 5).await, b"still");
    }
}

#[tokio::test]
async fn the_rate_of_new_connections_is_limited() {
    let gateway = Gateway::start(&scp("new_per_second: 5")).await;
    let mut client = Raw::connect(gateway.addr()).await;
    client.echo("in").await;
    let started = Instant::now();
    let mut came_in = 0;
    let mut refused = 0;
    while refused < 20 {
        let coming = async {
            let mut socket = TcpStream::connect(gateway.addr()).await?;
            socket.write_all(&record(HELLO)).await?;
            socket.read_exact(&mut [0; 2]).await
        };
        match soon("an answer, or none", coming).await {
            Ok(_) => came_in += 1,
            Err(_) => refused += 1,
        }
    }
    let most = 5 + 5 * started.elapsed().as_secs() + 5;
    assert!(came_in >= 1 && came_in <= most, "{came_in} of {most}");
    reached(&gateway, "new_per_second").await;
    // Others come in, and who is in stays.
    let other = connect_from([127, 0, 0, 3], gateway.addr()).await;
    let mut other = other.unwrap();
    other.write_all(&record(HELLO)).await.unwrap();
    assert!(!soon("an answer", read_record(&mut other)).await.is_empty());
    client.echo("still").await;
}

#[tokio::test]
async fn handshakes_in_progress_are_limited() {
    for (limits, limit) in [
        ("handshakes: 2", "handshakes"),
        ("connections: 2", "connections"),
        ("per_source: 2", "per_source"),
    ] {
        let gateway = Gateway::start(&scp(limits)).await;
        let mut silent = TcpStream::connect(gateway.addr()).await.unwrap();
        let _silent = TcpStream::connect(gateway.addr()).await.unwrap();
        let third = TcpStream::connect(gateway.addr()).await;
        assert!(is_turned_away(third, b"").await);
        reached(&gateway, limit).await;
        // Whoever gets on with it makes room.
        silent.write_all(&record(HELLO)).await.unwrap();
        assert!(!soon("an answer", read_record(&mut silent)).await.is_empty());
        gateway.log().nth("session opened", 0).await;
        Raw::connect(gateway.addr()).await.echo("in").await;
    }
}

#[tokio::test]
async fn limits_that_a_reload_changes_count_what_is_there() {
    let gateway = Gateway::start(&scp("connections: 0")).await;
    let mut clients = Vec::new();
    for _ in 0..2 {
        clients.push(Raw::connect(gateway.addr()).await);
    }
    for (n, (limit, fits)) in [(2, false), (3, true), (1, false), (0, true)]
        .into_iter()
        .enumerate()
    {
        gateway.save("config.yaml", &scp(&format!("connections: {limit}")));
        gateway.log().nth("reloaded", n).await;
        if fits {
            clients.push(Raw::connect(gateway.addr()).await);
        } else {
            assert!(is_refused(gateway.addr()).await, "{limit}");
        }
    }
    for client in &mut clients {
        client.echo("untouched").await;
    }
}

#[tokio::test]
async fn a_client_of_snet_is_told() {
    let gateway = Gateway::start(&config(
        "bind: ['tcp://127.0.0.1:0'], session: snet, limits: {connections: 1}",
    ))
    .await;
    let options = || snet::Options::new(gateway.addr().to_string().parse().unwrap());
    let mut client = soon("a session", Stream::connect(options())).await.unwrap();
    echoed(&mut client, b"in").await;
    assert!(soon("a refusal", Stream::connect(options())).await.is_err());
    reached(&gateway, "connections").await;
    echoed(&mut client, b"still").await;
}

#[tokio::test]
async fn kcp_is_limited_alike() {
    let gateway = Gateway::start(&config(
        "bind: ['kcp://127.0.0.1:0', 'tcp://127.0.0.1:0'], session: scp, limits: {connections: 1}",
    ))
    .await;
    let [kcp, tcp] = gateway.addrs("game") else {
        panic!("two binds");
    };
    let options = || stablegate::client::scp::Options {
        handshake_timeout: Duration::from_millis(300),
        ..stablegate::client::scp::Options::new(format!("kcp://{kcp}").parse().unwrap())
    };
    let mut client = soon("a session", Stream::connect(options())).await.unwrap();
    echoed(&mut client, b"in").await;
    assert!(soon("a refusal", Stream::connect(options())).await.is_err());
    reached(&gateway, "connections").await;
    // The binds of a listener share its limits.
    assert!(is_refused(*tcp).await);
    echoed(&mut client, b"still").await;
}

#[tokio::test]
async fn a_flood_is_counted_and_does_not_fill_the_log() {
    const FLOOD: u64 = 2000;
    let (gateway, addr, directory) = inside(&scp("connections: 1")).await;
    let mut client = Raw::connect(addr).await;
    for _ in 0..FLOOD {
        assert!(is_refused(addr).await);
    }
    let count = |limit| {
        let of = |(_, of, count): (String, Limit, u64)| (of == limit).then_some(count);
        gateway.refusals().into_iter().find_map(of).unwrap()
    };
    assert_eq!(count(Limit::Connections), FLOOD);
    assert_eq!(count(Limit::PerSource), 0);
    client.echo("still").await;
    // Neither the count nor the session is forgotten while the listener has another name.
    for name in ["other", "game"] {
        let config = scp("connections: 1").replace("game", name);
        std::fs::write(directory.path().join("config.yaml"), without_admin(&config)).unwrap();
        gateway.reload().await.unwrap();
    }
    let (_, addr) = gateway.local_addrs().await[0];
    assert!(is_refused(addr).await);
    assert_eq!(count(Limit::Connections), FLOOD + 1);

    let gateway = Gateway::start(&scp("connections: 1")).await;
    let _client = Raw::connect(gateway.addr()).await;
    let started = Instant::now();
    for _ in 0..FLOOD {
        assert!(is_refused(gateway.addr()).await);
    }
    let most = 1 + started.elapsed().as_secs() / 10;
    let said = gateway.log().all("connection refused").len() as u64;
    assert!((1..=most).contains(&said), "{said} lines");
    assert!(gateway.log().all("handshake failed").is_empty());
}

/// Has clients take all descriptors that the gateway has left; returns those.
async fn exhaust(gateway: &Gateway) -> Vec<TcpStream> {
    // Beyond the highest that is open, as one that is spare may be.
    limit_descriptors(gateway, open_descriptors(gateway).max().unwrap() + 1);
    let mut clients = Vec::new();
    while gateway.log().all("cannot accept, pausing").is_empty() {
        let mut client = TcpStream::connect(gateway.addr()).await.unwrap();
        client.write_all(&record(HELLO)).await.unwrap();
        clients.push(client);
    }
    clients
}

/// Lowers the limit of descriptors so that so many more can be opened.
fn leave_descriptors(gateway: &Gateway, free: usize) {
    let open: Vec<u64> = open_descriptors(gateway).collect();
    let limit = (0..).filter(|fd| !open.contains(fd)).nth(free).unwrap();
    limit_descriptors(gateway, limit);
}

fn open_descriptors(gateway: &Gateway) -> impl Iterator<Item = u64> {
    let open = std::fs::read_dir(format!("/proc/{}/fd", gateway.pid())).unwrap();
    open.map(|entry| {
        entry
            .unwrap()
            .file_name()
            .to_str()
            .unwrap()
            .parse()
            .unwrap()
    })
}

fn limit_descriptors(gateway: &Gateway, limit: u64) {
    let mut was = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: the child has not been reaped, and the pointers are to a whole struct or null.
    unsafe {
        let pid = gateway.pid();
        assert_eq!(
            libc::prlimit(pid, libc::RLIMIT_NOFILE, std::ptr::null(), &mut was),
            0
        );
        was.rlim_cur = limit;
        assert_eq!(
            libc::prlimit(pid, libc::RLIMIT_NOFILE, &was, std::ptr::null_mut()),
            0
        );
    }
}

#[tokio::test]
async fn without_descriptors_connections_wait() {
    let gateway = Gateway::start(&scp("")).await;
    let mut live = Raw::connect(gateway.addr()).await;
    live.echo("before").await;
    leave_descriptors(&gateway, 0);
    let mut waiting = Vec::new();
    for _ in 0..3 {
        let mut socket = TcpStream::connect(gateway.addr()).await.unwrap();
        socket.write_all(&record(HELLO)).await.unwrap();
        waiting.push(socket);
    }
    gateway.log().nth("cannot accept, pausing", 0).await;
    live.echo("meanwhile").await;
    limit_descriptors(&gateway, 1024);
    for socket in &mut waiting {
        assert!(!soon("an answer", read_record(socket)).await.is_empty());
    }
    gateway.log().nth("accepting again", 0).await;
    live.resume(gateway.addr()).await;
    live.echo("after").await;
}

#[tokio::test]
async fn without_descriptors_no_server_is_to_blame() {
    let server = Server::echo().await;
    let gateway = Gateway::start(&scp("").replace("builtin:echo", &server.to_string())).await;
    let mut live = Raw::connect(gateway.addr()).await;
    live.echo("before").await;
    // Enough for the client.
    leave_descriptors(&gateway, 1);
    let mut client = Raw::connect(gateway.addr()).await;
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "exhausted", "{closed}");
    assert_eq!(client.receive_to_end().await, b"");
    limit_descriptors(&gateway, 1024);
    Raw::connect(gateway.addr()).await.echo("after").await;
    live.echo("all the time").await;
}

#[tokio::test]
async fn without_descriptors_no_name_is_to_blame() {
    let server = Server::echo().await;
    let addr = format!("localhost:{}", server.port());
    let config = scp("").replace("builtin:echo", &addr);
    let more = "upstream: {resolve_interval: 0s, eject: {failures: 1}}\n";
    let gateway = Gateway::start(&format!("{config}{more}")).await;
    // Enough for the client. Nothing has been looked up before, so that the resolver has nothing.
    leave_descriptors(&gateway, 1);
    let client = Raw::connect(gateway.addr()).await;
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "exhausted", "{closed}");
    limit_descriptors(&gateway, 1024);
    assert!(gateway.log().all("host ejected").is_empty());
    Raw::connect(gateway.addr()).await.echo("after").await;
}

#[tokio::test]
async fn without_descriptors_probes_are_answered() {
    let gateway = Gateway::start(&format!("admin: 127.0.0.1:0\n{}", scp(""))).await;
    let admin = gateway.admin().await;
    let mut live = Raw::connect(gateway.addr()).await;
    let mut waiting = exhaust(&gateway).await;
    // One that says nothing has its turn too.
    let _silent = TcpStream::connect(admin).await.unwrap();
    for _ in 0..10 {
        http::get(admin, "/healthz").await.good();
    }
    http::get(admin, "/metrics").await;
    live.echo("all the time").await;
    limit_descriptors(&gateway, 1024);
    for client in &mut waiting {
        assert!(!soon("an answer", read_record(client)).await.is_empty());
    }
    http::get(admin, "/healthz").await.good();
}

/// A gateway inside the test.
async fn inside(
    config: &str,
) -> (
    std::sync::Arc<gateway::Gateway>,
    SocketAddr,
    tempfile::TempDir,
) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("config.yaml");
    std::fs::write(&path, without_admin(config)).unwrap();
    let gateway = gateway::Gateway::from_file(path).start().await.unwrap();
    let (_, addr) = gateway.local_addrs().await[0];
    (gateway, addr, directory)
}

/// Bytes that a session has echoed, read and all.
async fn move_bytes(client: &mut Raw, len: usize) {
    let bytes = vec![7; 4096];
    for _ in 0..len / bytes.len() {
        client.send(&bytes).await;
        assert!(client.receive(bytes.len()).await == bytes);
    }
}

/// Waits until the replay buffers take no more than that.
async fn shrunk(gateway: &gateway::Gateway, limit: usize) {
    let shrinking = async {
        while gateway.replay_memory() > limit {
            tokio::task::yield_now().await;
        }
    };
    soon("memory given back", shrinking).await;
}

#[tokio::test]
async fn idle_sessions_give_their_memory_to_others() {
    const LIMIT: usize = 256 * 1024;
    let config = scp("") + "replay_memory: 256KiB\n";
    let (gateway, addr, _directory) = inside(&config).await;
    let mut clients = Vec::new();
    // Three times what there is for them.
    for _ in 0..12 {
        let mut client = Raw::connect(addr).await;
        move_bytes(&mut client, 96 * 1024).await;
        clients.push(client);
        // A buffer more at most, while it has not been noticed.
        assert!(gateway.replay_memory() <= LIMIT + 64 * 1024);
    }
    shrunk(&gateway, LIMIT).await;
    // The first ones were idle longest: they keep at most what their clients have not acknowledged.
    let [first, .., last] = &mut clients[..] else {
        unreachable!();
    };
    let old = first.request(1, first.received - 16 * 1024);
    assert_eq!(first.ask(addr, &old).await.1.code, Code::NotAcceptable);
    let old = last.request(1, last.received - 1);
    assert_eq!(last.ask(addr, &old).await.1.code, Code::Ok);
    last.index = 1;
    // All go on, and come back.
    for client in &mut clients {
        client.resume(addr).await;
        client.echo("back").await;
        move_bytes(client, 8192).await;
    }
    drop(clients);
}

#[tokio::test]
async fn without_memory_sessions_are_slow_and_nothing_is_lost() {
    let (gateway, addr, directory) = inside(&(scp("") + "replay_memory: 8KiB\n")).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        let mut client = Raw::connect(addr).await;
        // More than may be on its way, so that buffers would grow.
        client.send(&[1; 8 * 1024]).await;
        clients.push(client);
    }
    for client in &mut clients {
        assert!(client.receive(8 * 1024).await == [1; 8 * 1024]);
    }
    // What is as large as can be while the others have least.
    assert!(gateway.replay_memory() <= 8 * 1024 + 64 * 1024 + 20 * 1024);
    // A reload lifts it.
    std::fs::write(
        directory.path().join("config.yaml"),
        without_admin(&scp("")),
    )
    .unwrap();
    gateway.reload().await.unwrap();
    for client in &mut clients {
        client.resume(addr).await;
        move_bytes(client, 64 * 1024).await;
    }
    assert!(gateway.replay_memory() >= 20 * 64 * 1024);
}

#[tokio::test]
async fn ended_sessions_leave_no_memory_behind() {
    let config = scp("").replace("resume_wait: 1h", "resume_wait: 10ms");
    let (gateway, addr, _directory) = inside(&config).await;
    for _ in 0..5 {
        let mut client = Raw::connect(addr).await;
        move_bytes(&mut client, 64 * 1024).await;
        assert!(gateway.replay_memory() > 0);
    }
    shrunk(&gateway, 0).await;
}
