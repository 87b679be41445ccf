//! Client's end of a session, in any session protocol.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::io::delegate_io;
use crate::session::Connection;
use crate::{session, transport};

/// Stream of a client.
pub(crate) enum Client {
    /// Connection that is the session.
    Plain(transport::Stream),
    /// A session that outlives its connections.
    Resumable(Box<session::Stream<transport::Stream>>),
}

/// Snapshot of a client's end, which only the session's task can take.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub round_trip: Option<Duration>,
    /// Bytes written to the connection that the client's system has not acknowledged.
    pub unacked: Option<usize>,
    pub replay: Option<ReplayUse>,
}

/// Use of a replay buffer, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct ReplayUse {
    pub memory: usize,
    /// Bytes that could be sent again.
    pub kept: u64,
    /// Bytes that the client has not confirmed; `window` is the most there may be.
    pub unacked: usize,
    pub window: usize,
    /// Bytes from the client, read from lost connections, that the upstream has not taken.
    pub unread: usize,
}

impl Client {
    /// Polls for the number of bytes that a write can take without a rest; pending while it is
    /// zero.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(usize::MAX)),
            Self::Resumable(stream) => stream.poll_room(cx),
        }
    }

    /// Polls what the session must do while nobody reads or writes. Ready when the session has
    /// ended.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(_) => Poll::Pending,
            Self::Resumable(stream) => stream.poll_drive(cx),
        }
    }

    /// Runs `future` and drives the session meanwhile. Returns `None` if the session ends first.
    pub async fn drive<F: Future>(&mut self, future: F) -> Option<F::Output> {
        match self {
            Self::Plain(_) => Some(future.await),
            Self::Resumable(stream) => stream.drive(future).await,
        }
    }

    /// Delivers what was written and signals that nothing follows.
    ///
    /// A resumable session ends with that. Ready with whether the client got everything.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Plain(stream) => Poll::Ready(ready!(Pin::new(stream).poll_shutdown(cx)).is_ok()),
            Self::Resumable(stream) => stream.poll_finish(cx),
        }
    }

    /// Returns whether the client has lost its connection and may resume.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Resumable(stream) => stream.connection().is_none(),
        }
    }

    /// Returns the bytes written to the connection that the client's system has not acknowledged.
    pub fn unacked(&self) -> usize {
        match self {
            Self::Plain(stream) => stream.unacked(),
            Self::Resumable(stream) => stream.connection().map_or(0, Connection::unacked),
        }
    }

    /// Returns the memory of the replay buffer, and of what lost connections have delivered unread,
    /// bytes.
    pub fn replay_memory(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Resumable(stream) => stream.memory(),
        }
    }

    /// Returns a snapshot of the client's end.
    pub fn look(&self) -> Snapshot {
        let (connection, stream) = match self {
            Self::Plain(stream) => (Some(stream), None),
            Self::Resumable(stream) => (stream.connection(), Some(stream)),
        };
        Snapshot {
            round_trip: connection.and_then(transport::Stream::round_trip),
            unacked: connection.map(Connection::unacked),
            replay: stream.map(|stream| {
                let core = stream.core();
                ReplayUse {
                    memory: core.replay_memory(),
                    kept: core.sent() - core.replay_start(),
                    unacked: core.window() - core.room(),
                    window: core.window(),
                    unread: stream.held(),
                }
            }),
        }
    }

    /// Returns how often the client has resumed the session.
    pub fn resumes(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Resumable(stream) => stream.resumes(),
        }
    }
}

delegate_io!(Client: Plain, Resumable);
