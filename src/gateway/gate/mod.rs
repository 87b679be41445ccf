//! Limits of a listener: which connections and sessions it admits.
//!
//! Sessions and handshakes are limited separately: a connection that resumes a session counts as a
//! handshake only, so it is never refused because all sessions are taken. A limit of sessions also
//! limits handshakes, to as many again, so that it bounds all connections.

mod admission;
mod limit;
mod usage;

pub(super) use admission::{Admission, Permit};
pub use limit::Limit;
