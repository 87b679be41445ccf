//! Histogram of durations.

use std::array;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Number of buckets: one below 1 µs, then two for each doubling, the last unbounded from 16.8 s
/// on.
const BUCKETS: usize = 50;

/// Histogram of durations by order of magnitude.
///
/// Recording costs two relaxed additions.
#[derive(Debug)]
pub(crate) struct Histogram {
    buckets: [AtomicU64; BUCKETS],
    nanoseconds: AtomicU64,
}

impl Default for Histogram {
    fn default() -> Self {
        Self {
            buckets: array::from_fn(|_| AtomicU64::new(0)),
            nanoseconds: AtomicU64::new(0),
        }
    }
}

impl Histogram {
    pub fn record(&self, took: Duration) {
        let microseconds = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.buckets[bucket(microseconds)].fetch_add(1, Ordering::Relaxed);
        let nanoseconds = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }

    pub fn count(&self) -> u64 {
        self.counts().iter().sum()
    }

    /// Returns the sum of all durations in seconds.
    pub fn seconds(&self) -> f64 {
        self.nanoseconds.load(Ordering::Relaxed) as f64 / 1e9
    }

    /// Returns an upper bound of the quantile `share`; `None` when nothing was recorded.
    ///
    /// The bound is the end of a bucket: from 2 µs to 16.8 s at most 1.5 times the exact value.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        let counts = self.counts();
        let total: u64 = counts.iter().sum();
        let rank = (share * total as f64).ceil().max(1.0) as u64;
        let mut below = 0;
        let at = counts.iter().position(|count| {
            below += count;
            total > 0 && below >= rank
        })?;
        Some(Duration::from_micros(end(at)))
    }

    /// Returns cumulative counts below bounds in seconds, and the count of all durations.
    ///
    /// The bounds grow fourfold from 4 µs to 16.8 s; longer durations are only in the count of all.
    pub fn cumulative(&self) -> (Vec<(f64, u64)>, u64) {
        let counts = self.counts();
        let below = |power: u32| {
            let bound = 1 << (2 * power);
            let count = counts[..bucket(bound)].iter().sum();
            (bound as f64 / 1e6, count)
        };
        ((1..=12).map(below).collect(), counts.iter().sum())
    }

    fn counts(&self) -> [u64; BUCKETS] {
        array::from_fn(|at| self.buckets[at].load(Ordering::Relaxed))
    }
}

fn bucket(microseconds: u64) -> usize {
    let Some(power) = microseconds.checked_ilog2() else {
        return 0;
    };
    let upper = power > 0 && microseconds >> (power - 1) & 1 == 1;
    (1 + 2 * power as usize + usize::from(upper)).min(BUCKETS - 1)
}

/// Returns the upper bound of a bucket in microseconds, as if the last one had one.
fn end(bucket: usize) -> u64 {
    match bucket {
        0 => 1,
        1 => 2,
        at if at % 2 == 1 => 3 << ((at - 1) / 2 - 1),
        at => 2 << ((at - 2) / 2),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_duration_is_within_its_bucket() {
        for microseconds in 1..100_000 {
            let at = bucket(microseconds);
            assert!(microseconds < end(at), "{microseconds}");
            let begin = (0..at).map(end).max().unwrap();
            assert!(microseconds >= begin, "{microseconds}");
        }
        assert_eq!((bucket(0), bucket(u64::MAX)), (0, BUCKETS - 1));
    }

    #[test]
    fn quantiles_are_upper_bounds() {
        let histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), None);
        for microseconds in 1..=100 {
            histogram.record(Duration::from_micros(microseconds));
        }
        for (share, exact) in [(0.01, 1), (0.5, 50), (0.9, 90), (0.99, 99), (1.0, 100)] {
            let found = histogram.quantile(share).unwrap().as_micros();
            assert!((exact..=exact * 2).contains(&found), "{share}: {found}");
        }
        assert_eq!(histogram.count(), 100);
        assert!((histogram.seconds() - 0.00505).abs() < 1e-9);
    }

    #[test]
    fn cumulative_counts_are_exact() {
        let histogram = Histogram::default();
        for microseconds in [0, 3, 4, 15, 16, 1_000_000_000] {
            histogram.record(Duration::from_micros(microseconds));
        }
        let (bounds, all) = histogram.cumulative();
        assert_eq!(bounds[..3], [(4e-6, 2), (16e-6, 4), (64e-6, 5)]);
        assert_eq!((bounds[11], all), ((16.777216, 5), 6));
    }
}
