//! The congestion window, for sessions that have not turned it off. Not a wire
//! fact: slow start, additive increase and halving after RFC 5681, counted in
//! segments, with the window reduced at most once per round trip.

use super::segment::before;

/// First window (RFC 6928) and the least a reduction leaves.
const INITIAL: u32 = 10;
const LEAST: u32 = 2;

#[derive(Debug)]
pub(super) struct Congestion {
    window: u32,
    /// Below it the window doubles per round trip, above it grows by one.
    threshold: u32,
    /// Acknowledged segments not yet turned into growth.
    credit: u32,
    /// Losses of segments sent before this one belong to a reduction already made.
    reduced_at: Option<u32>,
}

impl Congestion {
    pub(super) fn new(send_window: u32) -> Self {
        Self {
            window: INITIAL.min(send_window),
            threshold: send_window,
            credit: 0,
            reduced_at: None,
        }
    }

    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// `acked` segments were acknowledged while `in_flight` were under way; everything
    /// below `una` is through. A window that was not used up does not grow.
    pub(super) fn on_acked(&mut self, acked: u32, in_flight: u32, una: u32) {
        if self.reduced_at.is_some_and(|at| !before(una, at)) {
            self.reduced_at = None;
        }
        if in_flight < self.window {
            return;
        }
        if self.window < self.threshold {
            self.window = (self.window + acked).min(self.threshold);
            return;
        }
        self.credit += acked;
        if self.credit >= self.window {
            self.credit -= self.window;
            self.window = (self.window + 1).min(u32::from(u16::MAX));
        }
    }

    /// Segment `sn` was found missing behind acknowledged ones; `next_sn` is the next fresh one.
    pub(super) fn on_missing(&mut self, sn: u32, in_flight: u32, next_sn: u32) {
        if self.reduce(sn, in_flight, next_sn) {
            self.window = self.threshold;
        }
    }

    /// The timeout of segment `sn` passed.
    pub(super) fn on_timeout(&mut self, sn: u32, next_sn: u32) {
        if self.reduce(sn, self.window, next_sn) {
            self.window = 1;
        }
    }

    fn reduce(&mut self, sn: u32, in_use: u32, next_sn: u32) -> bool {
        if self.reduced_at.is_some_and(|at| before(sn, at)) {
            return false;
        }
        self.reduced_at = Some(next_sn);
        self.threshold = (in_use / 2).max(LEAST);
        self.credit = 0;
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grows_when_used_and_halves_once_per_round_trip() {
        let mut congestion = Congestion::new(64);
        congestion.on_acked(10, 3, 10);
        assert_eq!(congestion.window(), 10, "unused windows stay");
        congestion.on_acked(10, 10, 10);
        assert_eq!(congestion.window(), 20);
        congestion.on_missing(12, 20, 30);
        congestion.on_missing(13, 20, 30);
        assert_eq!(congestion.window(), 10);
        congestion.on_acked(20, 10, 30);
        assert_eq!(congestion.window(), 11, "additive above the threshold");
        congestion.on_timeout(31, 40);
        assert_eq!(congestion.window(), 1);
    }
}
