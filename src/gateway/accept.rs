//! From an accepted connection to a session, new or resumed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::fastway;
use super::live::Registration;
use super::scp::Scp;
use super::session::{Opened, Session};
use super::snet::Snet;
use super::{Listing, State};
use crate::config;
use crate::config::diff::BindKey;
use crate::hooks::SessionInfo;
use crate::proto::{scp, snet};
use crate::{session, transport};

/// Pause when the process has no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);
/// The most read of a client that was refused, bytes.
const LAST_READ: u64 = 64 * 1024;

type Stream = session::Stream<transport::Stream>;

/// Accepts connections until `stop` is cancelled, and waits for the transport to end then.
pub(super) async fn accept(
    state: Arc<State>,
    listener: transport::Listener,
    key: BindKey,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return listener.close().await,
        };
        match accepted {
            Ok(connection) => {
                let serving = serve(state.clone(), connection, key.clone());
                state.sessions.spawn(serving);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                tracing::warn!(bind = %key.bind, %error, "cannot accept, pausing");
                sleep(EXHAUSTED).await;
            }
        }
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
    key: BindKey,
) -> impl Future<Output = ()> {
    // An idle session holds nothing of how it came about: that is in a box, which is gone by then.
    let opening = Box::pin(open(state, connection, key));
    async {
        if let Some(session) = opening.await {
            session.run().await;
        }
    }
}

async fn open(
    state: Arc<State>,
    mut connection: transport::Stream,
    key: BindKey,
) -> Option<Box<Opened>> {
    let generation = state.generation.load_full();
    // A bind that a reload has just removed may have accepted one more.
    let (listener, chain) = generation.listener(&key)?;
    let metrics = &state.metrics;
    metrics.accepted(&listener.name, connection.transport());
    connection.configure(listener).ok()?;
    let mut info = SessionInfo {
        id: 0,
        listener: listener.name.as_str().into(),
        session: "plain",
        transport: connection.transport(),
        client_addr: connection.peer_addr(),
        gateway_addr: connection.local_addr(),
        target: None,
        flags: 0,
        extra: Vec::new(),
        first_data: None,
        fastway: None,
    };
    let client_addr = info.client_addr;
    let node = generation.config.node;
    let handshake = async {
        match listener.session {
            config::Session::Plain if state.draining.is_cancelled() => Err(Error::Draining),
            config::Session::Plain => Ok(Some((Client::Plain(connection), None))),
            config::Session::Scp => {
                let handshake = Scp {
                    state: &state,
                    node,
                    settings: &listener.scp,
                };
                Box::pin(handshake.accept(connection, &mut info))
                    .await
                    .map(resumable)
            }
            config::Session::Snet => {
                let handshake = Snet {
                    state: &state,
                    node,
                    settings: &listener.snet,
                };
                Box::pin(handshake.accept(connection, &mut info))
                    .await
                    .map(resumable)
            }
        }
    };
    let (client, listing) = match state.shutdown.interrupts(handshake).await? {
        Ok(Some(accepted)) => accepted,
        Ok(None) => return None,
        Err(error) => {
            let session = listener.session.name();
            state.metrics.refused(&listener.name, session, &error);
            tracing::info!(
                client = %client_addr,
                listener = listener.name,
                reason = error.label(),
                %error,
                "handshake failed"
            );
            return None;
        }
    };
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
    };
    session.open().await
}

/// A session that a handshake opened, for the gateway to run.
fn resumable(opened: Option<(Stream, Listing)>) -> Option<(Client, Option<Listing>)> {
    opened.map(|(stream, listing)| (Client::Resumable(Box::new(stream)), Some(listing)))
}

/// Closes a connection after its last answer. What the client still sends is read and dropped,
/// within the time of the handshake: closing before would take the answer back.
pub(super) async fn linger(connection: &mut transport::Stream) -> io::Result<()> {
    connection.shutdown().await?;
    tokio::io::copy(&mut connection.take(LAST_READ), &mut tokio::io::sink()).await?;
    Ok(())
}

/// Why a handshake gave no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
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
            Self::Io(_) => "connection",
            Self::Scp(error) => error.label(),
            Self::Snet(error) => error.label(),
            Self::TimedOut => "timeout",
            Self::ScpRefused(..) | Self::SnetRefused(..) => "resume_refused",
            Self::Unproven => "unproven",
            Self::Full => "full",
            Self::Draining => "draining",
        }
    }
}
