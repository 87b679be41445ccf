//! Errors of endpoints and their connections.

use std::io;

use crate::proto::fastway as proto;

/// Reason for which an operation failed, or an endpoint or a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The gateway refused the dial: nobody has that id, or hooks or limits are against it.
    #[error("the gateway refused the dial")]
    Refused,
    /// The connection or the endpoint was closed, from either end.
    #[error("closed")]
    Closed,
    /// More than `receive_queue` messages waited to be received.
    #[error("closed because too many messages waited to be received")]
    Overflow,
    /// The message is empty; a message has at least one byte.
    #[error("a message must not be empty")]
    Empty,
    /// The message is longer than the gateway takes, in bytes.
    #[error("a message of {len} bytes, more than {max}")]
    TooLong {
        /// Length of the message.
        len: usize,
        /// Limit of the length.
        max: usize,
    },
    /// The stream to the gateway broke.
    #[error("the connection to the gateway broke: {}", io::Error::from(*.0))]
    Lost(io::ErrorKind),
    /// The gateway sent nothing for `timeout`.
    #[error("the gateway was silent for too long")]
    TimedOut,
    /// The gateway violated the protocol.
    #[error("the gateway does not speak as it should: {0}")]
    Protocol(#[from] proto::Error),
}
