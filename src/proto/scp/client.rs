//! Client side of the handshake.

use super::message::{NewRequest, NewResponse, ResumeRequest};
use super::{Error, Secret};
use crate::crypto::{Dialect, public_key, shared_secret};

/// State of a request for a new session that has not been answered.
#[derive(Debug)]
pub struct Hello {
    private: u64,
    dialect: Dialect,
}

/// Proof of ownership of a session, for each resume.
#[derive(Debug)]
pub struct Ticket {
    id: u32,
    secret: Secret,
    index: u32,
}

impl Hello {
    /// Creates the request for a new session.
    ///
    /// `private` is a fresh random key.
    pub fn new(
        private: u64,
        dialect: Dialect,
        target: Option<String>,
        flags: u32,
        extra: &[String],
    ) -> (NewRequest, Self) {
        let request = NewRequest {
            public: public_key(private),
            target,
            flags,
            extra: extra.into(),
        };
        (request, Self { private, dialect })
    }

    pub fn answered(self, response: &NewResponse) -> Result<Ticket, Error> {
        let shared = shared_secret(self.private, response.public)
            .ok_or(Error::Malformed("public key of zero"))?;
        Ok(Ticket {
            id: response.id,
            secret: Secret::new(shared, self.dialect),
            index: 0,
        })
    }
}

impl Ticket {
    pub fn id(&self) -> u32 {
        self.id
    }

    pub fn secret(&self) -> Secret {
        self.secret
    }

    /// Creates the next resume request, after `received` bytes of the stream.
    ///
    /// Each call uses up one index, so that a request lost on the way does not invalidate the next.
    pub fn resume(&mut self, received: u64) -> ResumeRequest {
        self.index += 1;
        let received = received as u32;
        let signed = ResumeRequest::signed(self.id, self.index, received);
        let sum = crate::crypto::hashkey(signed.as_bytes());
        ResumeRequest {
            id: self.id,
            index: self.index,
            received,
            sum,
            hmac: self.secret.sign(sum),
        }
    }
}
