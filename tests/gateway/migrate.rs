//! `stablegate migrate`: what it prints is good, and means the same.

use std::fs;
use std::path::Path;
use std::time::Duration;

use stablegate::config::{Config, Service, Session, Transport, UpstreamSession};

use crate::common::{Output, run};

/// Migrates, has the result checked, and reads it.
async fn migrated(directory: &Path, from: &str, input: &str) -> (String, Config) {
    let output = migrate(directory, from, input).await;
    assert_eq!((output.code, &*output.stderr), (Some(0), ""));
    let path = directory.join("config.yaml");
    fs::write(&path, &output.stdout).unwrap();
    let check = run(directory, &["check"]).await;
    assert_eq!((check.code, &*check.stderr), (Some(0), ""));
    (output.stdout, Config::load(path).unwrap())
}

async fn migrate(directory: &Path, from: &str, input: &str) -> Output {
    run(directory, &["migrate", "--from", from, input]).await
}

fn binds(config: &Config, listener: usize) -> Vec<String> {
    let binds = config.listeners[listener].bind.iter();
    binds.map(ToString::to_string).collect()
}

/// Nothing is set that the two have not in common.
#[tokio::test]
async fn defaults_are_the_same() {
    let directory = tempfile::tempdir().unwrap();
    fs::write(
        directory.path().join("goscon.yaml"),
        "hosts: [{name: a, addr: '10.0.0.1:1'}]",
    )
    .unwrap();
    let (_, config) = migrated(directory.path(), "goscon", "goscon.yaml").await;
    let ours = "listeners: [{name: game, bind: ['tcp://0.0.0.0:1248'], session: scp}]\n\
                hosts: [{name: a, addr: '10.0.0.1:1'}]\n";
    let path = directory.path().join("config.yaml");
    assert_eq!(config, Config::parse(ours, &path).unwrap());
}

#[tokio::test]
async fn every_key_of_goscon() {
    let directory = tempfile::tempdir().unwrap();
    let file = "\
tcp: ''
kcp: ':1300'
scp: {handshake_timeout: 11, reuse_time: 12, reuse_buffer: 131072}
tcp_option: {read_timeout: 13, keepalive: false, keepalive_interval: 14}
kcp_option:
  reuseport: 3
  read_timeout: 15
  fec_data_shards: 10
  fec_parity_shards: '3'
  read_buffer: 100000
  write_buffer: 2097152
  opt_mtu: 1200
  opt_nodelay: 0
  opt_interval: 5
  opt_resend: 0
  opt_nc: 0
  opt_sndwnd: 0
  opt_rcvwnd: 128
  opt_stream: false
  opt_writedelay: true
  opt_color: red
upstream_option:
  net: scp
  resolv: {port: 443, suffix: .example, Prefix: 'on.', pattern: '^[a-z]+$'}
hosts:
  - {name: 'yes', addr: '10.0.0.1:11248', weight: 7}
  - {addr: 'game.internal:9000', weight: 0}
";
    fs::write(directory.path().join("goscon.yaml"), file).unwrap();
    let (text, config) = migrated(directory.path(), "goscon", "goscon.yaml").await;
    let remarks: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(
        remarks,
        ["# kcp_option.opt_color: left out: goscon has no such key"]
    );
    assert_eq!(binds(&config, 0), ["kcp://0.0.0.0:1300", "kcp://[::]:1300"]);
    let listener = &config.listeners[0];
    let seconds = Duration::from_secs;
    let scp = &listener.scp;
    assert_eq!(scp.handshake_timeout, seconds(11));
    assert_eq!(scp.resume_wait, seconds(12));
    assert_eq!(scp.replay_buffer, 131_072);
    assert_eq!(listener.tcp.read_timeout, Some(seconds(13)));
    assert_eq!(listener.tcp.keepalive, None);
    let kcp = &listener.kcp;
    assert_eq!(kcp.read_timeout, Some(seconds(15)));
    assert_eq!((kcp.fec_data, kcp.fec_parity), (10, 3));
    assert_eq!((kcp.read_buffer, kcp.write_buffer), (100_000, 2 << 20));
    assert_eq!((kcp.reuseport, kcp.mtu), (3, 1200));
    assert_eq!(kcp.interval, Duration::from_millis(10));
    assert_eq!((kcp.nodelay, kcp.resend), (false, 0));
    assert_eq!((kcp.no_congestion, kcp.stream), (false, false));
    assert_eq!((kcp.send_window, kcp.receive_window), (32, 128));
    assert!(kcp.write_delay);
    assert_eq!(config.upstream.session, UpstreamSession::Scp);
    let resolve = config.upstream.resolve.as_ref().unwrap();
    assert_eq!((&*resolve.prefix, &*resolve.suffix), ("on.", ".example"));
    assert_eq!(resolve.port, 443);
    assert_eq!(resolve.pattern.as_ref().unwrap().as_str(), "^[a-z]+$");
    let hosts: Vec<_> = config.hosts.iter().map(|h| (&*h.name, h.weight)).collect();
    assert_eq!(hosts, [("yes", 7), ("host2", 100)]);
}

