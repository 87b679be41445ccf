//! Statistics of hook calls: latencies, denials and errors, by hook, over all generations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::contract::Function;
use super::{HookError, Question};
use crate::metrics::{Count, Histogram};
use crate::sync::Mutex;

/// Statistics of all hooks, by their names.
#[derive(Debug, Default)]
pub struct Book(Mutex<BTreeMap<String, Arc<HookStats>>>);

/// Statistics of one hook.
///
/// A call of a function that the hook does not define is not counted.
#[derive(Debug)]
pub struct HookStats {
    pub(crate) name: Arc<str>,
    asked: [Asked; 4],
    last_error: Mutex<Option<LastError>>,
}

/// Counts of one decision of a hook.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// Time that sessions waited for an answer.
    pub latency: Histogram,
    pub denials: Count,
    errors: Mutex<BTreeMap<&'static str, u64>>,
}

/// The last call that gave no answer.
#[derive(Debug, Clone)]
pub(crate) struct LastError {
    pub at: SystemTime,
    pub message: String,
}

impl Book {
    /// Returns the statistics of a hook; at the first call for a name, they are all 0.
    pub fn of(&self, name: &str) -> Arc<HookStats> {
        let mut book = self.0.lock();
        let stats = book.entry(name.to_owned());
        stats
            .or_insert_with(|| Arc::new(HookStats::new(name)))
            .clone()
    }

    /// Returns the statistics of all hooks, in the order of their names.
    pub(crate) fn all(&self) -> Vec<Arc<HookStats>> {
        self.0.lock().values().cloned().collect()
    }
}

impl HookStats {
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            asked: Default::default(),
            last_error: Mutex::default(),
        }
    }

    /// Returns the counts of each decision, with the decision's name.
    pub(crate) fn decisions(&self) -> impl Iterator<Item = (&'static str, &Asked)> {
        Function::ALL
            .map(Function::name)
            .into_iter()
            .zip(&self.asked)
    }

    pub(crate) fn last_error(&self) -> Option<LastError> {
        self.last_error.lock().clone()
    }

    pub(super) fn answered(&self, question: &Question, took: Duration) {
        // invariant: there is one for each function.
        self.asked[Function::of(question) as usize]
            .latency
            .record(took);
    }

    pub(super) fn denied(&self, question: &Question) {
        // invariant: there is one for each function.
        self.asked[Function::of(question) as usize].denials.add(1);
    }

    pub(super) fn failed(&self, question: &Question, error: &HookError) {
        // invariant: there is one for each function.
        let mut errors = self.asked[Function::of(question) as usize].errors.lock();
        *errors.entry(error.kind.label()).or_default() += 1;
        drop(errors);
        *self.last_error.lock() = Some(LastError {
            at: SystemTime::now(),
            message: error.message.clone(),
        });
    }
}

impl Asked {
    /// Returns the number of calls that gave no answer, by kind of failure.
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.lock().clone()
    }
}
