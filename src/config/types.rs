//! Values of a configuration. All are valid: they were checked when they were read.

use std::net::IpAddr;
use std::time::Duration;

use documented::{Documented, DocumentedFields};
use serde::{Deserialize, Serialize};

use crate::hooks::spec::{OnError, Program};
use crate::hosts::{Choose, HostAddr};
use crate::proto::fastway::Version;
use crate::proto::proxy_header::Version as ProxyVersion;
use crate::transport::Bind;

use super::Admin;
use super::hosts::{Eject, Health};
use super::machine;
use super::network::Network;
use super::settings::{
    Int, Name, NamePattern, OffOr, Pattern, PlainSize, Size, Span, Spelling, Timeout, YEAR, read,
    settings, spelled_as_is, write,
};

const KIB: usize = 1 << 10;
const MIB: usize = 1 << 20;

/// The whole configuration of a gateway.
#[derive(Debug, Clone, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Config {
    /// The admin interface.
    pub admin: Admin,
    /// Which gateway of a group this is: the top 8 bits of its session ids. 0 to 255, or `ordinal`
    /// for the number at the end of the host name. Default 0.
    pub node: u8,
    /// Where clients connect. Names are unique, and so is each bind with a fixed port.
    pub listeners: Vec<Listener>,
    /// How servers are reached.
    pub upstream: Upstream,
    /// The servers. Several may share a name; sessions are spread over them by weight.
    pub hosts: Vec<Host>,
    /// Scripts that listeners may name. Names are unique.
    pub hooks: Vec<Hook>,
    /// What a server is told about a session before the session's own bytes.
    pub announce: Announce,
    /// Memory that the replay buffers of all sessions may take together, and what lost connections
    /// have delivered unread; up to 1TiB, `0B` (`None`) is no limit. Default a quarter of the
    /// machine's memory, or of what the control group leaves the process.
    #[serde(serialize_with = "write::<ReplayMemory, _, _>")]
    pub replay_memory: Option<usize>,
}

/// Addresses that speak one session protocol and offer one service.
#[derive(Debug, Clone, PartialEq, Serialize, Documented, DocumentedFields)]
pub struct Listener {
    /// Its name in logs and hooks; unique, not empty.
    pub name: String,
    /// The addresses it accepts on, at least one: `tcp://0.0.0.0:1248`, `kcp://[::]:1248`. Port 0
    /// lets the system choose one.
    pub bind: Vec<Bind>,
    /// The session protocol clients speak: `scp`, `snet`, or `plain` for none.
    pub session: Session,
    /// What is done with a session: `proxy`, one upstream connection for each, or
    /// `fastway-client` or `fastway-server`, the two sides of a multiplexing gateway. Default
    /// `proxy`.
    pub service: Service,
    /// The hooks that decide about its sessions, by name, in order. Default none.
    pub hooks: Vec<String>,
    /// Reads the first client bytes before the upstream is dialled, for hooks to see. Default off.
    pub peek: Option<Peek>,
    /// How much of the gateway its clients may take.
    pub limits: Limits,
    /// Whose word is taken for who the client is.
    pub proxy_header: ProxyHeader,
    /// Settings of the scp protocol: this listener's keys over the top-level block.
    pub scp: Scp,
    /// Settings of the snet protocol: this listener's keys over the top-level block.
    pub snet: Snet,
    /// Settings of TCP connections: this listener's keys over the top-level block.
    pub tcp: Tcp,
    /// Settings of KCP connections: this listener's keys over the top-level block.
    pub kcp: Kcp,
    /// Settings of the fastway services: this listener's keys over the top-level block.
    pub fastway: Fastway,
}

/// The session protocol of a listener.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Session {
    /// None: a connection is a session and ends with it.
    Plain,
    /// goscon's protocol: encrypted, and resumed after a broken connection.
    Scp,
    /// funny/snet's protocol: resumed after a broken connection, and encrypted if it shall be.
    Snet,
}

impl Session {
    /// Returns the name of the session protocol, as the file has it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Plain => "plain",
            Self::Scp => "scp",
            Self::Snet => "snet",
        }
    }
}

/// Service of a listener: what it does with its sessions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Service {
    /// One upstream connection for each session.
    #[default]
    Proxy,
    /// Clients of a multiplexing gateway, whose servers connect to the gateway, too.
    FastwayClient,
    /// Servers of a multiplexing gateway.
    FastwayServer,
}

