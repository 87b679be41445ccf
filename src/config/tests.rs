//! Tests of the configuration file: what it may contain, and the errors of other files.

use std::fs;
use std::path::Path;
use std::time::Duration;

use serde_yaml as yaml;

use super::*;
use crate::proto::fastway::Version;

const FULL: &str = r#"
admin: {bind: "0.0.0.0:7000", token_file: secrets/admin, names: [gate.example.com]}
node: 7
listeners:
  - name: game
    bind: [tcp://0.0.0.0:1248, "kcp://[::]:1248", tcp://127.0.0.1:0, tcp://127.0.0.1:0]
    session: scp
    service: proxy
    hooks: [route, log]
    peek: {bytes: 100, frame: u16be, timeout: 1s}
    limits: {connections: 1000, per_source: 10, new_per_second: 5, handshakes: 100}
    proxy_header: {from: [10.0.0.0/8, "fd00::/8", 192.0.2.1]}
    scp: {resume_wait: 1m, hmac: legacy}
    snet: {encrypt: false, handshake_timeout: 1s}
    tcp: {nodelay: false}
    kcp: {mtu: 1500, nodelay: false, resend: 0, no_congestion: false, stream: false, write_delay: true}
  - name: raw
    bind:
      - tcp://127.0.0.1:0
    session: snet
    peek: {}
    snet: {version: auto, replay_buffer: 1KiB}
    tcp: {keepalive: 0s, linger: 0s}
  - {name: players, bind: ['tcp://127.0.0.1:0'], session: scp, service: fastway-client, fastway: {client_version: 2, idle: 0s}}
  - name: servers
    bind: ['tcp://127.0.0.1:0']
    session: plain
    service: fastway-server
    fastway: {auth_key: sesame, auth_timeout: 3s, server_version: 1, server_queue: 5}
fastway: {client_version: auto, max_packet: 64KiB, max_virtual_connections: 0, client_queue: 7}
scp: {handshake_timeout: 10s, resume_wait: 20s, replay_buffer: 100KiB}
snet: {version: 2, resume_wait: 20s}
tcp: {read_timeout: 90s, keepalive: 30s, linger: 3s}
kcp: {read_timeout: 0s, fec_data: 10, fec_parity: 3, read_buffer: 1MiB, write_buffer: 2MiB, reuseport: 4,
  mtu: 1200, interval: 20ms, send_window: 128, receive_window: 256}
upstream:
  session: scp
  connect_timeout: 1s 500ms
  resolve: {prefix: "game-", suffix: .example.com, port: 8443, pattern: '^[a-z]\d+$'}
  proxy_header: v2
  choose: least_sessions
  health: {interval: 500ms, timeout: 1s, rise: 1, fall: 5}
  eject: {failures: 4, for: 1m}
  slow_start: 20s
  resolve_interval: 0s
hosts:
  - {name: echo, addr: "builtin:echo"}
  - {name: lobby, addr: "lobby.example.com:7000", weight: 1}
  - {name: lobby, addr: "[::1]:7000", weight: 1000000, drain: true}
hooks:
  - {name: route, lua: scripts/route.lua}
  - name: log
    lua: /opt/log.lua
    on_error: skip
    timeout: 5ms
    wall_timeout: 7ms
    load_timeout: 9s
    memory: 1MiB
    config: {"yes": "no", list: [1, -2.5, null, true, "1", "null", "a: b # c\n"], deep: {"": ""}}
announce: {sproto: 32766, proxy_header: v2}
replay_memory: 1GiB
"#;

/// Rest of a valid file after its listeners.
const HOSTS: &str = "hosts: [{name: echo, addr: \"builtin:echo\"}]\n";

fn parse(text: &str) -> Result<Config, String> {
    Config::parse(text, Path::new("/etc/gate/config.yaml")).map_err(|error| {
        let text = error.to_string();
        assert!(!text.contains('\n'), "{text}");
        text.strip_prefix("/etc/gate/config.yaml:")
            .unwrap()
            .to_owned()
    })
}

fn listener(name: &str) -> Listener {
    Listener {
        name: name.to_owned(),
        bind: vec!["tcp://127.0.0.1:0".parse().unwrap()],
        session: Session::Plain,
        service: Service::Proxy,
        hooks: Vec::new(),
        peek: None,
        limits: Limits::default(),
        proxy_header: ProxyHeader::default(),
        scp: Scp::default(),
        snet: Snet::default(),
        tcp: Tcp::default(),
        kcp: Kcp::default(),
        fastway: Fastway::default(),
    }
}

#[test]
fn what_is_left_out_has_its_default() {
    let text = "listeners: [{name: a, bind: ['tcp://127.0.0.1:0'], session: plain}]\n\
            hosts: [{name: h, addr: 'h:1'}]\n\
            hooks: [{name: r, lua: r.lua}]\n";
    let expected = Config {
        admin: Admin {
            bind: Some(([127, 0, 0, 1], 6620).into()),
            token_file: None,
            names: Vec::new(),
        },
        node: 0,
        listeners: vec![Listener {
            name: "a".to_owned(),
            bind: vec!["tcp://127.0.0.1:0".parse().unwrap()],
            session: Session::Plain,
            service: Service::Proxy,
            hooks: Vec::new(),
            peek: None,
            limits: Limits {
                connections: 0,
                per_source: 0,
                new_per_second: 0,
                handshakes: 0,
            },
            proxy_header: ProxyHeader { from: Vec::new() },
            scp: Scp {
                handshake_timeout: Duration::from_secs(30),
                resume_wait: Duration::from_secs(30),
                replay_buffer: 65_536,
                hmac: Hmac::Current,
            },
            snet: Snet {
                version: SnetVersion::Auto,
                encrypt: true,
                handshake_timeout: Duration::from_secs(10),
                resume_wait: Duration::from_secs(60),
                replay_buffer: 65_536,
            },
            tcp: Tcp {
                read_timeout: None,
                keepalive: Some(Duration::from_secs(60)),
                nodelay: true,
                linger: Some(Duration::from_secs(10)),
            },
            kcp: Kcp {
                read_timeout: Some(Duration::from_secs(60)),
                fec_data: 0,
                fec_parity: 0,
                read_buffer: 4 << 20,
                write_buffer: 4 << 20,
                reuseport: 0,
                mtu: 1400,
                nodelay: true,
                interval: Duration::from_millis(10),
                resend: 2,
                no_congestion: true,
                send_window: 2048,
                receive_window: 2048,
                stream: true,
                write_delay: false,
            },
            fastway: Fastway {
                client_version: None,
                server_version: Version::V3,
                max_packet: 524_288,
                max_virtual_connections: 16,
                auth_key: String::new(),
                auth_timeout: Duration::from_secs(5),
                idle: Some(Duration::from_secs(30)),
                client_queue: 1024,
                server_queue: 102_400,
                client_queue_bytes: 4 << 20,
                server_queue_bytes: 16 << 20,
                queue_memory: 256 << 20,
                stall_timeout: Duration::from_secs(10),
            },
        }],
        upstream: Upstream {
            session: UpstreamSession::Plain,
            connect_timeout: Duration::from_secs(5),
            keepalive: Some(Duration::from_secs(60)),
            resolve: None,
            unknown: Unknown::Any,
            proxy_header: None,
            choose: Choose::Weighted,
            health: Health {
                interval: None,
                timeout: Duration::from_secs(2),
                rise: 2,
                fall: 3,
            },
            eject: Eject {
                failures: 0,
                r#for: Duration::from_secs(30),
            },
            slow_start: None,
            resolve_interval: Some(Duration::from_secs(30)),
        },
        hosts: vec![Host {
            name: "h".to_owned(),
            addr: "h:1".parse().unwrap(),
            weight: 100,
            drain: false,
        }],
        hooks: vec![Hook {
            name: "r".to_owned(),
            program: Program::Lua {
                lua: "/etc/gate/r.lua".into(),
            },
            on_error: OnError::Deny,
            timeout: Duration::from_millis(100),
            wall_timeout: Duration::from_secs(2),
            load_timeout: Duration::from_secs(5),
            memory: 33_554_432,
            config: serde_json::Map::new(),
        }],
        announce: Announce {
            sproto: None,
            proxy_header: None,
        },
        replay_memory: types::default_replay_memory(),
    };
    assert_eq!(parse(text), Ok(expected.clone()));
    // A block whose keys are all commented out counts as not there.
    let empty = "scp:\nsnet:\ntcp:\nkcp:\nfastway:\nupstream:\nannounce:\n";
    assert_eq!(parse(&format!("{text}{empty}")), Ok(expected));

    let peek = Peek {
        bytes: 4096,
        frame: Frame::None,
        timeout: Duration::from_secs(5),
    };
    let resolve = Resolve {
        prefix: String::new(),
        suffix: String::new(),
        port: 443,
        pattern: None,
    };
    assert_eq!((Peek::default(), Resolve::default()), (peek, resolve));
    assert_eq!(parse("listeners: []").unwrap().hosts, []);
    // Only a proxy needs hosts.
    let text = "listeners: [{name: a, bind: ['tcp://[::]:0'], session: plain, \
            service: fastway-client}]\n";
    assert_eq!(
        parse(text).unwrap().listeners[0].service,
        Service::FastwayClient
    );
}

#[test]
fn every_key_is_read() {
    let config = parse(FULL).unwrap();
    let seconds = Duration::from_secs;
    let kcp = Kcp {
        read_timeout: None,
        fec_data: 10,
        fec_parity: 3,
        read_buffer: 1 << 20,
        write_buffer: 2 << 20,
        reuseport: 4,
        mtu: 1200,
        interval: Duration::from_millis(20),
        send_window: 128,
        receive_window: 256,
        ..Kcp::default()
    };
    let fec = |kcp: &Kcp| {
        let fec = stablegate_kcp::Config::from(kcp).fec;
        fec.map(|shape| (shape.data(), shape.parity()))
    };
    assert_eq!((fec(&Kcp::default()), fec(&kcp)), (None, Some((10, 3))));
    let bind = |text: &str| text.parse::<Bind>().unwrap();
    let admin = Admin {
        bind: Some(([0, 0, 0, 0], 7000).into()),
        token_file: Some("/etc/gate/secrets/admin".into()),
        names: vec!["gate.example.com".to_owned()],
    };
    assert_eq!((config.admin, config.node), (admin, 7));
    let common = Fastway {
        max_packet: 65_536,
        max_virtual_connections: 0,
        client_queue: 7,
        ..Fastway::default()
    };
    let fastway = [
        Fastway {
            client_version: Some(Version::V2),
            idle: None,
            ..common.clone()
        },
        Fastway {
            auth_key: "sesame".to_owned(),
            auth_timeout: seconds(3),
            server_version: Version::V1,
            server_queue: 5,
            ..common.clone()
        },
    ];
    let services = [Service::FastwayClient, Service::FastwayServer];
    for (listener, (service, fastway)) in config.listeners[2..]
        .iter()
        .zip(services.into_iter().zip(fastway))
    {
        assert_eq!((listener.service, &listener.fastway), (service, &fastway));
    }
    assert_eq!(
        config.listeners[..2],
        [
            Listener {
                fastway: common.clone(),
                bind: vec![
                    bind("tcp://0.0.0.0:1248"),
                    bind("kcp://[::]:1248"),
                    bind("tcp://127.0.0.1:0"),
                    bind("tcp://127.0.0.1:0"),
                ],
                session: Session::Scp,
                hooks: vec!["route".to_owned(), "log".to_owned()],
                peek: Some(Peek {
                    bytes: 100,
                    frame: Frame::U16Be,
                    timeout: seconds(1),
                }),
                limits: Limits {
                    connections: 1000,
                    per_source: 10,
                    new_per_second: 5,
                    handshakes: 100,
                },
                proxy_header: ProxyHeader {
                    from: ["10.0.0.0/8", "fd00::/8", "192.0.2.1"]
                        .map(|network| network.parse().unwrap())
                        .into(),
                },
                scp: Scp {
                    handshake_timeout: seconds(10),
                    resume_wait: seconds(60),
                    replay_buffer: 102_400,
                    hmac: Hmac::Legacy,
                },
                snet: Snet {
                    version: SnetVersion::V2,
                    encrypt: false,
                    handshake_timeout: seconds(1),
                    resume_wait: seconds(20),
                    replay_buffer: 65_536,
                },
                tcp: Tcp {
                    read_timeout: Some(seconds(90)),
                    keepalive: Some(seconds(30)),
                    nodelay: false,
                    linger: Some(seconds(3)),
                },
                kcp: Kcp {
                    mtu: 1500,
                    nodelay: false,
                    resend: 0,
                    no_congestion: false,
                    stream: false,
                    write_delay: true,
                    ..kcp.clone()
                },
                ..listener("game")
            },
            Listener {
                session: Session::Snet,
                fastway: common,
                peek: Some(Peek::default()),
                scp: Scp {
                    handshake_timeout: seconds(10),
                    resume_wait: seconds(20),
                    replay_buffer: 102_400,
                    hmac: Hmac::Current,
                },
                snet: Snet {
                    version: SnetVersion::Auto,
                    encrypt: true,
                    handshake_timeout: seconds(10),
                    resume_wait: seconds(20),
                    replay_buffer: 1024,
                },
                tcp: Tcp {
                    read_timeout: Some(seconds(90)),
                    keepalive: None,
                    nodelay: true,
                    linger: None,
                },
                kcp,
                ..listener("raw")
            },
        ]
    );
    assert_eq!(config.upstream.session, UpstreamSession::Scp);
    assert_eq!(config.upstream.connect_timeout, Duration::from_millis(1500));
    let resolve = config.upstream.resolve.as_ref().unwrap();
    assert_eq!(
        (&*resolve.prefix, &*resolve.suffix, resolve.port),
        ("game-", ".example.com", 8443)
    );
    assert_eq!(resolve.pattern.as_ref().unwrap().as_str(), r"^[a-z]\d+$");
    let health = Health {
        interval: Some(Duration::from_millis(500)),
        timeout: seconds(1),
        rise: 1,
        fall: 5,
    };
    let eject = Eject {
        failures: 4,
        r#for: seconds(60),
    };
    let upstream = &config.upstream;
    assert_eq!((&upstream.health, &upstream.eject), (&health, &eject));
    assert_eq!(upstream.proxy_header, Some(ProxyVersion::V2));
    assert_eq!(upstream.choose, Choose::LeastSessions);
    assert_eq!(upstream.slow_start, Some(seconds(20)));
    assert_eq!(upstream.resolve_interval, None);
    assert_eq!(config.replay_memory, Some(1 << 30));
    let hosts: Vec<_> = config
        .hosts
        .iter()
        .map(|h| (h.addr.to_string(), h.weight, h.drain))
        .collect();
    assert_eq!(
        hosts,
        [
            ("builtin:echo".to_owned(), 100, false),
            ("lobby.example.com:7000".to_owned(), 1, false),
            ("[::1]:7000".to_owned(), 1_000_000, true),
        ]
    );
    let log = &config.hooks[1];
    assert_eq!(
        config.hooks[0].program.path(),
        Path::new("/etc/gate/scripts/route.lua")
    );
    assert_eq!(log.program.path(), Path::new("/opt/log.lua"));
    assert_eq!((log.on_error, log.memory), (OnError::Skip, 1 << 20));
    assert_eq!(log.timeout, Duration::from_millis(5));
    assert_eq!(log.wall_timeout, Duration::from_millis(7));
    assert_eq!(log.load_timeout, seconds(9));
    assert_eq!(config.hooks[0].wall_timeout, seconds(2));
    assert_eq!(config.hooks[0].load_timeout, seconds(5));
    assert_eq!(
        serde_json::Value::from(log.config.clone()),
        serde_json::json!({
            "yes": "no",
            "list": [1, -2.5, null, true, "1", "null", "a: b # c\n"],
            "deep": {"": ""},
        })
    );
    assert_eq!(
        (config.announce.sproto, config.announce.proxy_header),
        (Some(32_766), Some(ProxyVersion::V2))
    );
}

#[test]
fn the_admin_interface_is_an_address_or_a_block() {
    let of = |text: &str| {
        parse(&format!("listeners: []\nadmin: {text}\n"))
            .unwrap()
            .admin
    };
    assert_eq!(of("'127.0.0.1:6620'"), Admin::default());
    assert_eq!(of("{}"), Admin::default());
    assert_eq!(of("'[::1]:1'").bind, Some("[::1]:1".parse().unwrap()));
    assert_eq!((of("''").bind, of("{bind: ''}").bind), (None, None));
}

#[test]
fn every_frame_is_read() {
    for (text, frame) in [
        ("none", Frame::None),
        ("u16be", Frame::U16Be),
        ("u16le", Frame::U16Le),
        ("u32be", Frame::U32Be),
        ("u32le", Frame::U32Le),
    ] {
        let peek: Peek = yaml::from_str(&format!("frame: {text}")).unwrap();
        assert_eq!(peek.frame, frame);
    }
}

#[test]
fn values_at_their_limits_are_taken() {
    let text = format!(
        "{HOSTS}node: 255\n\
            scp: {{replay_buffer: 1024B, resume_wait: 365days, handshake_timeout: 1ns}}\n\
            tcp: {{keepalive: 32767s, read_timeout: 365days}}\n\
            kcp: {{interval: 1ms, fec_data: 128, fec_parity: 128, read_buffer: 1GiB}}\n\
            announce: {{sproto: 0}}\n\
            listeners:\n- name: a\n  bind: ['tcp://127.0.0.1:0']\n  session: plain\n  \
            peek: {{bytes: 64KiB}}\n  scp: {{replay_buffer: 64MiB}}\n"
    );
    assert_eq!(
        parse(&text).unwrap().listeners[0].scp.replay_buffer,
        1 << 26
    );
}

#[test]
fn a_dump_reads_back_as_the_same_configuration() {
    for text in [FULL.to_owned(), format!("listeners: []\n{HOSTS}")] {
        let config = parse(&text).unwrap();
        let dump = config.dump().unwrap();
        assert_eq!(parse(&dump), Ok(config), "{dump}");
    }
}

#[test]
fn errors_name_line_and_key() {
    for (text, expected) in [
        ("", " the file is empty"),
        ("# nothing\n", " the file is empty"),
        ("7", "1: expected keys with values"),
        ("node: 1\n", "1: listeners: is missing"),
        ("listeners: 7\n", "1: listeners: expected a list"),
        ("\nlisteners: [\n", "2: listeners: unclosed bracket '['"),
        (
            "listeners: []\n---\nnode: 1\n",
            "3: only single YAML document expected but multiple found",
        ),
        // Keys.
        (
            "listeners: []\nscp:\n  # older\n  hmac: legacy\n  resume: 3s\n",
            "5: scp.resume: unknown key, expected one of \
                 handshake_timeout, resume_wait, replay_buffer, hmac",
        ),
        (
            "listeners:\n- name: a\n  tcp: {keepalive: 1s,\n    cork: 1s}\n",
            "4: listeners[0].tcp.cork: unknown key, expected one of \
                 read_timeout, keepalive, nodelay, linger",
        ),
        (
            "administration: 127.0.0.1:6620\nlisteners: []\n",
            "1: administration: unknown key, expected one of \
                 admin, node, listeners, scp, snet, tcp, kcp, fastway, upstream, hosts, hooks, \
                 announce, replay_memory",
        ),
        (
            "listeners: []\nadmin: 0.0.0.0:6620\n",
            "2: admin: others can reach 0.0.0.0:6620: \
                 write {bind: \"0.0.0.0:6620\", token_file: …}",
        ),
        (
            "listeners: []\nadmin: localhost:6620\n",
            "2: admin: `localhost:6620` is no IP address with a port: \
                 write 127.0.0.1:6620",
        ),
        (
            "listeners: []\nadmin:\n  names: [a:1]\n",
            "3: admin: `a:1` is no name in lower case, without a port",
        ),
        (
            "listeners: []\nadmin:\n  token: x\n",
            "3: admin.token: unknown key, expected one of bind, token_file, names",
        ),
        (
            "listeners:\n- name: a\n  limit: {}\n",
            "3: listeners[0].limit: unknown key, expected one of \
                 name, bind, session, service, hooks, peek, limits, proxy_header, scp, snet, tcp, kcp, fastway",
        ),
        (
            "listeners: []\nannounce:\n  \"a\\nb\": 1\n",
            "3: announce.a b: unknown key, expected one of sproto, proxy_header",
        ),
        ("node: 1\nlisteners: []\nnode: 1\n", "3: node: is set twice"),
        (
            "listeners: []\nscp:\n  hmac: legacy\n  hmac: legacy\n",
            "4: scp.hmac: is set twice",
        ),
        (
            "listeners:\n- name: a\n  session: scp\n\n- name: b\n",
            "2: listeners[0].bind: is missing",
        ),
        (
            "listeners: []\nhosts:\n- name: a\n  weight: 1\n",
            "3: hosts[0].addr: is missing",
        ),
        // Values.
        (
            "listeners:\n- name: a\n  bind:\n  - tcp://0.0.0.0:1\n  - udp://0.0.0.0:1\n",
            "5: listeners[0].bind[1]: unknown transport `udp`, expected tcp or kcp",
        ),
        (
            "listeners:\n- name: ''\n",
            "2: listeners[0].name: must not be empty",
        ),
        (
            "listeners:\n- name: a\n  session: snat\n",
            "3: listeners[0].session: unknown value `snat`, expected plain or scp or snet",
        ),
        (
            "listeners: []\nsnet:\n  version: 3\n",
            "3: snet.version: unknown value `3`, expected auto or 1 or 2",
        ),
        (
            "listeners:\n- name: a\n  peek:\n    frame: none\n    bytes: 65537\n",
            "5: listeners[0].peek.bytes: `65537B` must be 1B to 64KiB",
        ),
        (
            "listeners:\n- name: a\n  peek:\n    timeout: 0s\n",
            "4: listeners[0].peek.timeout: `0s` must be more than 0s, at most 365days",
        ),
        (
            "listeners:\n- name: a\n  scp:\n    replay_buffer: 1023B\n",
            "4: listeners[0].scp.replay_buffer: `1023B` must be 1KiB to 64MiB",
        ),
        (
            "listeners: []\nnode: 256\n",
            "2: node: 256 must be 0 to 255, or ordinal",
        ),
        (
            "listeners: []\nnode: x\n",
            "2: node: \"x\" must be 0 to 255, or ordinal",
        ),
        (
            "listeners: []\nscp:\n  resume_wait: 30\n",
            "3: scp.resume_wait: `30` lacks a unit: write 30s or 30ms",
        ),
        (
            "listeners: []\nscp:\n  handshake_timeout: 0\n",
            "3: scp.handshake_timeout: `0` lacks a unit: write 0s or 0ms",
        ),
        (
            "listeners: []\nscp:\n  resume_wait: soon\n",
            "3: scp.resume_wait: `soon` is no duration: write it like 30s or 100ms",
        ),
        (
            "listeners: []\nscp:\n  resume_wait: 366days\n",
            "3: scp.resume_wait: `366days` must be more than 0s, at most 365days",
        ),
        (
            "listeners: []\nscp:\n  replay_buffer: 65536\n",
            "3: scp.replay_buffer: `65536` lacks a unit: write 64KiB",
        ),
        (
            "listeners: []\nscp:\n  replay_buffer: big\n",
            "3: scp.replay_buffer: `big` is no size: write it like 64KiB",
        ),
        (
            "listeners: []\nscp:\n  replay_buffer: [64KiB]\n",
            "3: scp.replay_buffer: expected a single value",
        ),
        (
            "listeners: []\ntcp:\n  keepalive: 500ms\n",
            "3: tcp.keepalive: `500ms` must be 1s to 32767s, or 0s for off",
        ),
        (
            "listeners: []\nupstream:\n  health: {interval: 1ns}\n",
            "3: upstream.health.interval: `1ns` must be 10ms to 31536000s, or 0s for off",
        ),
        (
            "listeners: []\nkcp:\n  interval: 6s\n",
            "3: kcp.interval: `6s` must be 1ms to 5s",
        ),
        (
            "listeners: []\nkcp:\n  mtu: 1501\n",
            "3: kcp.mtu: 1501 must be 256 to 1500",
        ),
        (
            "listeners: []\ntcp:\n  nodelay: 1\n",
            "3: tcp.nodelay: expected true or false",
        ),
        (
            "listeners: []\nupstream:\n  connect_timeout: 0s\n",
            "3: upstream.connect_timeout: `0s` must be more than 0s, at most 365days",
        ),
        (
            "listeners: []\nupstream:\n  resolve:\n    port: 0\n",
            "4: upstream.resolve.port: 0 must be 1 to 65535",
        ),
        (
            "listeners: []\nupstream:\n  resolve:\n    pattern: (\n",
            "4: upstream.resolve.pattern: `(` is no regular expression: \
                 error: unclosed group",
        ),
        (
            "listeners: []\nhosts:\n- name: a\n  addr: a:0\n",
            "4: hosts[0].addr: `0` is no port: write 1 to 65535",
        ),
        (
            "listeners: []\nhosts:\n- {name: a, addr: &x a}\n- {name: b, addr: *x}\n",
            "3: hosts[0].addr: `a` lacks a port: write host:port",
        ),
        (
            "listeners: []\nhosts:\n- name: a\n  addr: 10.0.0.256:9000\n",
            "4: hosts[0].addr: `10.0.0.256:9000` is no address: \
                 write host:port, or [v6]:port for IPv6",
        ),
        (
            "listeners: []\nhosts:\n- name: a\n  addr: localhost:09000\n",
            "4: hosts[0].addr: `09000` is no port: write 1 to 65535",
        ),
        // Variables and tags, of whatever the value is.
        (
            "listeners: []\nhosts:\n# ${HOST}\n- name: a\n  addr: ${GAME_HOST}:9000\n",
            "5: hosts[0].addr: variables such as ${NAME} are not supported",
        ),
        (
            "listeners: []\nannounce:\n  sproto: ${TYPE:-1}\n",
            "3: announce.sproto: variables such as ${NAME} are not supported",
        ),
        (
            "listeners: []\nhooks:\n- name: a\n  lua: a\n  config: {k: [\"$${KEY}\"]}\n",
            "5: hooks[0].config.k[0]: variables such as ${NAME} are not supported",
        ),
        (
            "listeners: []\nfastway:\n  auth_key: !env KEY\n",
            "3: fastway.auth_key: unknown tag `!env`",
        ),
        (
            "listeners: []\nhooks:\n- name: a\n  config:\n    k: !vault [x]\n",
            "5: hooks[0].config.k: unknown tag `!vault`",
        ),
        (
            "listeners: !include listeners.yaml\n",
            "1: listeners: unknown tag `!include`",
        ),
        (
            "listeners: []\nhosts:\n- name: a\n  weight: 1000001\n",
            "4: hosts[0].weight: 1000001 must be 0 to 1000000",
        ),
        (
            "listeners: []\nhooks:\n- name: a\n  memory: 1025MiB\n",
            "4: hooks[0].memory: `1025MiB` must be 1MiB to 1GiB",
        ),
        (
            "listeners: []\nhooks:\n- name: a\n  timeout: 0s\n",
            "4: hooks[0].timeout: `0s` must be more than 0s, at most 365days",
        ),
        (
            "listeners: []\nannounce:\n  sproto: 32767\n",
            "3: announce.sproto: 32767 must be 0 to 32766",
        ),
        (
            "listeners: []\nfastway:\n  client_version: 4\n",
            "3: fastway.client_version: 4 must be 1 to 3, or auto",
        ),
        (
            "listeners: []\nfastway:\n  server_version: 0\n",
            "3: fastway.server_version: 0 must be 1 to 3",
        ),
        (
            "listeners:\n- name: a\n  proxy_header:\n    from: [10.0.0.0/8,\n      10.0.0.1/8]\n",
            "5: listeners[0].proxy_header.from[1]: `10.0.0.1/8` goes beyond its prefix: \
                 write 10.0.0.0/8",
        ),
        (
            "listeners:\n- name: a\n  limits: {connections: -1}\n",
            "3: listeners[0].limits.connections: -1 must be 0 to 1000000000",
        ),
        (
            "listeners: []\nreplay_memory: 0\n",
            "2: replay_memory: `0` lacks a unit: write 0B",
        ),
        (
            "listeners: []\nupstream:\n  choose: random\n",
            "3: upstream.choose: unknown value `random`, expected weighted or \
                 least_sessions or hash_client or hash_target",
        ),
        (
            "listeners: []\nupstream:\n  health:\n    rise: 0\n",
            "4: upstream.health.rise: 0 must be 1 to 1000",
        ),
        (
            "listeners: []\nannounce:\n  proxy_header: v3\n",
            "3: announce.proxy_header: unknown value `v3`, expected v1 or v2",
        ),
    ] {
        assert_eq!(parse(text).unwrap_err(), expected, "{text}");
    }
}

#[test]
fn references_that_lead_nowhere_name_line_and_key() {
    let a = "- name: a\n  session: scp\n";
    for (text, expected) in [
        (
            format!("{HOSTS}listeners:\n{a}  bind: ['tcp://[::]:0']\n{a}  bind: []\n"),
            "6: listeners[1].name: another listener has the name `a`",
        ),
        (
            format!("{HOSTS}listeners:\n{a}  bind: []\n"),
            "5: listeners[0].bind: needs an address: write [tcp://0.0.0.0:1248]",
        ),
        (
            format!("{HOSTS}listeners:\n{a}  bind:\n  - tcp://[::]:1\n  - tcp://[::]:1\n"),
            "7: listeners[0].bind[1]: tcp://[::]:1 is bound twice",
        ),
        (
            format!(
                "{HOSTS}listeners:\n{a}  bind: ['tcp://[::]:1']\n\
                     - name: b\n  session: plain\n  bind: ['tcp://[::]:2',\n    'tcp://[::]:1']\n"
            ),
            "9: listeners[1].bind[1]: tcp://[::]:1 is bound twice",
        ),
        (
            format!(
                "hooks: [{{name: r, lua: r.lua}}]\n{HOSTS}listeners:\n{a}  \
                     bind: ['tcp://[::]:1']\n  hooks:\n  - r\n  - log\n"
            ),
            "9: listeners[0].hooks[1]: no hook is named `log`",
        ),
        (
            "listeners: []\nhooks:\n- {name: r, lua: r.lua}\n- lua: s.lua\n  name: r\n".to_owned(),
            "5: hooks[1].name: another hook has the name `r`",
        ),
        (
            "listeners: []\nhooks:\n- name: r\n  lua: r.lua\n  wasm: r.wasm\n".to_owned(),
            "5: hooks[0].wasm: a hook is either a script or a plugin",
        ),
        (
            "listeners: []\nhooks:\n- name: r\n".to_owned(),
            "3: hooks[0]: runs nothing: add `lua`, a script, or `wasm`, a plugin",
        ),
        (
            "listeners: []\nhooks:\n- name: r\n  lua: r.lua\n  instance: pooled\n".to_owned(),
            "5: hooks[0].instance: only plugins have instances",
        ),
        (
            format!("hosts: []\nlisteners:\n{a}  bind: ['tcp://[::]:1']\n"),
            "3: listeners[0]: has nowhere to send sessions: add hosts or upstream.resolve",
        ),
        (
            format!(
                "listeners:\n{a}  bind: ['tcp://[::]:1']\n  service: fastway-client\n  peek: {{}}\n"
            ),
            "6: listeners[0].peek: is only for `service: proxy`: fastway endpoints send frames",
        ),
        (
            format!(
                "{HOSTS}listeners:\n{a}  bind: ['kcp://[::]:1']\n  proxy_header:\n    \
                     from: ['::/0']\n"
            ),
            "7: listeners[0].proxy_header.from: is for tcp binds, of which there is none",
        ),
        (
            "listeners: []\nupstream:\n  proxy_header: v1\n".to_owned(),
            "3: upstream.proxy_header: is for session: scp; plain servers get \
                 announce.proxy_header",
        ),
        (
            format!("{HOSTS}listeners: []\nupstream:\n  unknown: x\n"),
            "4: upstream.unknown: no host is named `x`: write any, deny or a host's name",
        ),
    ] {
        assert_eq!(parse(&text).unwrap_err(), expected, "{text}");
    }
    let resolved = format!(
        "upstream: {{resolve: {{suffix: .example}}}}\nlisteners:\n{a}  bind: ['tcp://[::]:1']\n"
    );
    assert_eq!(parse(&resolved).unwrap().hosts, []);
}

#[test]
fn servers_without_a_key_are_for_this_machine() {
    let of = |bind: &str, more: &str| {
        let text = format!(
            "listeners:\n- name: s\n  session: plain\n  service: fastway-server\n  \
                 bind: ['{bind}']\n{more}"
        );
        let path = Path::new("/c.yaml");
        let read = Config::parse_all(&text, path);
        read.map(|(_, doubts)| doubts.iter().map(Error::to_string).collect::<Vec<_>>())
            .map_err(|error| error.to_string())
    };
    for (bind, more, line) in [
        ("tcp://0.0.0.0:1249", "", 2),
        ("tcp://[::]:1249", "", 2),
        (
            "tcp://10.0.0.1:1249",
            "  fastway:\n    auth_key: ''\nfastway: {auth_key: x}\n",
            7,
        ),
    ] {
        let expected = format!(
            "/c.yaml:{line}: listeners[0].fastway.auth_key: is empty: others can reach {bind} \
                 and be any server"
        );
        assert_eq!(of(bind, more), Err(expected));
    }
    let expected = "/c.yaml:2: listeners[0].fastway.auth_key: is empty: whoever reaches \
            tcp://127.0.0.1:1249 can be any server";
    assert_eq!(of("tcp://127.0.0.1:1249", "").unwrap(), [expected]);
    let key = "fastway: {auth_key: x}\n";
    assert_eq!(of("tcp://0.0.0.0:1249", key), Ok(Vec::new()));
}

#[test]
fn names_are_resolved_within_bounds() {
    let of = |rule: &str| {
        parse(&format!(
            "listeners: []\nupstream:\n  resolve:\n    {{port: 1,\n    {rule}}}\n"
        ))
        .map(|config| config.upstream.resolve.unwrap())
    };
    for rule in ["", "prefix: a-", "suffix: .", "pattern: ''"] {
        assert_eq!(
            of(rule).unwrap_err(),
            "4: upstream.resolve: lets clients choose any address: add a suffix or a pattern",
            "{rule}"
        );
    }
    for rule in ["'[a-z]+'", "'^[a-z]+'", "'[a-z]+$'"] {
        assert_eq!(
            of(&format!("pattern: {rule}")).unwrap_err(),
            "5: upstream.resolve.pattern: must begin with ^ and end with $ where there is no \
                 prefix and no suffix",
            "{rule}"
        );
    }
    for (rule, name, addr) in [
        ("pattern: '^[a-z]+$'", "lobby", Some("lobby:1")),
        ("pattern: '^[a-z]+$'", "localhost.example", None),
        ("pattern: '^a|b$'", "a.example", None),
        ("pattern: '(?m)^a$', suffix: .b", "a\nx", None),
        ("pattern: 'a|ab', suffix: .c", "ab", Some("ab.c:1")),
        ("pattern: '[0-9a-f]+', prefix: x-", "127.0.0.1", None),
        ("pattern: '^.*$'", "127.0.0.1", None),
        ("pattern: '^.*$'", "::ffff:127.0.0.1", None),
        ("pattern: '^.*$'", "[::1]", None),
        ("suffix: .nip.example", "127.0.0.1", None),
        ("suffix: .rooms.example", "17", Some("17.rooms.example:1")),
    ] {
        let rule = of(rule).unwrap();
        assert_eq!(rule.addr(name).as_deref(), addr, "{rule:?} {name}");
    }
}

#[test]
fn comments_and_anchors_may_be_many() {
    let comments = "  # - {name: old, addr: 'old:1'}\n".repeat(1000);
    let uses = "- {name: b, <<: *host}\n".repeat(1000);
    let text = format!(
        "listeners:\n{comments}\nhosts:\n{comments}- &host {{name: a, addr: 'a:1', \
             weight: 7}}\n{comments}{uses}scp:\n{comments}  resume_wait: 1s\n{comments}"
    );
    // A key whose values are all commented out has none.
    let text = text.replace("listeners:\n", "listeners: []\n");
    let hosts = parse(&text).unwrap().hosts;
    let fits = |host: &&Host| host.name == "b" && host.weight == 7;
    assert_eq!(
        (hosts.len(), hosts.iter().filter(fits).count()),
        (1001, 1000)
    );
}

#[test]
fn what_is_more_than_the_file_has_bounds() {
    let hook = |config: &str| {
        let text = format!("listeners: []\nhooks:\n- name: a\n  lua: a\n  config: {config}\n");
        parse(&text).map(|_| ())
    };
    let nested = |depth| "[".repeat(depth) + &"]".repeat(depth);
    assert_eq!(hook(&format!("{{a: {}}}", nested(50))), Ok(()));
    for depth in [100, 200, 10_000] {
        assert!(hook(&format!("{{a: {}}}", nested(depth))).is_err());
    }
    // Ten times as much with each line.
    let mut bomb = "\n    l0: &l0 x".to_owned();
    for at in 1..12 {
        let aliases = vec![format!("*l{}", at - 1); 10].join(", ");
        bomb += &format!("\n    l{at}: &l{at} [{aliases}]");
    }
    assert!(hook(&bomb).is_err());
}

#[test]
fn digits_behind_a_zero_are_a_string() {
    let text = "listeners: []\nhooks:\n- name: a\n  lua: a.lua\n- name: b\n  lua: b.lua\n  \
            config:\n    zone: 007 # of many\n    mode: {m: [0755, -01, 1.0, 7, 0, 0.5, 1e3, '007']}\n    \
            back: &x 0123456789\n    again: *x\n    over: {<<: {in: 00}}\n    ä: +08\n";
    let config = parse(text).unwrap();
    assert_eq!(
        serde_json::Value::from(config.hooks[1].config.clone()),
        serde_json::json!({
            "zone": "007",
            "mode": {"m": ["0755", "-01", 1.0, 7, 0, 0.5, 1000.0, "007"]},
            "back": "0123456789",
            "again": "0123456789",
            "over": {"in": "00"},
            "ä": "+08",
        })
    );
    let dump = config.dump().unwrap();
    assert_eq!(parse(&dump), Ok(config), "{dump}");
}

#[test]
fn what_is_no_variable_is_taken() {
    let text = "listeners: []\nfastway: {auth_key: 'a$b$$c$ {d}'}\nupstream:\n  resolve:\n    \
            pattern: '^[a-z]+${0,}$'\n";
    let config = parse(text);
    assert!(config.is_ok(), "{config:?}");
}

#[test]
fn reading_takes_time_by_the_length() {
    let read = |hosts: usize| {
        let text: String = (0..hosts)
            .map(|at| format!("- {{name: h{at}, addr: 'h{at}:1', weight: 1, drain: false}}\n"))
            .collect();
        let text = format!("listeners: []\nhosts:\n{text}");
        let started = thread_time();
        assert_eq!(parse(&text).unwrap().hosts.len(), hosts);
        thread_time() - started
    };
    let (few, many) = (read(2_000), read(16_000));
    assert!(many < few * 24, "{few:?} and {many:?}");
}

/// Returns the processor time of this thread.
fn thread_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the pointer is to a whole struct.
    let result = unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    assert_eq!(result, 0);
    Duration::new(time.tv_sec.cast_unsigned(), time.tv_nsec as u32)
}

