//! What calls of hooks cost and how they end, by hook, over all generations.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::contract::Function;
use super::{HookError, Question};
use crate::metrics::{Count, Histogram};
use crate::sync::Mutex;

/// The counts of all hooks by their names.
#[derive(Debug, Default)]
pub struct Book(Mutex<BTreeMap<String, Arc<HookStats>>>);

/// The counts of one hook. Calls of what a hook does not define are none.
#[derive(Debug)]
pub struct HookStats {
    pub(crate) name: Arc<str>,
    asked: [Asked; 4],
    last_error: Mutex<Option<LastError>>,
}

/// The counts of one decision of a hook.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    /// How long sessions waited for an answer.
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
    /// Those of a hook, from 0 if nobody has asked for them before.
    pub fn of(&self, name: &str) -> Arc<HookStats> {
        let mut book = self.0.lock();
        let stats = book.entry(name.to_owned());
        stats
            .or_insert_with(|| Arc::new(HookStats::new(name)))
            .clone()
    }

    /// All of them, in the order of their names.
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

    /// The decisions, each by its name.
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
    /// Calls without an answer by what was wrong.
    pub fn errors(&self) -> BTreeMap<&'static str, u64> {
        self.errors.lock().clone()
    }
}
