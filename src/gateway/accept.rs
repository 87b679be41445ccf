//! From an accepted connection to a session, new or resumed.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::State;
use super::client::Client;
use super::fastway;
use super::scp::Scp;
use super::session::Session;
use crate::config;
use crate::config::diff::BindKey;
use crate::hooks::SessionInfo;
use crate::proto::scp::{self, message::Code};
use crate::transport;

/// Pause when the process has no descriptor left for a connection.
const EXHAUSTED: Duration = Duration::from_millis(100);

/// Accepts connections until `stop` is cancelled.
pub(super) async fn accept(
    state: Arc<State>,
    listener: transport::Listener,
    key: BindKey,
    stop: CancellationToken,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = stop.cancelled() => return,
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

async fn serve(state: Arc<State>, mut connection: transport::Stream, key: BindKey) {
    let generation = state.generation.load_full();
    // A bind that a reload has just removed may have accepted one more.
    let Some((listener, chain)) = generation.listener(&key) else {
        return;
    };
    if connection.configure(&listener.tcp).is_err() {
        return;
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
        extra: Vec::new(),
        first_data: None,
        fastway: None,
    };
    let (client, _listing) = match listener.session {
        config::Session::Plain if state.draining.is_cancelled() => return,
        config::Session::Plain => (Client::Plain(connection), None),
        config::Session::Scp => {
            let client_addr = info.client_addr;
            let handshake = Scp {
                state: &state,
                node: generation.config.node,
                settings: &listener.scp,
            };
            // In a box of its own, which is gone when the session idles.
            match Box::pin(handshake.accept(connection, &mut info)).await {
                Ok(Some((stream, listing))) => (Client::Resumable(Box::new(stream)), Some(listing)),
                Ok(None) => return,
                Err(error) => {
                    tracing::info!(
                        client = %client_addr,
                        listener = listener.name,
                        reason = error.label(),
                        %error,
                        "handshake failed"
                    );
                    return;
                }
            }
        }
    };
    if listener.service != config::Service::Proxy {
        let service = fastway::Service {
            state: &state,
            generation: &generation,
            listener,
            key: &key,
            chain,
            info,
        };
        return service.run(client).await;
    }
    let session = Session {
        generation: &generation,
        listener,
        chain,
        client,
        info,
        shutdown: &state.shutdown,
    };
    session.run().await;
}

/// Why a handshake gave no session.
#[derive(Debug, thiserror::Error)]
pub(super) enum Error {
    #[error("the connection broke: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] scp::Error),
    #[error("not finished in time")]
    TimedOut,
    #[error("resume of session {0} refused: {1}")]
    Refused(u32, Code),
    #[error("no session id is free")]
    Full,
    #[error("draining: no new sessions")]
    Draining,
}

impl Error {
    /// A stable label for logs and metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Io(_) => "connection",
            Self::Protocol(error) => error.label(),
            Self::TimedOut => "timeout",
            Self::Refused(..) => "resume_refused",
            Self::Full => "full",
            Self::Draining => "draining",
        }
    }
}
