//! Settings of goscon: the keys of its configuration file, and its earlier flags.
//!
//! Sources: goscon's `config.go`, `kcp.go`, `tcp.go` and `upstream/upstream.go` (March 2021); for
//! the flags its `main.go` and `net.go` of 2018, in which KCP's settings moved from options of
//! `-kcp` to a file.

use std::io;
use std::net::SocketAddr;
use std::path::Path;

use anyhow::{Context, bail};

use super::draft::{Block, Draft, Kind, Rule, binds, text};
use super::source::Source;

/// Window that KCP takes instead of 0 segments.
const WINDOW: Kind = Kind::Number { otherwise: 32 };

const FILE: &[Rule] = &[
    Rule::new(
        "scp.handshake_timeout",
        "scp.handshake_timeout",
        Kind::PositiveSeconds,
    ),
    Rule::new("scp.reuse_time", "scp.resume_wait", Kind::Seconds),
    Rule::new("scp.reuse_buffer", "scp.replay_buffer", Kind::PositiveBytes),
    Rule::new("tcp_option.read_timeout", "tcp.read_timeout", Kind::Seconds),
    Rule::new(
        "tcp_option.keepalive_interval",
        "tcp.keepalive",
        Kind::Seconds,
    ),
    Rule::new("kcp_option.read_timeout", "kcp.read_timeout", Kind::Seconds),
    Rule::new("kcp_option.fec_data_shards", "kcp.fec_data", Kind::Count),
    Rule::new(
        "kcp_option.fec_parity_shards",
        "kcp.fec_parity",
        Kind::Count,
    ),
    Rule::new("kcp_option.read_buffer", "kcp.read_buffer", Kind::Bytes),
    Rule::new("kcp_option.write_buffer", "kcp.write_buffer", Kind::Bytes),
    Rule::new(
        "kcp_option.reuseport",
        "kcp.reuseport",
        Kind::Number { otherwise: 1 },
    ),
    Rule::new(
        "kcp_option.opt_mtu",
        "kcp.mtu",
        Kind::Number { otherwise: 1400 },
    ),
    Rule::new("kcp_option.opt_nodelay", "kcp.nodelay", Kind::Truth),
    Rule::new("kcp_option.opt_interval", "kcp.interval", Kind::Interval),
    Rule::new("kcp_option.opt_resend", "kcp.resend", Kind::Count),
    Rule::new("kcp_option.opt_nc", "kcp.no_congestion", Kind::Truth),
    Rule::new("kcp_option.opt_sndwnd", "kcp.send_window", WINDOW),
    Rule::new("kcp_option.opt_rcvwnd", "kcp.receive_window", WINDOW),
    Rule::new("kcp_option.opt_stream", "kcp.stream", Kind::Truth),
    Rule::new("kcp_option.opt_writedelay", "kcp.write_delay", Kind::Truth),
    Rule::new(
        "upstream_option.resolv.prefix",
        "upstream.resolve.prefix",
        Kind::Text,
    ),
    Rule::new(
        "upstream_option.resolv.suffix",
        "upstream.resolve.suffix",
        Kind::Text,
    ),
    Rule::new(
        "upstream_option.resolv.port",
        "upstream.resolve.port",
        Kind::Count,
    ),
    Rule::new(
        "upstream_option.resolv.pattern",
        "upstream.resolve.pattern",
        Kind::Text,
    ),
];

const FLAGS: &[Rule] = &[
    Rule::new(
        "handshakeTimeout",
        "scp.handshake_timeout",
        Kind::PositiveSeconds,
    ),
    Rule::new("reuseTimeout", "scp.resume_wait", Kind::Seconds),
    Rule::new("sbuf", "scp.replay_buffer", Kind::PositiveBytes),
    Rule::new("tcp.read_timeout", "tcp.read_timeout", Kind::Seconds),
    Rule::new("kcp.read_timeout", "kcp.read_timeout", Kind::Seconds),
    Rule::new("kcp.fec_data", "kcp.fec_data", Kind::Count),
    Rule::new("kcp.fec_parity", "kcp.fec_parity", Kind::Count),
    Rule::new("kcp.read_buffer", "kcp.read_buffer", Kind::Bytes),
    Rule::new("kcp.write_buffer", "kcp.write_buffer", Kind::Bytes),
    Rule::new(
        "kcp.reuseport",
        "kcp.reuseport",
        Kind::Number { otherwise: 1 },
    ),
];

