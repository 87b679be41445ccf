//! A bounded queue with an end.

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::MutexGuard;

use tokio::sync::Notify;

use super::error::Error;

use crate::sync::Mutex;

/// Things that wait to be taken, by any number of tasks.
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
    /// `limit` is how many things wait at most.
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

    /// Puts a thing at the end of the queue. Gives it back when that is full or has ended.
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

    /// Nothing follows what is there. The first reason stays.
    pub fn end(&self, error: Error) {
        self.state().end.get_or_insert(error);
        self.changed.notify_waiters();
    }

    /// Why nothing follows.
    pub fn ended(&self) -> Option<Error> {
        self.state().end
    }

    /// Takes all that is there.
    pub fn drain(&self) -> VecDeque<T> {
        std::mem::take(&mut self.state().items)
    }

    /// The next thing; once there is none and none follows, why. Cancel safe.
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
