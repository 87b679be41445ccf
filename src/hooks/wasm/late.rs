//! Late compilations: those that take too long and go on.

use crate::sync::Mutex;

/// Most late compilations at once. The compiler cannot be interrupted.
const MAX_LATE: usize = 2;

/// Hashes of the contents whose compilation is late.
#[derive(Debug, Default)]
pub(super) struct Late(pub(super) Mutex<Vec<Hash>>);

pub(super) type Hash = [u8; 32];

impl Late {
    /// Fails if the compilation of the content is late, or too many others are.
    pub(super) fn check(&self, content: &Hash) -> Result<(), String> {
        let late = self.0.lock();
        if late.contains(content) {
            return Err("is still being compiled, which takes longer than `load_timeout`".into());
        }
        if late.len() >= MAX_LATE {
            return Err("is not compiled while others are that have taken too long".into());
        }
        Ok(())
    }
}
