//! The time of one driver and its sessions.

use std::time::Duration;

use tokio::time::Instant;

/// Milliseconds.
#[derive(Debug, Clone, Copy)]
pub(super) struct Clock {
    epoch: Instant,
}

impl Clock {
    pub fn new() -> Self {
        Self {
            epoch: Instant::now(),
        }
    }

    pub fn now(&self) -> u64 {
        self.epoch.elapsed().as_millis() as u64
    }

    pub fn instant(&self, at: u64) -> Instant {
        self.epoch + Duration::from_millis(at)
    }
}

/// The time a state machine means by `at`, which is not long before or after `now`.
pub(super) fn widen(at: u32, now: u64) -> u64 {
    now.saturating_add_signed(i64::from(at.wrapping_sub(now as u32) as i32))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn widened_across_the_wrap() {
        let now = 7 << 32;
        assert_eq!(widen(5, now), now + 5);
        assert_eq!(widen(u32::MAX, now), now - 1);
        assert_eq!(widen(3, now - 1), now + 3);
    }
}
