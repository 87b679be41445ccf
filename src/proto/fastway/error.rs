//! Protocol errors of a peer.

/// Protocol error of a peer, which ends its physical connection.
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
    /// Returns a stable label for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            _ => "protocol_error",
        }
    }
}
