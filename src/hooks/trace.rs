//! Trace of a session: its decisions, and the hooks that made them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::contract::{Function, attr_size, clip};
use super::stats::HookStats;
use super::{Answer, AttrValue, Attrs, HookErrorKind, Question, Target};

use crate::sync::Mutex;

/// Most bytes that the attributes in all decisions about a session may take.
const MAX_ATTRS: usize = 16 * 1024;
/// Longest string value kept of an attribute, bytes.
const MAX_VALUE: usize = 256;
/// Bytes that an attribute takes besides its key and a string.
const ATTR: usize = 64;

/// Decisions about one session, in order.
///
/// An empty trace takes hardly any memory.
#[derive(Debug, Default)]
pub struct Trace(Mutex<Decisions>);

#[derive(Debug, Default)]
struct Decisions {
    list: Vec<Decision>,
    /// Bytes that the attributes in `list` take.
    attrs: usize,
}

/// Attributes of a session as a hook found them, within the limits of a trace.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub kept: Attrs,
    /// Set if an attribute is missing or shortened.
    pub cut: bool,
    size: usize,
}

/// Decision of a hook.
#[derive(Debug, Clone)]
pub(crate) struct Decision {
    hook: Arc<HookStats>,
    function: Function,
    /// Attributes of the session when the hook was asked, if there were any.
    pub attrs: Option<Box<Snapshot>>,
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
    /// First message for the server, with its length in bytes.
    Message(usize),
    /// Failure: the hook gave no answer.
    Failed(HookErrorKind, Box<str>),
}

impl Trace {
    /// Returns the decisions so far.
    pub(crate) fn decisions(&self) -> Vec<Decision> {
        self.0.lock().list.clone()
    }

    /// Begins the record of a decision that is about to be made.
    pub(super) fn begin(
        &self,
        hook: Arc<HookStats>,
        question: &Question,
        attrs: &Attrs,
    ) -> Decision {
        let room = || MAX_ATTRS.saturating_sub(self.0.lock().attrs);
        Decision {
            hook,
            function: Function::of(question),
            attrs: (!attrs.is_empty()).then(|| Box::new(Snapshot::of(attrs, room()))),
            outcome: Outcome::Pass,
            cost: 0,
        }
    }

    /// Adds a decision. Decisions about one session are made one after the other.
    pub(super) fn add(&self, decision: Decision) {
        let mut decisions = self.0.lock();
        decisions.attrs += decision.attrs.as_ref().map_or(0, |attrs| attrs.size);
        decisions.list.push(decision);
    }
}

impl Snapshot {
    /// Copies the attributes that fit into `room` bytes.
    ///
    /// The copies share no memory with the originals, which would otherwise stay alive.
    fn of(attrs: &Attrs, room: usize) -> Self {
        let mut snapshot = Self {
            kept: Attrs::new(),
            cut: false,
            size: 0,
        };
        for (key, value) in attrs {
            let value = match value {
                AttrValue::String(bytes) if bytes.len() > MAX_VALUE => {
                    snapshot.cut = true;
                    AttrValue::String(clip(bytes, MAX_VALUE).into())
                }
                AttrValue::String(bytes) => AttrValue::String(Bytes::copy_from_slice(bytes)),
                other => other.clone(),
            };
            let size = ATTR + attr_size(key, &value);
            if snapshot.size + size > room {
                snapshot.cut = true;
                break;
            }
            snapshot.size += size;
            snapshot.kept.insert(key.clone(), value);
        }
        snapshot
    }
}

impl Decision {
    /// Returns the name of the hook.
    pub fn hook(&self) -> &str {
        &self.hook.name
    }

    /// Returns the name of the decision.
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
    /// Returns a stable label.
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_decisions_keep_of_attributes_is_bounded_and_says_so() {
        let stats = Arc::new(HookStats::new("a"));
        let trace = Trace::default();
        let mut attrs = Attrs::from([("n".to_owned(), AttrValue::Integer(1))]);
        let begin = |attrs: &Attrs| trace.begin(stats.clone(), &Question::Access, attrs);
        trace.add(begin(&attrs));
        // A long string is cut, and many of them are left out in the end.
        attrs.insert("s".to_owned(), AttrValue::String(vec![b'x'; 60_000].into()));
        for _ in 0..200 {
            trace.add(begin(&attrs));
        }
        let decisions = trace.decisions();
        let told: Vec<_> = decisions.iter().filter_map(|d| d.attrs.as_ref()).collect();
        assert_eq!((told[0].cut, told[0].kept.len()), (false, 1));
        let cut = format!("{}…", "x".repeat(MAX_VALUE));
        assert!(told[1].cut);
        assert_eq!(told[1].kept["s"], AttrValue::String(cut.into()));
        assert!(told[200].cut && told[200].kept.is_empty());
        let size: usize = told.iter().map(|attrs| attrs.size).sum();
        assert!((MAX_ATTRS - 512..=MAX_ATTRS).contains(&size), "{size}");
        // Keys count, too.
        let long = Attrs::from([("k".repeat(MAX_ATTRS), AttrValue::Boolean(true))]);
        let only = Trace::default()
            .begin(stats, &Question::Access, &long)
            .attrs
            .unwrap();
        assert!(only.cut && only.kept.is_empty());
    }
}
