//! What a gateway tells of itself.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use serde::{Serialize, Serializer};

use super::{Error, Gateway, lock};
use crate::admin::Fault;
use crate::config::diff::BindKey;
use crate::config::{Listener, Service, Session};

/// A gateway as a whole, at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    #[serde(serialize_with = "rfc3339")]
    started_at: SystemTime,
    uptime_seconds: f64,
    node: u8,
    /// Counts up with each reload that succeeded.
    generation: u64,
    draining: bool,
    /// Handshakes included.
    connections: usize,
    listeners: Vec<ListenerStatus>,
    hosts: Vec<HostStatus>,
    last_reload: Option<Reload>,
}

#[derive(Debug, Serialize)]
struct ListenerStatus {
    name: String,
    session: Session,
    service: Service,
    hooks: Vec<String>,
    binds: Vec<BindStatus>,
}

#[derive(Debug, Serialize)]
struct BindStatus {
    transport: String,
    /// `None` when it does not accept: the gateway drains.
    addr: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    name: String,
    addr: String,
    weight: u32,
    sessions: u64,
}

/// How a reload went.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reload {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    succeeded: bool,
    /// The one in force since then.
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Fault>,
}

/// When a gateway started.
pub(super) struct Started {
    at: SystemTime,
    instant: Instant,
}

impl Started {
    pub fn now() -> Self {
        Self {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

impl Reload {
    pub(super) fn now(result: &Result<(), Error>, generation: u64) -> Self {
        Self {
            at: SystemTime::now(),
            succeeded: result.is_ok(),
            generation,
            error: result.as_ref().err().map(Fault::from),
        }
    }
}

impl Gateway {
    /// What it is doing.
    pub(crate) async fn status(&self) -> Status {
        let generation = self.generation();
        let config = &generation.config;
        let binds = self.binds.lock().await;
        let listener = |listener: &Listener| {
            let keys = BindKey::of(listener);
            let bind = |key: &BindKey| BindStatus {
                transport: key.bind.transport.to_string(),
                addr: binds.get(key).map(|bound| bound.addr),
            };
            ListenerStatus {
                name: listener.name.clone(),
                session: listener.session,
                service: listener.service,
                hooks: listener.hooks.clone(),
                binds: keys.iter().map(bind).collect(),
            }
        };
        let listeners = config.listeners.iter().map(listener).collect();
        let hosts = generation.hosts.seen().into_iter().map(|host| HostStatus {
            name: host.name.clone(),
            addr: host.addr.clone(),
            weight: host.weight,
            sessions: host.sessions(),
        });
        Status {
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started.at,
            uptime_seconds: self.started.instant.elapsed().as_secs_f64(),
            node: config.node,
            generation: generation.number,
            draining: self.is_draining(),
            connections: self.sessions(),
            listeners,
            hosts: hosts.collect(),
            last_reload: lock(&self.last_reload).clone(),
        }
    }
}

pub(super) fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(*at))
}
