//! Round-trip estimate and retransmission timeout, after RFC 6298 with Karn's rule.
//!
//! KCP echoes the clock of a transmission, so copies could be told apart, were it not that peers
//! collect acknowledgements and name only the newest copy: one for a first copy that they held back
//! looks like a fast one for a second. Such an answer is no sample. Several of them without a sample
//! are no losses but a peer that waits longer than the timeout: what was long enough for the last
//! stays until there is a sample again.

/// Bounds of the timeout in milliseconds, and its value before any sample, as in kcp-go.
const MIN_NODELAY: u32 = 30;
const MIN: u32 = 100;
const INITIAL: u32 = 200;
pub(super) const MAX: u32 = 60_000;

/// All values in milliseconds; the mean is kept in eighths and the deviation in quarters.
#[derive(Debug)]
pub(super) struct RoundTrip {
    sampled: bool,
    /// The last answer was no sample.
    doubted: bool,
    mean8: u32,
    deviation4: u32,
    timeout: u32,
    least: u32,
    /// The peer's clock granularity: it acknowledges once per interval.
    granularity: u32,
}

impl RoundTrip {
    pub(super) fn new(nodelay: bool, interval: u32) -> Self {
        Self {
            sampled: false,
            doubted: false,
            mean8: 0,
            deviation4: 0,
            timeout: INITIAL,
            least: if nodelay { MIN_NODELAY } else { MIN },
            granularity: interval,
        }
    }

    pub(super) fn timeout(&self) -> u32 {
        self.timeout
    }

    /// The mean in milliseconds, rounded up; none before the first sample.
    pub(super) fn mean(&self) -> Option<u32> {
        self.sampled.then(|| self.mean8.div_ceil(8))
    }

    /// By how much later ones may overtake earlier ones on this path: a quarter of
    /// the round trip, after RFC 8985.
    pub(super) fn disorder(&self) -> u32 {
        self.mean8 / 32
    }

    /// Takes in one measured round trip.
    pub(super) fn sample(&mut self, rtt: u32) {
        self.sampled = true;
        self.doubted = false;
        let rtt = rtt.min(MAX);
        if self.mean8 == 0 {
            self.mean8 = rtt * 8;
            self.deviation4 = rtt * 2;
        } else {
            let off = rtt.abs_diff(self.mean8 / 8);
            self.deviation4 = self.deviation4 - self.deviation4 / 4 + off;
            self.mean8 = self.mean8 - self.mean8 / 8 + rtt;
        }
        self.timeout =
            (self.mean8 / 8 + self.deviation4.max(self.granularity)).clamp(self.least, MAX);
    }

    /// Takes in an answer to one of several copies, the last of which had this timeout.
    pub(super) fn doubt(&mut self, timeout: u32) {
        if std::mem::replace(&mut self.doubted, true) {
            self.timeout = self.timeout.max(timeout);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settles_on_a_steady_path_and_follows_a_slower_one() {
        let mut path = RoundTrip::new(true, 10);
        assert_eq!((path.timeout(), path.mean()), (INITIAL, None));
        path.sample(0);
        assert_eq!(path.mean(), Some(0));
        (0..100).for_each(|_| path.sample(50));
        assert!((60..=66).contains(&path.timeout()), "{}", path.timeout());
        (0..100).for_each(|_| path.sample(400));
        assert!((400..=430).contains(&path.timeout()), "{}", path.timeout());
    }

    #[test]
    fn answers_to_any_copy_raise_the_timeout_until_a_sample() {
        let mut path = RoundTrip::new(true, 10);
        path.doubt(300);
        assert_eq!(path.timeout(), INITIAL, "a loss");
        path.doubt(300);
        path.doubt(250);
        assert_eq!((path.timeout(), path.mean()), (300, None));
        (0..100).for_each(|_| path.sample(50));
        assert!((60..=66).contains(&path.timeout()), "{}", path.timeout());
        path.doubt(300);
        assert!(path.timeout() <= 66, "{}", path.timeout());
    }

    #[test]
    fn stays_in_bounds() {
        let mut path = RoundTrip::new(true, 10);
        (0..100).for_each(|_| path.sample(0));
        assert_eq!(path.timeout(), MIN_NODELAY);
        (0..100).for_each(|_| path.sample(u32::MAX));
        assert_eq!(path.timeout(), MAX);
        let mut slow = RoundTrip::new(false, 10);
        slow.sample(1);
        assert_eq!(slow.timeout(), MIN);
    }
}
