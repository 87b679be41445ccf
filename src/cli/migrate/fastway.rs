//! Settings of fastway: its command line, from its `main.go` of 2017, and of September 2016, when it
//! pinged by itself.

use std::net::IpAddr;

use anyhow::Context;

use super::draft::{Block, Draft, Kind, Rule, binds};
use super::source::Source;

const COMMON: &[Rule] = &[
    Rule::new("MaxPacket", "fastway.max_packet", Kind::Bytes),
    Rule::new("MaxPacketSize", "fastway.max_packet", Kind::Bytes),
];

const CLIENTS: &[Rule] = &[
    Rule::new(
        "ClientMaxConn",
        "fastway.max_virtual_connections",
        Kind::Count,
    ),
    Rule::new(
        "ClientSendChanSize",
        "fastway.client_queue",
        Kind::Number { otherwise: 1 },
    ),
    Rule::new("ClientIdleTimeout", "fastway.idle", Kind::GoDuration),
    Rule::new("ClientPingInterval", "fastway.idle", Kind::GoDuration),
];

const CLIENTS_SNET: &[Rule] = &[
    Rule::new("ClientSnetEncrypt", "snet.encrypt", Kind::Truth),
    Rule::new("ClientSnetBuffer", "snet.replay_buffer", Kind::Bytes),
    Rule::new(
        "ClientSnetInitTimeout",
        "snet.handshake_timeout",
        Kind::GoDuration,
    ),
    Rule::new(
        "ClientSnetWaitTimeout",
        "snet.resume_wait",
        Kind::GoDuration,
    ),
];

const SERVERS: &[Rule] = &[
    Rule::new("ServerAuthKey", "fastway.auth_key", Kind::Text),
    Rule::new(
        "ServerSendChanSize",
        "fastway.server_queue",
        Kind::Number { otherwise: 1 },
    ),
    Rule::new(
        "ServerAuthTimeout",
        "fastway.auth_timeout",
        Kind::GoDuration,
    ),
    Rule::new("ServerIdleTimeout", "fastway.idle", Kind::GoDuration),
    Rule::new("ServerPingInterval", "fastway.idle", Kind::GoDuration),
];

const SERVERS_SNET: &[Rule] = &[
    Rule::new("ServerSnetEncrypt", "snet.encrypt", Kind::Truth),
    Rule::new("ServerSnetBuffer", "snet.replay_buffer", Kind::Bytes),
    Rule::new(
        "ServerSnetInitTimeout",
        "snet.handshake_timeout",
        Kind::GoDuration,
    ),
    Rule::new(
        "ServerSnetWaitTimeout",
        "snet.resume_wait",
        Kind::GoDuration,
    ),
];

const SWITCHES: &[&str] = &[
    "ReusePort",
    "ClientSnetEnable",
    "ClientSnetEncrypt",
    "ServerSnetEnable",
    "ServerSnetEncrypt",
];

const MEMORY: &str = "memory is not pooled";
const READS: &str = "reads have fixed sizes";
const WITHOUT: &[(&str, &str)] = &[
    ("ReusePort", "a listener has one socket"),
    ("MemPoolSize", MEMORY),
    ("MemPoolType", MEMORY),
    ("MemPoolFactor", MEMORY),
    ("MemPoolMinChunk", MEMORY),
    ("MemPoolMaxChunk", MEMORY),
    ("MemPoolPageSize", MEMORY),
    ("ClientBufferSize", READS),
    ("ServerBufferSize", READS),
];

/// Side of the gateway: clients or servers.
struct Side {
    name: &'static str,
    service: &'static str,
    addr: &'static str,
    snet: &'static str,
    rules: &'static [Rule],
    snet_rules: &'static [Rule],
}

const SIDES: [Side; 2] = [
    Side {
        name: "clients",
        service: "fastway-client",
        addr: "ClientAddr",
        snet: "ClientSnetEnable",
        rules: CLIENTS,
        snet_rules: CLIENTS_SNET,
    },
    Side {
        name: "servers",
        service: "fastway-server",
        addr: "ServerAddr",
        snet: "ServerSnetEnable",
        rules: SERVERS,
        snet_rules: SERVERS_SNET,
    },
];

