//! Why a session did not come about.

use std::io;

use tokio::time::error::Elapsed;

use crate::proto::{scp, snet};
use crate::transport::Address;

/// Why a session did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No connection: the address, and what the system says.
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    /// The connection broke during the handshake.
    #[error("no answer to the handshake: {0}")]
    Handshake(#[from] io::Error),
    /// The answer is none of scp.
    #[error("the gateway's answer is no scp: {0}")]
    Scp(#[from] scp::Error),
    /// The answer is none of snet.
    #[error("the gateway's answer is no snet: {0}")]
    Snet(#[from] snet::Error),
    /// The handshake took longer than `handshake_timeout`.
    #[error("no answer to the handshake in time")]
    TimedOut(#[from] Elapsed),
    /// The session is not resumed; the label says why.
    #[error("resume refused: {0}")]
    Refused(String),
}
