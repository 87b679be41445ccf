//! Connections to upstreams.

use std::io;
use std::net::SocketAddr;
use std::time::Instant;

use bytes::Bytes;
use tokio::io::SimplexStream;
use tokio::time::timeout;

use crate::client;
use crate::config::{self, HostAddr, ProxyVersion, Transport, Unknown, UpstreamSession};
use crate::gateway::live::excerpt;
use crate::gateway::metrics::Metrics;
use crate::hooks::{SessionInfo, Target};
use crate::hosts::{Backend, Hosts, Query, Resolved, SessionGuard, is_ours};
use crate::io::delegate_io;
use crate::proto::proxy_header;
use crate::proto::scp::FLAG_NO_ANNOUNCEMENT;
use crate::proto::scp::message::NewRequest;
use crate::resolver::Resolver;
use crate::session::Connection;
use crate::transport::{Address, tcp};

/// Capacity of `builtin:echo`, bytes.
const ECHO_BUFFER: usize = 64 * 1024;

/// Connection to an upstream.
pub(super) enum Upstream {
    /// `builtin:echo`: what was written can be read back.
    Echo(SimplexStream),
    Tcp(tcp::Stream),
    Scp(Box<client::scp::Stream>),
}

/// Upstream that was reached.
pub(super) struct Connected {
    pub upstream: Upstream,
    /// Address of the upstream: `host:port` or `builtin:echo`.
    pub addr: String,
    /// Guard that counts the session on its host; `None` for an address that no host has.
    pub occupied: Option<SessionGuard>,
}

/// Error of connecting to an upstream.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("no host to connect to")]
    NoHost,
    #[error("no host has the name {0:?}")]
    UnknownTarget(String),
    #[error("{addr}: {error}")]
    Failed { addr: String, error: io::Error },
    #[error("the gateway has nothing left to connect with: {0}")]
    Exhausted(io::Error),
    #[error("the client asks for a target of {0} bytes, which no scp server takes")]
    TargetTooLong(usize),
}

/// Connector that finds the server for a session and connects to it.
pub(super) struct Connector<'a> {
    pub hosts: &'a Hosts,
    pub config: &'a config::Upstream,
    /// Session to connect. An upstream that speaks scp is asked for the target that the client
    /// named.
    pub info: &'a SessionInfo,
    pub metrics: &'a Metrics,
}