#[test]
fn a_file_is_read_and_its_directory_is_where_paths_start() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("gate.yaml");
    let error = Config::load(&path).unwrap_err();
    assert_eq!((&error.file, error.line, &error.key), (&path, None, &None));
    assert!(error.message.starts_with("cannot be read: "), "{error}");

    fs::write(&path, "listeners: []\nhooks: [{name: r, lua: r.lua}]\n").unwrap();
    let error = Config::load(&path).unwrap_err();
    assert_eq!(error.line, Some(2), "{error}");
    fs::write(directory.path().join("r.lua"), "").unwrap();
    let config = Config::load(&path).unwrap();
    assert_eq!(
        config.hooks[0].program.path(),
        directory.path().join("r.lua")
    );

    let here = Config::parse(
        "listeners: []\nhooks: [{name: r, lua: r.lua}]\n",
        Path::new("c"),
    );
    assert!(here.unwrap().hooks[0].program.path().is_absolute());
}

#[test]
fn the_shipped_file_is_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = Config::load(root.join("config.yaml")).unwrap();
    assert_eq!(config.listeners[0].hooks, ["route"]);
    assert_eq!(config.hosts[0].addr, HostAddr::BuiltinEcho);
    assert_eq!(
        config.hooks[0].program.path(),
        root.join("scripts/route.lua")
    );
}
