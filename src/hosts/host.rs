//! Hosts of the configuration, as scripts see them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::health::{Health, State};

/// Host of the configuration with its live count of sessions.
#[derive(Debug)]
pub struct Host {
    pub name: String,
    /// Address, written `host:port` or `builtin:echo`.
    pub addr: String,
    pub weight: u32,
    /// Flag that the host gets no new sessions.
    pub draining: bool,
    /// Health, shared by all hosts of this address and kept by the gateway.
    pub health: Arc<Health>,
    /// Number of sessions on the host now, kept across reloads.
    pub sessions: Arc<AtomicU64>,
}

impl Host {
    /// Creates a host without sessions.
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

    /// Returns whether the host counts as healthy now.
    pub fn is_healthy(&self) -> bool {
        self.health.state(Instant::now()) == State::Healthy
    }

    /// Returns the number of sessions on the host now.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}