settings! {
    /// The first client bytes that hooks see as `first_data`.
    #[derive(PartialEq, Eq)]
    pub struct Peek / PeekPatch {
        /// The most bytes read, and the longest frame; 1B to 64KiB, a plain number is bytes. Default
        /// 4KiB.
        bytes: usize as PlainSize<1, { 64 * KIB }> = 4 * KIB,
        /// How the first message is delimited: by a length before it, `u16be`, `u16le`, `u32be` or
        /// `u32le`, or `none`: whatever comes first. Default `none`.
        frame: Frame as Frame = Frame::None,
        /// How long to wait for them; more than 0s. Default 5s.
        timeout: Duration as Timeout = Duration::from_secs(5),
    }

    /// How much of the gateway the clients of a listener may take. 0 is no limit. A source is an
    /// IPv4 address or a /64 of IPv6.
    #[derive(PartialEq, Eq)]
    pub struct Limits / LimitsPatch {
        /// Sessions, those that wait for their clients included; besides, as many connections in
        /// their handshakes. Default 0.
        connections: usize as Int<usize, 0, 1_000_000_000> = 0,
        /// The same of each source. Default 0.
        per_source: usize as Int<usize, 0, 1_000_000_000> = 0,
        /// Connections of each source in a second, and so many at once; those that resume count.
        /// Default 0.
        new_per_second: u32 as Int<u32, 0, 1_000_000> = 0,
        /// Connections in their handshakes. Default 0.
        handshakes: usize as Int<usize, 0, 1_000_000_000> = 0,
    }

    /// PROXY protocol headers from those who stand between clients and a listener.
    #[derive(PartialEq, Eq)]
    pub struct ProxyHeader / ProxyHeaderPatch {
        /// The networks whose TCP connections begin with a header, of version 1 or 2, that is
        /// believed. Nobody else's is. Default none.
        from: Vec<Network> as Vec<Network> = Vec::new(),
    }

    /// Settings of the scp session protocol.
    #[derive(PartialEq, Eq)]
    pub struct Scp / ScpPatch {
        /// How long a client may take for its handshake; more than 0s. Default 30s.
        handshake_timeout: Duration as Timeout = Duration::from_secs(30),
        /// How long a session whose connection broke waits for its client to come back; more
        /// than 0s. Default 30s.
        resume_wait: Duration as Timeout = Duration::from_secs(30),
        /// Sent bytes kept for replay, and so the most in flight, per session and direction;
        /// 1KiB to 64MiB. Default 64KiB.
        replay_buffer: usize as Size<KIB, { 64 * MIB }> = 64 * KIB,
        /// The dialect of the handshake's authentication: `current`, or `legacy` for clients from
        /// before June 2017. Default `current`.
        hmac: Hmac as Hmac = Hmac::Current,
    }

    /// Settings of the snet session protocol.
    #[derive(PartialEq, Eq)]
    pub struct Snet / SnetPatch {
        /// The version that clients speak, written `auto`, `1` or `2`; `auto` tells them apart.
        /// Default `auto`.
        version: SnetVersion as SnetVersion = SnetVersion::Auto,
        /// Whether payload is encrypted. Nothing on the wire says so: clients must be set alike.
        /// Default true.
        encrypt: bool as bool = true,
        /// How long a client may take for its handshake; more than 0s. Default 10s.
        handshake_timeout: Duration as Timeout = Duration::from_secs(10),
        /// How long a session whose connection broke waits for its client to come back; more
        /// than 0s. Default 60s.
        resume_wait: Duration as Timeout = Duration::from_secs(60),
        /// Sent bytes kept for replay, and so the most in flight, per session and direction;
        /// 1KiB to 64MiB. Default 64KiB.
        replay_buffer: usize as Size<KIB, { 64 * MIB }> = 64 * KIB,
    }

    /// Settings of TCP connections from clients.
    #[derive(PartialEq, Eq)]
    pub struct Tcp / TcpPatch {
        /// How long a connection may be silent before it counts as broken; `0s` (`None`)
        /// is forever. At most 365 days. Default 0s.
        read_timeout: Option<Duration> as OffOr<0, YEAR> = None,
        /// How long a connection is silent before the system probes it; `0s` (`None`) is
        /// never. 1s to 32767s, as Linux takes it. Default 60s.
        keepalive: Option<Duration> as OffOr<1000, 32_767> = Some(Duration::from_secs(60)),
        /// Sends small packets at once. Default true.
        nodelay: bool as bool = true,
        /// How long a `plain` session may move nothing once one of its sides has closed and the
        /// other has not, whatever carries it; then it ends. `0s` (`None`) is forever. At most 365
        /// days. Default 10s.
        linger: Option<Duration> as OffOr<0, YEAR> = Some(Duration::from_secs(10)),
    }

    /// Settings of KCP connections from clients; the defaults are goscon's. Changes take effect
    /// for new connections; those of `reuseport`, `read_buffer` and `write_buffer` when a bind is
    /// opened.
    #[derive(PartialEq, Eq)]
    pub struct Kcp / KcpPatch {
        /// How long a connection may deliver no data before it counts as broken; `0s` (`None`)
        /// is forever. KCP has no other sign of a dead peer. At most 365 days. Default 60s.
        read_timeout: Option<Duration> as OffOr<0, YEAR> = Some(Duration::from_secs(60)),
        /// Forward error correction: datagrams in a group; 0 to 128. Off unless this and
        /// `fec_parity` are both more than 0. Clients must have the same, or none. Default 0.
        fec_data: u8 as Int<u8, 0, 128> = 0,
        /// Forward error correction: datagrams added to each group, as many of which may be lost;
        /// 0 to 128. Default 0.
        fec_parity: u8 as Int<u8, 0, 128> = 0,
        /// Receive buffer of each socket, as far as the system grants it; 4KiB to 1GiB. Default
        /// 4MiB.
        read_buffer: usize as Size<{ 4 * KIB }, { 1024 * MIB }> = 4 * MIB,
        /// Send buffer of each socket, as far as the system grants it; 4KiB to 1GiB. Default 4MiB.
        write_buffer: usize as Size<{ 4 * KIB }, { 1024 * MIB }> = 4 * MIB,
        /// Sockets that share each bind; 1 to 256, or 0 for one per processor. Default 0.
        reuseport: u16 as Int<u16, 0, 256> = 0,
        /// The longest datagram sent, in bytes without the headers of IP and UDP; a plain number,
        /// 256 to 1500. Default 1400.
        mtu: u16 as Int<u16, 256, 1500> = 1400,
        /// Takes a segment for lost after 30 ms at the least instead of 100 ms. Default true.
        nodelay: bool as bool = true,
        /// How long an acknowledgement may wait for data to travel with; 1ms to 5s. Default 10ms.
        interval: Duration as Span<1, 5_000> = Duration::from_millis(10),
        /// Sends a segment again once so many later ones were acknowledged; 0, for never, to 8.
        /// Default 2.
        resend: u8 as Int<u8, 0, 8> = 2,
        /// Sends as fast as the windows allow, whatever is lost. Default true.
        no_congestion: bool as bool = true,
        /// Segments sent and not acknowledged, at most; 4 to 32768. Default 2048.
        send_window: u16 as Int<u16, 4, 32_768> = 2048,
        /// Segments received and not read, at most; 4 to 32768. Default 2048.
        receive_window: u16 as Int<u16, 4, 32_768> = 2048,
        /// Fills segments across writes, as TCP does; otherwise each write is a message of its own
        /// to peers that look. Default true.
        stream: bool as bool = true,
        /// Holds data back for up to `interval` to fill segments. Default false.
        write_delay: bool as bool = false,
    }

    /// Settings of the fastway services.
    #[derive(PartialEq, Eq)]
    pub struct Fastway / FastwayPatch {
        /// The wire version of clients, 1 to 3; `auto` (`None`) finds it from a client's
        /// first command and its pings. Clients that are dialled before they have said anything are
        /// taken for v3: where v1 waits to be dialled, say 1. Silent ones are pinged, which v3 does
        /// not expect: where it does not ping by itself, say 3. Default `auto`.
        client_version: Option<Version> as ClientVersion = None,
        /// The wire version of servers, 1 to 3. Default 3.
        server_version: Version as ServerVersion = Version::V3,
        /// The longest frame, by what its length field says; 1KiB to 64MiB. Default 512KiB.
        max_packet: usize as Size<KIB, { 64 * MIB }> = 512 * KIB,
        /// How many virtual connections a client may have, 0 for no limit: with them, its dials are
        /// refused. Up to 1000000. Default 16.
        max_virtual_connections: usize as Int<usize, 0, 1_000_000> = 16,
        /// What servers must know. Not empty on an address that others can reach. Default empty.
        auth_key: String as String = String::new(),
        /// How long a server may take for its handshake; more than 0s. Default 5s.
        auth_timeout: Duration as Timeout = Duration::from_secs(5),
        /// How long an endpoint may be silent: then v1 and v2 are pinged, and after as long again
        /// their connection is closed, v3 at once. `0s` (`None`) is for ever. Default 30s.
        idle: Option<Duration> as OffOr<0, YEAR> = Some(Duration::from_secs(30)),
        /// How many frames wait for a client that reads too slowly; with more its connection is
        /// closed. 1 to 1000000. Default 1024.
        client_queue: usize as Int<usize, 1, 1_000_000> = 1024,
        /// The same for a server. Default 102400.
        server_queue: usize as Int<usize, 1, 1_000_000> = 102_400,
        /// Memory that these frames may take for each client, with 192 bytes for each frame. Who has
        /// more for it is not read from until half of that is written. 64KiB to 1GiB. Default 4MiB.
        client_queue_bytes: usize as Size<{ 64 * KIB }, { 1024 * MIB }> = 4 * MIB,
        /// The same for a server. Default 16MiB.
        server_queue_bytes: usize as Size<{ 64 * KIB }, { 1024 * MIB }> = 16 * MIB,
        /// Memory that the queues of all endpoints may take together. The less of it is left, the
        /// less each may have: no more than that. 1MiB to 1TiB. Default 256MiB.
        queue_memory: usize as Size<MIB, { 1024 * 1024 * MIB }> = 256 * MIB,
        /// How long an endpoint that reads too slowly may keep those waiting who send to it; then its
        /// connection is closed. More than 0s. Default 10s.
        stall_timeout: Duration as Timeout = Duration::from_secs(10),
    }

    /// How servers are reached.
    #[derive(PartialEq)]
    pub struct Upstream / UpstreamPatch {
        /// What is spoken to the servers: `plain`, or `scp`, which resumes by itself. Default `plain`.
        session: UpstreamSession as UpstreamSession = UpstreamSession::Plain,
        /// How long a server may take to accept a connection; more than 0s. Default 5s.
        connect_timeout: Duration as Timeout = Duration::from_secs(5),
        /// How long a connection to a server is silent before the system probes it; `0s` (`None`)
        /// is never. 1s to 32767s, as Linux takes it. Default 60s.
        keepalive: Option<Duration> as OffOr<1000, 32_767> = Some(Duration::from_secs(60)),
        /// Looks names that no host has up in DNS. Default off; the block turns it on.
        resolve: Option<Resolve> as Option<Resolve> = None,
        /// What becomes of sessions that ask for a name which no host has and `resolve` does not
        /// find: `any` host, as if they had asked for none; `deny`, they are ended; or the name of
        /// the host that they go to. Default `any`.
        unknown: Unknown as Unknown = Unknown::Any,
        /// With `session: scp`: the version of the PROXY protocol header that each connection
        /// begins with, for the next gateway's `proxy_header`. Default `null`: none.
        proxy_header: Option<ProxyVersion> as Option<ProxyVersion> = None,
        /// How a host is chosen among several: `weighted`, at random by weight; `least_sessions`, the
        /// one with the fewest for its weight; `hash_client`, by the client's IP address; or
        /// `hash_target`, by the name that was asked for. Default `weighted`.
        choose: Choose as Choose = Choose::Weighted,
        /// Active checks of hosts. Default off.
        health: Health as Health = Health::default(),
        /// Leaves hosts out that sessions could not be connected to. Default off.
        eject: Eject as Eject = Eject::default(),
        /// How long a host that is back, or new in a reload, takes to get its full share;
        /// `0s` (`None`) is no time. At most 365 days. Default 0s.
        slow_start: Option<Duration> as OffOr<0, YEAR> = None,
        /// How often the names of hosts are looked up; in between, and when that fails, the last
        /// answer holds. `0s` (`None`) is for each session. 10ms to 365 days. Default 30s.
        resolve_interval: Option<Duration> as OffOr<10, YEAR> = Some(Duration::from_secs(30)),
    }

    /// The rule for names that no host has: `prefix + name + suffix` is looked up in DNS. It has a
    /// suffix or a pattern: otherwise clients would choose any address. An IP address is no name.
    #[derive(PartialEq)]
    pub struct Resolve / ResolvePatch {
        /// Put before the name. Default empty.
        prefix: String as String = String::new(),
        /// Put after the name. Default empty.
        suffix: String as String = String::new(),
        /// The port dialled; 1 to 65535. Default 443.
        port: u16 as Int<u16, 1, 65_535> = 443,
        /// A regular expression that a whole name must match to be looked up; `""` (`None`)
        /// takes every name. Without prefix and suffix it begins with `^` and ends with `$`.
        /// Default `""`.
        pattern: Option<NamePattern> as Pattern = None,
    }

    /// What a server is told about a session before the session's own bytes.
    #[derive(PartialEq, Eq)]
    pub struct Announce / AnnouncePatch {
        /// The type number of goscon's sproto announcement, 0 to 32766, so that `2 * (n + 1)`
        /// fits in 16 bits. Not sent for clients that set flag 1. Default `null`: not sent.
        sproto: Option<u16> as Option<Int<u16, 0, 32_766>> = None,
        /// The version of the PROXY protocol header, `v1` or `v2`. It names nobody for clients that
        /// set flag 1. Default `null`: not sent.
        proxy_header: Option<ProxyVersion> as Option<ProxyVersion> = None,
    }
}

