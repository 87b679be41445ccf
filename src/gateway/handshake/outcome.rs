//! Handshakes, as far as all protocols share them.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::timeout;

use super::error::Error;
use crate::config::Limits;
use crate::gateway::gate::Permit;
use crate::gateway::live::Client;
use crate::gateway::state::{State, TableGuard};
use crate::proto::scp::message::Extra;
use crate::transport;

/// Outcome of a handshake.
pub(in crate::gateway) enum Outcome {
    Opened(Opened),
    /// The connection was handed to an existing session.
    Resumed,
    Refused(Refused),
}

/// New session.
pub(in crate::gateway) struct Opened {
    /// Id of the session; `None` where the protocol has no ids.
    pub id: Option<u32>,
    pub client: Client,
    /// Place in the table; `None` where sessions cannot be resumed.
    pub guard: Option<TableGuard>,
    pub hello: Hello,
}

/// Parameters that a client gives for its new session.
#[derive(Default)]
pub(in crate::gateway) struct Hello {
    pub target: Option<String>,
    pub flags: u32,
    pub extra: Extra,
}

/// Refusal of a connection.
pub(in crate::gateway) struct Refused {
    pub error: Error,
    /// Connection that was answered, to be closed once its client has read the answer.
    pub answered: Option<transport::Stream>,
}

/// Request of a client.
pub(in crate::gateway) enum Request<N, R> {
    New(N),
    Resume(R),
}

/// Server side of handshakes, with the settings `C` of their protocol.
pub(in crate::gateway) struct Acceptor<'a, C> {
    pub state: &'a Arc<State>,
    /// Number of this gateway, the top bits of session ids.
    pub node: u8,
    /// Name of the listener, for the log.
    pub listener: &'a str,
    pub config: &'a C,
}

/// Server side of a protocol's handshake.
pub(in crate::gateway) trait Handshake: Sync {
    type New: Send;
    type Resume: Send;

    /// Returns the time limit of the whole handshake.
    fn timeout(&self) -> Duration;

    /// Reads the client's request, and not a byte beyond it.
    fn read(
        &self,
        connection: transport::Stream,
    ) -> impl Future<Output = Result<Reading<Self::New, Self::Resume>, Refused>> + Send;

    /// Tells the client that no new sessions are admitted, if the protocol has a way to. Returns
    /// the connection if it was answered.
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

    /// Hands the connection to the session that the client resumes.
    fn resume(
        &self,
        connection: transport::Stream,
        request: Self::Resume,
    ) -> impl Future<Output = Result<(), Refused>> + Send;
}

/// Connection, and the request that was read from it.
pub(in crate::gateway) type Reading<N, R> = (transport::Stream, Request<N, R>);

/// Runs a handshake. `permit` admits a new session before it is opened.
///
/// Cancel safe: a session that was being opened ends.
pub(in crate::gateway) async fn accept<'a, C>(
    handshake: &Acceptor<'a, C>,
    connection: transport::Stream,
    permit: &mut Permit,
    limits: &Limits,
) -> Outcome
where
    Acceptor<'a, C>: Handshake,
{
    let accepting = async {
        let (connection, request) = handshake.read(connection).await?;
        let request = match request {
            Request::New(request) => request,
            Request::Resume(request) => {
                handshake.resume(connection, request).await?;
                return Ok(Outcome::Resumed);
            }
        };
        let admitted = match handshake.state.draining.is_cancelled() {
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