impl Connector<'_> {
    /// Connects to `target`.
    ///
    /// A name stands for the host that has it. If no host has it, the resolve rule may make an
    /// address of it; otherwise `upstream.unknown` holds. When a host fails, another of the same
    /// choice is tried, once.
    pub async fn connect(&self, target: Option<Target>) -> Result<Connected, ConnectError> {
        let asked = match &target {
            // For fastway; no script can answer it here.
            Some(Target::Id(_)) => return Err(ConnectError::NoHost),
            Some(Target::Addr(addr)) => return self.dial_addr(addr).await,
            Some(Target::Name(name)) => Some(name.as_str()),
            None => None,
        };
        let mut wish = Query {
            name: asked.filter(|name| self.hosts.has(name)),
            client: self.info.client_addr.ip(),
            target: asked,
        };
        if let (None, Some(name)) = (wish.name, asked) {
            let rule = self.config.resolve.as_ref();
            let resolved = match rule.and_then(|rule| rule.addr(name)) {
                Some(addr) => Some(self.dial_addr(&addr).await),
                None => None,
            };
            if let Some(Ok(connected)) = resolved {
                return Ok(connected);
            }
            match &self.config.unknown {
                Unknown::Any => {}
                Unknown::Host(host) => wish.name = Some(host),
                Unknown::Deny => {
                    let unknown = ConnectError::UnknownTarget(excerpt(name).into_owned());
                    return resolved.unwrap_or(Err(unknown));
                }
            }
            let instead = wish.name.unwrap_or("any");
            match resolved {
                Some(failed) if self.choose(&wish, &[]).is_none() => return failed,
                Some(Err(error)) => tracing::warn!(
                    name = &*excerpt(name),
                    instead,
                    error = %excerpt(&error.to_string()),
                    "falling back to another host"
                ),
                // A client may ask for any name; a name that a hook chose should be one.
                _ if self.info.target.as_deref() != asked => tracing::warn!(
                    id = self.info.id,
                    name = &*excerpt(name),
                    instead,
                    "no host has the name that a hook chose"
                ),
                _ => {}
            }
        }
        let first = self.choose(&wish, &[]).ok_or(ConnectError::NoHost)?;
        let error = match self.dial_host(&first).await {
            Err(error @ ConnectError::Failed { .. }) => error,
            done => return done,
        };
        let Some(second) = self.choose(&wish, &[first]) else {
            return Err(error);
        };
        tracing::warn!(%error, next = second.host.addr, "trying another host");
        self.dial_host(&second).await
    }

    fn choose(&self, wish: &Query<'_>, tried: &[Backend]) -> Option<Backend> {
        self.hosts
            .choose(wish, tried, Instant::now(), &mut rand::rng())
    }

    async fn dial_host(&self, backend: &Backend) -> Result<Connected, ConnectError> {
        let host = &backend.host;
        // Counted before the dial, so that other sessions see it when they choose.
        let occupied = backend.occupy();
        let upstream = match &backend.addr {
            HostAddr::BuiltinEcho => Upstream::Echo(SimplexStream::new_unsplit(ECHO_BUFFER)),
            HostAddr::Dial { .. } => {
                let kept = self.config.resolve_interval.is_some();
                let resolver = &self.hosts.resolver;
                let dialling = self.dial(&host.name, &backend.name, resolver, &host.addr, kept);
                let dialled = dialling.await;
                self.judge(backend, &dialled);
                dialled?
            }
        };
        Ok(Connected {
            upstream,
            addr: host.addr.clone(),
            occupied: Some(occupied),
        })
    }

    /// Records the outcome of a dial in the health of its host.
    fn judge(&self, backend: &Backend, dialled: &Result<Upstream, ConnectError>) {
        let (addr, health) = (&backend.host.addr, &backend.host.health);
        match dialled {
            Ok(_) => health.reached(Instant::now()),
            Err(ConnectError::Failed { error, .. }) => {
                let config::Eject { failures, r#for } = self.config.eject;
                if health.missed(failures, r#for, Instant::now()) {
                    tracing::warn!(addr, failures, ?r#for, %error, "host ejected");
                }
            }
            Err(_) => {}
        }
    }

    /// Dials an address that no host of the configuration has.
    async fn dial_addr(&self, addr: &str) -> Result<Connected, ConnectError> {
        let parsed = addr.parse().and_then(|addr| match addr {
            HostAddr::Dial { host, port } => Ok(Resolved::new(&host, port)),
            HostAddr::BuiltinEcho => Err("no address to dial".to_owned()),
        });
        let name = parsed.map_err(|message| ConnectError::Failed {
            addr: addr.to_owned(),
            error: io::Error::new(io::ErrorKind::InvalidInput, message),
        })?;
        let resolver = &self.hosts.session_resolver;
        Ok(Connected {
            upstream: self.dial("", &name, resolver, addr, false).await?,
            addr: addr.to_owned(),
            occupied: None,
        })
    }

    /// Dials the addresses of a name in random order, each within the time limit, until one
    /// accepts.
    ///
    /// `host` is the name of the host that has the address, or empty if none has.
    async fn dial(
        &self,
        host: &str,
        name: &Resolved,
        resolver: &Resolver,
        addr: &str,
        kept: bool,
    ) -> Result<Upstream, ConnectError> {
        let target = self.info.target.as_deref().unwrap_or_default();
        if self.config.session == UpstreamSession::Scp && target.len() > NewRequest::MAX_TARGET {
            return Err(ConnectError::TargetTooLong(target.len()));
        }
        let started = Instant::now();
        let limit = self.config.connect_timeout;
        let trying = async {
            let mut last = io::ErrorKind::NotFound.into();
            let lookup = |host, port| resolver.addrs(host, port);
            for addr in name.addresses(lookup, kept, limit).await? {
                let tried = match self.config.session {
                    UpstreamSession::Plain => self.connect_tcp(addr).await,
                    UpstreamSession::Scp => self.connect_scp(addr).await,
                };
                match tried {
                    Err(error) if !is_ours(&error) => last = error,
                    done => return done,
                }
            }
            Err(last)
        };
        let dialled = trying.await;
        self.metrics.dialled(host, &dialled, started.elapsed());
        dialled.map_err(|error| {
            if is_ours(&error) {
                return ConnectError::Exhausted(error);
            }
            ConnectError::Failed {
                addr: addr.to_owned(),
                error,
            }
        })
    }

    async fn connect_tcp(&self, addr: SocketAddr) -> io::Result<Upstream> {
        let limit = self.config.connect_timeout;
        match timeout(limit, tcp::Stream::connect(addr, None)).await {
            Ok(connected) => {
                let stream = connected?;
                stream.keep_alive(self.config.keepalive)?;
                Ok(Upstream::Tcp(stream))
            }
            Err(_) => {
                let error = format!("no connection to {addr} in {limit:?}");
                Err(io::Error::new(io::ErrorKind::TimedOut, error))
            }
        }
    }

    /// Connects to an address with scp. The session is at that address: resumes go there.
    async fn connect_scp(&self, addr: SocketAddr) -> io::Result<Upstream> {
        let address = Address {
            transport: Transport::Tcp,
            authority: addr.to_string(),
        };
        let (from, to) = (self.info.client_addr, self.info.gateway_addr);
        let preface = match self.config.proxy_header {
            None => Bytes::new(),
            Some(ProxyVersion::V1) => proxy_header::encode_v1(from, to).into(),
            Some(ProxyVersion::V2) => proxy_header::encode_v2(from, to).into(),
        };
        let stream = client::scp::Stream::connect(client::scp::Options {
            target: self.info.target.clone(),
            // Without the flag, the next gateway would announce our address for the client's.
            flags: match self.config.proxy_header {
                None => FLAG_NO_ANNOUNCEMENT,
                Some(_) => self.info.flags & FLAG_NO_ANNOUNCEMENT,
            },
            handshake_timeout: self.config.connect_timeout,
            keepalive: self.config.keepalive,
            preface,
            ..client::scp::Options::new(address)
        });
        match stream.await {
            Ok(stream) => Ok(Upstream::Scp(Box::new(stream))),
            Err(client::Error::Connect(_, error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }
}

impl Upstream {
    /// Returns the bytes written to the connection that the server's system has not acknowledged.
    pub fn unacked(&self) -> usize {
        match self {
            Self::Echo(_) => 0,
            Self::Tcp(stream) => stream.unacked(),
            Self::Scp(stream) => stream.connection().map_or(0, Connection::unacked),
        }
    }
}

delegate_io!(Upstream: Echo, Tcp, Scp);
