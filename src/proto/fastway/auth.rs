//! The handshake by which a server proves that it knows the key and says who it is.
//!
//! The gateway sends 8 random bytes. The server answers with MD5(challenge ‖ key), 16 bytes, and
//! its id, LE32.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// Bytes that the gateway sends.
pub const CHALLENGE_LEN: usize = 8;
/// Bytes that the server answers.
pub const ANSWER_LEN: usize = 16 + 4;

/// What the gateway sends, never the same twice.
pub type Challenge = [u8; CHALLENGE_LEN];
/// What the server answers.
pub type Answer = [u8; ANSWER_LEN];

/// The server's answer.
pub fn answer(challenge: &Challenge, key: &[u8], server: u32) -> Answer {
    let mut answer = [0; ANSWER_LEN];
    // invariant: an answer is a digest of 16 bytes and an id of four.
    answer[..16].copy_from_slice(&digest(challenge, key));
    answer[16..].copy_from_slice(&server.to_le_bytes());
    answer
}

/// The server's id, if it knows the key.
pub fn verify(challenge: &Challenge, key: &[u8], answer: &Answer) -> Option<u32> {
    // invariant: an answer is longer than a digest.
    let right = digest(challenge, key).ct_eq(&answer[..16]);
    let id = answer.last_chunk()?;
    bool::from(right).then(|| u32::from_le_bytes(*id))
}

fn digest(challenge: &Challenge, key: &[u8]) -> [u8; 16] {
    Md5::new()
        .chain_update(challenge)
        .chain_update(key)
        .finalize()
        .into()
}
