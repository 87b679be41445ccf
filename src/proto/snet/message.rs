//! Messages of the handshake.

use std::num::NonZeroU64;

use super::{Error, Version};

/// Length of the longest request, a resume of version 2, bytes.
pub const MAX_REQUEST: usize = 41;
/// Length of the zero bytes that clients of version 1 send behind the 16 bytes of a new request.
pub const PADDING: usize = 24;
/// Answer of a client to a challenge.
pub type Proof = [u8; 16];

/// First byte of a new request in version 2; [`RESUME`] is that of a resume.
const NEW: u8 = 0x00;
const RESUME: u8 = 0xff;

/// Message that opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    New(NewRequest),
    Resume(ResumeRequest),
}

/// Request for a new session.
///
/// In version 1 without its [`PADDING`], which not all clients send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewRequest {
    pub version: Version,
    /// Public key, not 0.
    pub public: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeRequest {
    pub version: Version,
    pub id: u64,
    pub counts: Counts,
    pub(super) mac: [u8; 16],
}

/// Byte counts of one side of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    /// Number of payload bytes handed to connections, delivered or not.
    pub sent: u64,
    /// Number of payload bytes received.
    pub received: u64,
}

/// Challenge to the client in version 2; `None` in version 1.
///
/// Never 0, as a refusal has 0 there.
pub type Challenge = Option<NonZeroU64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewResponse {
    pub public: u64,
    /// Session id, encrypted by the cipher of the server's direction.
    pub sealed_id: [u8; 8],
    pub challenge: Challenge,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeResponse {
    pub counts: Counts,
    pub challenge: Challenge,
}

/// Refusal of a request of either kind in version 2; a server of version 1 just closes.
pub const REFUSED: [u8; response_len(Version::V2)] = [0; response_len(Version::V2)];

impl Request {
    /// Returns how many bytes, at least, are missing from the request at the start of `bytes`.
    ///
    /// Returns 0 when the request is complete. `only` is the accepted version, or `None` for
    /// either.
    ///
    /// A request of version 1 begins with the id, which is 0 for a new session; a request of
    /// version 2 begins with `00` or `FF`. Seven more zero bytes after a `00` mean version 1: the
    /// odds that they are part of a public key are 2^-56.
    pub fn missing(bytes: &[u8], only: Option<Version>) -> usize {
        Self::len(bytes, only).saturating_sub(bytes.len())
    }

    /// Returns the length of a request, as far as its first bytes determine it.
    fn len(bytes: &[u8], only: Option<Version>) -> usize {
        let id = bytes.first_chunk().map(|id| u64::from_le_bytes(*id));
        let version = only.or(match (bytes.first(), id) {
            (Some(&RESUME), _) => Some(Version::V2),
            (Some(&NEW), None) => None,
            (Some(&NEW), Some(1..)) => Some(Version::V2),
            (Some(_), _) => Some(Version::V1),
            (None, _) => None,
        });
        match (version, id) {
            (Some(Version::V2), _) if bytes.first() == Some(&RESUME) => 41,
            (Some(Version::V1), Some(1..)) => 40,
            (Some(Version::V1), _) => 16,
            // Also the length of the shortest request of either version.
            (Some(Version::V2) | None, _) => 9,
        }
    }

    /// Parses a request; `Ok(None)` while bytes are missing.
    ///
    /// Bytes behind the request are ignored.
    pub fn parse(bytes: &[u8], only: Option<Version>) -> Result<Option<Self>, Error> {
        if let (Some(Version::V2), Some(&first)) = (only, bytes.first())
            && !matches!(first, NEW | RESUME)
        {
            return Err(Error::FirstByte(first));
        }
        let len = Self::len(bytes, only);
        let Some(bytes) = bytes.get(..len) else {
            return Ok(None);
        };
        let new = |version, key| match u64_at(key, 0) {
            0 => Err(Error::ZeroKey),
            public => Ok(Self::New(NewRequest { version, public })),
        };
        let resume = |version, bytes| Ok(Self::Resume(ResumeRequest::parse(version, bytes)));
        match len {
            // invariant: there are `len` bytes.
            9 => new(Version::V2, &bytes[1..]),
            16 => new(Version::V1, &bytes[8..]),
            40 => resume(Version::V1, bytes),
            _ => resume(Version::V2, &bytes[1..]),
        }
        .map(Some)
    }

    pub fn version(&self) -> Version {
        match self {
            Self::New(request) => request.version,
            Self::Resume(request) => request.version,
        }
    }
}

impl NewRequest {
    /// Encodes the request, padding included.
    pub fn to_bytes(self) -> Vec<u8> {
        let public = self.public.to_le_bytes();
        match self.version {
            // invariant: the whole of an array.
            Version::V1 => [&[0; 8][..], &public, &[0; PADDING]].concat(),
            Version::V2 => [&[NEW][..], &public].concat(),
        }
    }
}

impl ResumeRequest {
    /// Parses the 40 bytes that both versions have in common.
    fn parse(version: Version, bytes: &[u8]) -> Self {
        Self {
            version,
            id: u64_at(bytes, 0),
            // invariant: callers give 40 bytes.
            counts: Counts::parse(&bytes[8..]),
            mac: array_at(bytes, 24),
        }
    }

    pub fn to_bytes(self) -> Vec<u8> {
        let first: &[u8] = match self.version {
            Version::V1 => &[],
            Version::V2 => &[RESUME],
        };
        [first, &Self::signed(self.id, self.counts), &self.mac].concat()
    }

    /// Returns the bytes that the MAC covers.
    pub(super) fn signed(id: u64, counts: Counts) -> [u8; 24] {
        let mut bytes = [0; 24];
        // invariant: 8 and 16 bytes are 24.
        bytes[..8].copy_from_slice(&id.to_le_bytes());
        bytes[8..].copy_from_slice(&counts.to_bytes());
        bytes
    }
}

impl Counts {
    /// Returns whether the counts of both ends are consistent.
    ///
    /// Neither end may have received more than the other has sent.
    pub fn fit(self, other: Self) -> bool {
        self.received <= other.sent && other.received <= self.sent
    }

    fn parse(bytes: &[u8]) -> Self {
        Self {
            sent: u64_at(bytes, 0),
            received: u64_at(bytes, 8),
        }
    }

    fn to_bytes(self) -> [u8; 16] {
        let mut bytes = [0; 16];
        // invariant: twice 8 bytes are 16.
        bytes[..8].copy_from_slice(&self.sent.to_le_bytes());
        bytes[8..].copy_from_slice(&self.received.to_le_bytes());
        bytes
    }
}

/// Returns the length of either response, bytes.
pub const fn response_len(version: Version) -> usize {
    match version {
        Version::V1 => 16,
        Version::V2 => 24,
    }
}

impl NewResponse {
    /// Parses a response; `Ok(None)` while bytes are missing.
    ///
    /// Bytes behind the response are ignored.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Option<Self>, Error> {
        let Some((bytes, challenge)) = parse_response(bytes, version)? else {
            return Ok(None);
        };
        match u64_at(&bytes, 0) {
            0 => Err(Error::ZeroKey),
            public => Ok(Some(Self {
                public,
                sealed_id: array_at(&bytes, 8),
                challenge,
            })),
        }
    }

    pub fn to_bytes(self) -> Vec<u8> {
        [
            // invariant: the whole of an array.
            &self.public.to_le_bytes()[..],
            &self.sealed_id,
            challenge_bytes(self.challenge).as_slice().as_flattened(),
        ]
        .concat()
    }
}

