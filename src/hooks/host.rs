//! What scripts and plugins see of the configured hosts and of the fastway endpoints.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::health::{Health, State};
use crate::proto::fastway::Role;

/// A host of the configuration with its live count.
#[derive(Debug)]
pub struct Host {
    pub name: String,
    /// `host:port`, or `builtin:echo`.
    pub addr: String,
    pub weight: u32,
    /// It gets no new sessions.
    pub draining: bool,
    /// Shared by all hosts of this address; kept by the gateway, as are its sessions.
    pub health: Arc<Health>,
    /// Sessions on it now, across reloads.
    pub sessions: Arc<AtomicU64>,
}

impl Host {
    /// A host that no session uses yet.
    pub fn new(name: impl Into<String>, addr: impl Into<String>, weight: u32) -> Self {
        Self {
            name: name.into(),
            addr: addr.into(),
            weight,
            draining: false,
            health: Arc::new(Health::new(None)),
            sessions: Arc::default(),
        }
    }

    /// Whether it can be reached, as far as is known.
    pub fn is_healthy(&self) -> bool {
        self.health.state(Instant::now()) == State::Healthy
    }

    /// Sessions on it now.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}

/// A connected fastway endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: u32,
    pub addr: SocketAddr,
    /// Virtual connections it has now.
    pub connections: usize,
}

/// Lists the fastway endpoints that are connected.
#[derive(Clone)]
pub struct Roster(Arc<dyn Fn(Role) -> Arc<[Endpoint]> + Send + Sync>);

impl Roster {
    /// `list` gives the endpoints of a kind by their ids.
    pub fn new(list: impl Fn(Role) -> Arc<[Endpoint]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    /// The endpoints of a kind by their ids.
    pub fn list(&self, role: Role) -> Arc<[Endpoint]> {
        (self.0)(role)
    }
}

impl Default for Roster {
    /// Nobody is connected.
    fn default() -> Self {
        Self::new(|_| Arc::default())
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roster")
    }
}
