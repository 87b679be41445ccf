//! Why something was not done, or is over.

use std::io;

use crate::proto::fastway as proto;

/// Why something was not done, or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The gateway refused the dial: nobody has that id, or hooks or limits are against it.
    #[error("the gateway refused the dial")]
    Refused,
    /// It was closed, from either end.
    #[error("closed")]
    Closed,
    /// More than `receive_queue` messages waited to be received.
    #[error("closed because too many messages waited to be received")]
    Overflow,
    /// A message has at least one byte.
    #[error("a message must not be empty")]
    Empty,
    /// A message is longer than the gateway takes, in bytes.
    #[error("a message of {len} bytes, more than {max}")]
    TooLong {
        /// Its length.
        len: usize,
        /// The most there may be.
        max: usize,
    },
    /// The stream to the gateway broke.
    #[error("the connection to the gateway broke: {}", io::Error::from(*.0))]
    Lost(io::ErrorKind),
    /// Nothing came for `timeout`.
    #[error("the gateway was silent for too long")]
    TimedOut,
    /// The gateway sent what is not fastway.
    #[error("the gateway does not speak as it should: {0}")]
    Protocol(#[from] proto::Error),
}
