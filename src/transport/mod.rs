//! Transports between a client and the gateway.
//!
//! All transports share one [`Stream`], [`Listener`] and [`Address`].

mod bind;
pub mod tcp;

pub use stablegate_kcp as kcp;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::str::FromStr;
use std::time::Duration;

pub use bind::{Bind, Transport};

use crate::io::delegate_io;
use crate::session::Connection;

/// Receive buffer of each connection of a resumable session, bytes.
///
/// A broken connection stays open until its buffered bytes are read.
const RECEIVE_BUFFER: usize = 256 * 1024;

/// Settings of the connections that a listener accepts.
#[derive(Debug, Clone)]
pub struct Settings {
    pub tcp: tcp::Settings,
    pub kcp: kcp::Config,
    /// Flag that sessions outlive their connections.
    pub is_resumable: bool,
}

/// Connection of any transport.
#[derive(Debug)]
pub enum Stream {
    Tcp(tcp::Stream),
    Kcp(kcp::Stream),
}

/// Listener of any transport.
#[derive(Debug)]
pub enum Listener {
    Tcp(tcp::Listener),
    Kcp(kcp::Listener),
}

/// Address to dial, written `tcp://host:port`, `kcp://host:port`, or `host:port` for TCP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Address {
    pub transport: Transport,
    /// Host and port, written `host:port`.
    pub authority: String,
}

/// Runs the same code on the inner stream of any transport.
macro_rules! each {
    ($stream:expr, $inner:ident => $code:expr) => {
        match $stream {
            Stream::Tcp($inner) => $code,
            Stream::Kcp($inner) => $code,
        }
    };
}

impl Listener {
    /// Opens a listening socket.
    ///
    /// Must be called within a runtime.
    pub fn bind(bind: &Bind, settings: &Settings) -> io::Result<Self> {
        match bind.transport {
            Transport::Tcp => {
                let buffer = settings.is_resumable.then_some(RECEIVE_BUFFER);
                tcp::Listener::bind(bind.addr, buffer).map(Self::Tcp)
            }
            Transport::Kcp => kcp::Listener::bind(bind.addr, &settings.kcp).map(Self::Kcp),
        }
    }

    /// Returns the bound address, with the real port where the configured one was 0.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        match self {
            Self::Tcp(listener) => listener.local_addr(),
            Self::Kcp(listener) => Ok(listener.local_addr()),
        }
    }

    /// Returns the control of a KCP listener, which changes settings of new connections and counts
    /// them.
    pub fn control(&self) -> Option<kcp::Control> {
        match self {
            Self::Tcp(_) => None,
            Self::Kcp(listener) => Some(listener.control().clone()),
        }
    }

    /// Accepts the next connection, which still has to be [configured](Stream::configure).
    ///
    /// Cancel safe.
    pub async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(Stream::Tcp),
            Self::Kcp(listener) => Ok(Stream::Kcp(listener.accept().await)),
        }
    }

    /// Stops accepting at once, then waits until closed KCP connections have delivered or given up.
    ///
    /// For TCP the system delivers the rest and there is nothing to wait for.
    pub fn close(self) -> impl Future<Output = ()> {
        let rest = match self {
            Self::Tcp(_) => None,
            Self::Kcp(listener) => Some(listener.close()),
        };
        async {
            if let Some(rest) = rest {
                rest.await;
            }
        }
    }
}

impl Stream {
    /// Applies a listener's settings to an accepted connection, where they were not applied on
    /// accept.
    pub fn configure(&mut self, settings: &tcp::Settings) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.configure(settings),
            Self::Kcp(_) => Ok(()),
        }
    }

    /// Sets TCP keepalive: the system probes a connection that has been silent for `time`.
    pub fn keep_alive(&self, time: Option<Duration>) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.keep_alive(time),
            Self::Kcp(_) => Ok(()),
        }
    }

    /// Resets the connection; undelivered bytes are dropped.
    pub fn reset(self) {
        each!(self, stream => stream.reset());
    }

    /// Returns the name of the transport, as hooks and logs show it.
    pub fn transport(&self) -> &'static str {
        match self {
            Self::Tcp(_) => "tcp",
            Self::Kcp(_) => "kcp",
        }
    }

    pub fn peer_addr(&self) -> SocketAddr {
        each!(self, stream => stream.peer_addr())
    }

    pub fn local_addr(&self) -> SocketAddr {
        each!(self, stream => stream.local_addr())
    }

    /// Returns the round-trip time, if it is known.
    pub fn round_trip(&self) -> Option<Duration> {
        each!(self, stream => stream.round_trip())
    }
}

impl Connection for Stream {
    fn unacked(&self) -> usize {
        each!(self, stream => stream.unacked())
    }

    fn is_broken(&self) -> bool {
        each!(self, stream => stream.is_broken())
    }

    fn unread(&self) -> usize {
        each!(self, stream => stream.unread())
    }

    fn abandon(&mut self) {
        match self {
            // The system may keep sending buffered bytes. The peer, if it is reachable, sees an end
            // of stream.
            Self::Tcp(stream) => stream.end(),
            Self::Kcp(stream) => stream.abandon(),
        }
    }
}

delegate_io!(Stream: Tcp, Kcp);

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let (transport, authority) = match text.split_once("://") {
            Some(("tcp", authority)) => (Transport::Tcp, authority),
            Some(("kcp", authority)) => (Transport::Kcp, authority),
            Some((other, _)) => return Err(AddressError::Transport(other.to_owned())),
            None => (Transport::Tcp, text),
        };
        let (host, port) = authority.rsplit_once(':').ok_or(AddressError::Port)?;
        port.parse::<u16>().map_err(|_| AddressError::Port)?;
        if host.is_empty() {
            return Err(AddressError::Host);
        }
        Ok(Self {
            transport,
            authority: authority.to_owned(),
        })
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.authority)
    }
}

/// Reason for which a text is not an [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    #[error("unknown transport {0:?}, expected tcp or kcp")]
    Transport(String),
    #[error("expected host:port")]
    Port,
    #[error("no host before the port")]
    Host,
}
