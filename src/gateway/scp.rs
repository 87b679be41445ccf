//! The server's side of scp handshakes.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rand::Rng;
use tokio::time::timeout;

use super::accept::Error;
use super::gate::Place;
use super::{Entry, Listing, State};
use crate::config::{self, Hmac};
use crate::crypto::Dialect;
use crate::handshake::{self, read_record, write_record};
use crate::hooks::SessionInfo;
use crate::proto::scp::message::{
    Code, NewRequest, NewResponse, Request, ResumeRequest, ResumeResponse,
};
use crate::proto::scp::server::Owner;
use crate::proto::scp::widen;
use crate::session::{self, Core, Offer};
use crate::transport;

type Stream = session::Stream<transport::Stream>;

/// The server's side of an scp handshake.
pub(super) struct Scp<'a> {
    pub state: &'a Arc<State>,
    pub node: u8,
    pub listener: &'a config::Listener,
}

impl Scp<'_> {
    /// A new session, or `None` when the connection was handed to one that exists. One that was
    /// refused is left in `refused`, to be closed once it has read its answer.
    pub async fn accept(
        &self,
        mut connection: transport::Stream,
        info: &mut SessionInfo,
        place: &mut Place,
        refused: &mut Option<transport::Stream>,
    ) -> Result<Option<(Stream, Listing)>, Error> {
        let accepting = async {
            let request = match read_record(&mut connection).await {
                Ok(text) => Request::parse(&text),
                Err(handshake::Error::Protocol(error)) => Err(error),
                Err(error) => return Err(error.into()),
            };
            match request {
                Ok(Request::New(request)) => {
                    self.open(connection, request, info, place).await.map(Some)
                }
                Ok(Request::Resume(request)) => {
                    self.resume(connection, &request, refused).await?;
                    Ok(None)
                }
                Err(error) => {
                    *refused = Some(refuse(connection, Code::Malformed).await);
                    Err(error.into())
                }
            }
        };
        timeout(self.listener.scp.handshake_timeout, accepting)
            .await
            .unwrap_or(Err(Error::TimedOut))
    }

    async fn open(
        &self,
        connection: transport::Stream,
        request: NewRequest,
        info: &mut SessionInfo,
        place: &mut Place,
    ) -> Result<(Stream, Listing), Error> {
        if self.state.draining.is_cancelled() {
            return Err(Error::Draining);
        }
        place.admit(&self.listener.limits)?;
        let dialect = match self.listener.scp.hmac {
            Hmac::Current => Dialect::Current,
            Hmac::Legacy => Dialect::Legacy,
        };
        let (public, owner) = Owner::accept(&request, rand::rng().random(), dialect)?;
        let cipher = owner.secret().cipher();
        let core = Core::new(
            Some(cipher.clone()),
            Some(cipher),
            self.listener.scp.replay_buffer,
        )
        .within(self.state.memory.clone());
        let (mut stream, listing) = self
            .state
            .start(
                self.node,
                |_| true,
                super::Owner::Scp(Mutex::new(owner)),
                core,
                connection,
                self.listener.scp.resume_wait,
            )
            .ok_or(Error::Full)?;
        let id = listing.id();
        *info = SessionInfo {
            id: id.into(),
            session: "scp",
            target: request.target,
            flags: request.flags,
            extra: request.extra,
            ..info.clone()
        };
        // invariant: nobody has polled the stream, so it has its first connection.
        let connection = stream.connection_mut().expect("a connection");
        write_record(connection, NewResponse { id, public }).await?;
        Ok((stream, listing))
    }

    async fn resume(
        &self,
        mut connection: transport::Stream,
        request: &ResumeRequest,
        refused: &mut Option<transport::Stream>,
    ) -> Result<(), Error> {
        let (entry, offer, received) = match self.admit(request).await {
            Ok(admitted) => admitted,
            Err(code) => {
                *refused = Some(refuse(connection, code).await);
                return Err(Error::ScpRefused(request.id, code));
            }
        };
        let response = ResumeResponse {
            received: offer.received() as u32,
            code: Code::Ok,
        };
        write_record(&mut connection, response).await?;
        let (client, transport) = (connection.peer_addr(), connection.transport());
        let resent = {
            // Of two that were accepted the later one stays, whichever was answered first.
            let owner = entry.scp().filter(|owner| owner.is_latest(request));
            let attached = owner.and_then(|_| offer.attach(connection, received).ok());
            attached.ok_or(Error::ScpRefused(request.id, Code::Expired))?
        };
        self.state
            .resumed(request.id, &self.listener.name, client, transport, resent);
        Ok(())
    }

    /// Whether a session goes on over a new connection: the checks in the order of their codes.
    /// Gives the session, how far it got, and the bytes its client has.
    async fn admit(
        &self,
        request: &ResumeRequest,
    ) -> Result<(Arc<Entry>, Offer<transport::Stream>, u64), Code> {
        let entry = self.state.table().get(request.id).cloned();
        let entry = entry.ok_or(Code::NotFound)?;
        entry.scp().ok_or(Code::NotFound)?.check(request)?;
        let offer = entry.handle.offer().await.map_err(|_| Code::NotFound)?;
        let received = {
            // Of two resumes at once the other may have been faster.
            let mut owner = entry.scp().ok_or(Code::NotFound)?;
            owner.check(request)?;
            let received = widen(request.received, offer.sent())
                .filter(|received| offer.can_resume(*received).is_ok())
                .ok_or(Code::NotAcceptable)?;
            owner.accepted(request);
            received
        };
        Ok((entry, offer, received))
    }
}

impl Entry {
    /// Whose session it is, if it speaks scp.
    fn scp(&self) -> Option<MutexGuard<'_, Owner>> {
        match &self.owner {
            // Nothing panics while it is held.
            super::Owner::Scp(owner) => Some(owner.lock().unwrap_or_else(PoisonError::into_inner)),
            super::Owner::Snet(_) => None,
        }
    }
}

impl From<handshake::Error> for Error {
    fn from(error: handshake::Error) -> Self {
        match error {
            handshake::Error::Silent(error) => Self::Silent(error),
            handshake::Error::Io(error) => Self::Io(error),
            handshake::Error::Protocol(error) => Self::Scp(error),
        }
    }
}

/// Answers with a code. A client that is gone was refused all the same.
async fn refuse(mut connection: transport::Stream, code: Code) -> transport::Stream {
    let _ = write_record(&mut connection, ResumeResponse { received: 0, code }).await;
    connection
}
