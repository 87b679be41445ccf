//! Reading and writing of protocol messages on a byte stream, for both ends.

pub(crate) mod fastway;
pub(crate) mod scp;
pub(crate) mod snet;

use std::io;

/// Reason for which no message was read; `P` is the error of the protocol.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error<P> {
    /// The connection ended before its first byte.
    #[error(transparent)]
    Silent(io::Error),
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(P),
}
