//! What comes of a connection: a new session, more of one that exists, or a refusal.
//!
//! The messages are those of the protocols, [`Scp`] and [`Snet`]; what becomes of them is the same
//! for all, and in [`accept`].

mod error;
mod outcome;
mod scp;
mod snet;

pub(super) use error::Error;
pub(super) use outcome::{Hello, Opened, Outcome, Refused, accept};
pub(super) use scp::Scp;
pub(super) use snet::Snet;
