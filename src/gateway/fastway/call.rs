//! Dials as hooks see them.

use std::sync::Arc;
use std::time::Instant;

use crate::hooks::chain::{Chain, Denied, HookContext};
use crate::hooks::{Attrs, Ended, SessionInfo, Target};

/// Dial as hooks see it, and the virtual connection that came of it.
pub(super) struct Call {
    /// Hooks that decide about the dial.
    chain: Arc<Chain>,
    subject: HookContext,
    started: Instant,
}

impl Call {
    pub fn new(chain: Arc<Chain>, info: SessionInfo) -> Self {
        Self {
            chain,
            subject: HookContext {
                info: Arc::new(info),
                attrs: Attrs::new(),
                trace: None,
            },
            started: Instant::now(),
        }
    }

    /// Asks the hooks whether the dial is allowed. Returns the id to connect to; `None` stands for
    /// the dialled one.
    pub async fn decide(&mut self) -> Result<Option<u32>, Denied> {
        self.chain.access(&mut self.subject).await?;
        match self.chain.select_target(&mut self.subject).await? {
            Some(Target::Id(id)) => Ok(Some(id)),
            None => Ok(None),
            Some(Target::Name(_) | Target::Addr(_)) => Err(Denied {
                hook: "builtin".to_owned(),
                reason: "a hook gave a host where an id was to be chosen".to_owned(),
            }),
        }
    }

    /// Tells the hooks that the dial, or its virtual connection, has ended.
    pub async fn closed(mut self: Box<Self>, received: u64, sent: u64, reason: &'static str) {
        let ended = Ended {
            received,
            sent,
            resumes: 0,
            duration: self.started.elapsed(),
            reason,
        };
        self.chain.closed(&mut self.subject, &ended).await;
    }
}