impl ResumeResponse {
    /// Parses a response; `Ok(None)` while bytes are missing.
    ///
    /// Bytes behind the response are ignored.
    pub fn parse(bytes: &[u8], version: Version) -> Result<Option<Self>, Error> {
        let response = parse_response(bytes, version)?;
        Ok(response.map(|(bytes, challenge)| Self {
            counts: Counts::parse(&bytes),
            challenge,
        }))
    }

    pub fn to_bytes(self) -> Vec<u8> {
        let challenge = challenge_bytes(self.challenge);
        [
            // invariant: the whole of an array.
            &self.counts.to_bytes()[..],
            challenge.as_slice().as_flattened(),
        ]
        .concat()
    }
}

/// Parses the 16 bytes that both responses have, and the challenge.
fn parse_response(bytes: &[u8], version: Version) -> Result<Option<([u8; 16], Challenge)>, Error> {
    let Some(bytes) = bytes.get(..response_len(version)) else {
        return Ok(None);
    };
    let challenge = match version {
        Version::V1 => None,
        Version::V2 => Some(NonZeroU64::new(u64_at(bytes, 16)).ok_or(Error::Refused)?),
    };
    Ok(Some((array_at(bytes, 0), challenge)))
}

fn challenge_bytes(challenge: Challenge) -> Option<[u8; 8]> {
    challenge.map(|challenge| challenge.get().to_le_bytes())
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, at))
}

/// Copies `N` bytes from position `at`.
///
/// # Panics
/// If fewer bytes are there; callers have checked the length.
fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    // invariant: callers have checked the length.
    *bytes[at..].first_chunk().expect("a checked length")
}
