//! The server's side of a handshake: what it remembers of a session.

use subtle::ConstantTimeEq;

use super::message::{Code, NewRequest, ResumeRequest};
use super::{Error, Secret};
use crate::crypto::{Dialect, public_key, shared_secret};

/// Decides whose a session is when somebody comes to resume it.
#[derive(Debug)]
pub struct Owner {
    secret: Secret,
    /// Index of the last accepted resume.
    index: u32,
}

impl Owner {
    /// The owner of a new session, and the public key to answer with. `private` is a fresh random
    /// key.
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

    /// Whether the request comes from the owner and is no replay. Changes nothing: a resume may
    /// still fail for other reasons.
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

    /// Whether no later resume has been accepted since.
    pub fn is_latest(&self, request: &ResumeRequest) -> bool {
        self.index == request.index
    }

    /// Notes that the resume was accepted: its index, and all before it, are used.
    pub fn accepted(&mut self, request: &ResumeRequest) {
        self.index = request.index;
    }
}
