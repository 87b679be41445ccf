//! What a hub is told and what it says.

use bytes::Bytes;

use crate::proto::fastway::Version;

/// One of the two kinds of endpoints; each kind has ids of its own and dials the other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    Client,
    Server,
}

/// What an endpoint is when it joins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Identity {
    Client {
        /// `None`: found from its first command. Until then, and between v2 and v3, which begin
        /// alike, it is taken for v3; if it is silent where a v3 client would ping, for v2, unless
        /// it pings unasked after all.
        version: Option<Version>,
        /// How many virtual connections it may have when it dials one more; 0 is no limit.
        max_connections: usize,
    },
    /// With the id of its handshake.
    Server { version: Version, id: u32 },
}

/// A dial to be decided.
#[derive(Debug, PartialEq, Eq)]
pub struct Dial {
    /// Id of the endpoint that dials.
    pub from: u32,
    /// Id that it dials.
    pub to: u32,
    /// The connection it opened for that; v1 only.
    pub(super) conn: Option<u32>,
}

/// Something to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Event<'a, P, C> {
    /// An endpoint gets a frame.
    Frame { to: &'a P, frame: Bytes },
    /// Another endpoint has taken the id of this one, which has left.
    Replaced { peer: &'a P },
    /// A virtual connection is over.
    Ended {
        connection: C,
        /// Payload bytes from the end that dialled.
        received: u64,
        /// Payload bytes to it.
        sent: u64,
        cause: Cause,
    },
}

/// Why a virtual connection is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The end that dialled has closed it.
    Closed,
    /// The end that was dialled has closed it.
    RemoteClosed,
    /// The physical connection of the end that dialled is gone.
    Lost,
    /// The physical connection of the end that was dialled is gone.
    RemoteLost,
}

/// Why a dial gave no virtual connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// Nobody has the id.
    Unknown,
    /// The one who dials has as many connections as it may.
    TooMany,
    /// The one who dials has left, or closed what it had opened.
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
    /// A stable label for logs, hooks and metrics.
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
    /// A stable label for logs, hooks and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Unknown => "unknown_id",
            Self::TooMany => "too_many_connections",
            Self::Withdrawn => "withdrawn",
        }
    }
}
