//! State that outlives the configurations of a gateway.

use std::sync::Arc;

use tokio::sync::Notify;

use super::fastway::Switchboard;
use super::gate::Admission;
use crate::hooks::shared::Shared;
use crate::hooks::stats::Book;
use crate::hooks::{Hook, Runners};
use crate::metrics::Family;
use crate::resolver::Resolver;

/// State that outlives generations and is shared by all of them.
#[derive(Clone)]
pub struct Environment {
    /// Runners of the hooks.
    pub runners: Runners,
    /// Values that hooks share and keep.
    pub shared: Arc<Shared>,
    /// Resolver for the names that hooks look up.
    pub resolver: Arc<Resolver>,
    /// Statistics of hook calls: their cost and outcome.
    pub stats: Arc<Book>,
    /// Switchboard of the connected fastway endpoints.
    pub fastway: Arc<Switchboard>,
    /// Notification that hooks are made of more files than before.
    pub grown: Arc<Notify>,
    /// Hooks in Rust, which are asked before those that a listener names.
    pub hooks: Vec<Arc<dyn Hook>>,
    /// Admission counters of listeners, by name.
    pub(super) admissions: Arc<Family<1, Admission>>,
}

impl Environment {
    /// Returns an environment with nothing remembered and nothing running.
    pub fn new() -> Self {
        Self {
            runners: Runners::new(),
            shared: Arc::default(),
            resolver: Arc::default(),
            stats: Arc::default(),
            fastway: Arc::default(),
            grown: Arc::default(),
            hooks: Vec::new(),
            admissions: Arc::new(Family::new(["listener"])),
        }
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}
