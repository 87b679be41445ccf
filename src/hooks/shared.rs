//! The key-value store that all hooks of a gateway share.
