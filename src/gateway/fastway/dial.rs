//! Dials of an endpoint, for hooks to decide.

use std::sync::Arc;

use super::call::Call;
use crate::config::diff::BindKey;
use crate::gateway::generation::Generation;
use crate::gateway::state::State;
use crate::hooks::{Dial, Fastway, SessionInfo};

/// Who asks: a physical connection and the generation that decided about it.
#[derive(Clone)]
pub(super) struct Dialler {
    pub state: Arc<State>,
    pub generation: Arc<Generation>,
    pub key: BindKey,
    pub info: Arc<SessionInfo>,
}

impl Dialler {
    /// The hooks for a dial from `from` to `to`; `None` when there are none to ask. They are those
    /// of the current configuration, however long the physical connection has been there.
    pub fn call(&self, from: u32, to: u32) -> Option<Box<Call>> {
        let current = self.state.generation.load_full();
        let (_, chain) = current
            .listener(&self.key)
            .or_else(|| self.generation.listener(&self.key))?;
        if chain.is_builtin() {
            return None;
        }
        let mut info = SessionInfo::clone(&self.info);
        info.fastway = Some(Fastway {
            dial: Some(Dial { from, to }),
            ..info.fastway.unwrap_or_default()
        });
        Some(Box::new(Call::new(chain.clone(), info)))
    }
}
