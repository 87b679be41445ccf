//! Inputs and events of a hub.

use bytes::Bytes;

use crate::proto::fastway::Version;

/// Kind of an endpoint; each kind has ids of its own and dials the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Client,
    Server,
}

/// Identity with which an endpoint joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Client {
        /// Version of the client; `None` to detect it.
        ///
        /// Until its first command, and between v2 and v3, which begin alike, the client counts as
        /// v3. If it is silent where a v3 client would ping, it counts as v2, unless it pings
        /// unasked later.
        version: Option<Version>,
        /// Limit of virtual connections for a client that dials one more; 0 for no limit.
        max_connections: usize,
    },
    /// Server with the id of its handshake.
    Server { version: Version, id: u32 },
}

/// Dial that the caller has to accept or refuse.
#[derive(Debug, PartialEq, Eq)]
pub struct Dial {
    /// Id of the dialling endpoint.
    pub from: u32,
    /// Dialled id.
    pub to: u32,
    /// Id of the connection that was opened for the dial; v1 only.
    pub(super) conn: Option<u32>,
}

/// Event for the caller to act on.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, P, C> {
    /// A frame is to be sent to an endpoint.
    Frame { to: &'a P, frame: Bytes },
    /// Another endpoint has taken the id of this one, which has left.
    Replaced { peer: &'a P },
    /// A virtual connection has ended.
    Ended {
        connection: C,
        /// Number of payload bytes from the dialling end.
        received: u64,
        /// Number of payload bytes to the dialling end.
        sent: u64,
        cause: Cause,
    },
}

/// Cause of the end of a virtual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The dialling end has closed the connection.
    Closed,
    /// The dialled end has closed the connection.
    RemoteClosed,
    /// The physical connection of the dialling end is lost.
    Lost,
    /// The physical connection of the dialled end is lost.
    RemoteLost,
}

/// Reason for which a dial gave no virtual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// No endpoint has the id.
    Unknown,
    /// The dialling endpoint has reached its limit of connections.
    TooMany,
    /// The dialling endpoint has left, or has closed the connection it had opened.
    Withdrawn,
}

impl Role {
    pub(super) fn other(self) -> Self {
        match self {
            Self::Client => Self::Server,
            Self::Server => Self::Client,
        }
    }
}

impl Cause {
    /// Returns a stable label for logs, hooks and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::RemoteClosed => "remote_closed",
            Self::Lost => "lost",
            Self::RemoteLost => "remote_lost",
        }
    }
}

impl Refusal {
    /// Returns a stable label for logs, hooks and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_id",
            Self::TooMany => "too_many_connections",
            Self::Withdrawn => "withdrawn",
        }
    }
}
