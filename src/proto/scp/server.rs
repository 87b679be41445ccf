//! Server side of the handshake.

use subtle::ConstantTimeEq;

use super::message::{Code, NewRequest, ResumeRequest};
use super::{Error, Secret};
use crate::crypto::{Dialect, public_key, shared_secret};

/// Owner of a session as the server knows it, against which resumes are checked.
#[derive(Debug)]
pub struct Owner {
    secret: Secret,
    /// Index of the last accepted resume.
    index: u32,
}

impl Owner {
    /// Creates the owner of a new session; returns it with the public key for the answer.
    ///
    /// `private` is a fresh random key.
    pub fn accept(
        request: &NewRequest,
        private: u64,
        dialect: Dialect,
    ) -> Result<(u64, Self), Error> {
        let shared =
            shared_secret(private, request.public).ok_or(Error::Malformed("public key of zero"))?;
        let owner = Self::new(Secret::new(shared, dialect));
        Ok((public_key(private), owner))
    }

    pub(super) fn new(secret: Secret) -> Self {
        Self { secret, index: 0 }
    }

    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Checks that a request comes from the owner and is not a replay.
    ///
    /// Changes nothing: a resume may still fail for other reasons.
    pub fn check(&self, request: &ResumeRequest) -> Result<(), Code> {
        let hmac = self.secret.sign(request.sum);
        if !bool::from(hmac.ct_eq(&request.hmac)) {
            Err(Code::Unauthorized)
        } else if request.index <= self.index {
            Err(Code::Expired)
        } else {
            Ok(())
        }
    }

    /// Returns whether no later resume has been accepted.
    pub fn is_latest(&self, request: &ResumeRequest) -> bool {
        self.index == request.index
    }

    /// Records an accepted resume, which uses up its index and all before it.
    pub fn accepted(&mut self, request: &ResumeRequest) {
        self.index = request.index;
    }
}
