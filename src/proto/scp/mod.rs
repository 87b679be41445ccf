//! scp, the stable connection protocol of goscon.
//!
//! A connection opens with one record from each side: the client asks for a new session or to
//! resume one, the server answers. After that the connection is a raw stream of RC4 bytes.
//! [`record`] frames the messages and [`message`] parses and writes their text. [`client`] and
//! [`server`] hold the state by which each side proves, or checks, the owner of a session.
//!
//! Wire facts: the sources of ejoy/goscon (Go) and lvzixun/sconn_client (Lua).

pub mod client;
pub mod message;
pub mod record;
pub mod server;

use crate::crypto::{Dialect, Rc4, hmac64};

/// Flag bit of a new session: the server does not announce the client to the upstream.
pub const FLAG_NO_ANNOUNCEMENT: u32 = 0x1;

/// Reason for which a message of the peer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("record of {0} bytes, a handshake takes at most {max}", max = record::MAX_LEN)]
    TooLong(usize),
    #[error("malformed handshake: {0}")]
    Malformed(&'static str),
}

impl Error {
    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::TooLong(_) => "record_too_long",
            Self::Malformed(_) => "malformed",
        }
    }
}

/// Shared secret of a session, which keys the ciphers and signs resumes.
#[derive(Clone, Copy)]
pub struct Secret {
    secret: [u8; 8],
    dialect: Dialect,
}

impl Secret {
    pub fn new(shared: u64, dialect: Dialect) -> Self {
        Self {
            secret: shared.to_le_bytes(),
            dialect,
        }
    }

    /// Returns the cipher of one direction; both directions start from the same key.
    pub fn cipher(&self) -> Rc4 {
        let mut key = [0; 32];
        for (part, n) in key.chunks_exact_mut(8).zip(0u64..) {
            part.copy_from_slice(&hmac64(self.dialect, self.secret, n.to_le_bytes()));
        }
        Rc4::new(&key)
    }

    fn sign(&self, sum: [u8; 8]) -> [u8; 8] {
        hmac64(self.dialect, sum, self.secret)
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Converts a count that a peer reports modulo 2^32 to 64 bits.
///
/// The result is at most `ours` and less than 2^32 below it; `None` if no such count exists.
pub fn widen(reported: u32, ours: u64) -> Option<u64> {
    ours.checked_sub((ours as u32).wrapping_sub(reported).into())
}

#[cfg(test)]
mod tests;
