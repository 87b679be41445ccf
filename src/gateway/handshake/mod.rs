//! Handshakes: a connection opens a session, resumes one, or is refused.
//!
//! [`Scp`] and [`Snet`] exchange the messages of their protocols; [`accept`] is common to both.

mod error;
mod outcome;
mod scp;
mod snet;

pub(super) use error::Error;
pub(super) use outcome::{Hello, Opened, Outcome, Refused, accept};
pub(super) use scp::Scp;
pub(super) use snet::Snet;
