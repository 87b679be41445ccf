//! A listener's limits: who may come in, as far as there is room.
//!
//! Sessions are limited, and so are handshakes: a connection that resumes a session takes no place
//! but its own in the handshake, and is never turned away because all sessions are taken. A limit
//! of sessions limits handshakes too, to as many again, so that it bounds connections in all.

mod admission;
mod limit;
mod usage;

pub(super) use admission::{Admission, Permit};
pub use limit::Limit;