#[tokio::test]
async fn the_manager_of_goscon() {
    let directory = tempfile::tempdir().unwrap();
    for (manager, admin, remarked) in [
        ("''", None, false),
        ("localhost:7000", Some("127.0.0.1:7000"), false),
        ("'[::1]:7000'", Some("[::1]:7000"), false),
        ("127.0.0.1:6620", Some("127.0.0.1:6620"), false),
        ("':7000'", Some("127.0.0.1:7000"), true),
        ("10.0.0.1:7000", Some("127.0.0.1:7000"), true),
    ] {
        let file = format!("manager: {manager}\nhosts: [{{name: a, addr: 'a:1'}}]\n");
        fs::write(directory.path().join("goscon.yaml"), file).unwrap();
        let (text, config) = migrated(directory.path(), "goscon", "goscon.yaml").await;
        let admin = admin.map(|addr| addr.parse().unwrap());
        assert_eq!(config.admin.bind, admin, "{manager}");
        assert_eq!(text.starts_with("# manager: "), remarked, "{text}");
    }
}

#[tokio::test]
async fn flags_of_goscon() {
    let directory = tempfile::tempdir().unwrap();
    let settings = r#"{"hosts": [{"addr": "127.0.0.1:1250", "weight": 100, "name": "test1"}],
        "kcp": {"mtu": 1300, "snd_wnd": 512, "nodelay": 1}}"#;
    fs::write(directory.path().join("my settings"), settings).unwrap();
    let line = "-listen=127.0.0.1:1300 --tcp=read_timeout:20 -kcp fec_data:4,fec_parity:2,snmplog:x.log \
                -config 'my settings' -sbuf 1048576 -reuseTimeout=60 -sproto -sprotoMessageType 9 -log 5";
    let (text, config) = migrated(directory.path(), "goscon-flags", line).await;
    let remarks: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    let [log, snmp] = remarks[..] else {
        panic!("{remarks:?}");
    };
    assert!(log.starts_with("# log: left out: "), "{log}");
    assert!(snmp.starts_with("# kcp.snmplog: left out: "), "{snmp}");
    assert_eq!(
        binds(&config, 0),
        ["tcp://127.0.0.1:1300", "kcp://127.0.0.1:1300"]
    );
    let listener = &config.listeners[0];
    assert_eq!(listener.scp.resume_wait, Duration::from_secs(60));
    assert_eq!(listener.scp.replay_buffer, 1 << 20);
    assert_eq!(listener.tcp.read_timeout, Some(Duration::from_secs(20)));
    let kcp = &listener.kcp;
    assert_eq!((kcp.fec_data, kcp.fec_parity, kcp.reuseport), (4, 2, 8));
    assert_eq!(
        (kcp.mtu, kcp.nodelay, kcp.no_congestion),
        (1300, true, false)
    );
    assert_eq!((kcp.send_window, kcp.receive_window), (512, 32));
    assert_eq!(config.announce.sproto, Some(9));
    assert_eq!(config.hosts[0].name, "test1");
}

