//! fastway's endpoints: clients and servers with many virtual connections over one stream.
//!
//! An [`Endpoint`] runs over any stream: a TCP or KCP connection, or a session that resumes by
//! itself, in which case it survives the loss of connections. Endpoints and connections are
//! handles: clones are the same thing, any task may use them, and what the last one was dropped
//! of is closed.

mod connection;
mod inbox;
mod task;

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{Notify, oneshot};
use tokio_util::sync::CancellationToken;

pub use connection::Connection;
use connection::Slot;
use inbox::Inbox;

pub use crate::proto::fastway::Version;
use crate::proto::fastway::queue::Bounds;
use crate::proto::fastway::{self as proto, auth};
use crate::sync::Mutex;
use crate::wire::fastway::Outbox;

/// Bytes that wait to be written, beyond which sending waits.
const SEND_QUEUE_BYTES: usize = 4 * 1024 * 1024;

/// How an endpoint speaks, and how much it holds.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the gateway speaks on this listener.
    pub version: Version,
    /// The gateway's limit of a frame's length, bytes. A message has 4 bytes less.
    pub max_packet: u32,
    /// Frames that wait to be written, those of more than 1 KiB counted twice; sending waits once
    /// there are as many, or 4 MiB, until there are half.
    pub send_queue: usize,
    /// Messages that wait to be received, for each connection. One more closes the connection: it
    /// does not hold up the others.
    pub receive_queue: usize,
    /// Connections that wait to be accepted. One more is closed.
    pub accept_queue: usize,
    /// How often to ping in v3; less than the gateway's idle time. In v1 and v2 it is the gateway
    /// that pings.
    pub ping: Duration,
    /// How long the gateway may be silent. More than twice `ping`, and in v1 and v2 more than the
    /// gateway's idle time; over a stream that resumes, more than that takes too.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::V3,
            max_packet: 512 * 1024,
            send_queue: 256,
            receive_queue: 1024,
            accept_queue: 1024,
            ping: Duration::from_secs(10),
            timeout: Duration::from_secs(75),
        }
    }
}

/// Why something was not done, or is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("the gateway refused the dial")]
    Refused,
    #[error("closed")]
    Closed,
    #[error("closed because too many messages waited to be received")]
    Overflow,
    #[error("a message must not be empty")]
    Empty,
    #[error("a message of {len} bytes, more than {max}")]
    TooLong { len: usize, max: usize },
    #[error("the connection to the gateway broke: {}", io::Error::from(*.0))]
    Lost(io::ErrorKind),
    #[error("the gateway was silent for too long")]
    TimedOut,
    #[error("the gateway does not speak as it should: {0}")]
    Protocol(#[from] proto::Error),
}

/// A client or a server at a gateway.
#[derive(Clone)]
pub struct Endpoint {
    owner: Arc<Owner>,
}

/// All handles of an endpoint and its connections; with the last one it is closed.
struct Owner(Arc<Shared>);

/// What the handles share with the task that reads and writes.
struct Shared {
    options: Options,
    outbox: Outbox<Error>,
    /// Somebody may find room in the outbox.
    room: Notify,
    state: Mutex<State>,
    incoming: Inbox<Slot>,
    /// The task has ended.
    done: CancellationToken,
}

struct State {
    protocol: proto::Endpoint<oneshot::Sender<Result<Slot, Error>>>,
    connections: HashMap<u32, Arc<Inbox<Bytes>>>,
}

impl Endpoint {
    /// A client over a stream to a client's listener. Needs a tokio runtime, where it runs a task.
    pub fn client(
        stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static,
        options: Options,
    ) -> Self {
        let shared = Arc::new(Shared {
            outbox: Outbox::new(Bounds {
                chunks: options.send_queue,
                bytes: SEND_QUEUE_BYTES,
                pool: Arc::default(),
                pool_bytes: usize::MAX,
            }),
            room: Notify::new(),
            state: Mutex::new(State {
                protocol: proto::Endpoint::new(options.version),
                connections: HashMap::new(),
            }),
            incoming: Inbox::new(options.accept_queue),
            done: CancellationToken::new(),
            options,
        });
        tokio::spawn(task::run(shared.clone(), stream));
        Self {
            owner: Arc::new(Owner(shared)),
        }
    }

    /// A server over a stream to a server's listener, as `id`; an older server with the same id
    /// loses its connection. A gateway that does not take `key` for the right one says so by
    /// closing.
    ///
    /// # Errors
    /// When the stream breaks before the gateway has asked for the key. No time limit of its own.
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

    /// Connects with the endpoint of the other kind that has this id, or whom the gateway makes of
    /// it. Dials may be many at once. Cancel safe: a connection that nobody waits for is closed.
    ///
    /// # Errors
    /// [`Error::Refused`], or what ended the endpoint.
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

    /// The next connection that another endpoint has dialled. Cancel safe.
    ///
    /// # Errors
    /// What ended the endpoint.
    pub async fn accept(&self) -> Result<Connection, Error> {
        let slot = self.owner.0.incoming.take().await?;
        Ok(self.connection(slot))
    }

    /// Closes the endpoint with all its connections, once what was sent is written.
    pub fn close(&self) {
        self.owner.0.outbox.end(Error::Closed);
    }

    /// Waits until the endpoint has ended, and says why.
    pub async fn closed(&self) -> Error {
        self.owner.0.done.cancelled().await;
        self.owner.0.end()
    }

    fn connection(&self, slot: Slot) -> Connection {
        Connection::new(slot, self.owner.clone())
    }
}

impl Shared {
    /// Why the endpoint has ended.
    fn end(&self) -> Error {
        self.outbox.ended().unwrap_or(Error::Closed)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock()
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.0.outbox.end(Error::Closed);
    }
}
