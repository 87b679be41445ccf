//! snet, the resumable stream of funny/snet, in both versions of its wire format.
//!
//! A connection opens with one message of fixed size from each side: the client asks for a new
//! session or to resume one, the server answers. In version 2 the server's answer carries a
//! challenge, and the client proves that it has the session's key before anything else happens.
//! After that the connection is a raw stream of payload bytes, in RC4 or plain. All integers are
//! little-endian.
//!
//! | | version 1 | version 2 |
//! |---|---|---|
//! | new, client | id of zero, public key, 24 zero bytes | `00`, public key |
//! | new, server | public key, RC4(id) | public key, RC4(id), challenge |
//! | proof, client | | MD5(challenge, key) |
//! | resume, client | id, bytes sent, bytes received, MD5(those three, key) | `FF`, then the same |
//! | resume, server | bytes sent, bytes received | bytes sent, bytes received, challenge |
//! | refused, server | closes | 24 zero bytes, then closes |
//! | proof, client | | MD5(challenge, key) |
//!
//! A resume of version 1 is protected by its counts alone: a recorded resume can be sent again as
//! long as the counts still fit. The challenge of version 2 prevents that.
//!
//! [`message`] parses and writes the messages. [`client`] and [`server`] hold the state by which
//! each side proves, or checks, the owner of a session.
//!
//! Wire facts: the sources and the recorded sessions of funny/snet (Go, C#).

pub mod client;
pub mod message;
pub mod server;

use md5::{Digest, Md5};

use crate::crypto::Rc4;

/// Version of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Version {
    V1,
    /// Version with a challenge to the client, since 2018.
    V2,
}

/// Reason for which a message of the peer is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("public key of zero")]
    ZeroKey,
    #[error("session id of zero")]
    ZeroId,
    #[error("a connection that opens with {0:#04x}, which no version takes")]
    FirstByte(u8),
    #[error("padding that is not zero")]
    Padding,
    #[error("refused by the server")]
    Refused,
}

impl Error {
    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Refused => "refused",
            Self::ZeroKey | Self::ZeroId | Self::FirstByte(_) | Self::Padding => "malformed",
        }
    }
}

/// Shared secret of a session, which keys the ciphers, signs resumes and answers challenges.
#[derive(Clone, Copy)]
pub struct Secret([u8; 8]);

impl Secret {
    pub fn new(shared: u64) -> Self {
        Self(shared.to_le_bytes())
    }

    /// Returns the cipher of one direction; both directions start from the same key.
    pub fn cipher(&self) -> Rc4 {
        Rc4::new(&self.0)
    }

    /// Returns the cipher from server to client, behind the session id that is always sent first.
    ///
    /// Also returns the id, encrypted if it was plain and plain if it was encrypted.
    fn cipher_past_id(&self, mut id: [u8; 8]) -> (Rc4, [u8; 8]) {
        let mut cipher = self.cipher();
        cipher.apply(&mut id);
        (cipher, id)
    }

    fn mac(&self, text: &[u8]) -> [u8; 16] {
        Md5::new()
            .chain_update(text)
            .chain_update(self.0)
            .finalize()
            .into()
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Returns whether a server may assign an id.
///
/// With a lowest byte of `00` or `FF` a resume of version 1 would look like version 2.
pub fn is_unambiguous(id: u32) -> bool {
    !matches!(id.to_le_bytes()[0], 0x00 | 0xff)
}

#[cfg(test)]
mod tests;
