//! A host of the configuration.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use super::health::{Health, State};

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
