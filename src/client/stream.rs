//! Client stream of the session protocols, and the task that resumes it.

use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use std::{io, vec};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{sleep, timeout};

use super::dial::{dial, resolve};
use super::error::Error;
use crate::session::{self, Core, Handle, Offer, Refusal};
use crate::transport::{self, Address, kcp};

/// Session with a gateway: a byte stream that resumes by itself when its connection breaks.
///
/// See [`session::Stream`] for the meaning of reading, writing and flushing meanwhile.
///
/// End of stream is the regular end of the session: the gateway closed the connection and does not
/// know the session any more. An error of kind [`ConnectionReset`](io::ErrorKind::ConnectionReset)
/// means that the session could not be resumed, [`TimedOut`](io::ErrorKind::TimedOut) that no
/// gateway was reached within `resume_wait`; bytes may be missing then. Dropping the stream ends
/// the session; the gateway is not told.
pub struct Stream {
    inner: session::Stream<transport::Stream>,
    id: u64,
    handle: Handle<transport::Stream>,
}

/// Handle that breaks the connections of a [`Stream`].
#[derive(Clone)]
pub struct Cutter(Handle<transport::Stream>);

/// Addresses to dial, and time limits.
pub struct Dialling {
    /// Addresses of the gateway, not empty.
    pub addresses: Vec<Address>,
    /// Time limit of a connect with its handshake.
    pub handshake_timeout: Duration,
    pub resume_wait: Duration,
    /// Settings of KCP connections.
    pub kcp: kcp::Config,
}

/// Client side of a session protocol.
///
/// [`scp::Options`](super::scp::Options) and [`snet::Options`](super::snet::Options) implement this
/// trait; nothing outside of this crate can.
pub trait Protocol: Send + Sync + Sized + 'static {
    /// Proof of ownership of a session.
    type Ticket: Send;

    /// Returns the addresses to dial, and time limits.
    fn dialling(&self) -> Dialling;

    /// Opens a session over `connection`, which has nothing sent or received.
    fn open(
        &self,
        connection: &mut transport::Stream,
    ) -> impl Future<Output = Result<Opened<Self::Ticket>, Error>> + Send;

    /// Asks the gateway to resume at `offer`; returns how many bytes the gateway has.
    fn resume(
        &self,
        ticket: &mut Self::Ticket,
        connection: &mut transport::Stream,
        offer: &Offer<transport::Stream>,
    ) -> impl Future<Output = Result<u64, ResumeError>> + Send;

    /// Returns the pause after that many failures in a row, at least one.
    fn pause(&self, failures: u32) -> Duration;
}

/// Session that the gateway has opened.
pub struct Opened<T> {
    pub id: u64,
    pub ticket: T,
    pub core: Core,
}

/// Reason for which a session was not resumed.
pub enum ResumeError {
    /// This attempt failed.
    Failed(Error),
    /// The gateway refuses to resume the session, with its reason.
    Refused(Refusal, String),
    /// The gateway closed the connection instead of answering.
    Closed,
}

/// Number of closed connections in a row that count as a refusal.
///
/// Some gateways have no other refusal, and the network may close a connection too.
const CLOSED: u32 = 3;

/// Number of attempts at each address that `resume_wait` has time for, at least.
const TRIES: u32 = 4;

impl Stream {
    /// Opens a session, as [`scp::Options`](super::scp::Options) or
    /// [`snet::Options`](super::snet::Options) say.
    ///
    /// Cancel safe: a session that was opened and not returned is left to the gateway to end.
    pub async fn connect(options: impl Protocol) -> Result<Self, Error> {
        let dialling = options.dialling();
        let address = &dialling.addresses[0];
        let opening = async {
            let addrs = resolve(address).await?;
            open(&options, address, addrs, &dialling.kcp).await
        };
        let (connection, opened) = timeout(dialling.handshake_timeout, opening).await??;
        let (inner, handle) = session::Stream::new(opened.core, connection, dialling.resume_wait);
        // Ends by itself once the session has ended.
        tokio::spawn(redial(handle.clone(), options, dialling, opened.ticket));
        Ok(Self {
            inner,
            id: opened.id,
            handle,
        })
    }

    /// Returns the id that the gateway gave the session.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// Returns how often the session resumed.
    pub fn resumes(&self) -> u64 {
        self.inner.resumes()
    }

    /// Returns the current connection, if there is one.
    pub fn connection(&self) -> Option<&transport::Stream> {
        self.inner.connection()
    }

