//! Accepting connections and taking them to their sessions, new or resumed.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::fastway;
use super::gate::{Admission, Limit, Permit};
use super::generation::Generation;
use super::handshake::{self, Acceptor, Error, Handshake, Hello, Outcome, Refused};
use super::live::Client;
use super::proxy::{Opened, Session};
use super::state::State;
use crate::config;
use crate::config::diff::BindKey;
use crate::hooks::SessionInfo;
use crate::transport;

/// Pause when the process has no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// Most that is read from a client that was refused, bytes.
const LAST_READ: u64 = 64 * 1024;
/// Time limit for a client that was refused to close.
const LINGER: Duration = Duration::from_secs(5);
/// Time limit for a PROXY header, which a peer sends at once.
const HEADER_TIMEOUT: Duration = Duration::from_secs(5);

/// Accepts connections until `stop` is cancelled.
///
/// Then closes the listener, cancels `stopped` and waits for the transport to end.
pub(super) async fn accept(
    state: Arc<State>,
    listener: transport::Listener,
    key: BindKey,
    stop: CancellationToken,
    stopped: CancellationToken,
) {
    // Cancels on a panic, too, so that nobody waits for a listener that is gone.
    let stopped = stopped.drop_guard();
    // Set while accepting pauses and the log says so.
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
                    Some(permit) => {
                        let serving = serve(state.clone(), connection, permit, key.clone());
                        state.connections.spawn(serving);
                    }
                    None => connection.reset(),
                }
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                let generation = state.generation.load();
                let admission = generation.admission(&key);
                let count = admission.and_then(|it| it.refused(Limit::Descriptors, Instant::now()));
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

/// Admits a connection within the limits.
///
/// If it must first send a PROXY header, the per-source limits are checked later, in [`open`].
fn enter(state: &State, connection: &transport::Stream, key: &BindKey) -> Option<Permit> {
    let generation = state.generation.load();
    let (listener, _) = generation.listener(key)?;
    let admission = generation.admission(key)?;
    let client = connection.peer_addr();
    state
        .metrics
        .accepted(&listener.name, connection.transport());
    let from = &listener.proxy_header.from;
    let is_announced = matches!(connection, transport::Stream::Tcp(_))
        && from.iter().any(|network| network.contains(client.ip()));
    let entered = admission.begin(&listener.limits).and_then(|mut permit| {
        if !is_announced {
            permit.identify(&listener.limits, client.ip(), Instant::now())?;
        }
        Ok(permit)
    });
    match entered {
        Ok(permit) => Some(permit),
        Err(limit) => {
            refused(admission, listener, client, limit);
            None
        }
    }
}

/// Counts a refused connection, and logs it unless another was logged shortly before.
fn refused(admission: &Admission, listener: &config::Listener, client: SocketAddr, limit: Limit) {
    if let Some(count) = admission.refused(limit, Instant::now()) {
        tracing::warn!(
            listener = listener.name,
            %client,
            limit = limit.label(),
            refused = count,
            "connection refused"
        );
    }
}

/// Returns whether an error concerns one connection and not the listener.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::NotConnected
            | io::ErrorKind::Interrupted
    )
}

/// Serves a connection to the end of its session, if it opens a new one.
fn serve(
    state: Arc<State>,
    connection: transport::Stream,
    permit: Permit,
    key: BindKey,
) -> impl Future<Output = ()> {
    // Boxed and dropped before the session runs, so that an idle session holds none of it.
    let opening = Box::pin(open(state, connection, permit, key));
    async {
        if let Some(session) = opening.await {
            session.run().await;
        }
    }
}

