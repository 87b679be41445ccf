//! From an accepted connection to a session, new or resumed.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::fastway;
use super::gate::{Gate, Limit, Place};
use super::live::Registration;
use super::scp::Scp;
use super::session::{Opened, Session};
use super::snet::Snet;
use super::{Listing, State};
use crate::config;
use crate::config::diff::BindKey;
use crate::hooks::SessionInfo;
use crate::proto::{proxy_header, scp, snet};
use crate::transport::tcp::HeaderError;
use crate::{session, transport};

/// Pause when the process has no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// The most read of a client that was refused, bytes.
const LAST_READ: u64 = 64 * 1024;
/// How long a client that was refused may take to close.
const LINGER: Duration = Duration::from_secs(5);
/// How long a PROXY protocol header may take. Whoever sends one sends it at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

type Stream = session::Stream<transport::Stream>;

/// Accepts connections until `stop` is cancelled. Then it closes the listener, cancels `stopped` and
/// waits for the transport to end.
pub(super) async fn accept(
    state: Arc<State>,
    listener: transport::Listener,
    key: BindKey,
    stop: CancellationToken,
    stopped: CancellationToken,
) {
    // Also if this panics: nobody waits for a listener that is gone.
    let stopped = stopped.drop_guard();
    // There is a pause that the log tells of.
    let mut paused = false;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => {
                let rest = listener.close();
                drop(stopped);
                return rest.await;
            }
        };
        match accepted {
            Ok(connection) => {
                if std::mem::take(&mut paused) {
                    tracing::info!(bind = %key.bind, "accepting again");
                }
                match enter(&state, &connection, &key) {
                    Some(place) => {
                        let serving = serve(state.clone(), connection, place, key.clone());
                        state.connections.spawn(serving);
                    }
                    None => connection.reset(),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let generation = state.generation.load();
                let gate = generation.gate(&key);
                let count = gate.and_then(|gate| gate.refused(Limit::Descriptors, Instant::now()));
                if let Some(count) = count {
                    tracing::warn!(bind = %key.bind, %error, count, "cannot accept, pausing");
                    paused = true;
                }
                drop(generation);
                sleep(EXHAUSTED).await;
            }
        }
    }
}

/// What the limits have left for a connection. One that is to say first whom it is from is not
/// looked at further.
fn enter(state: &State, connection: &transport::Stream, key: &BindKey) -> Option<Place> {
    let generation = state.generation.load();
    let (listener, _) = generation.listener(key)?;
    let gate = generation.gate(key)?;
    let client = connection.peer_addr();
    state
        .metrics
        .accepted(&listener.name, connection.transport());
    let from = &listener.proxy_header.from;
    let is_announced = matches!(connection, transport::Stream::Tcp(_))
        && from.iter().any(|network| network.contains(client.ip()));
    let entered = gate.knock(&listener.limits).and_then(|mut place| {
        if !is_announced {
            place.identify(&listener.limits, client.ip(), Instant::now())?;
        }
        Ok(place)
    });
    match entered {
        Ok(place) => Some(place),
        Err(limit) => {
            refused(gate, listener, client, limit);
            None
        }
    }
}

/// Counts a refused connection, and logs it unless there are many.
fn refused(gate: &Gate, listener: &config::Listener, client: SocketAddr, limit: Limit) {
    if let Some(count) = gate.refused(limit, Instant::now()) {
        tracing::warn!(
            listener = listener.name,
            %client,
            limit = limit.label(),
            refused = count,
            "connection refused"
        );
    }
}

/// Errors that say nothing of the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}

/// Serves a connection to the end of its session, if that is a new one.
fn serve(
    state: Arc<State>,
    connection: transport::Stream,
    place: Place,
    key: BindKey,
) -> impl Future<Output = ()> {
    // An idle session holds nothing of how it came about: that is in a box, which is gone by then.
    let opening = Box::pin(open(state, connection, place, key));
    async {
        if let Some(session) = opening.await {
            session.run().await;
        }
    }
}

async fn open(
    state: Arc<State>,
    mut connection: transport::Stream,
    mut place: Place,
    key: BindKey,
) -> Option<Box<Opened>> {
    let generation = state.generation.load_full();
    // A bind that a reload has just removed may have accepted one more.
    let (listener, chain) = generation.listener(&key)?;
    connection.configure(listener).ok()?;
    let limits = &listener.limits;
    if !place.is_identified() {
        let peer = connection.peer_addr();
        let reading = Box::pin(read_header(&mut connection));
        let read = state.shutdown.interrupts(reading).await?;
        let client = connection.peer_addr();
        let identified =
            read.and_then(|()| Ok(place.identify(limits, client.ip(), Instant::now())?));
        if let Err(error) = identified {
            failed(&state, &place, listener, peer, &error);
            if matches!(error, Error::Limited(_)) {
                connection.reset();
            }
            return None;
        }
    }
    let mut info = SessionInfo {
        id: 0,
        listener: listener.name.as_str().into(),
        session: "plain",
        transport: connection.transport(),
        client_addr: connection.peer_addr(),
        gateway_addr: connection.local_addr(),
        target: None,
        flags: 0,
        extra: Default::default(),
        first_data: None,
        fastway: None,
    };
    let client_addr = info.client_addr;
    let node = generation.config.node;
    // A connection that was refused and has its answer.
    let mut refused = None;
    let handshake = async {
        match listener.session {
            config::Session::Plain if state.draining.is_cancelled() => Err(Error::Draining),
            config::Session::Plain => match place.admit(limits) {
                Ok(()) => Ok(Some((Client::Plain(connection), None))),
                Err(limit) => {
                    connection.reset();
                    Err(limit.into())
                }
            },
            config::Session::Scp => {
                let handshake = Scp {
                    state: &state,
                    node,
                    listener,
                };
                Box::pin(handshake.accept(connection, &mut info, &mut place, &mut refused))
                    .await
                    .map(resumable)
            }
            config::Session::Snet => {
                let handshake = Snet {
                    state: &state,
                    node,
                    listener,
                };
                Box::pin(handshake.accept(connection, &mut info, &mut place, &mut refused))
                    .await
                    .map(resumable)
            }
        }
    };
    let (client, listing) = match state.shutdown.interrupts(handshake).await? {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return None,
        Err(error) => {
            failed(&state, &place, listener, client_addr, &error);
            if let Some(connection) = refused {
                let lingering = timeout(LINGER, linger(connection));
                state.shutdown.interrupts(lingering).await;
            }
            return None;
        }
    };
    place.settle();
    if info.id == 0 {
        info.id = state.live.number();
    }
    let info = Arc::new(info);
    let registration = Registration::new(&state, info.clone(), generation.number);
    if listener.service != config::Service::Proxy {
        let service = fastway::Service {
            state: &state,
            generation: &generation,
            listener,
            key: &key,
            chain,
            info: Arc::unwrap_or_clone(info),
            registration,
        };
        service.run(client).await;
        return None;
    }
    let session = Session {
        state: &state,
        generation: &generation,
        listener,
        chain,
        client,
        info,
        registration,
        listing,
        place,
    };
    session.open().await
}

