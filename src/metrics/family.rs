//! Counts, and families of them.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

/// A number that goes up, and down if it is a gauge.
#[derive(Debug, Default)]
pub(crate) struct Count(AtomicU64);

impl Count {
    pub fn add(&self, n: u64) {
        self.0.fetch_add(n, Ordering::Relaxed);
    }

    pub fn sub(&self, n: u64) {
        self.0.fetch_sub(n, Ordering::Relaxed);
    }

    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Names of labels with their values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Things of one kind that differ in the values of `N` labels: few, as each is looked at to find
/// one. That takes a lock: what counts often keeps what it found.
#[derive(Debug)]
pub(crate) struct Family<const N: usize, T> {
    labels: [&'static str; N],
    members: Mutex<Vec<Member<N, T>>>,
}

type Member<const N: usize, T> = ([String; N], Arc<T>);

impl<const N: usize, T: Default> Family<N, T> {
    pub fn new(labels: [&'static str; N]) -> Self {
        Self {
            labels,
            members: Mutex::default(),
        }
    }

    pub fn with(&self, values: [&str; N]) -> Arc<T> {
        let mut members = self.members.lock();
        let known = members.iter().find(|(own, _)| *own == values);
        if let Some((_, member)) = known {
            return member.clone();
        }
        let member = Arc::<T>::default();
        members.push((values.map(str::to_owned), member.clone()));
        member
    }

    /// All of them with their labels, in the order of those.
    pub fn all(&self) -> Vec<(Labels, Arc<T>)> {
        let labelled = |(values, member): &Member<N, T>| {
            let labels = self.labels.into_iter().zip(values.iter().cloned());
            (labels.collect::<Labels>(), member.clone())
        };
        let mut all: Vec<_> = self.members.lock().iter().map(labelled).collect();
        all.sort_by(|(a, _), (b, _)| a.cmp(b));
        all
    }
}