#[tokio::test]
async fn flags_of_goscon_without_their_file() {
    let directory = tempfile::tempdir().unwrap();
    let line = "-listen=:1248 -tcp= -kcp=fec_data:0,fec_parity:0";
    let (text, config) = migrated(directory.path(), "goscon-flags", line).await;
    assert!(
        text.starts_with("# hosts: ./settings.conf is not here: "),
        "{text}"
    );
    assert_eq!(config.hosts.len(), 1);
    let transports: Vec<_> = config.listeners[0]
        .bind
        .iter()
        .map(|b| b.transport)
        .collect();
    let (tcp, kcp) = (Transport::Tcp, Transport::Kcp);
    assert_eq!(transports, [tcp, tcp, kcp, kcp]);
    // One that is named has to be there.
    let output = migrate(directory.path(), "goscon-flags", "-config nothing.conf").await;
    assert_eq!(output.code, Some(1));
    let named = "nothing.conf is not here: run this where goscon runs";
    assert!(output.stderr.contains(named), "{}", output.stderr);
}

/// As goscon took them before its settings of KCP moved to a file.
#[tokio::test]
async fn options_of_kcp() {
    let directory = tempfile::tempdir().unwrap();
    for (options, windows, rest, read_timeout) in [
        ("sndWnd:256", (256, 1024), (true, 10, 2, true), 60),
        ("snd_wnd:256", (256, 1024), (true, 10, 2, true), 60),
        (
            "readTimeout:20,rcvWnd:64,nodelay:0,interval:30,resend:0,nc:0",
            (1024, 64),
            (false, 30, 0, false),
            20,
        ),
    ] {
        let line = format!("-kcp={options},read_buffer:65536,fec_data:4,fec_parity:2");
        let (text, config) = migrated(directory.path(), "goscon-flags", &line).await;
        let remarks = text.lines().filter(|line| line.starts_with('#'));
        assert_eq!(remarks.count(), 1, "{text}");
        let kcp = &config.listeners[0].kcp;
        assert_eq!((kcp.send_window, kcp.receive_window), windows);
        let interval = kcp.interval.as_millis();
        let pace = (kcp.nodelay, interval, kcp.resend, kcp.no_congestion);
        assert_eq!(pace, rest);
        assert_eq!(kcp.read_timeout, Some(Duration::from_secs(read_timeout)));
        assert_eq!((kcp.read_buffer, kcp.write_buffer), (65_536, 4 << 20));
        assert_eq!((kcp.fec_data, kcp.fec_parity, kcp.reuseport), (4, 2, 8));
    }
}

#[tokio::test]
async fn flags_of_the_first_fastway() {
    let directory = tempfile::tempdir().unwrap();
    let common = "-ClientAddr=127.0.0.1:1400 -ServerAddr 127.0.0.1:1401";
    for (flags, remarked, version) in [
        ("-MaxPacketSize 256K -ServerAuthPassword key", false, 1),
        ("-MaxPacketSize 262144 -Password key", false, 1),
        ("-MaxPacket 256K -ServerAuthKey key", true, 2),
    ] {
        let line = format!("{common} {flags} -ClientPingInterval 20 -ServerPingInterval 40s");
        let (text, config) = migrated(directory.path(), "fastway", &line).await;
        assert_eq!(text.starts_with("# PingInterval: "), remarked, "{text}");
        let [clients, servers] = &config.listeners[..] else {
            panic!("{text}");
        };
        let seconds = |seconds| Some(Duration::from_secs(seconds));
        assert_eq!(clients.fastway.max_packet, 256 << 10);
        assert_eq!(clients.fastway.max_virtual_connections, 8);
        assert_eq!(clients.fastway.idle, seconds(20));
        assert_eq!(servers.fastway.idle, seconds(40));
        assert_eq!(servers.fastway.auth_key, "key");
        assert_eq!(servers.fastway.auth_timeout, Duration::from_secs(3));
        assert!(
            text.contains(&format!("server_version: {version}")),
            "{text}"
        );
    }
}

