//! Bounded queue that can be ended.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::MutexGuard;

use tokio::sync::Notify;

use super::error::Error;

use crate::sync::Mutex;

/// Bounded queue of items, taken by any number of tasks.
pub(super) struct Inbox<T> {
    limit: usize,
    state: Mutex<State<T>>,
    changed: Notify,
}

struct State<T> {
    items: VecDeque<T>,
    end: Option<Error>,
}

impl<T> Inbox<T> {
    /// Creates a queue of at most `limit` items.
    pub fn new(limit: usize) -> Self {
        Self {
            limit,
            state: Mutex::new(State {
                items: VecDeque::new(),
                end: None,
            }),
            changed: Notify::new(),
        }
    }

    /// Queues an item; returns the item if the queue is full or has ended.
    pub fn push(&self, item: T) -> Result<(), T> {
        let mut state = self.state();
        if state.end.is_some() || state.items.len() >= self.limit {
            return Err(item);
        }
        state.items.push_back(item);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Ends the queue: no item follows those queued.
    ///
    /// The first reason stays.
    pub fn end(&self, error: Error) {
        self.state().end.get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// Returns the reason for which the queue has ended, if it has.
    pub fn ended(&self) -> Option<Error> {
        self.state().end
    }

    /// Takes all queued items.
    pub fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut self.state().items)
    }

    /// Takes the next item; fails with the reason once the queue is empty and has ended.
    ///
    /// Cancel safe.
    pub async fn take(&self) -> Result<T, Error> {
        loop {
            let mut changed = pin!(self.changed.notified());
            changed.as_mut().enable();
            {
                let mut state = self.state();
                if let Some(item) = state.items.pop_front() {
                    return Ok(item);
                }
                if let Some(end) = state.end {
                    return Err(end);
                }
            }
            changed.await;
        }
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock()
    }
}
