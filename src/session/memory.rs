//! What the replay buffers of many sessions take together.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use atomic_waker::AtomicWaker;

/// The memory of all replay buffers that share it, and its limit.
///
/// Buffers do not ask before they grow, so that they may go beyond the limit, by what grows at the
/// same time. From then on they keep the size they have, or 1 KiB, which leaves those that are small
/// with little to go on with, until others have [shrunk](super::Handle::shrink).
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    limit: AtomicUsize,
    relief: AtomicWaker,
    start: Instant,
}

impl Memory {
    /// Without a limit.
    pub fn new() -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            relief: AtomicWaker::new(),
            start: Instant::now(),
        }
    }

    /// Sets the limit, bytes; `None` lifts it.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.limit
            .store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.relief.wake();
    }

    /// Bytes that all buffers take.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// The limit, if there is one.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit < usize::MAX)
    }

    /// Whether it is more than may be.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit.load(Ordering::Relaxed)
    }

    /// Waits until it is more than may be. For one task at a time.
    pub async fn short(&self) {
        poll_fn(|cx| {
            self.relief.register(cx.waker());
            if self.is_short() {
                Poll::Ready(())
            } else {
                Poll::Pending
            }
        })
        .await;
    }

    /// Milliseconds since it was made.
    pub(super) fn age(&self) -> u64 {
        self.start.elapsed().as_millis() as u64
    }

    pub(super) fn resized(&self, from: usize, to: usize) {
        if to <= from {
            self.used.fetch_sub(from - to, Ordering::Relaxed);
            return;
        }
        self.used.fetch_add(to - from, Ordering::Relaxed);
        if self.is_short() {
            self.relief.wake();
        }
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self::new()
    }
}
