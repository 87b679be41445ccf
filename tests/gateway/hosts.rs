//! The choice of hosts, and what becomes of those that cannot be reached.

use std::collections::HashMap;
use std::net::SocketAddr;

use stablegate::internal::crypto::Dialect;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use crate::common::*;

/// Tells what a script sees of the hosts.
const SCRIPT: &str = "function access(session)
  local all = {}
  for _, host in ipairs(gateway.hosts()) do
    all[#all + 1] = string.format('%d:%s:%s', host.sessions, host.healthy, host.draining)
  end
  gateway.log.info('hosts', table.concat(all, ' '))
end
";

/// A server that says its name, as long as it lives.
struct Named {
    addr: SocketAddr,
    task: tokio::task::JoinHandle<()>,
}

impl Named {
    async fn start(name: char) -> Self {
        Self::start_on(name, "127.0.0.1:0".parse().unwrap()).await
    }

    async fn start_on(name: char, addr: SocketAddr) -> Self {
        let server = Server::start_on(addr).await;
        let addr = server.addr;
        let task = tokio::spawn(async move {
            let mut live = tokio::task::JoinSet::new();
            loop {
                let mut connection = server.accept_whenever().await;
                live.spawn(async move {
                    // A check has gone by then.
                    let _ = connection.write_u8(name as u8).await;
                    let _ = tokio::io::copy(&mut connection, &mut tokio::io::sink()).await;
                });
            }
        });
        Self { addr, task }
    }

    /// Nobody listens any more, and all connections are gone.
    async fn stop(self) -> SocketAddr {
        self.task.abort();
        let _ = self.task.await;
        self.addr
    }
}

fn config(hosts: &[(&str, SocketAddr, &str)], upstream: &str) -> String {
    let hosts = hosts
        .iter()
        .map(|(name, addr, more)| format!("- {{name: {name}, addr: '{addr}'{more}}}\n"));
    let hosts: String = hosts.collect();
    format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [see]}}]\n\
         hosts:\n{hosts}upstream: {{{upstream}}}\n\
         hooks: [{{name: see, lua: see.lua, timeout: 2s}}]\n"
    )
}

async fn start(hosts: &[(&str, SocketAddr, &str)], upstream: &str) -> Gateway {
    Gateway::start_among(&[("see.lua", SCRIPT)], &config(hosts, upstream)).await
}

/// A session, and the server that it has reached.
async fn session(gateway: &Gateway, target: &str) -> (Raw, char) {
    let mut client = Raw::open(gateway.addr(), Dialect::Current, &format!("\n{target}")).await;
    let name = client.receive(1).await[0].into();
    (client, name)
}

/// How often each server was reached by sessions that end at once.
async fn reached(gateway: &Gateway, target: &str, count: usize) -> HashMap<char, usize> {
    let mut reached = HashMap::new();
    for _ in 0..count {
        *reached.entry(session(gateway, target).await.1).or_default() += 1;
    }
    reached
}

#[tokio::test]
async fn a_host_that_fails_its_checks_gets_no_sessions_until_it_is_back() {
    let (a, b) = (Named::start('a').await, Named::start('b').await);
    let hosts = [
        ("x", a.addr, ", weight: 1000000"),
        ("x", b.addr, ", weight: 1"),
    ];
    let health = "health: {interval: 20ms, timeout: 1s, rise: 3, fall: 2}";
    let gateway = start(&hosts, health).await;
    assert_eq!(reached(&gateway, "x", 3).await, [('a', 3)].into());
    let addr = a.stop().await;
    let line = gateway.log().nth("host is unhealthy", 0).await;
    assert_eq!(line["addr"], addr.to_string(), "{line}");
    let (client, name) = session(&gateway, "x").await;
    assert_eq!(name, 'b');
    let told = |state: &'static str| {
        move |line: &serde_json::Value| {
            let text = line["message"].as_str().unwrap_or_default();
            text.starts_with("hosts ") && text.contains(state)
        }
    };
    gateway
        .log()
        .wait("what scripts see", told(":false:false"))
        .await;
    // It was not tried either.
    assert_eq!(gateway.log().all("trying another host").len(), 0);
    // What a reload leaves alone stays known.
    gateway.save("config.yaml", &(config(&hosts, health) + "node: 1\n"));
    gateway.log().nth("reloaded", 0).await;
    assert_eq!(reached(&gateway, "x", 3).await, [('b', 3)].into());
    let a = Named::start_on('a', addr).await;
    gateway.log().nth("host is healthy again", 0).await;
    assert_eq!(reached(&gateway, "x", 3).await, [('a', 3)].into());
    drop((client, a));
}

