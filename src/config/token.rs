//! Token that requests to the admin interface show.

use std::path::Path;

use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::files::{self, Files};

/// Shortest token, bytes: a shorter one can be guessed.
const MIN_LEN: usize = 16;

/// Largest file that is taken for a token, bytes.
const MAX_FILE: u64 = 64 << 10;

/// Token that a request must show; only its hash is kept.
pub(crate) struct Token([u8; 32]);

impl Token {
    /// Reads a token from a file, without the blanks around it.
    ///
    /// An error says what is wrong with the file, never what is in it.
    pub fn read(files: &mut Files, path: &Path) -> Result<Self, String> {
        let text = files.read(path, MAX_FILE).and_then(files::text);
        let text = text.map_err(|error| format!("cannot be read: {error}"))?;
        let token = text.trim();
        if token.len() < MIN_LEN {
            return Err(format!("holds no token of at least {MIN_LEN} characters"));
        }
        // Other characters cannot be shown in a header.
        if !token.chars().all(|c| matches!(c, ' '..='~')) {
            return Err("holds more than one line of ASCII characters".to_owned());
        }
        Ok(Self(Sha256::digest(token).into()))
    }

    /// Returns whether a token that was shown is this one.
    ///
    /// Takes the same time wherever the difference is.
    pub fn is(&self, shown: &[u8]) -> bool {
        Sha256::digest(shown).ct_eq(&self.0).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn tokens_that_can_be_shown() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let read = |text: &str| {
            fs::write(file.path(), text).unwrap();
            Token::read(&mut Files::default(), file.path())
        };
        let token = read("  a token that nobody guesses\r\n").unwrap();
        assert!(token.is(b"a token that nobody guesses"));
        for text in [
            "too short",
            "\u{feff}a token that nobody guesses",
            "ein Schlüssel, den niemand rät",
            "a token that nobody guesses\nanother that nobody guesses",
        ] {
            assert!(read(text).is_err(), "{text}");
        }
    }
}
