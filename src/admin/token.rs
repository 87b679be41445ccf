//! The token that requests show.

use std::fs;
use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Shorter ones can be guessed.
const MIN_LEN: usize = 16;

/// What a request must show; only its hash is kept.
pub(crate) struct Token([u8; 32]);

impl Token {
    /// Reads a token from a file, blanks around it left out. Says what is wrong with the file,
    /// never what is in it.
    pub fn read(path: &Path) -> Result<Self, String> {
        let text = fs::read_to_string(path).map_err(|error| format!("cannot be read: {error}"))?;
        let token = text.trim();
        if token.len() < MIN_LEN {
            return Err(format!("holds no token of at least {MIN_LEN} characters"));
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Takes the same time wherever the difference is.
    pub fn is(&self, shown: &[u8]) -> bool {
        Sha256::digest(shown).ct_eq(&self.0).into()
    }
}
