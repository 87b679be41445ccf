//! The client's end of a session, whatever it speaks.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::AsyncWrite;

use crate::io::delegate_io;
use crate::session::Connection;
use crate::{session, transport};

/// A client's stream.
pub(crate) enum Client {
    /// A connection that is the session.
    Plain(transport::Stream),
    /// A session that outlives its connections.
    Resumable(Box<session::Stream<transport::Stream>>),
}

/// What only the task of a session can tell.
#[derive(Debug, Clone, Default)]
pub(crate) struct Snapshot {
    pub round_trip: Option<Duration>,
    /// Bytes written to its connection that the client's system has not acknowledged.
    pub undelivered: Option<usize>,
    pub replay: Option<ReplayUse>,
}

/// A replay buffer, in bytes.
#[derive(Debug, Clone)]
pub(crate) struct ReplayUse {
    pub memory: usize,
    /// Those that could be sent again.
    pub kept: u64,
    /// Those that count as not received, and how many there may be.
    pub unconfirmed: usize,
    pub window: usize,
    /// Those from the client, on connections that were lost, that its server has not taken.
    pub unread: usize,
}

impl Client {
    /// How many bytes a write can take without anything being left over; waits until there is
    /// room for one.
    pub fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        match self {
            Self::Plain(_) => Poll::Ready(Ok(usize::MAX)),
            Self::Resumable(stream) => stream.poll_room(cx),
        }
    }

    /// Lets the session do what it must while nobody reads or writes. Ready when it has ended.
    pub fn poll_drive(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Plain(_) => Poll::Pending,
            Self::Resumable(stream) => stream.poll_drive(cx),
        }
    }

    /// Runs `future` while the session is attended to. `None` if the session ends first.
    pub async fn drive<F: Future>(&mut self, future: F) -> Option<F::Output> {
        match self {
            Self::Plain(_) => Some(future.await),
            Self::Resumable(stream) => stream.drive(future).await,
        }
    }

    /// Delivers what was written and says that nothing follows. A resumable session ends with
    /// that; whether the client got everything is the result.
    pub fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        match self {
            Self::Plain(stream) => Poll::Ready(ready!(Pin::new(stream).poll_shutdown(cx)).is_ok()),
            Self::Resumable(stream) => stream.poll_finish(cx),
        }
    }

    /// Whether the client has lost its connection and may come back.
    pub fn is_away(&self) -> bool {
        match self {
            Self::Plain(_) => false,
            Self::Resumable(stream) => stream.connection().is_none(),
        }
    }

    /// Bytes written to its connection that its system has not acknowledged.
    pub fn undelivered(&self) -> usize {
        match self {
            Self::Plain(stream) => stream.undelivered(),
            Self::Resumable(stream) => stream.connection().map_or(0, Connection::undelivered),
        }
    }

    /// Memory of its replay buffer, and what lost connections have delivered unread, bytes.
    pub fn replay_memory(&self) -> usize {
        match self {
            Self::Plain(_) => 0,
            Self::Resumable(stream) => stream.memory(),
        }
    }

    /// How it is.
    pub fn look(&self) -> Snapshot {
        let (connection, stream) = match self {
            Self::Plain(stream) => (Some(stream), None),
            Self::Resumable(stream) => (stream.connection(), Some(stream)),
        };
        Snapshot {
            round_trip: connection.and_then(transport::Stream::round_trip),
            undelivered: connection.map(Connection::undelivered),
            replay: stream.map(|stream| {
                let core = stream.core();
                ReplayUse {
                    memory: core.replay_memory(),
                    kept: core.sent() - core.replay_start(),
                    unconfirmed: core.window() - core.room(),
                    window: core.window(),
                    unread: stream.held(),
                }
            }),
        }
    }

    /// How often the client came back.
    pub fn resumes(&self) -> u64 {
        match self {
            Self::Plain(_) => 0,
            Self::Resumable(stream) => stream.resumes(),
        }
    }
}

delegate_io!(Client: Plain, Resumable);