async fn read_header(connection: &mut transport::Stream) -> Result<(), Error> {
    let transport::Stream::Tcp(connection) = connection else {
        return Ok(());
    };
    timeout(HEADER_TIMEOUT, connection.read_proxy_header())
        .await
        .map_err(|_| Error::TimedOut)??;
    Ok(())
}

fn failed(
    state: &State,
    place: &Place,
    listener: &config::Listener,
    client: SocketAddr,
    error: &Error,
) {
    if let Error::Limited(limit) = error {
        return refused(place.gate(), listener, client, *limit);
    }
    let session = listener.session.name();
    state.metrics.refused(&listener.name, session, error);
    if let Error::Silent(error) = error {
        return tracing::debug!(%client, listener = listener.name, %error, "nothing was said");
    }
    tracing::info!(
        %client,
        listener = listener.name,
        reason = error.label(),
        %error,
        "handshake failed"
    );
}

/// A session that a handshake opened, for the gateway to run.
fn resumable(opened: Option<(Stream, Listing)>) -> Option<(Client, Option<Listing>)> {
    opened.map(|(stream, listing)| (Client::Resumable(Box::new(stream)), Some(listing)))
}

/// Closes a connection after its last answer. What the client still sends is read and dropped:
/// closing before would take the answer back.
async fn linger(mut connection: transport::Stream) -> io::Result<()> {
    connection.shutdown().await?;
    tokio::io::copy(&mut connection.take(LAST_READ), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Why a handshake gave no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    /// As balancers do that look whether somebody listens.
    #[error("the connection ended before its first byte: {0}")]
    Silent(io::Error),
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Scp(#[from] scp::Error),
    #[error(transparent)]
    Snet(#[from] snet::Error),
    #[error("not finished in time")]
    TimedOut,
    #[error("resume of session {0} refused: {1}")]
    ScpRefused(u32, scp::message::Code),
    #[error("resume of session {0} refused: {1}")]
    SnetRefused(u64, snet::server::Refusal),
    #[error("wrong answer to the challenge of a new session")]
    Unproven,
    #[error("no session id is free")]
    Full,
    #[error("draining: no new sessions")]
    Draining,
    #[error("the limit is reached: {}", .0.label())]
    Limited(Limit),
    #[error(transparent)]
    ProxyHeader(proxy_header::Error),
}

impl Error {
    /// What a client that wanted its session back was told, a stable label.
    pub fn code(&self) -> Option<String> {
        match self {
            Self::ScpRefused(_, code) => Some((*code as u32).to_string()),
            Self::SnetRefused(_, refusal) => Some(refusal.label().to_owned()),
            _ => None,
        }
    }

    /// A stable label for logs and metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Silent(_) => "silent",
            Self::Io(_) => "connection",
            Self::Scp(error) => error.label(),
            Self::Snet(error) => error.label(),
            Self::TimedOut => "timeout",
            Self::ScpRefused(..) | Self::SnetRefused(..) => "resume_refused",
            Self::Unproven => "unproven",
            Self::Full => "full",
            Self::Draining => "draining",
            Self::Limited(limit) => limit.label(),
            Self::ProxyHeader(_) => "proxy_header",
        }
    }
}

impl From<Limit> for Error {
    fn from(limit: Limit) -> Self {
        Self::Limited(limit)
    }
}

impl From<HeaderError> for Error {
    fn from(error: HeaderError) -> Self {
        match error {
            HeaderError::Silent(error) => Self::Silent(error),
            HeaderError::Io(error) => Self::Io(error),
            HeaderError::Malformed(error) => Self::ProxyHeader(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpStream;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_header_that_does_not_come() {
        let listener =
            transport::tcp::Listener::bind("127.0.0.1:0".parse().unwrap(), None).unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut connection = transport::Stream::Tcp(listener.accept().await.unwrap());
        let start = Instant::now();
        let result = read_header(&mut connection).await;
        assert!(matches!(result, Err(Error::TimedOut)), "{result:?}");
        assert_eq!(start.elapsed(), HEADER_TIMEOUT);
    }
}
