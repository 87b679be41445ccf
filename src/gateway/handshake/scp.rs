//! Server side of scp handshakes.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::error::Error;
use super::outcome::{Acceptor, Handshake, Hello, Opened, Reading, Refused, Request};
use crate::config::{self, Hmac};
use crate::crypto::Dialect;
use crate::gateway::live::Client;
use crate::gateway::state::{Entry, Owner};
use crate::proto::scp::message::{
    self, Code, NewRequest, NewResponse, ResumeRequest, ResumeResponse,
};
use crate::proto::scp::{record, server, widen};
use crate::session::{Core, Offer};
use crate::sync::Mutex;
use crate::transport;
use crate::wire;
use crate::wire::scp::{read_record, write_record};

impl Handshake for Acceptor<'_, config::Scp> {
    type New = NewRequest;
    type Resume = ResumeRequest;

    fn timeout(&self) -> Duration {
        self.config.handshake_timeout
    }

    async fn read(
        &self,
        mut connection: transport::Stream,
    ) -> Result<Reading<NewRequest, ResumeRequest>, Refused> {
        let request = match read_record(&mut connection).await {
            Ok(text) => message::Request::parse(&text),
            Err(wire::Error::Protocol(error)) => Err(error),
            Err(error) => return Err(error.into()),
        };
        match request {
            Ok(message::Request::New(request)) => Ok((connection, Request::New(request))),
            Ok(message::Request::Resume(request)) => Ok((connection, Request::Resume(request))),
            Err(error) => Err(refused(connection, Code::Malformed, error.into()).await),
        }
    }

    async fn turn_away(&self, _: transport::Stream, _: &NewRequest) -> Option<transport::Stream> {
        None
    }

    async fn open(
        &self,
        connection: transport::Stream,
        request: NewRequest,
    ) -> Result<Opened, Error> {
        let dialect = match self.config.hmac {
            Hmac::Current => Dialect::Current,
            Hmac::Legacy => Dialect::Legacy,
        };
        let (public, owner) = server::Owner::accept(&request, rand::rng().random(), dialect)?;
        let cipher = owner.secret().cipher();
        let core = Core::new(
            Some(cipher.clone()),
            Some(cipher),
            self.config.replay_buffer,
        )
        .within(self.state.memory.clone());
        let (mut stream, guard) = self
            .state
            .start(
                self.node,
                |_| true,
                Owner::Scp(Mutex::new(owner)),
                core,
                connection,
                self.config.resume_wait,
            )
            .ok_or(Error::Full)?;
        let id = guard.id();
        // invariant: nobody has polled the stream, so it has its first connection.
        let connection = stream.connection_mut().expect("a connection");
        write_record(connection, NewResponse { id, public }).await?;
        Ok(Opened {
            id: Some(id),
            client: Client::Resumable(Box::new(stream)),
            guard: Some(guard),
            hello: Hello {
                target: request.target,
                flags: request.flags,
                extra: request.extra,
            },
        })
    }

    async fn resume(
        &self,
        connection: transport::Stream,
        request: ResumeRequest,
    ) -> Result<(), Refused> {
        let (entry, offer, received) = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(code) => {
                let error = Error::ScpRefused(request.id, code);
                return Err(refused(connection, code, error).await);
            }
        };
        let response = ResumeResponse {
            received: offer.received() as u32,
            code: Code::Ok,
        };
        let answer = record::encode(&response.to_string())?;
        let (client, transport) = (connection.peer_addr(), connection.transport());
        // Of two accepted resumes the one with the higher index stays.
        let attached = match entry.scp().filter(|owner| owner.is_latest(&request)) {
            Some(_latest) => Ok(offer.attach_with_answer(connection, received, answer)),
            None => Err(connection),
        };
        let expired = Error::ScpRefused(request.id, Code::Expired);
        let resent = match attached {
            Ok(Ok(resent)) => resent,
            Ok(Err(_)) => return Err(expired.into()),
            Err(connection) => return Err(refused(connection, Code::Expired, expired).await),
        };
        self.state
            .resumed(request.id, self.listener, client, transport, resent);
        Ok(())
    }
}

impl Acceptor<'_, config::Scp> {
    /// Checks whether a session can be resumed over a new connection, in the order of the error
    /// codes.
    ///
    /// Returns the session, the offer to attach a connection, and the number of bytes that the
    /// client has received.
    async fn admit(
        &self,
        request: &ResumeRequest,
    ) -> Result<(Arc<Entry>, Offer<transport::Stream>, u64), Code> {
        let entry = self.state.entry(request.id).ok_or(Code::NotFound)?;
        entry.scp().ok_or(Code::NotFound)?.check(request)?;
        let offer = entry.handle.offer().await.map_err(|_| Code::NotFound)?;
        let received = {
            // A concurrent resume may have been faster.
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

/// Answers with an error code and returns the refusal. A failed write is ignored: a client that is
/// gone is refused all the same.
async fn refused(mut connection: transport::Stream, code: Code, error: Error) -> Refused {
    let _ = write_record(&mut connection, ResumeResponse { received: 0, code }).await;
    Refused {
        error,
        answered: Some(connection),
    }
}
