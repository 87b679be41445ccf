//! Timers of silence.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep_until};

/// Fires when nothing has come for a while.
#[derive(Debug)]
pub(crate) struct IdleTimer {
    limit: Duration,
    last: Instant,
    /// Fires at the earliest moment the limit can have passed; moved only then, not on each read.
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

    /// Begins anew: something has come.
    pub fn reset(&mut self) {
        self.last = Instant::now();
    }

    /// Is ready when nothing has come for the limit, and again when it is over once more.
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