/// Delimitation of a client's first message.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Frame {
    /// No delimitation: whatever arrives first.
    None,
    /// By its length in 2 bytes, most significant first.
    U16Be,
    /// By its length in 2 bytes, least significant first.
    U16Le,
    /// By its length in 4 bytes, most significant first.
    U32Be,
    /// By its length in 4 bytes, least significant first.
    U32Le,
}

/// The dialect of scp's handshake authentication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Hmac {
    /// Dialect that goscon and its clients speak today.
    Current,
    /// Dialect of goscon and its clients before June 2017.
    Legacy,
}

/// Versions of snet that a listener takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SnetVersion {
    /// Both versions.
    Auto,
    /// Only the first version.
    #[serde(rename = "1")]
    V1,
    /// Only the second version, of 2018, which has a challenge.
    #[serde(rename = "2")]
    V2,
}

/// The session protocol spoken to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum UpstreamSession {
    /// None: the session's bytes alone.
    Plain,
    /// scp, with the gateway as a client that resumes by itself.
    Scp,
}

/// Version of fastway's servers, a number.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "u8", into = "u8")]
pub(super) struct ServerVersion(Version);

/// Version of fastway's clients: a number, or `auto`.
#[derive(Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "Scalar", into = "Scalar")]
pub(super) struct ClientVersion(Option<Version>);

