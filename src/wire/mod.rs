//! Protocol messages over a stream of bytes, for both ends.

pub(crate) mod fastway;
pub(crate) mod scp;
pub(crate) mod snet;

use std::io;

/// Why no message came. `P` is what the protocol says of one that is none.
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
