//! The server's side of a handshake: what it remembers of a session.

use std::num::NonZeroU64;

use subtle::ConstantTimeEq;

use super::message::{NewRequest, NewResponse, Proof, ResumeRequest};
use super::{Error, Secret, Version};
use crate::crypto::{Rc4, public_key, shared_secret};

/// Decides whose a session is when somebody comes to resume it.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    version: Version,
    secret: Secret,
    public: u64,
}

/// Why a session is not resumed. The peer is not told: a server just closes, in version 2 after
/// 24 zero bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("no such session")]
    NotFound,
    /// A recorded resume of version 2 would need no challenge in version 1.
    #[error("it speaks another version")]
    OtherVersion,
    #[error("wrong MAC")]
    Unauthorized,
    /// Received here is what the client never sent, or the other way round, or the bytes to
    /// resend are gone.
    #[error("the counts do not fit")]
    NotAcceptable,
    #[error("wrong answer to the challenge")]
    Unproven,
}

impl Owner {
    /// The owner of a new session. `private` is a fresh random key.
    pub fn accept(request: &NewRequest, private: u64) -> Result<Self, Error> {
        let shared = shared_secret(private, request.public).ok_or(Error::ZeroKey)?;
        Ok(Self {
            version: request.version,
            secret: Secret::new(shared),
            public: public_key(private),
        })
    }

    /// The ciphers of an encrypted session: of what the client sends, and of what it gets.
    pub fn ciphers(&self) -> (Rc4, Rc4) {
        let (outgoing, _) = self.secret.cipher_past_id([0; 8]);
        (self.secret.cipher(), outgoing)
    }

    /// The answer to the request. The challenge, fresh and random, is sent in version 2.
    pub fn answer(&self, id: u64, challenge: NonZeroU64) -> NewResponse {
        let (_, sealed_id) = self.secret.cipher_past_id(id.to_le_bytes());
        NewResponse {
            public: self.public,
            sealed_id,
            challenge: self.challenge(challenge),
        }
    }

    /// The challenge in an answer: `challenge` in version 2, none in version 1.
    pub fn challenge(&self, challenge: NonZeroU64) -> Option<NonZeroU64> {
        (self.version == Version::V2).then_some(challenge)
    }

    /// Whether the request comes from somebody who has, or has listened to, the owner. In version
    /// 1 that is all there is.
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

    /// Whether the proof comes from the owner, here and now.
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
    /// A stable label for logs and metrics.
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
