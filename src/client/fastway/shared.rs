//! State that the handles of an endpoint share with its task.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard};

use bytes::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

use super::error::Error;
use super::inbox::Inbox;
use super::options::Options;
use crate::proto::fastway as proto;
use crate::proto::fastway::queue::Bounds;
use crate::sync::Mutex;
use crate::wire::fastway::Outbox;

/// Limit of bytes that wait to be written; beyond it senders wait.
const SEND_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// Owner that all handles of an endpoint and its connections share; dropping it closes the
/// endpoint.
pub(super) struct Owner(pub Arc<Shared>);

/// State that the handles share with the task that reads and writes.
pub(super) struct Shared {
    pub options: Options,
    pub outbox: Outbox<Error>,
    /// Notification of senders that the outbox may have room, or that a connection ended.
    pub room: Notify,
    state: Mutex<State>,
    pub incoming: Inbox<Slot>,
    /// Token that is cancelled when the task has ended.
    pub done: CancellationToken,
}

pub(super) struct State {
    pub protocol: proto::Endpoint<oneshot::Sender<Result<Slot, Error>>>,
    pub connections: HashMap<u32, Arc<Inbox<Bytes>>>,
}

/// State of one virtual connection at its endpoint.
pub(super) struct Slot {
    pub id: u32,
    pub remote: u32,
    pub inbox: Arc<Inbox<Bytes>>,
    pub shared: Arc<Shared>,
}

impl Shared {
    pub fn new(options: Options) -> Self {
        Self {
            outbox: Outbox::new(Bounds {
                chunks: options.send_queue,
                bytes: SEND_QUEUE_BYTES,
                pool: Arc::default(),
                pool_bytes: usize::MAX,
            }),
            room: Notify::new(),
            state: Mutex::new(State {
                protocol: proto::Endpoint::new(options.version),
                connections: HashMap::new(),
            }),
            incoming: Inbox::new(options.accept_queue),
            done: CancellationToken::new(),
            options,
        }
    }

    /// Returns the reason for which the endpoint has ended.
    pub fn end(&self) -> Error {
        self.outbox.ended().unwrap_or(Error::Closed)
    }

    pub fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.outbox.end(Error::Closed);
    }
}

impl Slot {
    /// Ends the connection at this end, and tells the gateway unless the connection is already
    /// over.
    pub fn close(&self, error: Error) {
        let mut state = self.shared.state();
        if state.connections.remove(&self.id).is_some() {
            let frame = state.protocol.close(self.id);
            self.shared.outbox.push_anyway([frame]);
        }
        drop(state);
        self.inbox.end(error);
        // Wakes senders of this connection that wait for room.
        self.shared.room.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close(Error::Closed);
    }
}
