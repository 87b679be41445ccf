//! Contract of a hook: its questions and its answers.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::files::Files;
use crate::proto::scp::message::Extra;

/// Information about a session when a hook is asked.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Session id. Where the session protocol has none, the gateway's own, above 2^32.
    pub id: u64,
    /// Name of the listener that accepted the session.
    pub listener: Arc<str>,
    /// Session protocol: `plain`, `scp`, `snet`.
    pub session: &'static str,
    /// Transport that the session was accepted on: `tcp`, `kcp`.
    pub transport: &'static str,
    /// The address of the client, as it is known to the gateway.
    pub client_addr: SocketAddr,
    /// The address of the gateway that the client connected to.
    pub gateway_addr: SocketAddr,
    /// The target the client asked for.
    pub target: Option<String>,
    /// Flags of the scp handshake; 0 without one.
    pub flags: u32,
    /// Further lines of the handshake, without meaning to the gateway.
    pub extra: Extra,
    /// The first client bytes, when the listener peeks.
    pub first_data: Option<Bytes>,
    /// On a fastway listener: the server that connects, or the dial of an endpoint.
    pub fastway: Option<Fastway>,
}

impl SessionInfo {
    /// Returns the information about a plain TCP connection, with the id 0.
    pub fn new(
        listener: impl Into<Arc<str>>,
        client_addr: SocketAddr,
        gateway_addr: SocketAddr,
    ) -> Self {
        Self {
            id: 0,
            listener: listener.into(),
            session: "plain",
            transport: "tcp",
            client_addr,
            gateway_addr,
            target: None,
            flags: 0,
            extra: Extra::default(),
            first_data: None,
            fastway: None,
        }
    }

    /// Returns whether the question is about a dial, not about a connection to the gateway.
    pub fn is_dial(&self) -> bool {
        self.fastway.is_some_and(|fastway| fastway.dial.is_some())
    }
}

/// Part of a [`SessionInfo`] that the fastway services add.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fastway {
    /// Id of the server that connects; `None` for a client, which has no id before it has access.
    pub server_id: Option<u32>,
    /// Dial that the question is about; `None` when it is about the physical connection.
    pub dial: Option<Dial>,
}

/// Dial of an endpoint.
///
/// Clients and servers have separate ids: the same number names two endpoints.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// Id of the endpoint that dials.
    pub from: u32,
    /// Id of the endpoint that is dialled.
    pub to: u32,
}

/// Attributes of a session: what one hook writes, later hooks see.
pub type Attrs = BTreeMap<String, AttrValue>;

/// A value in [`Attrs`].
#[derive(Debug, Clone, PartialEq)]
pub enum AttrValue {
    /// True or false.
    Boolean(bool),
    /// A whole number.
    Integer(i64),
    /// Any other number.
    Number(f64),
    /// Any bytes; Lua strings need not be UTF-8.
    String(Bytes),
}

/// Target of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Name of a host in the configuration.
    Name(String),
    /// Address `host:port`, dialled as it is.
    Addr(String),
    /// Id of a fastway endpoint, connected instead of the one that was dialled.
    Id(u32),
}

/// Byte counts and the reason of an ended session.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Payload bytes from the client.
    pub received: u64,
    /// Payload bytes to the client.
    pub sent: u64,
    /// Number of times that the client came back.
    pub resumes: u64,
    /// Time that the session lasted.
    pub duration: Duration,
    /// A stable label such as `upstream_closed`.
    pub reason: &'static str,
}

/// Question to a hook.
#[derive(Debug, Clone)]
pub enum Question {
    /// Access: may the client come in?
    Access,
    /// Choice of a target: where does the session go?
    SelectTarget,
    /// Announcement: what is the upstream sent before the session's own bytes?
    Announce {
        /// Address of the upstream that was connected, `host:port`.
        target: String,
    },
    /// End of the session; the answer is ignored.
    Closed(Ended),
}

/// Answer of a hook.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// No opinion: the next hook is asked, then the built-in rule.
    Pass,
    /// Permission, as far as this hook is concerned: the next hook is asked.
    Allow,
    /// Refusal: the client may not come in.
    Deny {
        /// Reason, for the log.
        reason: String,
    },
    /// Target that the session goes to.
    Target(Target),
    /// Bytes to send first; empty means none.
    Message(Bytes),
}

/// Call of a hook: one question, with what the hook may look at and write.
#[derive(Debug, Clone)]
pub struct Call {
    /// Question to the hook.
    pub question: Question,
    /// Information about the session.
    pub info: Arc<SessionInfo>,
    /// Attributes of the session, as earlier hooks left them.
    pub attrs: Attrs,
}

/// Outcome of a [`Call`].
#[derive(Debug)]
pub struct Reply {
    /// Answer, or why there is none.
    pub answer: Result<Answer, HookError>,
    /// Attributes after the call; unchanged when the call failed.
    pub attrs: Attrs,
    /// Time spent in the hook itself, not in waiting for it.
    pub cost: Duration,
}

/// Error of a call that gave no answer.
///
/// The message names the script and the line where there are any.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HookError {
    /// Kind of the failure.
    pub kind: HookErrorKind,
    /// Message that says what happened.
    pub message: String,
}

/// Kind of a call's failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookErrorKind {
    /// Script error: the script or plugin answered with an error, or with something that is no
    /// answer.
    Script,
    /// Trap: the plugin did what WebAssembly does not allow.
    Trap,
    /// Timeout: the call ran past its limit in processor time and was stopped.
    Timeout,
    /// Wall-clock timeout: the call ran past its limit in wall-clock time and was stopped.
    WallTimeout,
    /// Memory: the call ran past its memory limit and was stopped.
    Memory,
    /// Stuck call: the call has not ended long after its limit in wall-clock time.
    Stuck,
    /// Overload: no worker was free in time, because too many calls are slow.
    Overloaded,
}

impl HookErrorKind {
    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Script => "script",
            Self::Trap => "trap",
            Self::Timeout => "timeout",
            Self::WallTimeout => "wall_timeout",
            Self::Memory => "memory",
            Self::Stuck => "stuck",
            Self::Overloaded => "overloaded",
        }
    }
}

/// Source of decisions: a script, a plugin or the built-in rule.
pub trait Hook: Send + Sync {
    /// Returns the name that the hook has in the configuration.
    fn name(&self) -> &str;

    /// Asks the hook.
    ///
    /// The future ends within three times the hook's limit in wall-clock time and two seconds,
    /// whatever the hook does, and may be dropped at any time.
    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>>;
}

/// Hook that is made of files.
pub trait FileHook: Hook {
    /// Returns the files that the hook was made of, absolute, and those that it looked for in vain.
    ///
    /// The files may become more with calls.
    fn files(&self) -> Files;

    /// Returns the names of the modules that the hook asked for by name.
    fn modules(&self) -> Vec<String>;
}
