//! Messages on their way out.

use bytes::Bytes;

use super::frame::{data, header};

/// Up to that many bytes, a message is copied behind its header.
const COPIED: usize = 1024;

/// The frame of a message, in one piece or in two. Panics when the payload does not fit in a
/// length field.
pub fn frame(conn: u32, payload: Bytes) -> Outgoing {
    if payload.len() <= COPIED {
        return Outgoing([data(conn, &payload), Bytes::new()]);
    }
    let header = Bytes::copy_from_slice(&header(conn, payload.len()));
    Outgoing([header, payload])
}

/// A frame whose payload was not necessarily copied.
#[derive(Debug, Clone)]
pub struct Outgoing([Bytes; 2]);

impl Outgoing {
    /// Its bytes, in order.
    pub fn chunks(&self) -> impl Iterator<Item = Bytes> {
        self.0.iter().filter(|chunk| !chunk.is_empty()).cloned()
    }
}
