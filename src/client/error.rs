//! Why a session did not come about.

use std::io;

use tokio::time::error::Elapsed;

use crate::proto::{scp, snet};
use crate::transport::Address;

/// Why a session did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    #[error("no answer to the handshake: {0}")]
    Handshake(#[from] io::Error),
    #[error("the gateway's answer is no scp: {0}")]
    Scp(#[from] scp::Error),
    #[error("the gateway's answer is no snet: {0}")]
    Snet(#[from] snet::Error),
    #[error("no answer to the handshake in time")]
    TimedOut(#[from] Elapsed),
    /// The session is not resumed; the label says why.
    #[error("resume refused: {0}")]
    Refused(String),
}
