//! Handshake by which a server proves that it knows the key and names its id.
//!
//! The gateway sends 8 random bytes. The server answers with MD5(challenge ‖ key), 16 bytes, and
//! its id, LE32.

use md5::{Digest, Md5};
use subtle::ConstantTimeEq;

/// Length of the gateway's challenge, bytes.
pub const CHALLENGE_LEN: usize = 8;
/// Length of the server's answer, bytes.
pub const ANSWER_LEN: usize = 16 + 4;

/// Random challenge of the gateway, never the same twice.
pub type Challenge = [u8; CHALLENGE_LEN];
/// Answer of the server.
pub type Answer = [u8; ANSWER_LEN];

/// Computes the server's answer.
pub fn answer(challenge: &Challenge, key: &[u8], server: u32) -> Answer {
    let mut answer = [0; ANSWER_LEN];
    // invariant: an answer is a digest of 16 bytes and an id of four.
    answer[..16].copy_from_slice(&digest(challenge, key));
    answer[16..].copy_from_slice(&server.to_le_bytes());
    answer
}

/// Returns the server's id if the answer proves that the server knows the key.
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
