//! What scripts and plugins see of the configured hosts.

use std::sync::atomic::{AtomicU64, Ordering};

/// A host of the configuration with its live count.
#[derive(Debug)]
pub struct Host {
    pub name: String,
    /// `host:port`, or `builtin:echo`.
    pub addr: String,
    pub weight: u32,
    /// Sessions on it now; kept by the gateway.
    pub sessions: AtomicU64,
}

impl Host {
    /// A host that no session uses yet.
    pub fn new(name: impl Into<String>, addr: impl Into<String>, weight: u32) -> Self {
        Self {
            name: name.into(),
            addr: addr.into(),
            weight,
            sessions: AtomicU64::new(0),
        }
    }

    /// Sessions on it now.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Ordering::Relaxed)
    }
}
