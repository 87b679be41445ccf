//! Reasons why proxied sessions end.

use std::fmt;
use std::io;

use super::relay;
use super::upstream::ConnectError;
use crate::gateway::live::Stopped;
use crate::hooks::chain::Denied;

/// Reason why a session ended.
#[derive(Debug)]
pub(super) enum Reason {
    Denied(Denied),
    ConnectFailed(ConnectError),
    /// The client left before its upstream was connected.
    LeftEarly,
    Relayed(relay::End),
    Stopped(Stopped),
}

impl Reason {
    /// Returns whether the gateway failed, which may have left the session's state half done.
    pub fn is_fault(&self) -> bool {
        matches!(self, Self::Stopped(Stopped::Fault))
    }

    /// Returns a stable label for logs, hooks and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::ConnectFailed(ConnectError::Exhausted(_)) => "exhausted",
            Self::ConnectFailed(ConnectError::TargetTooLong(_)) => "target_too_long",
            Self::ConnectFailed(ConnectError::UnknownTarget(_)) => "unknown_target",
            Self::ConnectFailed(_) => "connect_failed",
            Self::LeftEarly => "left_early",
            Self::Relayed(end) => match end {
                relay::End::Closed => "closed",
                relay::End::HalfClosed => "half_closed",
                relay::End::UpstreamClosed => "upstream_closed",
                relay::End::Undelivered => "undelivered",
                relay::End::UpstreamFailed(_) => "upstream_failed",
                relay::End::ClientGone(_) => "client_gone",
            },
            Self::Stopped(stopped) => stopped.label(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(Denied { hook, reason }) => write!(f, "denied by hook {hook}: {reason}"),
            Self::ConnectFailed(error) => write!(f, "cannot connect to a server: {error}"),
            Self::LeftEarly => f.write_str("the client left before its server was there"),
            Self::Relayed(end) => match end {
                relay::End::Closed => f.write_str("both sides closed"),
                relay::End::HalfClosed => {
                    f.write_str("one side closed, and with the other nothing moved any more")
                }
                relay::End::UpstreamClosed => f.write_str("the server closed"),
                relay::End::Undelivered => {
                    f.write_str("the server closed and the client did not come for the rest")
                }
                relay::End::UpstreamFailed(kind) => {
                    write!(
                        f,
                        "the server's connection broke: {}",
                        io::Error::from(*kind)
                    )
                }
                relay::End::ClientGone(io::ErrorKind::TimedOut) => {
                    f.write_str("the client did not come back")
                }
                relay::End::ClientGone(kind) => {
                    write!(
                        f,
                        "the client's connection broke: {}",
                        io::Error::from(*kind)
                    )
                }
            },
            Self::Stopped(stopped) => stopped.fmt(f),
        }
    }
}
