//! The contract of a hook: what it is asked, and what it may answer.

use std::collections::BTreeMap;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::files::Files;
use crate::proto::scp::message::Extra;

/// What is known of a session when a hook is asked.
#[derive(Debug, Clone)]
pub struct SessionInfo {
    /// Session id; where the session protocol has none, one of the gateway's own above 2^32.
    pub id: u64,
    /// Name of the listener that accepted it.
    pub listener: Arc<str>,
    /// Session protocol: `plain`, `scp`, `snet`.
    pub session: &'static str,
    /// Transport it was accepted on: `tcp`, `kcp`.
    pub transport: &'static str,
    /// The address of the client, as it is known to the gateway.
    pub client_addr: SocketAddr,
    /// The address of the gateway that the client connected to.
    pub gateway_addr: SocketAddr,
    /// The target the client asked for.
    pub target: Option<String>,
    /// The flags of its scp handshake; 0 without one.
    pub flags: u32,
    /// Further handshake lines, without meaning to the gateway.
    pub extra: Extra,
    /// The first client bytes, when the listener peeks.
    pub first_data: Option<Bytes>,
    /// On a fastway listener: who it is, or whom it dials.
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

    /// Whether the question is about a dial, not about a connection to the gateway.
    pub fn is_dial(&self) -> bool {
        self.fastway.is_some_and(|fastway| fastway.dial.is_some())
    }
}

/// What the fastway services add to a [`SessionInfo`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fastway {
    /// The id of a server; none for a client, which has no id before it has access.
    pub server_id: Option<u32>,
    /// Set when the question is about a dial, not about the physical connection.
    pub dial: Option<Dial>,
}

/// A dial of an endpoint; ids of clients and of servers are different things.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Dial {
    /// Id of the endpoint that dials.
    pub from: u32,
    /// The id that it dials.
    pub to: u32,
}

/// A session's own table: what one hook writes, later hooks see.
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

/// Where a session goes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// A host of the configuration by name.
    Name(String),
    /// `host:port`, dialled as it is.
    Addr(String),
    /// A fastway endpoint by its id, instead of the one that was dialled.
    Id(u32),
}

/// Byte counts and the reason of an ended session.
#[derive(Debug, Clone)]
pub struct Ended {
    /// Payload bytes from the client.
    pub received: u64,
    /// Payload bytes to the client.
    pub sent: u64,
    /// How often the client came back.
    pub resumes: u64,
    /// How long it lasted.
    pub duration: Duration,
    /// A stable label such as `upstream_closed`.
    pub reason: &'static str,
}

/// What a hook is asked.
#[derive(Debug, Clone)]
pub enum Question {
    /// May the client come in?
    Access,
    /// Where does the session go?
    SelectTarget,
    /// `target` is the upstream that was connected, `host:port`.
    Announce {
        /// `host:port`.
        target: String,
    },
    /// It has ended; the answer is ignored.
    Closed(Ended),
}

/// What a hook answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// No opinion: the next hook is asked, then the built-in rule.
    Pass,
    /// The client may come in, as far as this hook is concerned: the next one is asked.
    Allow,
    /// The client may not come in.
    Deny {
        /// For the log.
        reason: String,
    },
    /// The session goes there.
    Target(Target),
    /// The bytes to send first; empty means none.
    Message(Bytes),
}

/// One question with what the hook may look at and write.
#[derive(Debug, Clone)]
pub struct Call {
    /// What is asked.
    pub question: Question,
    /// What is known of the session.
    pub info: Arc<SessionInfo>,
    /// The session's own table, as earlier hooks left it.
    pub attrs: Attrs,
}

/// The outcome of a [`Call`].
#[derive(Debug)]
pub struct Reply {
    /// The answer, or why there is none.
    pub answer: Result<Answer, HookError>,
    /// The attributes after the call; as they were before it when it failed.
    pub attrs: Attrs,
    /// Time spent in the hook itself, not in waiting for it.
    pub cost: Duration,
}

/// A call that gave no answer. The message names script and line where there are any.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct HookError {
    /// What kind of failure it is.
    pub kind: HookErrorKind,
    /// What happened.
    pub message: String,
}

/// Why a call gave no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HookErrorKind {
    /// The script or plugin gave an error as its answer, or something that is no answer.
    Script,
    /// The plugin trapped: it did what WebAssembly does not allow.
    Trap,
    /// The call ran past its time limit and was stopped.
    Timeout,
    /// The call ran past its limit by the wall clock and was stopped.
    WallTimeout,
    /// The call ran past its memory limit and was stopped.
    Memory,
    /// The call has not ended long after its limit by the wall clock.
    Stuck,
    /// No worker was free in time: too many calls are slow.
    Overloaded,
}

impl HookErrorKind {
    /// A stable label for logs and metrics.
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

/// One source of decisions: a script, a plugin or the built-in rule.
pub trait Hook: Send + Sync {
    /// The name it has in the configuration.
    fn name(&self) -> &str;

    /// Asks it. The future ends within three times the hook's limit by the wall clock and two
    /// seconds, whatever the hook does, and may be dropped at any time.
    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>>;
}

/// A hook that is made of files.
pub trait FileHook: Hook {
    /// The files that it was made of, absolute, and those that it looked for in vain. May grow
    /// with calls.
    fn files(&self) -> Files;

    /// The names of those of them that it asked for by name.
    fn modules(&self) -> Vec<String>;
}
