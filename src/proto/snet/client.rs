//! Client side of the handshake.

use super::message::{Counts, NewRequest, NewResponse, Proof, ResumeRequest, ResumeResponse};
use super::{Error, Secret, Version};
use crate::crypto::{Rc4, public_key, shared_secret};

/// State of a request for a new session that has not been answered.
#[derive(Debug)]
pub struct Hello {
    private: u64,
}

/// Session that the server has opened.
#[derive(Debug)]
pub struct Opened {
    pub ticket: Ticket,
    /// Cipher of an encrypted session, for bytes from the server; `outgoing` is for bytes to it.
    pub incoming: Rc4,
    pub outgoing: Rc4,
    /// Proof to be sent before any payload, in version 2.
    pub proof: Option<Proof>,
}

/// Proof of ownership of a session, for each resume.
#[derive(Debug)]
pub struct Ticket {
    version: Version,
    id: u64,
    secret: Secret,
}

impl Hello {
    /// Creates the request for a new session.
    ///
    /// `private` is a fresh random key.
    pub fn new(private: u64, version: Version) -> (NewRequest, Self) {
        let public = public_key(private);
        (NewRequest { version, public }, Self { private })
    }

    pub fn answered(self, response: &NewResponse) -> Result<Opened, Error> {
        let shared = shared_secret(self.private, response.public).ok_or(Error::ZeroKey)?;
        let secret = Secret::new(shared);
        let (incoming, id) = secret.cipher_past_id(response.sealed_id);
        let (version, proof) = match response.challenge {
            None => (Version::V1, None),
            Some(challenge) => (
                Version::V2,
                Some(secret.mac(&challenge.get().to_le_bytes())),
            ),
        };
        match u64::from_le_bytes(id) {
            0 => Err(Error::ZeroId),
            id => Ok(Opened {
                ticket: Ticket {
                    version,
                    id,
                    secret,
                },
                incoming,
                outgoing: secret.cipher(),
                proof,
            }),
        }
    }
}

impl Ticket {
    pub fn id(&self) -> u64 {
        self.id
    }

    pub fn version(&self) -> Version {
        self.version
    }

    /// Creates a resume request with the `counts` of this side.
    pub fn resume(&self, counts: Counts) -> ResumeRequest {
        ResumeRequest {
            version: self.version,
            id: self.id,
            counts,
            mac: self.secret.mac(&ResumeRequest::signed(self.id, counts)),
        }
    }

    /// Returns the answer to a response's challenge, to be sent before any payload; version 2 only.
    pub fn prove(&self, response: &ResumeResponse) -> Option<Proof> {
        let challenge = response.challenge?.get().to_le_bytes();
        Some(self.secret.mac(&challenge))
    }
}