/// Number or word.
#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Scalar {
    Number(u64),
    Word(String),
}

spelled_as_is!(
    Frame,
    Hmac,
    SnetVersion,
    UpstreamSession,
    Unknown,
    Resolve,
    ProxyVersion,
    Vec<Network>,
);

/// Rule for sessions that ask for a name which no host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "String", into = "String")]
pub enum Unknown {
    /// Any host takes them.
    Any,
    /// They are ended.
    Deny,
    /// The host of this name takes them.
    Host(String),
}

impl From<String> for Unknown {
    fn from(text: String) -> Self {
        match text.as_str() {
            "any" => Self::Any,
            "deny" => Self::Deny,
            _ => Self::Host(text),
        }
    }
}

impl From<Unknown> for String {
    fn from(unknown: Unknown) -> Self {
        match unknown {
            Unknown::Any => "any".to_owned(),
            Unknown::Deny => "deny".to_owned(),
            Unknown::Host(name) => name,
        }
    }
}

impl Resolve {
    /// Checks that the rule does not let clients choose any address. Returns the key at fault and
    /// what is wrong.
    pub(super) fn check(&self) -> Result<(), (&'static str, &'static str)> {
        let has_suffix = !self.suffix.trim_matches('.').is_empty();
        match &self.pattern {
            _ if has_suffix => Ok(()),
            None => Err((
                "",
                "lets clients choose any address: add a suffix or a pattern",
            )),
            Some(pattern)
                if self.prefix.is_empty()
                    && !(pattern.as_str().starts_with('^') && pattern.as_str().ends_with('$')) =>
            {
                let message = "must begin with ^ and end with $ where there is no prefix and no \
                               suffix";
                Err((".pattern", message))
            }
            Some(_) => Ok(()),
        }
    }

