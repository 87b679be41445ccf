//! Virtual connections.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::shared::{Owner, Slot};
use crate::proto::fastway::message;
use crate::wire::fastway::Pushed;

/// Virtual connection to another endpoint, which carries messages.
///
/// Dropping the last clone closes the connection.
#[derive(Clone)]
pub struct Connection {
    slot: Arc<Slot>,
    _owner: Arc<Owner>,
}

impl Connection {
    pub(super) fn new(slot: Slot, owner: Arc<Owner>) -> Self {
        Self {
            slot: Arc::new(slot),
            _owner: owner,
        }
    }

    /// Returns the id of the connection, the same at both ends.
    pub fn id(&self) -> u32 {
        self.slot.id
    }

    /// Returns the id of the endpoint at the other end, as it was dialled.
    ///
    /// The gateway may have connected another endpoint instead.
    pub fn remote(&self) -> u32 {
        self.slot.remote
    }

    /// Queues a message to be written.
    ///
    /// Waits while the queue, which all connections of the endpoint share, is full. Messages of one
    /// task arrive in order.
    ///
    /// Cancel safe: a cancelled message is not sent.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLong`] for messages that cannot be sent; otherwise the
    /// reason for which the connection ended.
    pub async fn send(&self, message: impl Into<Bytes>) -> Result<(), Error> {
        let Slot {
            id, inbox, shared, ..
        } = &*self.slot;
        let payload = message.into();
        if payload.is_empty() {
            return Err(Error::Empty);
        }
        let (len, max) = (payload.len(), shared.options.max_packet as usize - 4);
        if len > max {
            return Err(Error::TooLong { len, max });
        }
        let frame = message::frame(*id, payload);
        loop {
            let mut room = pin!(shared.room.notified());
            room.as_mut().enable();
            if let Some(end) = inbox.ended() {
                return Err(end);
            }
            match shared.outbox.push(frame.chunks()) {
                Pushed::Taken => return Ok(()),
                Pushed::Ended => return Err(shared.end()),
                Pushed::Full => room.await,
            }
        }
    }

    /// Receives the next message.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The reason for which the connection ended, once all earlier messages were received.
    pub async fn receive(&self) -> Result<Bytes, Error> {
        self.slot.inbox.take().await
    }

    /// Closes the connection; messages sent before still arrive.
    pub fn close(&self) {
        self.slot.close(Error::Closed);
    }
}
