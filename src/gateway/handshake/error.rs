//! Errors of handshakes.

use std::io;

use crate::gateway::gate::Limit;
use crate::proto::{proxy_header, scp, snet};
use crate::transport::tcp::HeaderError;
use crate::wire;

/// Error of a handshake that gave no session.
#[derive(Debug, thiserror::Error)]
pub(in crate::gateway) enum Error {
    /// Connection that ended before its first byte, as health checks of balancers do.
    #[error("the connection ended before its first byte: {0}")]
    Silent(io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Scp(#[from] scp::Error),
    #[error(transparent)]
    Snet(#[from] snet::Error),
    #[error("not finished in time")]
    TimedOut,
    #[error("resume of session {0} refused: {1}")]
    ScpRefused(u32, scp::message::Code),
    #[error("resume of session {0} refused: {1}")]
    SnetRefused(u64, snet::server::Refusal),
    #[error("wrong answer to the challenge of a new session")]
    Unproven,
    #[error("no session id is free")]
    Full,
    #[error("draining: no new sessions")]
    Draining,
    #[error("the limit is reached: {}", .0.label())]
    Limited(Limit),
    #[error(transparent)]
    ProxyHeader(proxy_header::Error),
}

impl Error {
    /// Returns a stable label of what a client was told that asked to resume a session.
    pub fn code(&self) -> Option<String> {
        match self {
            Self::ScpRefused(_, code) => Some((*code as u32).to_string()),
            Self::SnetRefused(_, refusal) => Some(refusal.label().to_owned()),
            _ => None,
        }
    }

    /// Returns a stable label for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Silent(_) => "silent",
            Self::Io(_) => "connection",
            Self::Scp(error) => error.label(),
            Self::Snet(error) => error.label(),
            Self::TimedOut => "timeout",
            Self::ScpRefused(..) | Self::SnetRefused(..) => "resume_refused",
            Self::Unproven => "unproven",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Limited(limit) => limit.label(),
            Self::ProxyHeader(_) => "proxy_header",
        }
    }
}

impl From<Limit> for Error {
    fn from(limit: Limit) -> Self {
        Self::Limited(limit)
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Silent(error) => Self::Silent(error),
            HeaderError::Io(error) => Self::Io(error),
            HeaderError::Malformed(error) => Self::ProxyHeader(error),
        }
    }
}

impl<P> From<wire::Error<P>> for Error
where
    Self: From<P>,
{
    fn from(error: wire::Error<P>) -> Self {
        match error {
            wire::Error::Silent(error) => Self::Silent(error),
            wire::Error::Io(error) => Self::Io(error),
            wire::Error::Protocol(error) => error.into(),
        }
    }
}
