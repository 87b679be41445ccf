//! Idle timer.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Timer that fires when nothing was received for a time limit.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Duration,
    last: Instant,
    /// Sleep until the earliest time the limit can have passed; moved only then, not on each read.
    timer: Pin<Box<Sleep>>,
}

impl IdleTimer {
    /// Starts a timer that fires after `limit`.
    pub fn new(limit: Duration) -> Self {
        let last = Instant::now();
        Self {
            limit,
            last,
            timer: Box::pin(sleep_until(last + limit)),
        }
    }

    /// Restarts the time limit, as something was received.
    pub fn reset(&mut self) {
        self.last = Instant::now();
    }

    /// Polls the timer; ready each time the limit has passed with nothing received.
    pub fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.timer.as_mut().poll(cx).is_ready() {
            let now = Instant::now();
            let over = now >= self.last + self.limit;
            if over {
                self.last = now;
            }
            self.timer.as_mut().reset(self.last + self.limit);
            if over {
                return Poll::Ready(());
            }
        }
        Poll::Pending
    }
}
