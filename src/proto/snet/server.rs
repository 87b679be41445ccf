//! Server side of the handshake.

use std::num::NonZeroU64;

use subtle::ConstantTimeEq;

use super::message::{NewRequest, NewResponse, Proof, ResumeRequest};
use super::{Error, Secret, Version};
use crate::crypto::{Rc4, public_key, shared_secret};

/// Owner of a session as the server knows it, against which resumes are checked.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    version: Version,
    secret: Secret,
    public: u64,
}

/// Reason for which a session is not resumed.
///
/// The peer is not told: a server just closes, in version 2 after 24 zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such session")]
    NotFound,
    /// The request is of another version than the session.
    ///
    /// Otherwise a recorded resume of version 2 could be sent in version 1, without a challenge.
    #[error("it speaks another version")]
    OtherVersion,
    #[error("wrong MAC")]
    Unauthorized,
    /// The counts of both sides do not fit, or the bytes to resend are no longer kept.
    #[error("the counts do not fit")]
    NotAcceptable,
    #[error("wrong answer to the challenge")]
    Unproven,
}

impl Owner {
    /// Creates the owner of a new session.
    ///
    /// `private` is a fresh random key.
    pub fn accept(request: &NewRequest, private: u64) -> Result<Self, Error> {
        let shared = shared_secret(private, request.public).ok_or(Error::ZeroKey)?;
        Ok(Self {
            version: request.version,
            secret: Secret::new(shared),
            public: public_key(private),
        })
    }

    /// Returns the ciphers of an encrypted session: from the client, and to the client.
    pub fn ciphers(&self) -> (Rc4, Rc4) {
        let (outgoing, _) = self.secret.cipher_past_id([0; 8]);
        (self.secret.cipher(), outgoing)
    }

    /// Creates the answer to the request.
    ///
    /// `challenge` is fresh and random, and is sent in version 2 only.
    pub fn answer(&self, id: u64, challenge: NonZeroU64) -> NewResponse {
        let (_, sealed_id) = self.secret.cipher_past_id(id.to_le_bytes());
        NewResponse {
            public: self.public,
            sealed_id,
            challenge: self.challenge(challenge),
        }
    }

    /// Returns the challenge for an answer: `challenge` in version 2, `None` in version 1.
    pub fn challenge(&self, challenge: NonZeroU64) -> Option<NonZeroU64> {
        (self.version == Version::V2).then_some(challenge)
    }

    /// Checks the version and the MAC of a request.
    ///
    /// The request comes from the owner, or repeats one that the owner has sent. In version 1 there
    /// is no further proof.
    pub fn check(&self, request: &ResumeRequest) -> Result<(), Refusal> {
        let mac = self
            .secret
            .mac(&ResumeRequest::signed(request.id, request.counts));
        if request.version != self.version {
            Err(Refusal::OtherVersion)
        } else if !bool::from(mac.ct_eq(&request.mac)) {
            Err(Refusal::Unauthorized)
        } else {
            Ok(())
        }
    }

    /// Checks that a proof answers `challenge`, and so comes from the owner now.
    pub fn check_proof(&self, challenge: NonZeroU64, proof: &Proof) -> Result<(), Refusal> {
        let expected = self.secret.mac(&challenge.get().to_le_bytes());
        if bool::from(expected.ct_eq(proof)) {
            Ok(())
        } else {
            Err(Refusal::Unproven)
        }
    }
}

impl Refusal {
    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::NotFound => "not_found",
            Self::OtherVersion => "other_version",
            Self::Unauthorized => "unauthorized",
            Self::NotAcceptable => "not_acceptable",
            Self::Unproven => "unproven",
        }
    }
}
