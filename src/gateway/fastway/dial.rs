//! Dials of an endpoint, for hooks to decide.

use std::sync::Arc;

use super::call::Call;
use crate::config::diff::BindKey;
use crate::gateway::generation::Generation;
use crate::gateway::state::State;
use crate::hooks::{Dial, Fastway, SessionInfo};

/// Dialling endpoint: its physical connection and the generation that decided about that.
#[derive(Clone)]
pub(super) struct Dialler {
    pub state: Arc<State>,
    pub generation: Arc<Generation>,
    pub key: BindKey,
    pub info: Arc<SessionInfo>,
}

impl Dialler {
    /// Returns the call of a dial from `from` to `to`, for hooks to decide; `None` if there are
    /// none.
    ///
    /// The hooks are those of the current configuration, however old the physical connection is.
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