const WITHOUT: &[(&str, &str)] = &[
    (
        "log",
        "the environment variable RUST_LOG says what is logged",
    ),
    ("uploadMinPacket", "what clients send is forwarded at once"),
    ("uploadMaxDelay", "what clients send is forwarded at once"),
    ("kcp.snmplog", "counters are not written to files"),
    ("kcp.snmpperiod", "counters are not written to files"),
];

/// Options of `-kcp` as goscon's documents write them, and as its code does.
const SPELLINGS: &[(&str, &str)] = &[
    ("kcp.readTimeout", "kcp.read_timeout"),
    ("kcp.rcvWnd", "kcp.rcv_wnd"),
    ("kcp.sndWnd", "kcp.snd_wnd"),
];

/// Rules for the block `kcp` of the file that the flags name, or for options of `-kcp`.
const FLAGS_FILE: &[Rule] = &[
    Rule::new("kcp.mtu", "kcp.mtu", Kind::Number { otherwise: 1400 }),
    Rule::new("kcp.nodelay", "kcp.nodelay", Kind::Truth),
    Rule::new("kcp.interval", "kcp.interval", Kind::Interval),
    Rule::new("kcp.resend", "kcp.resend", Kind::Count),
    Rule::new("kcp.nc", "kcp.no_congestion", Kind::Truth),
    Rule::new("kcp.snd_wnd", "kcp.send_window", WINDOW),
    Rule::new("kcp.rcv_wnd", "kcp.receive_window", WINDOW),
];

const HOST: &[Rule] = &[
    Rule::new("addr", "addr", Kind::Text),
    Rule::new("weight", "weight", Kind::Number { otherwise: 100 }),
];

/// Returns the equivalent of a configuration file.
///
/// # Errors
/// When the file cannot be read, is no YAML, or has a value that is not of its kind.
pub(super) fn of_file(path: &Path) -> anyhow::Result<Draft> {
    let within = || path.display().to_string();
    let file = std::fs::read_to_string(path).with_context(within)?;
    let mut source = Source::of_yaml(&file).with_context(within)?;
    of_settings(&mut source).with_context(within)
}

fn of_settings(source: &mut Source) -> anyhow::Result<Draft> {
    let mut draft = Draft::default();
    let tcp = source.take("tcp").unwrap_or("0.0.0.0:1248".to_owned());
    let kcp = source.take("kcp").unwrap_or_default();
    listen(&mut draft, &tcp, &kcp)?;
    if source.take("tcp_option.keepalive").as_deref() == Some("false") {
        source.take("tcp_option.keepalive_interval");
        draft.set("tcp.keepalive", "0s");
    }
    if let Some(net) = source.take("upstream_option.net") {
        let session = if net == "scp" { "scp" } else { "plain" };
        draft.set("upstream.session", session);
    }
    if let Some(addr) = source.take("manager") {
        admin(&mut draft, &addr);
    }
    resolve(&mut draft, source);
    draft.apply(FILE, source)?;
    hosts(&mut draft, source.take_list("hosts"))?;
    forks(&mut draft, source);
    for key in source.rest() {
        draft.leave_out(key, "goscon has no such key");
    }
    Ok(draft)
}

