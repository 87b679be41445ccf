//! fastway: many virtual connections over one physical connection, without I/O.
//!
//! Clients and servers both dial the gateway. What they send are frames: LE32 length of what
//! follows, LE32 connection id, body. Id 0 carries a [`Command`], every other id the data of a
//! virtual connection. Data frames are the same in all [versions](Version) of the wire format;
//! commands are not.
//!
//! [`Decoder`] cuts a stream of bytes into frames. [`Hub`] is the gateway: it knows all endpoints
//! and their virtual connections, and says what each of them gets. [`Endpoint`] is the other end.
//! [`auth`] is the handshake of servers.
//!
//! Source: the implementations of fast/fastway in Go and C#, of three different years.

pub mod auth;
mod command;
mod endpoint;
mod frame;
mod hub;
pub mod message;
pub mod queue;
#[cfg(test)]
mod tests;

pub use command::{Command, Version};
pub use endpoint::{Endpoint, Event as EndpointEvent};
pub use frame::{DATA_HEADER, Decoder, Frame, data};
pub use hub::{Cause, Dial, Event, Hub, Identity, Peer, Refusal, Role};

/// What a peer did that ends its physical connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("a frame of length {0}, which leaves no room for a connection id")]
    TooShort(u32),
    #[error("a frame of length {len}, more than {max}")]
    TooLong { len: u32, max: u32 },
    #[error("a command without a type")]
    NoCommand,
    #[error("unknown command {0}")]
    UnknownCommand(u8),
    #[error("command {0} lacks arguments")]
    MissingArguments(u8),
    #[error("a {0} command, which this side never sends")]
    Unexpected(&'static str),
    #[error("virtual connection {0} is not its own")]
    NotItsOwn(u32),
    #[error("too many connections opened and not dialled")]
    TooManyOpened,
    #[error("silent for too long")]
    Silent,
}

impl Error {
    /// A stable label for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            _ => "protocol_error",
        }
    }
}
