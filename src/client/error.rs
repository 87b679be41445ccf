//! Error of opening or resuming a session.

use std::io;

use tokio::time::error::Elapsed;

use crate::proto::{scp, snet};
use crate::transport::Address;

/// Reason for which a session was not opened or resumed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection to the address, with the error of the system.
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    /// The connection broke during the handshake.
    #[error("no answer to the handshake: {0}")]
    Handshake(#[from] io::Error),
    /// The answer is not a message of scp.
    #[error("the gateway's answer is no scp: {0}")]
    Scp(#[from] scp::Error),
    /// The answer is not a message of snet.
    #[error("the gateway's answer is no snet: {0}")]
    Snet(#[from] snet::Error),
    /// The handshake took longer than `handshake_timeout`.
    #[error("no answer to the handshake in time")]
    TimedOut(#[from] Elapsed),
    /// The gateway refused to resume the session, with its reason.
    #[error("resume refused: {0}")]
    Refused(String),
}
