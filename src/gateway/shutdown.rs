//! Shutdown signal that ends all sessions.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Poll, Waker};

use tokio_util::sync::CancellationToken;

/// Shutdown signal that running sessions check without a lock, each time they move bytes.
#[derive(Default)]
pub(crate) struct Shutdown {
    token: CancellationToken,
    begun: AtomicBool,
}

impl Shutdown {
    pub fn begin(&self) {
        self.begun.store(true, Ordering::Release);
        self.token.cancel();
    }

    /// Returns a token that the shutdown cancels, and that can be cancelled before.
    pub fn child_token(&self) -> CancellationToken {
        self.token.child_token()
    }

    /// Runs `future` until it is done. Returns `None` if the shutdown begins first.
    pub async fn interrupts<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        let mut cancelled = pin!(self.token.cancelled());
        // The waker that is registered with the token.
        let mut left: Option<Waker> = None;
        poll_fn(|cx| {
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            if self.begun.load(Ordering::Acquire) {
                return Poll::Ready(None);
            }
            if !left.as_ref().is_some_and(|left| left.will_wake(cx.waker())) {
                left = Some(cx.waker().clone());
                return cancelled.as_mut().poll(cx).map(|()| None);
            }
            Poll::Pending
        })
        .await
    }
}
