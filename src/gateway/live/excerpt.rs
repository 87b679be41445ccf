//! Excerpts of clients' texts for the log.

use std::borrow::Cow;

/// Returns the first characters of a text that a client may have influenced, for a line of the log.
pub(in crate::gateway) fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(256) {
        // invariant: a character begins there.
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}