/// Returns the equivalent of a command line.
///
/// # Errors
/// When it is no command line of fastway, or a value is not of its kind.
pub(super) fn of_flags(line: &str) -> anyhow::Result<Draft> {
    let mut draft = Draft::default();
    let mut source = Source::of_flags(line, SWITCHES)?;
    source.rename(&["ServerAuthPassword", "Password"], "ServerAuthKey");
    earlier(&mut draft, &mut source);
    let mut listeners = Vec::new();
    for side in SIDES {
        if side.service == "fastway-server" {
            keep_in(&mut draft, side.addr, &mut source);
        }
        listeners.push(listener(&side, &mut source)?);
    }
    draft.list("listeners", listeners);
    draft.apply(COMMON, &mut source)?;
    draft.leave_out_rest(source, WITHOUT, "fastway has no such flag");
    Ok(draft)
}

/// Sets what was otherwise before October 2016: other defaults, and other wire versions.
fn earlier(draft: &mut Draft, source: &mut Source) {
    let has_any = |names: &[&str]| source.rest().any(|key| names.contains(&key));
    let is_first = has_any(&["MaxPacketSize"]);
    if !is_first && !has_any(&["ClientPingInterval", "ServerPingInterval"]) {
        return;
    }
    if is_first {
        draft.set("fastway.server_version", "1");
    } else {
        draft.remark(
            "PingInterval: fastway had it until 11 October 2016: if yours is from before the 5th, \
             say 1 for `server_version`",
        );
        draft.set("fastway.server_version", "2");
    }
    source.add_missing("ClientMaxConn", "8");
    source.add_missing("ServerAuthTimeout", "3");
}

/// Keeps the servers' address on this machine if they have no key: fastway allows such servers
/// anywhere, our gateway only here.
fn keep_in(draft: &mut Draft, addr: &str, source: &mut Source) {
    const KEY: &str = "ServerAuthKey";
    let key = source.take(KEY).unwrap_or_default();
    if !key.is_empty() {
        return source.add_missing(KEY, &key);
    }
    let theirs = source.take(addr).unwrap_or(":0".to_owned());
    let (host, port) = theirs.rsplit_once(':').unwrap_or(("", &theirs));
    let host_ip = host.trim_matches(['[', ']']).parse::<IpAddr>();
    if host == "localhost" || host_ip.is_ok_and(|ip| ip.is_loopback()) {
        return source.add_missing(addr, &theirs);
    }
    draft.remark(format!(
        "{KEY}: there is none, so others could be any server; until there is `auth_key`, {theirs} \
         is 127.0.0.1:{port} below"
    ));
    source.add_missing(addr, &format!("127.0.0.1:{port}"));
}

fn listener(side: &Side, source: &mut Source) -> anyhow::Result<Block> {
    let mut block = Block::default();
    let addr = source.take(side.addr).unwrap_or(":0".to_owned());
    let bind = binds(&[("tcp", &addr)]).context(side.addr)?;
    let under_snet = source.take(side.snet).is_some_and(|on| on != "false");
    block.set("name", side.name);
    block.set("bind", bind);
    block.set("session", if under_snet { "snet" } else { "plain" });
    block.set("service", side.service);
    block.apply(side.rules, source)?;
    if under_snet {
        source.add_missing(side.snet_rules[0].theirs, "false");
        block.apply(side.snet_rules, source)?;
    } else {
        // Without snet, these flags mean nothing.
        for rule in side.snet_rules {
            source.take(rule.theirs);
        }
    }
    Ok(block)
}

#[cfg(test)]
pub(super) fn keys() -> impl Iterator<Item = &'static str> {
    let rules = [COMMON, CLIENTS, CLIENTS_SNET, SERVERS, SERVERS_SNET];
    let rules = rules.into_iter().flatten().map(|rule| rule.theirs);
    rules.chain(WITHOUT.iter().map(|(flag, _)| *flag))
}
