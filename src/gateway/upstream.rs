//! Connections to servers.

use std::borrow::Cow;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use rand::seq::SliceRandom;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, SimplexStream};
use tokio::net::lookup_host;
use tokio::time::timeout;

use super::hosts::{Backend, Hosts, Occupied};
use crate::client;
use crate::config::{self, HostAddr, Resolve, UpstreamSession};
use crate::hooks::Target;
use crate::proto::scp::FLAG_NO_ANNOUNCEMENT;
use crate::transport::{Address, tcp};

/// What `builtin:echo` takes before it is read, bytes.
const ECHO_BUFFER: usize = 64 * 1024;

/// A connection to a server.
pub(super) enum Upstream {
    /// `builtin:echo`: what was written is there to be read.
    Echo(SimplexStream),
    Tcp(tcp::Stream),
    Scp(Box<client::scp::Stream>),
}

/// A server that has been reached.
pub(super) struct Connected {
    pub upstream: Upstream,
    /// Where: `host:port` or `builtin:echo`.
    pub addr: String,
    /// Counts the session on its host; `None` for an address that no host has.
    pub occupied: Option<Occupied>,
}

/// Why no server was reached.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no host to connect to")]
    NoHost,
    #[error("{addr}: {error}")]
    Failed { addr: String, error: io::Error },
}

/// Finds the server for a session and connects to it.
pub(super) struct Connector<'a> {
    pub hosts: &'a Hosts,
    pub config: &'a config::Upstream,
    /// What the client asked for; a server that is reached by scp is asked for the same.
    pub requested: Option<&'a str>,
}

impl Connector<'_> {
    /// Connects to `target`: a host by name, or, if no host has the name, what the resolve rule
    /// makes of it, or else any host. When that fails, another host of the same choice is tried,
    /// once.
    pub async fn connect(&self, target: Option<Target>) -> Result<Connected, ConnectError> {
        let name = match &target {
            // For fastway; no script can answer it here.
            Some(Target::Id(_)) => return Err(ConnectError::NoHost),
            Some(Target::Addr(addr)) => return self.dial(addr).await,
            Some(Target::Name(name)) if self.hosts.has(name) => Some(name.as_str()),
            Some(Target::Name(name)) => {
                if let Some(rule) = &self.config.resolve
                    && let Some(addr) = resolvable(rule, name)
                {
                    match self.dial(&addr).await {
                        Err(error) if self.any().is_none() => return Err(error),
                        Err(error) => tracing::warn!(name, %error, "falling back to any host"),
                        connected => return connected,
                    }
                }
                None
            }
            None => None,
        };
        let first = self.choose(name, &[]).ok_or(ConnectError::NoHost)?;
        let error = match self.dial_host(&first).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        let Some(second) = self.choose(name, &[first]) else {
            return Err(error);
        };
        tracing::warn!(%error, next = second.host.addr, "trying another host");
        self.dial_host(&second).await
    }

    fn any(&self) -> Option<Backend> {
        self.choose(None, &[])
    }

    fn choose(&self, name: Option<&str>, tried: &[Backend]) -> Option<Backend> {
        self.hosts.choose(name, tried, &mut rand::rng())
    }

    async fn dial_host(&self, backend: &Backend) -> Result<Connected, ConnectError> {
        let mut connected = match &backend.addr {
            HostAddr::BuiltinEcho => Connected {
                upstream: Upstream::Echo(SimplexStream::new_unsplit(ECHO_BUFFER)),
                addr: backend.host.addr.clone(),
                occupied: None,
            },
            HostAddr::Dial { .. } => self.dial(&backend.host.addr).await?,
        };
        connected.occupied = Some(backend.occupy());
        Ok(connected)
    }

    async fn dial(&self, addr: &str) -> Result<Connected, ConnectError> {
        let limit = self.config.connect_timeout;
        let upstream = match self.config.session {
            UpstreamSession::Plain => connect_tcp(addr, limit).await.map(Upstream::Tcp),
            UpstreamSession::Scp => connect_scp(addr, limit, self.requested).await,
        };
        let failed = |error| ConnectError::Failed {
            addr: addr.to_owned(),
            error,
        };
        Ok(Connected {
            upstream: upstream.map_err(failed)?,
            addr: addr.to_owned(),
            occupied: None,
        })
    }
}

/// The address that the rule gives a name, if it takes it.
fn resolvable(rule: &Resolve, name: &str) -> Option<String> {
    let taken = rule
        .pattern
        .as_ref()
        .is_none_or(|pattern| pattern.is_match(name));
    taken.then(|| format!("{}{name}{}:{}", rule.prefix, rule.suffix, rule.port))
}

/// Tries all addresses of a name in random order, each within `limit`.
async fn connect_tcp(addr: &str, limit: Duration) -> io::Result<tcp::Stream> {
    let timed_out = |what: Cow<'static, str>| io::Error::new(io::ErrorKind::TimedOut, what);
    let found = timeout(limit, lookup_host(addr))
        .await
        .map_err(|_| timed_out("no answer from DNS in time".into()))??;
    let mut found: Vec<SocketAddr> = found.collect();
    found.shuffle(&mut rand::rng());
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for addr in found {
        last = match timeout(limit, tcp::Stream::connect(addr, None)).await {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => error,
            Err(_) => timed_out(format!("no connection to {addr} in {limit:?}").into()),
        };
    }
    Err(last)
}

async fn connect_scp(addr: &str, limit: Duration, target: Option<&str>) -> io::Result<Upstream> {
    let address: Address = addr.parse().map_err(io::Error::other)?;
    let stream = client::scp::Stream::connect(client::scp::Options {
        target: target.map(str::to_owned),
        // The address the next gateway sees is ours; our own announcement tells the client's.
        flags: FLAG_NO_ANNOUNCEMENT,
        handshake_timeout: limit,
        ..client::scp::Options::new(address)
    });
    let stream = stream.await.map_err(io::Error::other)?;
    Ok(Upstream::Scp(Box::new(stream)))
}

impl AsyncRead for Upstream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Echo(echo) => Pin::new(echo).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Scp(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Upstream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Echo(echo) => Pin::new(echo).poll_write(cx, bytes),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, bytes),
            Self::Scp(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Echo(echo) => Pin::new(echo).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Scp(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Echo(echo) => Pin::new(echo).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Scp(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
