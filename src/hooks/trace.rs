//! What was decided about a session, and by whom.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::contract::Function;
use super::stats::HookStats;
use super::{Answer, Attrs, HookErrorKind, Question, Target};

/// The decisions about one session, in their order. Empty ones take no memory to speak of.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Vec<Decision>>);

/// One answer of a hook.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    hook: Arc<HookStats>,
    function: Function,
    /// The session's attributes when it was asked, if it had any.
    pub attrs: Option<Box<Attrs>>,
    pub outcome: Outcome,
    /// Microseconds in the hook itself.
    pub cost: u32,
}

#[derive(Debug, Clone)]
pub(crate) enum Outcome {
    Pass,
    Allow,
    Deny(Box<str>),
    /// The name of a host, an address, or a fastway endpoint's id.
    Target(Box<str>),
    /// A first message for the server of so many bytes.
    Message(usize),
    /// It gave no answer.
    Failed(HookErrorKind, Box<str>),
}

impl Trace {
    /// The decisions so far.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        self.lock().clone()
    }

    pub(super) fn add(&self, decision: Decision) {
        self.lock().push(decision);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Decision>> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Decision {
    pub(super) fn new(hook: Arc<HookStats>, question: &Question, attrs: &Attrs) -> Self {
        Self {
            hook,
            function: Function::of(question),
            attrs: (!attrs.is_empty()).then(|| Box::new(attrs.clone())),
            outcome: Outcome::Pass,
            cost: 0,
        }
    }

    /// The hook that gave it.
    pub fn hook(&self) -> &str {
        &self.hook.name
    }

    /// The name of the decision.
    pub fn question(&self) -> &'static str {
        self.function.name()
    }

    pub(super) fn cost(&mut self, cost: Duration) {
        self.cost = u32::try_from(cost.as_micros()).unwrap_or(u32::MAX);
    }
}

impl From<&Answer> for Outcome {
    fn from(answer: &Answer) -> Self {
        match answer {
            Answer::Pass => Self::Pass,
            Answer::Allow => Self::Allow,
            Answer::Deny { reason } => Self::Deny(reason.as_str().into()),
            Answer::Target(Target::Name(target) | Target::Addr(target)) => {
                Self::Target(target.as_str().into())
            }
            Answer::Target(Target::Id(id)) => Self::Target(id.to_string().into()),
            Answer::Message(bytes) => Self::Message(bytes.len()),
        }
    }
}

impl Outcome {
    /// A stable label.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Pass => "pass",
            Self::Allow => "allow",
            Self::Deny(_) => "deny",
            Self::Target(_) => "target",
            Self::Message(_) => "message",
            Self::Failed(..) => "error",
        }
    }
}