/// What goscon's users would miss is not left out in a comment alone.
#[tokio::test]
async fn what_is_missing_fails() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("goscon.yaml");
    let host = "hosts: [{name: a, addr: 'a:1'}]\n";
    for (from, input, file, missing) in [
        ("goscon", "goscon.yaml", "ws: ':1250'\n", Some("ws")),
        (
            "goscon",
            "goscon.yaml",
            "ws: ''\nws_option: {read_timeout: 1}\n",
            None,
        ),
        (
            "goscon",
            "goscon.yaml",
            "etcd: {endpoints: [a:1]}\n",
            Some("etcd"),
        ),
        (
            "goscon-flags",
            "-sproto -sprotoFormat LI",
            "",
            Some("sprotoFormat"),
        ),
    ] {
        fs::write(&path, format!("{file}{host}")).unwrap();
        let output = migrate(directory.path(), from, input).await;
        assert!(output.stdout.contains("listeners:"), "{}", output.stdout);
        let Some(key) = missing else {
            assert_eq!((output.code, &*output.stderr), (Some(0), ""));
            continue;
        };
        assert_eq!(output.code, Some(1), "{file}");
        let named = format!("{key}: has no equivalent");
        assert!(output.stderr.contains(&named), "{}", output.stderr);
        let remark = format!("# {key}: MISSING: ");
        assert!(output.stdout.contains(&remark), "{}", output.stdout);
    }
}

#[tokio::test]
async fn flags_of_fastway() {
    let directory = tempfile::tempdir().unwrap();
    let line = "-ClientAddr=127.0.0.1:1400 -ServerAddr 127.0.0.1:1401 -ServerAuthKey \"test key\" \
                -MaxPacket=65536 -ClientMaxConn 8 -ClientSendChanSize 0 -ServerSendChanSize 5 \
                -ClientIdleTimeout 1m1.5s -ServerIdleTimeout 0 -ClientSnetEnable \
                -ClientSnetBuffer 32768 -ClientSnetInitTimeout 5s -ClientSnetWaitTimeout 1h \
                -ServerSnetEncrypt -ReusePort -MemPoolType sync";
    let (text, config) = migrated(directory.path(), "fastway", line).await;
    let remarks: Vec<_> = text.lines().filter(|line| line.starts_with('#')).collect();
    assert_eq!(
        remarks,
        [
            "# ReusePort: left out: a listener has one socket",
            "# MemPoolType: left out: memory is not pooled"
        ]
    );
    let [clients, servers] = &config.listeners[..] else {
        panic!("{text}");
    };
    assert_eq!(binds(&config, 0), ["tcp://127.0.0.1:1400"]);
    assert_eq!(binds(&config, 1), ["tcp://127.0.0.1:1401"]);
    let services = (clients.service, servers.service);
    assert_eq!(services, (Service::FastwayClient, Service::FastwayServer));
    assert_eq!(
        (clients.session, servers.session),
        (Session::Snet, Session::Plain)
    );
    let fastway = &clients.fastway;
    assert_eq!(fastway.max_packet, 65_536);
    assert_eq!(fastway.max_virtual_connections, 8);
    assert_eq!((fastway.client_queue, servers.fastway.server_queue), (1, 5));
    assert_eq!(fastway.idle, Some(Duration::from_millis(61_500)));
    assert_eq!(servers.fastway.idle, None);
    assert_eq!(servers.fastway.auth_key, "test key");
    let snet = &clients.snet;
    assert!(!snet.encrypt);
    assert_eq!(snet.replay_buffer, 32_768);
    assert_eq!(snet.handshake_timeout, Duration::from_secs(5));
    assert_eq!(snet.resume_wait, Duration::from_secs(3600));
}

