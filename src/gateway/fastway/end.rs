//! Reasons why physical connections end.

use std::fmt;
use std::io;
use std::time::Duration;

use crate::gateway::live::Stopped;
use crate::hooks::chain::Denied;
use crate::proto::fastway;

/// Reason why a physical connection ended.
#[derive(Debug, Clone)]
pub(super) enum End {
    Left,
    Broken(io::ErrorKind),
    Unauthorized,
    LateHandshake,
    Denied(Denied),
    Violation(fastway::Error),
    Replaced,
    Overflow(usize),
    Stalled(Duration),
    Drained,
    Stopped(Stopped),
}

impl End {
    /// Returns the end of an endpoint whose connection gave an error.
    pub fn of(error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => Self::Left,
            kind => Self::Broken(kind),
        }
    }

    /// Returns a stable label for logs, hooks and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Left => "closed",
            Self::Broken(_) => "client_gone",
            Self::Unauthorized => "unauthorized",
            Self::LateHandshake => "timeout",
            Self::Denied(_) => "denied",
            Self::Violation(error) => error.label(),
            Self::Replaced => "replaced",
            Self::Overflow(_) | Self::Stalled(_) => "slow_reader",
            Self::Drained => "drained",
            Self::Stopped(stopped) => stopped.label(),
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("it closed"),
            Self::Broken(kind) => write!(f, "its connection broke: {}", io::Error::from(*kind)),
            Self::Unauthorized => f.write_str("it does not know the key"),
            Self::LateHandshake => f.write_str("its handshake took too long"),
            Self::Denied(denied) => {
                write!(f, "denied by hook {}: {}", denied.hook, denied.reason)
            }
            Self::Violation(error) => error.fmt(f),
            Self::Replaced => f.write_str("another server has connected with its id"),
            Self::Overflow(limit) => write!(f, "more than {limit} frames wait for it"),
            Self::Stalled(limit) => write!(f, "it kept others waiting for {limit:?}"),
            Self::Drained => f.write_str("draining, and no virtual connection is left"),
            Self::Stopped(stopped) => stopped.fmt(f),
        }
    }
}