#[tokio::test]
async fn checks_end_with_their_hosts() {
    let (a, b) = (Server::start().await, Named::start('b').await);
    let health = "health: {interval: 10ms}";
    let gateway = start(&[("x", a.addr, ", drain: true"), ("x", b.addr, "")], health).await;
    for _ in 0..3 {
        drop(a.accept().await);
    }
    gateway.save("config.yaml", &config(&[("x", b.addr, "")], health));
    gateway.log().nth("reloaded", 0).await;
    // Whatever was under way when it was told is all that is still to come.
    let (addr, mut late) = (a.addr, 0);
    let mut marker = TcpStream::connect(addr).await.unwrap();
    let from = marker.local_addr().unwrap();
    marker.write_all(b"marker").await.unwrap();
    while a.accept().await.peer_addr().unwrap() != from {
        late += 1;
    }
    assert!(late <= 200, "{late}");
    for _ in 0..20 {
        // Each takes longer than a check.
        assert_eq!(reached(&gateway, "x", 1).await, [('b', 1)].into());
    }
    let mut marker = TcpStream::connect(addr).await.unwrap();
    marker.write_all(b"marker").await.unwrap();
    let next = a.accept().await.peer_addr().unwrap();
    assert_eq!(next, marker.local_addr().unwrap(), "one more check");
}

#[tokio::test]
async fn with_no_healthy_host_the_others_are_tried() {
    let a = Named::start('a').await;
    let gateway = start(
        &[("x", a.addr, "")],
        "health: {interval: 20ms, rise: 1000, fall: 1}",
    )
    .await;
    let addr = a.stop().await;
    gateway.log().nth("host is unhealthy", 0).await;
    let _a = Named::start_on('a', addr).await;
    assert_eq!(reached(&gateway, "x", 3).await, [('a', 3)].into());
    assert!(gateway.log().all("host is healthy again").is_empty());
}

#[tokio::test]
async fn a_host_that_cannot_be_connected_is_ejected() {
    let (dead, b) = (dead_addr().await, Named::start('b').await);
    let hosts = [
        ("x", dead, ", weight: 1000000"),
        ("x", b.addr, ", weight: 1"),
    ];
    let gateway = start(&hosts, "eject: {failures: 3, for: 1h}").await;
    assert_eq!(reached(&gateway, "x", 20).await, [('b', 20)].into());
    let line = gateway.log().nth("host ejected", 0).await;
    assert_eq!(line["addr"], dead.to_string(), "{line}");
    assert_eq!(gateway.log().all("trying another host").len(), 3);
    assert_eq!(gateway.log().all("host ejected").len(), 1);
    // For a while only.
    gateway.save(
        "config.yaml",
        &config(&hosts, "eject: {failures: 3, for: 1ms}"),
    );
    gateway.log().nth("reloaded", 0).await;
    assert_eq!(reached(&gateway, "x", 3).await, [('b', 3)].into());
    assert_eq!(
        gateway.log().all("trying another host").len(),
        3,
        "as it was ejected"
    );
}

#[tokio::test]
async fn an_ejected_host_comes_back_after_a_while() {
    let (dead, b) = (dead_addr().await, Named::start('b').await);
    let hosts = [
        ("x", dead, ", weight: 1000000"),
        ("x", b.addr, ", weight: 1"),
    ];
    let gateway = start(&hosts, "eject: {failures: 2, for: 1ms}").await;
    // Each session takes longer than that.
    let ejecting = async {
        while gateway.log().all("host ejected").len() < 5 {
            assert_eq!(reached(&gateway, "x", 1).await, [('b', 1)].into());
        }
    };
    soon("to be ejected again and again", ejecting).await;
    let _dead = Named::start_on('d', dead).await;
    let returning = async { while session(&gateway, "x").await.1 != 'd' {} };
    soon("the host that is back", returning).await;
}

