//! Records: two bytes of big-endian size, then that many bytes of text.

use super::Error;

/// Size of the size.
pub const HEADER_LEN: usize = 2;

/// The longest handshake taken, bytes. Known clients send less than 200; the rest is for long
/// target names and extra lines.
pub const MAX_LEN: usize = 4096;

/// The size that a record's header claims, refused if it is beyond [`MAX_LEN`].
pub fn body_len(header: [u8; HEADER_LEN]) -> Result<usize, Error> {
    let len = usize::from(u16::from_be_bytes(header));
    if len > MAX_LEN {
        return Err(Error::TooLong(len));
    }
    Ok(len)
}

/// Writes a message with its size in front. One beyond [`MAX_LEN`], which no peer would take, is an
/// error.
pub fn encode(message: &str) -> Result<Vec<u8>, Error> {
    let len = message.len();
    if len > MAX_LEN {
        return Err(Error::TooLong(len));
    }
    Ok([&(len as u16).to_be_bytes(), message.as_bytes()].concat())
}
