//! Program of a script, from which its interpreters are made.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use super::limit::Guard;
use super::source::Sources;
use crate::hooks::spec::{Environment, Limits, wall_timeout};

/// Script as it was when it was loaded.
#[derive(Debug)]
pub(super) struct Program {
    pub(super) id: u64,
    /// Name of the hook.
    pub(super) name: Arc<str>,
    pub(super) sources: Arc<Sources>,
    pub(super) limits: Limits,
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    pub(super) environment: Environment,
    /// Count of the interpreters that are alive, of all scripts.
    pub(super) vms: Arc<AtomicUsize>,
}

impl Program {
    /// Returns a number that no other program has.
    pub(super) fn next_id() -> u64 {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        NEXT.fetch_add(1, Ordering::Relaxed)
    }

    /// Starts the clocks of loading.
    pub(super) fn load_guard(&self) -> Guard {
        let timeout = self.limits.load_timeout;
        Guard::start(timeout, wall_timeout(timeout), self.limits.memory)
    }

    /// Starts the clocks of a call.
    pub(super) fn call_guard(&self) -> Guard {
        let limits = &self.limits;
        Guard::start(limits.timeout, limits.wall_timeout, limits.memory)
    }
}