#[tokio::test]
async fn a_host_drains_by_reload() {
    let (a, b) = (Named::start('a').await, Named::start('b').await);
    let weights = [
        ("x", a.addr, ", weight: 1000000"),
        ("x", b.addr, ", weight: 1"),
    ];
    let gateway = start(&weights, "").await;
    let (mut stays, name) = session(&gateway, "x").await;
    assert_eq!(name, 'a');
    let drained = [
        ("x", a.addr, ", weight: 1000000, drain: true"),
        ("x", b.addr, ""),
    ];
    gateway.save("config.yaml", &config(&drained, ""));
    gateway.log().nth("reloaded", 0).await;
    let (second, name) = session(&gateway, "x").await;
    assert_eq!(name, 'b');
    // Scripts see who is left.
    gateway.log().nth("hosts 1:true:true 0:true:false", 0).await;
    stays.leave(Cut::Reset);
    stays.resume(gateway.addr()).await;
    stays.send(b"still there").await;
    // All of them: there is nowhere to go.
    let drained = [
        ("x", a.addr, ", drain: true"),
        ("x", b.addr, ", drain: true"),
    ];
    gateway.save("config.yaml", &config(&drained, ""));
    gateway.log().nth("reloaded", 1).await;
    let client = Raw::open(gateway.addr(), Dialect::Current, "\nx").await;
    let closed = gateway.log().of(client.id, "session closed").await;
    assert_eq!(closed["reason"], "connect_failed", "{closed}");
    stays.send(b"still there").await;
    drop(second);
}

#[tokio::test]
async fn the_one_with_the_fewest_sessions_is_next() {
    let (a, b) = (Named::start('a').await, Named::start('b').await);
    let hosts = [
        ("x", a.addr, ", weight: 300"),
        ("x", b.addr, ", weight: 100"),
    ];
    let gateway = start(&hosts, "choose: least_sessions").await;
    let mut clients = Vec::new();
    let mut counts = HashMap::<char, usize>::new();
    for _ in 0..40 {
        let (client, name) = session(&gateway, "x").await;
        *counts.entry(name).or_default() += 1;
        clients.push(client);
    }
    assert_eq!(counts, [('a', 30), ('b', 10)].into());
    drop(session(&gateway, "x").await);
    gateway
        .log()
        .nth("hosts 30:true:false 10:true:false", 0)
        .await;
}

#[tokio::test]
async fn a_hash_brings_the_same_to_the_same() {
    let mut servers = Vec::new();
    for name in 'a'..='e' {
        servers.push(Named::start(name).await);
    }
    let hosts: Vec<_> = servers
        .iter()
        .map(|server| ("x", server.addr, ""))
        .collect();
    let gateway = start(&hosts, "choose: hash_client").await;
    let first = reached(&gateway, "x", 10).await;
    assert_eq!(first.len(), 1, "{first:?}");

    // Names that no host has are as good as any.
    let gateway = start(&hosts, "choose: hash_target").await;
    let mut homes = HashMap::new();
    for room in 0..20 {
        let room = format!("room-{room}");
        let name = session(&gateway, &room).await.1;
        for _ in 0..3 {
            assert_eq!(session(&gateway, &room).await.1, name);
        }
        homes.insert(room, name);
    }
    // A host goes, and its rooms with it; the others stay.
    let fewer = &hosts[1..];
    gateway.save("config.yaml", &config(fewer, "choose: hash_target"));
    gateway.log().nth("reloaded", 0).await;
    for (room, name) in &homes {
        let now = session(&gateway, room).await.1;
        assert!(
            now != 'a' && (now == *name || *name == 'a'),
            "{room} {name} {now}"
        );
    }
    let used: std::collections::HashSet<_> = homes.values().collect();
    assert!(used.len() > 2, "{homes:?}");
}

