//! What the handles of an endpoint share with its task.

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

/// Bytes that wait to be written, beyond which sending waits.
const SEND_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// All handles of an endpoint and its connections; with the last one it is closed.
pub(super) struct Owner(pub Arc<Shared>);

/// What the handles share with the task that reads and writes.
pub(super) struct Shared {
    pub options: Options,
    pub outbox: Outbox<Error>,
    /// Somebody may find room in the outbox.
    pub room: Notify,
    state: Mutex<State>,
    pub incoming: Inbox<Slot>,
    /// The task has ended.
    pub done: CancellationToken,
}

pub(super) struct State {
    pub protocol: proto::Endpoint<oneshot::Sender<Result<Slot, Error>>>,
    pub connections: HashMap<u32, Arc<Inbox<Bytes>>>,
}

/// A virtual connection's place at its endpoint.
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

    /// Why the endpoint has ended.
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
    /// Ends the connection at this end and tells the gateway, unless it is over.
    pub fn close(&self, error: Error) {
        let mut state = self.shared.state();
        if state.connections.remove(&self.id).is_some() {
            let frame = state.protocol.close(self.id);
            self.shared.outbox.push_anyway([frame]);
        }
        drop(state);
        self.inbox.end(error);
        // For those of its senders who wait.
        self.shared.room.notify_waiters();
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.close(Error::Closed);
    }
}
