//! Handshakes: a connection opens a session, resumes one, or is refused.
//!
//! `scp` and `snet` exchange the messages of their protocols; [`accept`] is common to both.

mod error;
mod outcome;
mod scp;
mod snet;

pub(super) use error::Error;
pub(super) use outcome::{Acceptor, Handshake, Hello, Opened, Outcome, Refused, accept};
