//! Endpoints: clients and servers of a gateway.

use std::io;
use std::sync::Arc;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::oneshot;

use super::connection::Connection;
use super::error::Error;
use super::options::Options;
use super::shared::{Owner, Shared, Slot};
use super::task;
use crate::proto::fastway::auth;

/// Endpoint of a gateway, a client or a server.
#[derive(Clone)]
pub struct Endpoint {
    owner: Arc<Owner>,
}

impl Endpoint {
    /// Creates a client over a stream to a listener for clients.
    ///
    /// Must be called within a tokio runtime, as it spawns a task.
    pub fn client(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: Options,
    ) -> Self {
        let shared = Arc::new(Shared::new(options));
        tokio::spawn(task::run(shared.clone(), stream));
        Self {
            owner: Arc::new(Owner(shared)),
        }
    }

    /// Creates a server with an id over a stream to a listener for servers.
    ///
    /// An older server with the same id loses its connection. A gateway that rejects `key` closes
    /// the stream.
    ///
    /// # Errors
    /// If the stream breaks before the gateway has asked for the key. No time limit of its own.
    pub async fn server(
        mut stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        id: u32,
        key: &[u8],
        options: Options,
    ) -> io::Result<Self> {
        let mut challenge = auth::Challenge::default();
        stream.read_exact(&mut challenge).await?;
        let answer = auth::answer(&challenge, key, id);
        stream.write_all(&answer).await?;
        stream.flush().await?;
        Ok(Self::client(stream, options))
    }

    /// Dials the endpoint of the other kind that has this id, or the one the gateway puts in its
    /// place.
    ///
    /// Many dials may run at once. Cancel safe: a connection that was made and not returned is
    /// closed.
    ///
    /// # Errors
    /// [`Error::Refused`], or the reason for which the endpoint ended.
    pub async fn dial(&self, remote: u32) -> Result<Connection, Error> {
        let shared = &self.owner.0;
        let (answer, answered) = oneshot::channel();
        {
            let mut state = shared.state();
            // Once it has ended nobody answers.
            if let Some(end) = shared.outbox.ended() {
                return Err(end);
            }
            let frame = state.protocol.dial(remote, answer);
            shared.outbox.push_anyway([frame]);
        }
        match answered.await {
            Ok(slot) => Ok(self.connection(slot?)),
            // Dropped by the task, at its end.
            Err(_) => Err(shared.end()),
        }
    }

    /// Accepts the next connection that another endpoint has dialled.
    ///
    /// Cancel safe.
    ///
    /// # Errors
    /// The reason for which the endpoint ended.
    pub async fn accept(&self) -> Result<Connection, Error> {
        let slot = self.owner.0.incoming.take().await?;
        Ok(self.connection(slot))
    }

    /// Closes the endpoint and all its connections, once queued messages are written.
    pub fn close(&self) {
        self.owner.0.outbox.end(Error::Closed);
    }

    /// Waits until the endpoint has ended, and returns the reason.
    pub async fn closed(&self) -> Error {
        self.owner.0.done.cancelled().await;
        self.owner.0.end()
    }

    fn connection(&self, slot: Slot) -> Connection {
        Connection::new(slot, self.owner.clone())
    }
}