    /// Returns the address that the rule gives a name; `None` if the rule does not take the name.
    ///
    /// An IP address is no name.
    pub fn addr(&self, name: &str) -> Option<String> {
        let literal = name
            .strip_prefix('[')
            .and_then(|name| name.strip_suffix(']'));
        if literal.unwrap_or(name).parse::<IpAddr>().is_ok() {
            return None;
        }
        let pattern = self.pattern.as_ref();
        let is_taken = pattern.is_none_or(|pattern| pattern.matches(name));
        is_taken.then(|| format!("{}{name}{}:{}", self.prefix, self.suffix, self.port))
    }
}

/// A server that sessions are sent to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Documented, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub struct Host {
    /// The name clients and hooks ask for; not empty, not necessarily unique.
    #[serde(deserialize_with = "read::<Name, _, _>")]
    pub name: String,
    /// Where it is: `host:port`, the host a name or an IP address, or `builtin:echo`, a server inside the gateway that sends back
    /// what it gets.
    pub addr: HostAddr,
    /// Its share of the sessions among the hosts to choose from; up to 1000000. With 0 it gets only
    /// those that ask for it by name. Default 100.
    #[serde(
        default = "default_weight",
        deserialize_with = "read::<Int<_, 0, 1_000_000>, _, _>"
    )]
    pub weight: u32,
    /// Gets no new sessions; those that it has go on. Default false.
    #[serde(default)]
    pub drain: bool,
}

