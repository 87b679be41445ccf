//! What carries bytes between a client and the gateway.
//!
//! Every transport gives the same [`Stream`] and is bound and dialled by the same
//! [`Listener`] and [`Address`].

pub mod kcp;
pub mod tcp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::str::FromStr;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::config::{Bind, Tcp, Transport};
use crate::session::Connection;

/// A connection of any transport.
#[derive(Debug)]
pub enum Stream {
    Tcp(tcp::Stream),
}

/// Accepts connections of any transport.
#[derive(Debug)]
pub enum Listener {
    Tcp(tcp::Listener),
}

/// Where to dial: `tcp://host:port`, or `host:port` for the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub transport: Transport,
    /// `host:port`
    pub authority: String,
}

impl Listener {
    pub fn bind(bind: &Bind) -> io::Result<Self> {
        match bind.transport {
            Transport::Tcp => tcp::Listener::bind(bind.addr).map(Self::Tcp),
        }
    }

    /// The bound address, with the real port where the configured one was 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
        }
    }

    /// The next connection, which still has to be [set up](Stream::configure). Cancel safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(Stream::Tcp),
        }
    }
}

impl Stream {
    /// Applies a listener's settings to an accepted connection.
    pub fn configure(&mut self, tcp: &Tcp) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.configure(tcp),
        }
    }

    /// The name of the transport, as hooks and logs show it.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
        }
    }

    pub fn peer_addr(&self) -> SocketAddr {
        match self {
            Self::Tcp(stream) => stream.peer_addr(),
        }
    }

    pub fn local_addr(&self) -> SocketAddr {
        match self {
            Self::Tcp(stream) => stream.local_addr(),
        }
    }

    fn inner(self: Pin<&mut Self>) -> Pin<&mut tcp::Stream> {
        match self.get_mut() {
            Self::Tcp(stream) => Pin::new(stream),
        }
    }
}

impl Connection for Stream {
    fn undelivered(&self) -> usize {
        match self {
            Self::Tcp(stream) => stream.undelivered(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.inner().poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.inner().poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.inner().poll_shutdown(cx)
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let authority = match text.split_once("://") {
            Some(("tcp", authority)) => authority,
            Some((other, _)) => return Err(AddressError::Transport(other.to_owned())),
            None => text,
        };
        let (host, port) = authority.rsplit_once(':').ok_or(AddressError::Port)?;
        port.parse::<u16>().map_err(|_| AddressError::Port)?;
        if host.is_empty() {
            return Err(AddressError::Host);
        }
        Ok(Self {
            transport: Transport::Tcp,
            authority: authority.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.authority)
    }
}

/// Why a text is no [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("unknown transport {0:?}, expected tcp")]
    Transport(String),
    #[error("expected host:port")]
    Port,
    #[error("no host before the port")]
    Host,
}
