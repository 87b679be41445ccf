//! The client's end of scp.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{error::Elapsed, sleep, timeout};

use super::dial;
use crate::crypto::Dialect;
use crate::handshake::{self, read_record, write_record};
use crate::proto::scp::client::{Hello, Ticket};
use crate::proto::scp::message::{Code, NewResponse, ResumeResponse};
use crate::proto::scp::{self, widen};
use crate::session::{self, Core, Handle, Refusal};
use crate::transport::{self, Address};

/// What to dial, and how.
#[derive(Debug, Clone)]
pub struct Options {
    /// Where the gateway is. The first connection goes to the first address, each further one to
    /// the next in turn. Not empty.
    pub addresses: Vec<Address>,
    /// The host to be connected with; `None` leaves it to the gateway.
    pub target: Option<String>,
    /// See [`scp::FLAG_NO_ANNOUNCEMENT`].
    pub flags: u32,
    /// Further lines of the handshake, for hooks.
    pub extra: Vec<String>,
    pub dialect: Dialect,
    /// Limit of one connect with its handshake.
    pub handshake_timeout: Duration,
    /// How long to try to come back before the session is given up.
    pub resume_wait: Duration,
    /// Bytes kept to be sent again; half of that may be in flight.
    pub replay_buffer: usize,
    /// The pause after a failed try to come back: the first, and the longest. It doubles between,
    /// less up to half of it at random. The first try comes without one.
    pub backoff: (Duration, Duration),
}

/// A session with a gateway: a stream of bytes that comes back by itself when its connection
/// breaks. See [`session::Stream`] for what reading, writing and flushing mean then.
///
/// End of stream is the session's regular end: the gateway closed the connection and knows the
/// session no more. An error of kind [`ConnectionReset`](io::ErrorKind::ConnectionReset) says that
/// the session could not be resumed, [`TimedOut`](io::ErrorKind::TimedOut) that nobody was reached
/// within `resume_wait`; bytes may be missing then.
pub struct Stream {
    inner: session::Stream<transport::Stream>,
    id: u32,
    handle: Handle<transport::Stream>,
}

/// Cuts the connections of a [`Stream`] under it.
#[derive(Clone)]
pub struct Cutter(Handle<transport::Stream>);

/// Why a session did not come about.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("cannot connect to {0}: {1}")]
    Connect(Address, io::Error),
    #[error("no answer to the handshake: {0}")]
    Handshake(#[from] io::Error),
    #[error("the gateway's answer is no scp: {0}")]
    Protocol(#[from] scp::Error),
    #[error("no answer to the handshake in time")]
    TimedOut(#[from] Elapsed),
    #[error("resume refused: {0}")]
    Refused(Code),
}

impl Options {
    /// One address, and the defaults of the original.
    pub fn new(address: Address) -> Self {
        Self {
            addresses: vec![address],
            target: None,
            flags: 0,
            extra: Vec::new(),
            dialect: Dialect::Current,
            handshake_timeout: Duration::from_secs(30),
            resume_wait: Duration::from_secs(30),
            replay_buffer: 64 * 1024,
            backoff: (Duration::from_millis(50), Duration::from_secs(2)),
        }
    }
}

impl Stream {
    /// Starts a session. Cancel safe: a session that nobody waits for is left to the gateway to
    /// end.
    pub async fn connect(options: Options) -> Result<Self, Error> {
        let address = &options.addresses[0];
        let opening = async {
            let mut connection = dial(address)
                .await
                .map_err(|e| Error::Connect(address.clone(), e))?;
            let (request, hello) = Hello::new(
                rand::rng().random(),
                options.dialect,
                options.target.clone(),
                options.flags,
                options.extra.clone(),
            );
            write_record(&mut connection, request).await?;
            let response = NewResponse::parse(&read_record(&mut connection).await?)?;
            Ok::<_, Error>((connection, hello.answered(&response)?))
        };
        let (connection, ticket) = timeout(options.handshake_timeout, opening).await??;
        let cipher = ticket.secret().cipher();
        let core = Core::new(Some(cipher.clone()), Some(cipher), options.replay_buffer);
        let (inner, handle) = session::Stream::new(core, connection, options.resume_wait);
        let id = ticket.id();
        // Ends by itself once the session has ended.
        tokio::spawn(redial(handle.clone(), ticket, options));
        Ok(Self { inner, id, handle })
    }

    /// The id that the gateway gave the session.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// How often the session came back.
    pub fn resumes(&self) -> u64 {
        self.inner.resumes()
    }

    /// The current connection, if there is one.
    pub fn connection(&self) -> Option<&transport::Stream> {
        self.inner.connection()
    }

    /// What breaks the session's connections, for tests and the curious.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.handle.clone())
    }
}

impl Cutter {
    /// Breaks the current connection as the network would: what it has not delivered is lost with
    /// it, and has to be sent again.
    pub fn cut(&self) {
        self.0.cut();
    }
}

/// Brings the session a new connection whenever it has lost its own.
async fn redial(handle: Handle<transport::Stream>, mut ticket: Ticket, options: Options) {
    let mut addresses = options.addresses.iter().cycle();
    addresses.next();
    while handle.detached().await.is_ok() {
        let (mut pause, longest) = options.backoff;
        loop {
            // invariant: a cycle over something not empty has no end.
            let address = addresses.next().expect("an address");
            let resumed = resume(&handle, &mut ticket, address);
            let error = match timeout(options.handshake_timeout, resumed).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(elapsed) => elapsed.into(),
            };
            tracing::debug!(id = ticket.id(), %address, %error, "resume failed");
            if let Error::Refused(code) = error
                && !matches!(code, Code::NetworkError | Code::Expired)
            {
                return handle.refused(match code {
                    Code::NotFound => Refusal::UnknownSession,
                    _ => Refusal::BytesLost,
                });
            }
            tokio::select! {
                () = sleep(pause.mul_f64(rand::rng().random_range(0.5..1.0))) => {}
                () = handle.ended() => return,
            }
            pause = (pause * 2).min(longest);
        }
    }
}

async fn resume(
    handle: &Handle<transport::Stream>,
    ticket: &mut Ticket,
    address: &Address,
) -> Result<(), Error> {
    let mut connection = dial(address)
        .await
        .map_err(|e| Error::Connect(address.clone(), e))?;
    let Ok(offer) = handle.offer().await else {
        return Ok(());
    };
    write_record(&mut connection, ticket.resume(offer.received())).await?;
    let response = ResumeResponse::parse(&read_record(&mut connection).await?)?;
    if response.code != Code::Ok {
        return Err(Error::Refused(response.code));
    }
    widen(response.received, offer.sent())
        .and_then(|received| offer.attach(connection, received).ok())
        .ok_or(Error::Refused(Code::NotAcceptable))
        .map(drop)
}

impl From<handshake::Error> for Error {
    fn from(error: handshake::Error) -> Self {
        match error {
            handshake::Error::Io(error) => Self::Handshake(error),
            handshake::Error::Protocol(error) => Self::Protocol(error),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
