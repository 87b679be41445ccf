//! Counts, and families of counts by label.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::sync::Mutex;

/// Number that goes up and, as a gauge, down.
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

/// Label names with their values.
pub(crate) type Labels = Vec<(&'static str, String)>;

/// Members of one kind that differ in the values of `N` labels.
///
/// Finding a member takes a lock and looks at each, so families are to be small, and frequent users
/// keep the member they found.
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

    /// Returns all members with their labels, sorted by labels.
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