/// Returns the equivalent of a command line.
///
/// # Errors
/// When it is no command line of goscon, a value is not of its kind, or the file that `-config`
/// names cannot be read.
pub(super) fn of_flags(line: &str) -> anyhow::Result<Draft> {
    let mut draft = Draft::default();
    let mut source = Source::of_flags(line, &["sproto"])?;
    let listen_addr = source.take("listen").unwrap_or("0.0.0.0:1248".to_owned());
    let [tcp, kcp] = ["tcp", "kcp"].map(|name| {
        let options = source.take(name);
        source.add_pairs(name, options.as_deref().unwrap_or_default());
        options.is_some()
    });
    let or_none = |on: bool| if on { listen_addr.as_str() } else { "" };
    listen(&mut draft, or_none(tcp || !kcp), or_none(kcp))?;
    for (documented, option) in SPELLINGS {
        source.rename(&[documented], option);
    }
    let has_option = |rule: &Rule| source.rest().any(|key| key == rule.theirs);
    let kcp_in_file = kcp && !FLAGS_FILE.iter().any(has_option);
    if kcp {
        source.add_missing("kcp.reuseport", "8");
    }
    if kcp && !kcp_in_file {
        source.add_missing("kcp.read_timeout", "60");
        source.add_missing("kcp.snd_wnd", "1024");
        source.add_missing("kcp.rcv_wnd", "1024");
    }
    draft.apply(FLAGS, &mut source)?;
    draft.apply(FLAGS_FILE, &mut source)?;
    config_file(&mut draft, source.take("config"), kcp_in_file)?;
    announce(&mut draft, &mut source);
    draft.leave_out_rest(source, WITHOUT, "goscon has no such flag");
    Ok(draft)
}

/// Sets `admin`. goscon's interface is open to all who can reach it; ours asks others for a token.
fn admin(draft: &mut Draft, addr: &str) {
    let port = addr.rsplit_once(':').map_or("", |(_, port)| port);
    let of_host = format!("127.0.0.1:{port}");
    let loopback = match addr {
        "" => return draft.set("admin", "\"\""),
        _ if addr.starts_with("localhost:") => of_host.parse::<SocketAddr>(),
        _ => addr.parse(),
    };
    match loopback {
        Ok(addr) if addr.ip().is_loopback() => draft.set("admin", text(&addr.to_string())),
        _ => {
            draft.remark(format!(
                "manager: {addr} can be reached by others: that takes a token, see `admin` in \
                 docs/configuration.md; it is {of_host} below"
            ));
            draft.set("admin", text(&of_host));
        }
    }
}

/// Sets the rule for names that no host has.
///
/// goscon looks for its pattern anywhere in a name, and without a pattern takes every name, so that
/// clients choose any address. Ours matches whole names, and demands a pattern or a suffix.
fn resolve(draft: &mut Draft, source: &mut Source) {
    const RULE: &str = "upstream_option.resolv";
    if !source.rest().any(|key| key.starts_with(RULE)) {
        return;
    }
    let key = format!("{RULE}.pattern");
    let suffix = source.take(&format!("{RULE}.suffix")).unwrap_or_default();
    source.add_missing(&format!("{RULE}.suffix"), &suffix);
    let pattern = source.take(&key).unwrap_or_default();
    let is_whole = pattern.starts_with('^') && pattern.ends_with('$') && !pattern.contains('|');
    let pattern = match pattern.as_str() {
        "" if !suffix.is_empty() => return,
        "" => {
            draft.remark(format!(
                "{key}: there is none, so clients could choose any address; names without a dot \
                 are taken below"
            ));
            "^[A-Za-z0-9_-]+$".to_owned()
        }
        _ if is_whole => pattern,
        _ => {
            draft.remark(format!(
                "{key}: {pattern} may match any part of a name; see whether clients can choose \
                 more than they should"
            ));
            format!("^.*(?:{pattern}).*$")
        }
    };
    source.add_missing(&key, &pattern);
}

