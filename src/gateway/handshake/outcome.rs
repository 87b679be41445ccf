//! Handshakes of any protocol.

use std::time::Duration;

use tokio::time::timeout;

use super::error::Error;
use crate::config::Limits;
use crate::gateway::gate::Permit;
use crate::gateway::live::Client;
use crate::gateway::state::{State, TableGuard};
use crate::proto::scp::message::Extra;
use crate::transport;

/// What came of a connection.
pub(in crate::gateway) enum Outcome {
    Opened(Opened),
    /// It was handed to a session that exists.
    Resumed,
    Refused(Refused),
}

/// A new session.
pub(in crate::gateway) struct Opened {
    /// `None` where the protocol has no ids.
    pub id: Option<u32>,
    pub client: Client,
    /// `None` where sessions are not resumed.
    pub guard: Option<TableGuard>,
    pub hello: Hello,
}

/// What a client says of its new session.
#[derive(Default)]
pub(in crate::gateway) struct Hello {
    pub target: Option<String>,
    pub flags: u32,
    pub extra: Extra,
}

/// Why there is no session.
pub(in crate::gateway) struct Refused {
    pub error: Error,
    /// A connection that was answered, to be closed once its client has read that.
    pub answered: Option<transport::Stream>,
}

/// What a client asks for.
pub(in crate::gateway) enum Request<N, R> {
    New(N),
    Resume(R),
}

/// The server's side of a protocol's handshake.
pub(in crate::gateway) trait Handshake: Sync {
    type New: Send;
    type Resume: Send;

    /// Returns the limit of the whole handshake.
    fn timeout(&self) -> Duration;

    /// Reads what the client asks for, and not a byte beyond it.
    fn read(
        &self,
        connection: transport::Stream,
    ) -> impl Future<Output = Result<Reading<Self::New, Self::Resume>, Refused>> + Send;

    /// Tells the client that there are no new sessions, if the protocol has a way to.
    fn turn_away(
        &self,
        connection: transport::Stream,
        request: &Self::New,
    ) -> impl Future<Output = Option<transport::Stream>> + Send;

    /// Opens a session.
    fn open(
        &self,
        connection: transport::Stream,
        request: Self::New,
    ) -> impl Future<Output = Result<Opened, Error>> + Send;

    /// Hands the connection to the session that the client wants back.
    fn resume(
        &self,
        connection: transport::Stream,
        request: Self::Resume,
    ) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// A connection, and what was read from it.
pub(in crate::gateway) type Reading<N, R> = (transport::Stream, Request<N, R>);

/// Runs a handshake. A new session is admitted by `permit` before it is opened.
///
/// Cancel safe: a session that was being opened ends.
pub(in crate::gateway) async fn accept<H: Handshake>(
    handshake: &H,
    connection: transport::Stream,
    state: &State,
    permit: &mut Permit,
    limits: &Limits,
) -> Outcome {
    let accepting = async {
        let (connection, request) = handshake.read(connection).await?;
        let request = match request {
            Request::New(request) => request,
            Request::Resume(request) => {
                handshake.resume(connection, request).await?;
                return Ok(Outcome::Resumed);
            }
        };
        let admitted = match state.draining.is_cancelled() {
            true => Err(Error::Draining),
            false => permit.admit(limits).map_err(Error::Limited),
        };
        if let Err(error) = admitted {
            let answered = handshake.turn_away(connection, &request).await;
            return Err(Refused { error, answered });
        }
        Ok(Outcome::Opened(handshake.open(connection, request).await?))
    };
    match timeout(handshake.timeout(), accepting).await {
        Ok(Ok(outcome)) => outcome,
        Ok(Err(refused)) => Outcome::Refused(refused),
        Err(_) => Outcome::Refused(Error::TimedOut.into()),
    }
}

impl<E: Into<Error>> From<E> for Refused {
    fn from(error: E) -> Self {
        Self {
            error: error.into(),
            answered: None,
        }
    }
}
