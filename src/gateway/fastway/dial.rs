//! What hooks have to say about a dial.

use std::sync::Arc;
use std::time::Instant;

use crate::config::diff::BindKey;
use crate::gateway::State;
use crate::gateway::generation::Generation;
use crate::hooks::chain::{Denied, Subject};
use crate::hooks::{Attrs, Dial, Ended, Fastway, SessionInfo, Target};

/// Who asks: a physical connection and the generation that decided about it.
#[derive(Clone)]
pub(super) struct Dialler {
    pub state: Arc<State>,
    pub generation: Arc<Generation>,
    pub key: BindKey,
    pub info: Arc<SessionInfo>,
}

/// A dial as hooks know it, and the virtual connection that came of it.
pub(super) struct Call {
    /// What has decided about it.
    generation: Arc<Generation>,
    key: BindKey,
    subject: Subject,
    started: Instant,
}

impl Dialler {
    /// The hooks for a dial from `from` to `to`; `None` when there are none to ask. They are those
    /// of the current configuration, however long the physical connection has been there.
    pub fn call(&self, from: u32, to: u32) -> Option<Box<Call>> {
        let current = self.state.generation.load_full();
        let generation = match current.listener(&self.key) {
            Some(_) => current,
            None => self.generation.clone(),
        };
        let (_, chain) = generation.listener(&self.key)?;
        if chain.is_builtin() {
            return None;
        }
        let mut info = SessionInfo::clone(&self.info);
        info.fastway = Some(Fastway {
            dial: Some(Dial { from, to }),
            ..info.fastway.unwrap_or_default()
        });
        Some(Box::new(Call {
            generation,
            key: self.key.clone(),
            subject: Subject {
                info: Arc::new(info),
                attrs: Attrs::new(),
            },
            started: Instant::now(),
        }))
    }
}

impl Call {
    /// Whether it may be, and with which id; `None`: with the one that was dialled.
    pub async fn decide(&mut self) -> Result<Option<u32>, Denied> {
        let Some((_, chain)) = self.generation.listener(&self.key) else {
            return Ok(None);
        };
        chain.access(&mut self.subject).await?;
        match chain.select_target(&mut self.subject).await? {
            Some(Target::Id(id)) => Ok(Some(id)),
            None => Ok(None),
            Some(Target::Name(_) | Target::Addr(_)) => Err(Denied {
                hook: "builtin".to_owned(),
                reason: "a hook gave a host where an id was to be chosen".to_owned(),
            }),
        }
    }

    /// Tells the hooks that it is over.
    pub async fn closed(mut self: Box<Self>, received: u64, sent: u64, reason: &'static str) {
        let ended = Ended {
            received,
            sent,
            resumes: 0,
            duration: self.started.elapsed(),
            reason,
        };
        if let Some((_, chain)) = self.generation.listener(&self.key) {
            chain.closed(&mut self.subject, &ended).await;
        }
    }
}