#[tokio::test]
async fn a_host_without_weight_is_reached_by_its_name_only() {
    let (live, canary) = (Named::start('l').await, Named::start('c').await);
    let hosts = [
        ("live", live.addr, ", weight: 1"),
        ("canary", canary.addr, ", weight: 0"),
    ];
    for choose in ["weighted", "least_sessions", "hash_client", "hash_target"] {
        let gateway = start(&hosts, &format!("choose: {choose}")).await;
        assert_eq!(reached(&gateway, "canary", 1).await, [('c', 1)].into());
        for target in ["", "live", "unknown"] {
            assert_eq!(
                reached(&gateway, target, 3).await,
                [('l', 3)].into(),
                "{choose} {target:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_name_that_no_host_has_goes_where_it_should() {
    let (live, staging) = (Named::start('l').await, Named::start('s').await);
    let lost = dead_addr().await;
    let hosts = [
        ("live", live.addr, ""),
        ("staging", staging.addr, ", weight: 0"),
    ];
    let resolve = format!("resolve: {{port: {}, pattern: '^localhost$'}}", lost.port());
    let gateway = start(&hosts, &format!("unknown: staging, {resolve}")).await;
    for (target, name) in [("", 'l'), ("live", 'l'), ("nobody", 's')] {
        assert_eq!(session(&gateway, target).await.1, name, "{target:?}");
    }
    // One that is looked up and found, but where nobody is.
    assert_eq!(session(&gateway, "localhost").await.1, 's');
    let fallen = gateway.log().nth("falling back to another host", 0).await;
    assert_eq!(fallen["instead"], "staging", "{fallen}");

    gateway.save(
        "config.yaml",
        &config(&hosts, &format!("unknown: deny, {resolve}")),
    );
    gateway.log().nth("reloaded", 0).await;
    for (target, reason) in [
        ("nobody", "unknown_target"),
        ("live2", "unknown_target"),
        ("localhost", "connect_failed"),
    ] {
        let mut client = Raw::open(gateway.addr(), Dialect::Current, &format!("\n{target}")).await;
        assert_eq!(client.receive_to_end().await, b"");
        client.leave(Cut::Close);
        let closed = gateway.log().of(client.id, "session closed").await;
        assert_eq!(closed["reason"], reason, "{closed}");
    }
    assert_eq!(session(&gateway, "").await.1, 'l');
    assert_eq!(gateway.log().all("falling back to another host").len(), 1);
}

#[tokio::test]
async fn dns_that_hangs_holds_up_nobody_else() {
    const HANG: usize = 40;
    let Some(dns) = NameServer::start().await else {
        return;
    };
    let server = Named::start('a').await;
    let port = server.addr.port();
    let config = |more: &str| {
        let hang = (0..HANG).map(|n| format!("- {{name: h{n}, addr: 'hangs{n}.test:{port}'}}\n"));
        let hang: String = hang.collect();
        format!(
            "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n\
             hosts:\n{hang}- {{name: works, addr: 'works.test:{port}'}}\n{more}\
             upstream: {{connect_timeout: 1h, resolve: {{suffix: .test, port: {port}}}}}\n"
        )
    };
    let mut gateway = Gateway::begin_among(&[], &config(""), |command| {
        let directory = command.as_std().get_current_dir().unwrap().to_owned();
        dns.answers(command, &directory);
    });
    gateway.listens().await;
    // Of each name there are two addresses to ask for.
    dns.unanswered(2 * HANG).await;
    assert_eq!(session(&gateway, "works").await.1, 'a');
    let mut waiting = Vec::new();
    for target in ["h0", "hangs-too", "hangs-as-well"] {
        let hello = format!("\n{target}");
        waiting.push(Raw::open(gateway.addr(), Dialect::Current, &hello).await);
    }
    dns.unanswered(2 * (HANG + 2)).await;
    assert_eq!(session(&gateway, "works-too").await.1, 'a');
    let one_more = format!("- {{name: more, addr: 'hangs-more.test:{port}'}}\n");
    gateway.save("config.yaml", &config(&one_more));
    gateway.log().nth("reloaded", 0).await;
    dns.unanswered(2 * (HANG + 3)).await;
    for target in ["works", "works-too", "works-again"] {
        assert_eq!(session(&gateway, target).await.1, 'a');
    }
    assert_eq!(gateway.log().all("session closed").len(), 0);
    drop(waiting);
}
