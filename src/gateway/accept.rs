//! From an accepted connection to a session, new or resumed.

use std::io;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rand::Rng;
use tokio::io::AsyncWriteExt;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::generation::Generation;
use super::session::Session;
use super::{Entry, State};
use crate::config::diff::BindKey;
use crate::config::{self, Hmac};
use crate::crypto::Dialect;
use crate::handshake::{self, read_record, write_record};
use crate::hooks::SessionInfo;
use crate::proto::scp::message::{
    Code, NewRequest, NewResponse, Request, ResumeRequest, ResumeResponse,
};
use crate::proto::scp::server::Owner;
use crate::proto::scp::{self, widen};
use crate::session::{self, Core, Offer};
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
    };
    let client = match listener.session {
        config::Session::Plain if state.draining.is_cancelled() => return,
        config::Session::Plain => Client::Plain(connection),
        config::Session::Scp => {
            let client_addr = info.client_addr;
            let shaking_hands = Scp {
                state: &state,
                generation: &generation,
                settings: &listener.scp,
            };
            // In a box of its own, which is gone when the session idles.
            match Box::pin(shaking_hands.accept(connection, &mut info)).await {
                Ok(Some(stream)) => Client::Resumable(Box::new(stream)),
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
    let id = info.id;
    let session = Session {
        generation: &generation,
        listener,
        chain,
        client,
        info,
        shutdown: &state.shutdown,
    };
    session.run().await;
    if listener.session == config::Session::Scp {
        // A client may go on asking for it as long as it would have waited for the gateway.
        let until = Instant::now() + listener.scp.resume_wait;
        state.table().remove(id as u32, until);
    }
}

/// The server's side of an scp handshake.
struct Scp<'a> {
    state: &'a State,
    generation: &'a Generation,
    settings: &'a config::Scp,
}

type Stream = session::Stream<transport::Stream>;

impl Scp<'_> {
    /// A new session, or `None` when the connection was handed to one that exists.
    async fn accept(
        &self,
        mut connection: transport::Stream,
        info: &mut SessionInfo,
    ) -> Result<Option<Stream>, Error> {
        let accepting = async {
            let request = match read_record(&mut connection).await {
                Ok(text) => Request::parse(&text),
                Err(handshake::Error::Protocol(error)) => Err(error),
                Err(handshake::Error::Io(error)) => return Err(error.into()),
            };
            match request {
                Ok(Request::New(request)) => self.open(connection, request, info).await.map(Some),
                Ok(Request::Resume(request)) => {
                    self.resume(connection, &request).await.map(|()| None)
                }
                Err(error) => {
                    refuse(&mut connection, Code::Malformed).await?;
                    Err(error.into())
                }
            }
        };
        timeout(self.settings.handshake_timeout, accepting)
            .await
            .unwrap_or(Err(Error::TimedOut))
    }

    async fn open(
        &self,
        connection: transport::Stream,
        request: NewRequest,
        info: &mut SessionInfo,
    ) -> Result<Stream, Error> {
        if self.state.draining.is_cancelled() {
            return Err(Error::Draining);
        }
        let dialect = match self.settings.hmac {
            Hmac::Current => Dialect::Current,
            Hmac::Legacy => Dialect::Legacy,
        };
        let (public, owner) = Owner::accept(&request, rand::rng().random(), dialect)?;
        let cipher = owner.secret().cipher();
        let core = Core::new(
            Some(cipher.clone()),
            Some(cipher),
            self.settings.replay_buffer,
        );
        let (mut stream, handle) =
            session::Stream::new(core, connection, self.settings.resume_wait);
        let entry = Arc::new(Entry {
            owner: Mutex::new(owner),
            handle,
        });
        let id = self
            .state
            .table()
            .insert(
                self.generation.config.node,
                Instant::now(),
                &mut rand::rng(),
                |_| entry,
            )
            .ok_or(Error::Full)?;
        *info = SessionInfo {
            id: id.into(),
            session: "scp",
            target: request.target,
            flags: request.flags,
            extra: request.extra,
            ..info.clone()
        };
        // The session is in the table first: its client may be back at once.
        // invariant: nobody has polled the stream, so it has its first connection.
        let connection = stream.connection_mut().expect("a connection");
        if let Err(error) = write_record(connection, NewResponse { id, public }).await {
            self.state.table().remove(id, Instant::now());
            return Err(error.into());
        }
        Ok(stream)
    }

    async fn resume(
        &self,
        mut connection: transport::Stream,
        request: &ResumeRequest,
    ) -> Result<(), Error> {
        let (offer, received) = match self.admit(request).await {
            Ok(admitted) => admitted,
            Err(code) => {
                refuse(&mut connection, code).await?;
                return Err(Error::Refused(request.id, code));
            }
        };
        let response = ResumeResponse {
            received: offer.received() as u32,
            code: Code::Ok,
        };
        write_record(&mut connection, response).await?;
        let (client, transport) = (connection.peer_addr(), connection.transport());
        let resent = offer
            .attach(connection, received)
            .map_err(|_| Error::Refused(request.id, Code::NotAcceptable))?;
        tracing::info!(id = request.id, %client, transport, resent, "session resumed");
        Ok(())
    }

    /// Whether a session goes on over a new connection: the checks in the order of their codes.
    /// Gives the session stopped where it is, and the bytes its client has.
    async fn admit(
        &self,
        request: &ResumeRequest,
    ) -> Result<(Offer<transport::Stream>, u64), Code> {
        let entry = self
            .state
            .table()
            .get(request.id)
            .cloned()
            .ok_or(Code::NotFound)?;
        entry.owner().check(request)?;
        let offer = entry.handle.offer().await.map_err(|_| Code::NotFound)?;
        // Of two resumes at once the other may have had its turn first.
        entry.owner().check(request)?;
        let received = widen(request.received, offer.sent())
            .filter(|received| offer.can_resume(*received).is_ok())
            .ok_or(Code::NotAcceptable)?;
        entry.owner().accepted(request);
        Ok((offer, received))
    }
}

async fn refuse(connection: &mut transport::Stream, code: Code) -> io::Result<()> {
    write_record(connection, ResumeResponse { received: 0, code }).await?;
    connection.shutdown().await
}

/// Why a handshake gave no session.
#[derive(Debug, thiserror::Error)]
enum Error {
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
