//! Why something was not done, or is over.

use std::io;

use crate::proto::fastway as proto;

/// Why something was not done, or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the gateway refused the dial")]
    Refused,
    #[error("closed")]
    Closed,
    #[error("closed because too many messages waited to be received")]
    Overflow,
    #[error("a message must not be empty")]
    Empty,
    #[error("a message of {len} bytes, more than {max}")]
    TooLong { len: usize, max: usize },
    #[error("the connection to the gateway broke: {}", io::Error::from(*.0))]
    Lost(io::ErrorKind),
    #[error("the gateway was silent for too long")]
    TimedOut,
    #[error("the gateway does not speak as it should: {0}")]
    Protocol(#[from] proto::Error),
}
