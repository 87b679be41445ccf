//! Frames, and the decoder that splits a stream of bytes into frames.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::Error;

/// Length of a frame's header, bytes: the length field and the connection id.
pub const DATA_HEADER: usize = 8;

const LENGTH: usize = 4;

/// Length of the connection id, which the length field counts with the body, bytes.
const ID: usize = 4;

/// Complete frame, with its header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

/// Decoder that splits received bytes into frames.
///
/// Frames share the memory they were read into.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max_packet: u32,
    read_size: usize,
}

/// Encodes a data frame.
///
/// Panics when the payload does not fit in a length field.
pub fn data(conn: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(DATA_HEADER + payload.len());
    frame.put_slice(&header(conn, payload.len()));
    frame.put_slice(payload);
    frame.freeze()
}

/// Encodes the header of a frame.
///
/// Panics when the body does not fit in a length field.
pub(super) fn header(conn: u32, body: usize) -> [u8; DATA_HEADER] {
    // invariant: packets are limited to far less than 4 GiB before they are written.
    let length = u32::try_from(ID + body).expect("a length in 32 bits");
    let mut header = [0; DATA_HEADER];
    header[..LENGTH].copy_from_slice(&length.to_le_bytes());
    header[LENGTH..].copy_from_slice(&conn.to_le_bytes());
    header
}

impl Frame {
    /// Returns the connection id; 0 for a command.
    pub fn conn(&self) -> u32 {
        // invariant: a frame is not shorter than its header.
        u32::from_le_bytes(*self.0[LENGTH..].first_chunk().expect("a header"))
    }

    /// Returns the body, which follows the connection id.
    pub fn body(&self) -> &[u8] {
        // invariant: a frame is not shorter than its header.
        &self.0[DATA_HEADER..]
    }

    /// Returns the body, sharing the frame's memory.
    pub fn into_body(mut self) -> Bytes {
        self.0.split_off(DATA_HEADER)
    }

    /// Returns the frame as it is on the wire.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Decoder {
    /// Creates a decoder.
    ///
    /// `max_packet` limits the length field. `read_size` is the room that a read should have,
    /// bytes; for an incomplete frame the room may be larger, but not larger than the part that has
    /// arrived.
    pub fn new(max_packet: u32, read_size: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max_packet,
            read_size,
        }
    }

    /// Returns the buffer to read into, with room reserved.
    ///
    /// Call once no complete frame is left.
    pub fn space(&mut self) -> &mut BytesMut {
        let room = self.buffer.capacity() - self.buffer.len();
        let missing = match self.length() {
            Ok(Some(length)) => (LENGTH + length).saturating_sub(self.buffer.len()),
            _ => 0,
        };
        let wanted = missing.min(self.buffer.len()).max(self.read_size / 4);
        if room < wanted {
            self.buffer.reserve(wanted.max(self.read_size));
        }
        &mut self.buffer
    }

    /// Returns the next frame; `None` until it is complete.
    ///
    /// Nothing can be decoded after an error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        match self.length()? {
            Some(length) if self.buffer.len() >= LENGTH + length => {
                Ok(Some(Frame(self.buffer.split_to(LENGTH + length).freeze())))
            }
            _ => Ok(None),
        }
    }

    /// Returns the length field of the frame at the front, if it has arrived.
    fn length(&self) -> Result<Option<usize>, Error> {
        let Some(field) = self.buffer.first_chunk() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*field);
        if length > self.max_packet {
            return Err(Error::TooLong {
                len: length,
                max: self.max_packet,
            });
        }
        if length < ID as u32 {
            return Err(Error::TooShort(length));
        }
        Ok(Some(length as usize))
    }
}
