//! Server side of snet handshakes.

use std::time::Duration;

use rand::Rng;

use super::error::Error;
use super::outcome::{Acceptor, Handshake, Hello, Opened, Reading, Refused, Request};
use crate::config::{self, SnetVersion};
use crate::gateway::live::Client;
use crate::gateway::state::{Entry, Owner};
use crate::proto::snet::message::{
    self, Counts, NewRequest, REFUSED, ResumeRequest, ResumeResponse,
};
use crate::proto::snet::server::{self, Refusal};
use crate::proto::snet::{Version, is_unambiguous};
use crate::session::{Core, Offer};
use crate::transport;
use crate::wire::snet::{read_proof, read_request, skip_padding, write_message};

impl Handshake for Acceptor<'_, config::Snet> {
    type New = NewRequest;
    type Resume = ResumeRequest;

    fn timeout(&self) -> Duration {
        self.config.handshake_timeout
    }

    async fn read(
        &self,
        mut connection: transport::Stream,
    ) -> Result<Reading<NewRequest, ResumeRequest>, Refused> {
        let only = match self.config.version {
            SnetVersion::Auto => None,
            SnetVersion::V1 => Some(Version::V1),
            SnetVersion::V2 => Some(Version::V2),
        };
        let request = read_request(&mut connection, only).await;
        Ok(match request.map_err(Error::from)? {
            message::Request::New(request) => (connection, Request::New(request)),
            message::Request::Resume(request) => (connection, Request::Resume(request)),
        })
    }

    async fn turn_away(
        &self,
        connection: transport::Stream,
        request: &NewRequest,
    ) -> Option<transport::Stream> {
        Some(refuse(connection, request.version).await)
    }

    async fn open(
        &self,
        mut connection: transport::Stream,
        request: NewRequest,
    ) -> Result<Opened, Error> {
        let owner = server::Owner::accept(&request, rand::rng().random())?;
        if request.version == Version::V1 {
            skip_padding(&mut connection).await?;
        }
        let (incoming, outgoing) = owner.ciphers();
        let core = Core::new(
            self.config.encrypt.then_some(incoming),
            self.config.encrypt.then_some(outgoing),
            self.config.replay_buffer,
        )
        .within(self.state.memory.clone());
        let (mut stream, guard) = self
            .state
            .start(
                self.node,
                is_unambiguous,
                Owner::Snet(owner),
                core,
                connection,
                self.config.resume_wait,
            )
            .ok_or(Error::Full)?;
        let id = guard.id();
        // invariant: nobody has polled the stream, so it has its first connection.
        let connection = stream.connection_mut().expect("a connection");
        let challenge = rand::rng().random();
        let answer = owner.answer(id.into(), challenge);
        write_message(connection, &answer.to_bytes()).await?;
        if answer.challenge.is_some() {
            let proof = read_proof(connection).await?;
            let checked = owner.check_proof(challenge, &proof);
            checked.map_err(|_| Error::Unproven)?;
        }
        Ok(Opened {
            id: Some(id),
            client: Client::Resumable(Box::new(stream)),
            guard: Some(guard),
            hello: Hello::default(),
        })
    }

    /// Hands the connection to the session that the client resumes.
    ///
    /// Until the challenge of version 2 is passed the session stays on the connection that it has,
    /// so a recorded resume is of no use to an attacker.
    async fn resume(
        &self,
        mut connection: transport::Stream,
        request: ResumeRequest,
    ) -> Result<(), Refused> {
        let failed = |reason| Error::SnetRefused(request.id, reason);
        let (owner, offer) = match self.admit(&request).await {
            Ok(admitted) => admitted,
            Err(reason) => {
                return Err(Refused {
                    error: failed(reason),
                    answered: Some(refuse(connection, request.version).await),
                });
            }
        };
        let challenge = rand::rng().random();
        let response = ResumeResponse {
            counts: counts(&offer),
            challenge: owner.challenge(challenge),
        };
        let mut answer = response.to_bytes();
        if response.challenge.is_some() {
            write_message(&mut connection, &std::mem::take(&mut answer)).await?;
            let proof = read_proof(&mut connection).await?;
            owner.check_proof(challenge, &proof).map_err(failed)?;
        }
        let (client, transport) = (connection.peer_addr(), connection.transport());
        let resent = offer
            .attach_with_answer(connection, request.counts.received, answer)
            .map_err(|_| failed(Refusal::NotAcceptable))?;
        self.state
            .resumed(request.id as u32, self.listener, client, transport, resent);
        Ok(())
    }
}

impl Acceptor<'_, config::Snet> {
    /// Checks whether a session can be resumed over a new connection, as far as the request tells.
    ///
    /// Returns the session's owner and the offer to attach a connection.
    async fn admit(
        &self,
        request: &ResumeRequest,
    ) -> Result<(server::Owner, Offer<transport::Stream>), Refusal> {
        let id = u32::try_from(request.id).ok();
        let found = id.and_then(|id| self.state.entry(id));
        let Some((Owner::Snet(owner), handle)) = found
            .as_deref()
            .map(|Entry { owner, handle }| (owner, handle))
        else {
            return Err(Refusal::NotFound);
        };
        owner.check(request)?;
        let offer = handle.offer().await.map_err(|_| Refusal::NotFound)?;
        if !request.counts.fit(counts(&offer)) || offer.can_resume(request.counts.received).is_err()
        {
            return Err(Refusal::NotAcceptable);
        }
        Ok((*owner, offer))
    }
}

fn counts(offer: &Offer<transport::Stream>) -> Counts {
    Counts {
        sent: offer.sent(),
        received: offer.received(),
    }
}

/// Tells a client of version 2 that it is refused. A failed write is ignored: a client that is gone
/// is refused all the same.
async fn refuse(mut connection: transport::Stream, version: Version) -> transport::Stream {
    if version == Version::V2 {
        let _ = write_message(&mut connection, &REFUSED).await;
    }
    connection
}