/// A script or plugin that decides about sessions.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Hook {
    /// The name listeners use; unique, not empty.
    pub name: String,
    /// What is asked.
    #[serde(flatten)]
    pub program: Program,
    /// What becomes of a session when a call fails or breaks a limit. Default `deny`.
    pub on_error: OnError,
    /// The most processor time a call may take; more than 0s. Default 100ms.
    #[serde(serialize_with = "write::<Timeout, _, _>")]
    pub timeout: Duration,
    /// The most time a call may take by the clock; more than 0s. Default 20 times `timeout`.
    #[serde(serialize_with = "write::<Timeout, _, _>")]
    pub wall_timeout: Duration,
    /// The most processor time that loading it may take, and by the clock 20 times that; more than
    /// 0s. Default 5s.
    #[serde(serialize_with = "write::<Timeout, _, _>")]
    pub load_timeout: Duration,
    /// The most memory, in bytes, that each interpreter or instance may hold; 1MiB to 1GiB.
    /// Default 32MiB.
    #[serde(serialize_with = "write::<HookMemory, _, _>")]
    pub memory: usize,
    /// What it reads as its configuration. Default empty.
    pub config: serde_json::Map<String, serde_json::Value>,
}

impl TryFrom<u8> for ServerVersion {
    type Error = String;

    fn try_from(number: u8) -> Result<Self, String> {
        let version = Version::of_number(number);
        version.map(Self).ok_or(format!("{number} must be 1 to 3"))
    }
}

impl From<ServerVersion> for u8 {
    fn from(version: ServerVersion) -> Self {
        version.0.number()
    }
}

impl Spelling<Version> for ServerVersion {
    fn value(self) -> Version {
        self.0
    }

    fn of(value: &Version) -> Self {
        Self(*value)
    }
}

impl TryFrom<Scalar> for ClientVersion {
    type Error = String;

    fn try_from(scalar: Scalar) -> Result<Self, String> {
        let (number, text) = match scalar {
            Scalar::Word(word) if word == "auto" => return Ok(Self(None)),
            Scalar::Word(word) => (word.parse().ok(), word),
            Scalar::Number(number) => (u8::try_from(number).ok(), number.to_string()),
        };
        let version = number.and_then(Version::of_number);
        version
            .map(|version| Self(Some(version)))
            .ok_or(format!("{text} must be 1 to 3, or auto"))
    }
}

impl From<ClientVersion> for Scalar {
    fn from(version: ClientVersion) -> Self {
        match version.0 {
            Some(version) => Self::Number(version.number().into()),
            None => Self::Word("auto".to_owned()),
        }
    }
}

impl Spelling<Option<Version>> for ClientVersion {
    fn value(self) -> Option<Version> {
        self.0
    }

    fn of(value: &Option<Version>) -> Self {
        Self(*value)
    }
}

/// Size up to 1TiB, 0 for no limit.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct ReplayMemory(Size<0, { MIB * MIB }>);

impl Spelling<Option<usize>> for ReplayMemory {
    fn value(self) -> Option<usize> {
        Some(self.0.value()).filter(|size| *size > 0)
    }

    fn of(value: &Option<usize>) -> Self {
        Self(Size::of(&value.unwrap_or(0)))
    }
}

pub(super) type HookMemory = Size<MIB, { 1024 * MIB }>;

/// Returns the default, in whole MiB, so that the written value reads back as the same.
pub(super) fn default_replay_memory() -> Option<usize> {
    let share = usize::try_from(machine::memory()? / 4).ok()?;
    Some((share / MIB).clamp(1, MIB) * MIB)
}

fn default_weight() -> u32 {
    100
}
