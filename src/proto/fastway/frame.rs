//! Frames, cut from a stream of bytes.

use bytes::{BufMut, Bytes, BytesMut};

use super::error::Error;

/// Length and connection id, before the body.
pub const DATA_HEADER: usize = 8;

const LENGTH: usize = 4;

/// What the length field counts besides the body.
const ID: usize = 4;

/// A whole frame, with its length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame(Bytes);

/// Cuts frames from bytes as they come. Frames share the memory they were read into.
#[derive(Debug)]
pub struct Decoder {
    buffer: BytesMut,
    max_packet: u32,
    read_size: usize,
}

/// A data frame. Panics when the payload does not fit in a length field.
pub fn data(conn: u32, payload: &[u8]) -> Bytes {
    let mut frame = BytesMut::with_capacity(DATA_HEADER + payload.len());
    frame.put_slice(&header(conn, payload.len()));
    frame.put_slice(payload);
    frame.freeze()
}

/// What stands before the body of a frame. Panics when the body does not fit in a length field.
pub(super) fn header(conn: u32, body: usize) -> [u8; DATA_HEADER] {
    // invariant: packets are limited to far less than 4 GiB before they are written.
    let length = u32::try_from(ID + body).expect("a length in 32 bits");
    let mut header = [0; DATA_HEADER];
    header[..LENGTH].copy_from_slice(&length.to_le_bytes());
    header[LENGTH..].copy_from_slice(&conn.to_le_bytes());
    header
}

impl Frame {
    /// The connection id; 0 for a command.
    pub fn conn(&self) -> u32 {
        // invariant: a frame is not shorter than its header.
        u32::from_le_bytes(*self.0[LENGTH..].first_chunk().expect("a header"))
    }

    /// What follows the connection id.
    pub fn body(&self) -> &[u8] {
        // invariant: a frame is not shorter than its header.
        &self.0[DATA_HEADER..]
    }

    /// The same, sharing the frame's memory.
    pub fn into_body(mut self) -> Bytes {
        self.0.split_off(DATA_HEADER)
    }

    /// The frame as it is on the wire.
    pub fn into_bytes(self) -> Bytes {
        self.0
    }
}

impl Decoder {
    /// `max_packet` limits the length field. `read_size` is how many bytes a read should have
    /// room for; a frame in the making may get more, but never more than has already come of it.
    pub fn new(max_packet: u32, read_size: usize) -> Self {
        Self {
            buffer: BytesMut::new(),
            max_packet,
            read_size,
        }
    }

    /// Where to put what comes next, with room for it. To be asked for once no whole frame is left.
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

    /// The next frame; `None` until it is complete. Nothing can be decoded after an error.
    pub fn next_frame(&mut self) -> Result<Option<Frame>, Error> {
        match self.length()? {
            Some(length) if self.buffer.len() >= LENGTH + length => {
                Ok(Some(Frame(self.buffer.split_to(LENGTH + length).freeze())))
            }
            _ => Ok(None),
        }
    }

    /// The length field of the frame at the front.
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
