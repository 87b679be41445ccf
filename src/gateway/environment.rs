//! What outlives the configurations of a gateway.

use std::sync::Arc;

use tokio::sync::Notify;

use super::fastway::Switchboard;
use super::gate::Admission;
use crate::hooks::shared::Shared;
use crate::hooks::stats::Book;
use crate::hooks::{Hook, Runners};
use crate::metrics::Family;
use crate::resolver::Resolver;

/// What outlives generations and is there for all of them.
#[derive(Clone)]
pub struct Environment {
    /// Where hooks run.
    pub runners: Runners,
    /// What they remember.
    pub shared: Arc<Shared>,
    /// What looks names up for them.
    pub resolver: Arc<Resolver>,
    /// What calls of hooks cost and how they end.
    pub stats: Arc<Book>,
    /// The fastway endpoints that are connected.
    pub fastway: Arc<Switchboard>,
    /// Told when hooks are made of more files than before.
    pub grown: Arc<Notify>,
    /// Hooks in Rust, which are asked before those that a listener names.
    pub hooks: Vec<Arc<dyn Hook>>,
    /// The counts of listeners by their names.
    pub(super) admissions: Arc<Family<1, Admission>>,
}

impl Environment {
    /// Nothing remembered, nothing running.
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