    /// Returns a handle that breaks the session's connections, for tests.
    pub fn cutter(&self) -> Cutter {
        Cutter(self.handle.clone())
    }
}

impl Cutter {
    /// Breaks the current connection as a network failure would.
    ///
    /// Bytes that the connection has not delivered are lost with it and are sent again.
    pub fn cut(&self) {
        self.0.cut();
    }
}

/// Resumes the session over a new connection whenever it has lost its own.
async fn redial<P: Protocol>(
    handle: Handle<transport::Stream>,
    protocol: P,
    dialling: Dialling,
    mut ticket: P::Ticket,
) {
    let mut addresses = dialling.addresses.iter().cycle();
    addresses.next();
    // Short enough that a path which drops all packets leaves time for other paths.
    let tries = dialling.addresses.len() as u32 * TRIES;
    let limit = dialling.handshake_timeout.min(dialling.resume_wait / tries);
    while handle.detached().await.is_ok() {
        let (mut failures, mut closed) = (0, 0);
        loop {
            // invariant: a cycle over something not empty has no end.
            let address = addresses.next().expect("an address");
            let resumed = resume(&handle, &protocol, &mut ticket, address, &dialling.kcp);
            let error = match timeout(limit, resumed).await {
                Ok(Ok(())) => break,
                Ok(Err(error)) => error,
                Err(elapsed) => ResumeError::Failed(elapsed.into()),
            };
            let (refusal, error) = match error {
                ResumeError::Failed(error) => (None, error),
                ResumeError::Refused(refusal, reason) => (Some(refusal), Error::Refused(reason)),
                ResumeError::Closed => {
                    closed += 1;
                    let refused = (closed == CLOSED).then_some(Refusal::UnknownSession);
                    (
                        refused,
                        io::Error::from(io::ErrorKind::UnexpectedEof).into(),
                    )
                }
            };
            tracing::debug!(%address, %error, "resume failed");
            if let Some(refusal) = refusal {
                return handle.refused(refusal);
            }
            failures += 1;
            tokio::select! {
                () = sleep(protocol.pause(failures)) => {}
                () = handle.ended() => return,
            }
        }
    }
}

async fn resume<P: Protocol>(
    handle: &Handle<transport::Stream>,
    protocol: &P,
    ticket: &mut P::Ticket,
    address: &Address,
    kcp: &kcp::Config,
) -> Result<(), ResumeError> {
    let mut connection = dial(address, &mut resolve(address).await?, kcp).await?;
    let Ok(offer) = handle.offer().await else {
        return Ok(());
    };
    let received = protocol.resume(ticket, &mut connection, &offer).await?;
    match offer.attach(connection, received) {
        Ok(_) => Ok(()),
        Err(gone) => Err(ResumeError::Refused(Refusal::BytesLost, gone.to_string())),
    }
}

/// Opens a session at the first address that answers.
async fn open<P: Protocol>(
    protocol: &P,
    address: &Address,
    mut addrs: vec::IntoIter<SocketAddr>,
    kcp: &kcp::Config,
) -> Result<(transport::Stream, Opened<P::Ticket>), Error> {
    loop {
        let mut connection = dial(address, &mut addrs, kcp).await?;
        match protocol.open(&mut connection).await {
            // Over KCP a refused connection shows only after bytes were sent.
            Err(Error::Handshake(error))
                if error.kind() == io::ErrorKind::ConnectionRefused && addrs.len() > 0 => {}
            opened => return Ok((connection, opened?)),
        }
    }
}

impl<E: Into<Error>> From<E> for ResumeError {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use tokio::net::UdpSocket;

    use super::super::scp::Options;
    use super::*;

    #[tokio::test]
    async fn over_kcp_an_address_with_nobody_there_is_passed_over() {
        let kcp = kcp::Config::default();
        let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let listener = kcp::Listener::bind(local, &kcp).unwrap();
        let free = UdpSocket::bind(local).await.unwrap();
        let nobody = free.local_addr().unwrap();
        drop(free);
        let addrs = vec![nobody, listener.local_addr()].into_iter();
        let address: Address = "kcp://gateway:1".parse().unwrap();
        let options = Options::new(address.clone());
        tokio::select! {
            opened = open(&options, &address, addrs, &kcp) => panic!("{:?}", opened.err()),
            stream = listener.accept() => assert_eq!(stream.local_addr(), listener.local_addr()),
        }
    }
}