#[tokio::test]
async fn what_would_be_open_to_all_is_not() {
    let directory = tempfile::tempdir().unwrap();
    for (rule, pattern, remarked) in [
        ("{port: 1}", "^[A-Za-z0-9_-]+$", true),
        ("{prefix: a-}", "^[A-Za-z0-9_-]+$", true),
        ("{pattern: 'a|^b$'}", "^.*(?:a|^b$).*$", true),
        ("{pattern: '^a+$'}", "^a+$", false),
    ] {
        let file = format!("upstream_option:\n  resolv: {rule}\n");
        fs::write(directory.path().join("goscon.yaml"), file).unwrap();
        let (text, config) = migrated(directory.path(), "goscon", "goscon.yaml").await;
        let resolve = config.upstream.resolve.unwrap();
        assert_eq!(resolve.pattern.unwrap().as_str(), pattern);
        let remark = "# upstream_option.resolv.pattern: ";
        assert_eq!(text.starts_with(remark), remarked, "{text}");
    }
    let file = "upstream_option:\n  resolv: {suffix: .example}\n";
    fs::write(directory.path().join("goscon.yaml"), file).unwrap();
    let (text, config) = migrated(directory.path(), "goscon", "goscon.yaml").await;
    assert_eq!(config.upstream.resolve.unwrap().pattern, None);
    assert!(!text.starts_with('#'), "{text}");

    for (line, bind, remarked) in [
        ("-ServerAddr :1401", "tcp://127.0.0.1:1401", true),
        ("-ServerAddr 10.0.0.1:1401", "tcp://127.0.0.1:1401", true),
        ("-ServerAddr localhost:1401", "tcp://127.0.0.1:1401", false),
        ("-ServerAddr [::1]:1401", "tcp://[::1]:1401", false),
    ] {
        let text = migrate(directory.path(), "fastway", line).await.stdout;
        fs::write(directory.path().join("config.yaml"), &text).unwrap();
        let check = run(directory.path(), &["check"]).await;
        assert_eq!(check.code, Some(0), "{}", check.stderr);
        let warned = "listeners[1].fastway.auth_key: is empty: whoever reaches";
        assert!(check.stderr.contains(warned), "{}", check.stderr);
        let config = Config::parse(&text, Path::new("config.yaml")).unwrap();
        assert_eq!(binds(&config, 1), [bind]);
        assert_eq!(text.starts_with("# ServerAuthKey: "), remarked, "{text}");
    }
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("goscon.yaml");
    let host = "hosts: [{name: a, addr: 'a:1'}]\n";
    for (from, input, file, named) in [
        (
            "goscon",
            "goscon.yaml",
            "scp: {reuse_time: soon}\n",
            "scp.reuse_time: `soon` is no whole number",
        ),
        ("goscon", "goscon.yaml", "tcp: gate.example:1248\n", "tcp: "),
        ("goscon", "goscon.yaml", "- 1\n", "goscon.yaml: has no keys"),
        (
            "goscon",
            "goscon.yaml",
            "hosts: [{name: a, addr: 'a:1', weight: x}]\n",
            "hosts[0]: weight: ",
        ),
        ("goscon-flags", "-listen", "", "-listen has no value"),
        ("goscon-flags", "listen=:1", "", "`listen=:1` is no flag"),
        (
            "fastway",
            "-ClientIdleTimeout 5x",
            "",
            "ClientIdleTimeout: `5x` is no duration",
        ),
        (
            "fastway",
            "-MaxPacketSize 512X",
            "",
            "MaxPacketSize: `512X` is no size",
        ),
        ("fastway", "-ClientAddr 'a", "", "a quote is not closed"),
    ] {
        fs::write(&path, file).unwrap();
        let output = migrate(directory.path(), from, input).await;
        assert_eq!(output.code, Some(1), "{input} {file}");
        assert!(
            output.stderr.contains(named),
            "{} lacks {named}",
            output.stderr
        );
        assert_eq!(output.stdout, "");
    }
    // Out of our range: shown all the same.
    fs::write(&path, format!("scp: {{reuse_buffer: 5}}\n{host}")).unwrap();
    let output = migrate(directory.path(), "goscon", "goscon.yaml").await;
    assert_eq!(output.code, Some(1));
    assert!(
        output.stdout.contains("replay_buffer: 5B"),
        "{}",
        output.stdout
    );
    assert!(
        output.stderr.contains("scp.replay_buffer: `5B` must be"),
        "{}",
        output.stderr
    );
}