/// Misses what forks of goscon have.
fn forks(draft: &mut Draft, source: &mut Source) {
    let listens = source.take("ws").is_some_and(|addr| !addr.is_empty());
    source.take_block("ws_option");
    if listens {
        let why = "WebSocket is not spoken here; let its clients come by TCP or KCP";
        draft.miss("ws", why);
    }
    if source.take_block("etcd") {
        let why = "hosts are in the configuration file, which is read again when it changes";
        draft.miss("etcd", why);
    }
}

fn listen(draft: &mut Draft, tcp: &str, kcp: &str) -> anyhow::Result<()> {
    let mut addrs = vec![("tcp", tcp), ("kcp", kcp)];
    addrs.retain(|(_, addr)| !addr.is_empty());
    let mut listener = Block::default();
    listener.set("name", "game");
    listener.set("bind", binds(&addrs)?);
    listener.set("session", "scp");
    draft.list("listeners", vec![listener]);
    Ok(())
}

/// Sets the hosts. A host without a name gets one: clients that ask for no name go to any host.
fn hosts(draft: &mut Draft, hosts: Vec<Source>) -> anyhow::Result<()> {
    let mut blocks = Vec::new();
    for (at, mut host) in hosts.into_iter().enumerate() {
        let mut block = Block::default();
        let name = host.take("name").filter(|name| !name.is_empty());
        block.set("name", text(&name.unwrap_or(format!("host{}", at + 1))));
        block
            .apply(HOST, &mut host)
            .with_context(|| format!("hosts[{at}]"))?;
        for key in host.rest() {
            draft.leave_out(&format!("hosts[{at}].{key}"), "goscon has no such key");
        }
        blocks.push(block);
    }
    if !blocks.is_empty() {
        draft.list("hosts", blocks);
    }
    Ok(())
}

/// Sets the servers and, if they are in the file, KCP's settings, of which those that it lacks are
/// 0.
fn config_file(draft: &mut Draft, named: Option<String>, kcp: bool) -> anyhow::Result<()> {
    let path = named.as_deref().unwrap_or("./settings.conf");
    let file = match std::fs::read_to_string(path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound && named.is_none() => {
            draft.remark(format!(
                "hosts: {path} is not here: give your servers instead of the echo below"
            ));
            let mut echo = Block::default();
            echo.set("name", "echo");
            echo.set("addr", "\"builtin:echo\"");
            draft.list("hosts", vec![echo]);
            return Ok(());
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => bail!(
            "{path} is not here: run this where goscon runs, or name the file by its whole path; \
             it has the hosts"
        ),
        Err(error) => return Err(error).with_context(|| path.to_owned()),
    };
    let mut source = Source::of_yaml(&file).with_context(|| path.to_owned())?;
    for rule in FLAGS_FILE {
        if kcp {
            source.add_missing(rule.theirs, "0");
        } else {
            source.take(rule.theirs);
        }
    }
    draft
        .apply(FLAGS_FILE, &mut source)
        .with_context(|| path.to_owned())?;
    hosts(draft, source.take_list("hosts"))?;
    for key in source.rest() {
        draft.leave_out(&format!("{path}: {key}"), "goscon has no such key");
    }
    Ok(())
}

/// Sets `announce` from goscon's flags for the message that tells a server of a session.
fn announce(draft: &mut Draft, source: &mut Source) {
    let on = source.take("sproto").is_some_and(|on| on != "false");
    let number = source.take("sprotoMessageType");
    let header = source.take("sprotoFormat");
    if !on {
        return;
    }
    draft.set("announce.sproto", number.unwrap_or("3".to_owned()));
    if header.is_some_and(|header| header != "BS") {
        let why = "the length before the announcement has two bytes, the higher first; a hook's \
                   announce can write others";
        draft.miss("sprotoFormat", why);
    }
}

#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let rules = [FILE, FLAGS, FLAGS_FILE, HOST].into_iter().flatten();
    let named = rules.map(|rule| rule.theirs);
    let pairs = SPELLINGS.iter().chain(WITHOUT);
    named.chain(pairs.map(|(key, _)| *key))
}
