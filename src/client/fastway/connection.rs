//! A virtual connection.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::error::Error;
use super::shared::{Owner, Slot};
use crate::proto::fastway::message;
use crate::wire::fastway::Pushed;

/// A virtual connection with another endpoint, for messages. Dropping the last clone closes it.
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

    /// The connection's id, the same at both ends.
    pub fn id(&self) -> u32 {
        self.slot.id
    }

    /// The id of the endpoint at the other end, as it was dialled: the gateway may have made another
    /// of it.
    pub fn remote(&self) -> u32 {
        self.slot.remote
    }

    /// Sends a message; done when it waits to be written. Waits while too many do, those of other
    /// connections included. Messages of one task arrive in their order.
    ///
    /// Cancel safe: then the message is not sent.
    ///
    /// # Errors
    /// [`Error::Empty`] and [`Error::TooLong`] for messages that cannot be sent; what ended the
    /// connection.
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

    /// The next message. Cancel safe.
    ///
    /// # Errors
    /// What ended the connection, once all messages that came before were received.
    pub async fn receive(&self) -> Result<Bytes, Error> {
        self.slot.inbox.take().await
    }

    /// Closes the connection. What was sent before still arrives.
    pub fn close(&self) {
        self.slot.close(Error::Closed);
    }
}
