//! The server's side of snet handshakes.

use std::io;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use super::accept::Error;
use super::gate::Place;
use super::{Entry, Listing, Owner, State};
use crate::config::{self, SnetVersion};
use crate::hooks::SessionInfo;
use crate::proto::snet::message::{
    Counts, MAX_REQUEST, NewRequest, PADDING, Proof, REFUSED, Request, ResumeRequest,
    ResumeResponse,
};
use crate::proto::snet::server::{self, Refusal};
use crate::proto::snet::{self, Version, is_unambiguous};
use crate::session::{self, Core, Offer};
use crate::transport;

/// How long to wait for padding that may not come. Clients that send it, which is all that are
/// known, send it together with what is before it.
const PADDING_WAIT: Duration = Duration::from_millis(100);

type Stream = session::Stream<transport::Stream>;

/// The server's side of an snet handshake.
pub(super) struct Snet<'a> {
    pub state: &'a Arc<State>,
    pub node: u8,
    pub listener: &'a config::Listener,
}

impl Snet<'_> {
    /// A new session, or `None` when the connection was handed to one that exists. One that was
    /// refused is left in `refused`, to be closed once it has read its answer.
    pub async fn accept(
        &self,
        mut connection: transport::Stream,
        info: &mut SessionInfo,
        place: &mut Place,
        refused: &mut Option<transport::Stream>,
    ) -> Result<Option<(Stream, Listing)>, Error> {
        let only = match self.listener.snet.version {
            SnetVersion::Auto => None,
            SnetVersion::V1 => Some(Version::V1),
            SnetVersion::V2 => Some(Version::V2),
        };
        let accepting = async {
            match read_request(&mut connection, only).await? {
                Request::New(request) => self
                    .open(connection, &request, info, place, refused)
                    .await
                    .map(Some),
                Request::Resume(request) => {
                    self.resume(connection, &request, refused).await?;
                    Ok(None)
                }
            }
        };
        timeout(self.listener.snet.handshake_timeout, accepting)
            .await
            .unwrap_or(Err(Error::TimedOut))
    }

    async fn open(
        &self,
        mut connection: transport::Stream,
        request: &NewRequest,
        info: &mut SessionInfo,
        place: &mut Place,
        refused: &mut Option<transport::Stream>,
    ) -> Result<(Stream, Listing), Error> {
        if self.state.draining.is_cancelled() {
            *refused = Some(refuse(connection, request.version).await);
            return Err(Error::Draining);
        }
        if let Err(limit) = place.admit(&self.listener.limits) {
            *refused = Some(refuse(connection, request.version).await);
            return Err(limit.into());
        }
        let owner = server::Owner::accept(request, rand::rng().random())?;
        if request.version == Version::V1 {
            skip_padding(&mut connection).await?;
        }
        let (incoming, outgoing) = owner.ciphers();
        let core = Core::new(
            self.listener.snet.encrypt.then_some(incoming),
            self.listener.snet.encrypt.then_some(outgoing),
            self.listener.snet.replay_buffer,
        )
        .within(self.state.memory.clone());
        let (mut stream, listing) = self
            .state
            .start(
                self.node,
                is_unambiguous,
                Owner::Snet(owner),
                core,
                connection,
                self.listener.snet.resume_wait,
            )
            .ok_or(Error::Full)?;
        let id = listing.id();
        // invariant: nobody has polled the stream, so it has its first connection.
        let connection = stream.connection_mut().expect("a connection");
        let challenge = rand::rng().random();
        let answer = owner.answer(id.into(), challenge);
        connection.write_all(&answer.to_bytes()).await?;
        connection.flush().await?;
        if answer.challenge.is_some() {
            challenged(connection, &owner, challenge)
                .await?
                .map_err(|_| Error::Unproven)?;
        }
        info.id = id.into();
        info.session = "snet";
        Ok((stream, listing))
    }

    /// Until the challenge of version 2 has been passed the session goes on over the connection
    /// that it has, and whoever recorded a resume has gained nothing.
    async fn resume(
        &self,
        mut connection: transport::Stream,
        request: &ResumeRequest,
        refused: &mut Option<transport::Stream>,
    ) -> Result<(), Error> {
        let failed = |reason| Error::SnetRefused(request.id, reason);
        let (owner, offer) = match self.admit(request).await {
            Ok(admitted) => admitted,
            Err(reason) => {
                *refused = Some(refuse(connection, request.version).await);
                return Err(failed(reason));
            }
        };
        let challenge = rand::rng().random();
        let response = ResumeResponse {
            counts: counts(&offer),
            challenge: owner.challenge(challenge),
        };
        connection.write_all(&response.to_bytes()).await?;
        connection.flush().await?;
        if response.challenge.is_some() {
            challenged(&mut connection, &owner, challenge)
                .await?
                .map_err(failed)?;
        }
        let (client, transport) = (connection.peer_addr(), connection.transport());
        let resent = offer
            .attach(connection, request.counts.received)
            .map_err(|_| failed(Refusal::NotAcceptable))?;
        self.state.resumed(
            request.id as u32,
            &self.listener.name,
            client,
            transport,
            resent,
        );
        Ok(())
    }

    /// Whether a session may go on over a new connection, as far as the request tells. Gives
    /// whose it is and how far it got.
    async fn admit(
        &self,
        request: &ResumeRequest,
    ) -> Result<(server::Owner, Offer<transport::Stream>), Refusal> {
        let found = u32::try_from(request.id)
            .ok()
            .and_then(|id| self.state.table().get(id).cloned());
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

/// Reads a request, and not a byte beyond it.
async fn read_request(
    connection: &mut (impl AsyncRead + Unpin),
    only: Option<Version>,
) -> Result<Request, Error> {
    let mut bytes = Vec::with_capacity(MAX_REQUEST);
    loop {
        if let Some(request) = Request::parse(&bytes, only)? {
            return Ok(request);
        }
        let missing = Request::missing(&bytes, only) as u64;
        let mut rest = (&mut *connection).take(missing);
        let error = match rest.read_buf(&mut bytes).await {
            Ok(1..) => continue,
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        return Err(match bytes.is_empty() {
            true => Error::Silent(error),
            false => Error::Io(error),
        });
    }
}

/// Reads the padding of a new request, if there is any. A client without padding says nothing
/// before it is answered, so what comes cannot be payload; what comes later would be.
async fn skip_padding(connection: &mut (impl AsyncRead + Unpin)) -> Result<(), Error> {
    let mut padding = [0; PADDING];
    let mut len = 0;
    while len < PADDING {
        // invariant: `len` is below `PADDING`.
        let read = match timeout(PADDING_WAIT, connection.read(&mut padding[len..])).await {
            Ok(read) => read?,
            Err(_) => break,
        };
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // invariant: no more is read than there is room for.
        if padding[len..len + read].iter().any(|&byte| byte != 0) {
            return Err(snet::Error::Padding.into());
        }
        len += read;
    }
    Ok(())
}

/// Waits for the proof that the client has the key of the session.
async fn challenged(
    connection: &mut transport::Stream,
    owner: &server::Owner,
    challenge: NonZeroU64,
) -> io::Result<Result<(), Refusal>> {
    let mut proof = Proof::default();
    connection.read_exact(&mut proof).await?;
    Ok(owner.check_proof(challenge, &proof))
}

/// Tells a client of version 2 that it is refused. One that is gone was refused all the same.
async fn refuse(mut connection: transport::Stream, version: Version) -> transport::Stream {
    if version == Version::V2 {
        let _ = connection.write_all(&REFUSED).await;
        let _ = connection.flush().await;
    }
    connection
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::time::{Instant, sleep};

    const GAP: Duration = Duration::from_millis(99);

    /// What is left of `sent`, whose pieces come 99 ms apart, when the padding has been read, and
    /// how long that took.
    async fn after_padding(sent: &[&[u8]]) -> (Result<(), Error>, Vec<u8>, Duration) {
        let (mut near, mut far) = duplex(64);
        let pieces: Vec<Vec<u8>> = sent.iter().map(|piece| piece.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                far.write_all(&piece).await.unwrap();
                sleep(GAP).await;
            }
            // A client that waits for its answer.
            sleep(Duration::from_secs(1)).await;
        });
        let start = Instant::now();
        let result = skip_padding(&mut near).await;
        let took = start.elapsed();
        writer.await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (result, rest, took)
    }

    #[tokio::test(start_paused = true)]
    async fn padding_of_any_length() {
        let zeros = [0; PADDING + 1];
        for (sent, rest, took) in [
            (&[&zeros[..PADDING]][..], 0, Duration::ZERO),
            // What is beyond the padding is not read, whatever it is.
            (&[&zeros[..]], 1, Duration::ZERO),
            (&[], 0, PADDING_WAIT),
            (&[&zeros[..10]], 0, PADDING_WAIT),
            (&[&zeros[..1], &zeros[..23]], 0, GAP),
            (&[&zeros[..1], &zeros[..22], &zeros[..1]], 0, 2 * GAP),
        ] {
            let (result, left, time) = after_padding(sent).await;
            assert!(result.is_ok());
            assert_eq!((left.len(), time), (rest, took), "{sent:?}");
        }
        let (result, ..) = after_padding(&[&zeros[..5], b"\0x"]).await;
        assert!(matches!(result, Err(Error::Snet(snet::Error::Padding))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_before_it_is_answered() {
        let (mut near, far) = duplex(64);
        drop(far);
        assert!(matches!(skip_padding(&mut near).await, Err(Error::Io(_))));
        let request = read_request(&mut near, None).await;
        assert!(matches!(request, Err(Error::Silent(_))));
        let (mut near, mut far) = duplex(64);
        far.write_all(b"\0").await.unwrap();
        drop(far);
        let request = read_request(&mut near, None).await;
        assert!(matches!(request, Err(Error::Io(_))));
    }

    /// Byte by byte and all at once, nothing beyond the request is read.
    #[tokio::test(start_paused = true)]
    async fn a_request_is_read_and_nothing_beyond() {
        for space in [1, 64] {
            let (mut near, mut far) = duplex(space);
            let wire = [&[0, 5][..], &[0; 7], b"proof"].concat();
            let writer = tokio::spawn(async move { far.write_all(&wire).await });
            let request = read_request(&mut near, None).await.unwrap();
            assert!(matches!(request, Request::New(new) if new.public == 5));
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"proof");
            writer.await.unwrap().unwrap();
        }
    }
}
