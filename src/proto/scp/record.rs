//! Records: two bytes of big-endian size, then that many bytes of text.

use super::Error;

/// Length of the size field, bytes.
pub const HEADER_LEN: usize = 2;

/// Length of the longest accepted handshake message, bytes.
///
/// Known clients send less than 200; the rest is for long target names and extra lines.
pub const MAX_LEN: usize = 4096;

/// Returns the size in a record's header; fails if it is beyond [`MAX_LEN`].
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, Error> {
    let len = usize::from(u16::from_be_bytes(header));
    if len > MAX_LEN {
        return Err(Error::TooLong(len));
    }
    Ok(len)
}

/// Encodes a message with its size in front; fails if it is longer than [`MAX_LEN`].
pub fn encode(message: &str) -> Result<Vec<u8>, Error> {
    let len = message.len();
    if len > MAX_LEN {
        return Err(Error::TooLong(len));
    }
    Ok([&(len as u16).to_be_bytes(), message.as_bytes()].concat())
}
