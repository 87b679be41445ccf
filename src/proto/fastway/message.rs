//! Encoding of messages.

use bytes::Bytes;

use super::frame::{data, header};

/// Size up to which a message is copied behind its header, bytes.
const COPIED: usize = 1024;

/// Encodes the frame of a message, in one chunk or in two.
///
/// Panics when the payload does not fit in a length field.
pub fn frame(conn: u32, payload: Bytes) -> Outgoing {
    if payload.len() <= COPIED {
        return Outgoing([data(conn, &payload), Bytes::new()]);
    }
    let header = Bytes::copy_from_slice(&header(conn, payload.len()));
    Outgoing([header, payload])
}

/// Encoded frame, whose payload may share the memory of the message.
#[derive(Debug, Clone)]
pub struct Outgoing([Bytes; 2]);

impl Outgoing {
    /// Returns the bytes of the frame, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        self.0.iter().filter(|chunk| !chunk.is_empty()).cloned()
    }
}