/// Takes a connection through its handshake. Returns the session if it is a new, proxied one.
async fn open(
    state: Arc<State>,
    mut connection: transport::Stream,
    mut permit: Permit,
    key: BindKey,
) -> Option<Box<Opened>> {
    let generation = state.generation.load_full();
    // A bind that a reload has just removed may have accepted one more.
    let (listener, chain) = generation.listener(&key)?;
    connection.configure(&(&listener.tcp).into()).ok()?;
    let limits = &listener.limits;
    if !permit.is_identified() {
        let peer = connection.peer_addr();
        let reading = Box::pin(read_header(&mut connection));
        let read = state.shutdown.interrupts(reading).await?;
        let client = connection.peer_addr();
        let identified =
            read.and_then(|()| Ok(permit.identify(limits, client.ip(), Instant::now())?));
        if let Err(error) = identified {
            failed(&state, &permit, listener, peer, &error);
            if matches!(error, Error::Limited(_)) {
                connection.reset();
            }
            return None;
        }
    }
    let (client_addr, gateway_addr) = (connection.peer_addr(), connection.local_addr());
    let transport = connection.transport();
    let shaking = async {
        match listener.session {
            config::Session::Plain => plain(&state, connection, &mut permit, limits),
            config::Session::Scp => {
                let scp = acceptor(&state, &generation, listener, &listener.scp);
                shake(scp, connection, &mut permit, limits).await
            }
            config::Session::Snet => {
                let snet = acceptor(&state, &generation, listener, &listener.snet);
                shake(snet, connection, &mut permit, limits).await
            }
        }
    };
    let opened = match state.shutdown.interrupts(shaking).await? {
        Outcome::Opened(opened) => opened,
        Outcome::Resumed => return None,
        Outcome::Refused(Refused { error, answered }) => {
            failed(&state, &permit, listener, client_addr, &error);
            if let Some(connection) = answered {
                let lingering = timeout(LINGER, linger(connection));
                state.shutdown.interrupts(lingering).await;
            }
            return None;
        }
    };
    permit.finish_handshake();
    let handshake::Opened {
        id,
        client,
        guard,
        hello,
    } = opened;
    let info = Arc::new(SessionInfo {
        id: id.map_or_else(|| state.live.number(), u64::from),
        session: listener.session.name(),
        transport,
        target: hello.target,
        flags: hello.flags,
        extra: hello.extra,
        ..SessionInfo::new(listener.name.as_str(), client_addr, gateway_addr)
    });
    let registration = state.live.enter(info.clone(), generation.number);
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
        service.run(client, permit, guard).await;
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
        guard,
        permit,
    };
    session.open().await
}

/// Runs a handshake, apart from the task's own memory: it is over before the session goes on.
fn shake<'a, C: Sync>(
    acceptor: Acceptor<'a, C>,
    connection: transport::Stream,
    permit: &'a mut Permit,
    limits: &'a config::Limits,
) -> Pin<Box<impl Future<Output = Outcome> + use<'a, C>>>
where
    Acceptor<'a, C>: Handshake,
{
    Box::pin(async move { handshake::accept(&acceptor, connection, permit, limits).await })
}

/// Returns the server side of handshakes on a listener.
fn acceptor<'a, C>(
    state: &'a Arc<State>,
    generation: &Generation,
    listener: &'a config::Listener,
    config: &'a C,
) -> Acceptor<'a, C> {
    Acceptor {
        state,
        node: generation.config.node,
        listener: &listener.name,
        config,
    }
}

/// Opens a session on a connection that is a session from its first byte.
fn plain(
    state: &State,
    connection: transport::Stream,
    permit: &mut Permit,
    limits: &config::Limits,
) -> Outcome {
    if state.draining.is_cancelled() {
        return Outcome::Refused(Error::Draining.into());
    }
    if let Err(limit) = permit.admit(limits) {
        connection.reset();
        return Outcome::Refused(Error::Limited(limit).into());
    }
    Outcome::Opened(handshake::Opened {
        id: None,
        client: Client::Plain(connection),
        guard: None,
        hello: Hello::default(),
    })
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
    permit: &Permit,
    listener: &config::Listener,
    client: SocketAddr,
    error: &Error,
) {
    if let Error::Limited(limit) = error {
        return refused(permit.admission(), listener, client, *limit);
    }
    let session = listener.session.name();
    let code = error.code();
    state
        .metrics
        .refused(&listener.name, session, error.label(), code.as_deref());
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

/// Closes a connection after its last answer.
///
/// What the client still sends is read and dropped: closing before would take the answer back.
async fn linger(mut connection: transport::Stream) -> io::Result<()> {
    connection.shutdown().await?;
    tokio::io::copy(&mut connection.take(LAST_READ), &mut tokio::io::sink()).await?;
    Ok(())
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
