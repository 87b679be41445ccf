//! Memory budget that the replay buffers of many sessions share.

use std::future::poll_fn;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Instant;

use atomic_waker::AtomicWaker;

/// Memory budget shared by replay buffers, with a limit.
///
/// Buffers grow without asking, so the total may exceed the limit by what grows at the same time.
/// While the total exceeds the limit, a buffer keeps its size, or grows to 1 KiB if it is smaller,
/// until other sessions have [shrunk](super::Handle::shrink) theirs.
#[derive(Debug)]
pub struct Memory {
    used: AtomicUsize,
    limit: AtomicUsize,
    relief: AtomicWaker,
    start: Instant,
}

impl Memory {
    /// Creates a budget without a limit.
    pub fn new() -> Self {
        Self {
            used: AtomicUsize::new(0),
            limit: AtomicUsize::new(usize::MAX),
            relief: AtomicWaker::new(),
            start: Instant::now(),
        }
    }

    /// Sets the limit in bytes; `None` removes the limit.
    pub fn set_limit(&self, limit: Option<usize>) {
        self.limit
            .store(limit.unwrap_or(usize::MAX), Ordering::Relaxed);
        self.relief.wake();
    }

    /// Returns the bytes that all buffers use.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Returns the limit in bytes, if there is one.
    pub fn limit(&self) -> Option<usize> {
        Some(self.limit.load(Ordering::Relaxed)).filter(|limit| *limit < usize::MAX)
    }

    /// Returns whether the buffers use more than the limit.
    pub fn is_short(&self) -> bool {
        self.used() > self.limit.load(Ordering::Relaxed)
    }

    /// Waits until the buffers use more than the limit.
    ///
    /// Only one task at a time may wait.
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

    /// Returns the milliseconds since the budget was created.
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
