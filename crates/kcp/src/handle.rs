//! How others reach the driver of a socket.

use std::sync::{Mutex, MutexGuard, PoisonError};

use atomic_waker::AtomicWaker;
use tokio::sync::oneshot;

use crate::clock::Clock;
use crate::counters::Counters;

/// What a driver shares with the streams of its sessions, and with who watches it.
#[derive(Debug)]
pub(super) struct DriverHandle {
    pub clock: Clock,
    pub waker: AtomicWaker,
    /// `None` once the driver has ended.
    requests: Mutex<Option<Requests>>,
}

/// What others want of a driver.
#[derive(Debug, Default)]
pub(super) struct Requests {
    /// Slots of sessions to drive.
    pub slots: Vec<u32>,
    pub counters: Vec<oneshot::Sender<Counters>>,
}

impl DriverHandle {
    pub fn new() -> Self {
        Self {
            clock: Clock::new(),
            waker: AtomicWaker::new(),
            requests: Mutex::new(Some(Requests::default())),
        }
    }

    /// Asks that the session at `slot` be driven.
    pub fn drive(&self, slot: u32) {
        self.request(|requests| requests.slots.push(slot));
    }

    /// What the driver has counted; nothing once it has ended.
    pub async fn counters(&self) -> Counters {
        let (reply, counters) = oneshot::channel();
        self.request(|requests| requests.counters.push(reply));
        counters.await.unwrap_or_default()
    }

    /// Takes all requests, leaving `empty` for more.
    pub fn take(&self, empty: Requests) -> Requests {
        match self.lock().as_mut() {
            Some(requests) => std::mem::replace(requests, empty),
            None => empty,
        }
    }

    /// Takes no more requests.
    pub fn close(&self) {
        *self.lock() = None;
    }

    /// Adds to the requests and wakes the driver. One that has ended never hears of it.
    fn request(&self, put: impl FnOnce(&mut Requests)) {
        let woken = {
            let mut lock = self.lock();
            let Some(requests) = lock.as_mut() else {
                return;
            };
            let woken = !requests.is_empty();
            put(requests);
            woken
        };
        if !woken {
            self.waker.wake();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<Requests>> {
        // Nothing panics while it is held.
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Requests {
    fn is_empty(&self) -> bool {
        self.slots.is_empty() && self.counters.is_empty()
    }
}
