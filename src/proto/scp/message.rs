//! Text of the four handshake messages.

use std::borrow::Cow;
use std::fmt::{self, Display};
use std::str::FromStr;

use base64::Engine;

use super::{Error, record};
use crate::crypto::{hashkey, is_public_key};
use crate::proto::base64::BASE64;

/// Message that opens a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    New(NewRequest),
    Resume(ResumeRequest),
}

/// Request for a new session: `0\n<public>\n[target[\n[flags[\nmore…]]]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewRequest {
    pub public: u64,
    pub target: Option<String>,
    pub flags: u32,
    /// Lines from the fifth on: client versions and the like.
    pub extra: Extra,
}

/// Further lines of a handshake, unparsed.
///
/// Of a received message the first [`MAX_LINES`](Self::MAX_LINES) lines are kept, whole.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Extra(Option<Box<[u8]>>);

/// Request to resume a session: `id\nindex\nreceived\n<hmac>`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResumeRequest {
    pub id: u32,
    /// Number of the resume, which grows with each resume of a session, from 1.
    pub index: u32,
    /// Number of bytes the client has received, modulo 2^32.
    pub received: u32,
    /// Hash of the first three lines, which `hmac` signs.
    pub(super) sum: [u8; 8],
    pub(super) hmac: [u8; 8],
}

/// Answer to a [`NewRequest`]: `id\n<public>`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NewResponse {
    pub id: u32,
    pub public: u64,
}

/// Answer to a [`ResumeRequest`]: `received\nCODE`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ResumeResponse {
    /// Number of bytes the server has received, modulo 2^32; 0 unless the code is [`Code::Ok`].
    pub received: u32,
    pub code: Code,
}

/// Result of a resume.
///
/// The wire has the bare number: clients compare it to `200` or parse it as an integer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Code {
    Ok = 200,
    Malformed = 400,
    /// The hmac does not match the session.
    Unauthorized = 401,
    /// The index was already used.
    Expired = 403,
    /// The session does not exist or has ended.
    NotFound = 404,
    /// The bytes to resend are no longer kept.
    NotAcceptable = 406,
    NetworkError = 501,
}

impl Request {
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (first, rest) = split_line(text);
        let rest = rest.ok_or(Error::Malformed("one line"))?;
        match number(first, "id")? {
            0 => NewRequest::parse(rest).map(Self::New),
            id => ResumeRequest::parse(id, text).map(Self::Resume),
        }
    }
}

impl NewRequest {
    /// Length of the longest target that fits in a record with any flags and no further lines,
    /// bytes.
    pub const MAX_TARGET: usize = record::MAX_LEN - "0\nAQAAAAAAAAA=\n\n4294967295".len();

    /// Parses the lines after the id.
    fn parse(text: &[u8]) -> Result<Self, Error> {
        let mut text = Some(text.strip_suffix(b"\n").unwrap_or(text));
        let mut line = || {
            // invariant: a whole range has no bounds.
            let (line, rest) = text.map_or((&[][..], None), split_line);
            text = rest;
            line
        };
        let public = decode_key(line())?;
        if !is_public_key(public) {
            return Err(Error::Malformed("public key of zero"));
        }
        let target = match line() {
            [] => None,
            line => Some(String::from_utf8_lossy(line).into()),
        };
        let flags = match line() {
            [] => 0,
            line => number(line, "flags")?,
        };
        Ok(Self {
            public,
            target,
            flags,
            extra: text.map(Extra::first_of).unwrap_or_default(),
        })
    }
}

impl Extra {
    /// Limit of lines kept of a message.
    pub const MAX_LINES: usize = 32;

    fn first_of(text: &[u8]) -> Self {
        let mut ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        let end = ends.nth(Self::MAX_LINES - 1);
        // invariant: it is where a byte was found, or the length.
        Self(Some(text[..end.map_or(text.len(), |(at, _)| at)].into()))
    }

    /// Returns the lines; bytes that are not UTF-8 are replaced.
    pub fn lines(&self) -> impl Iterator<Item = Cow<'_, str>> {
        let lines = self.0.iter().flat_map(|text| text.split(|&b| b == b'\n'));
        lines.map(String::from_utf8_lossy)
    }
}

impl From<&[String]> for Extra {
    fn from(lines: &[String]) -> Self {
        Self((!lines.is_empty()).then(|| lines.join("\n").into_bytes().into()))
    }
}

impl fmt::Debug for Extra {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.lines()).finish()
    }
}

impl Display for NewRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let target = self.target.as_deref().unwrap_or_default();
        write!(
            f,
            "0\n{}\n{target}\n{}",
            encode_8(self.public.to_le_bytes()),
            self.flags
        )?;
        self.extra
            .lines()
            .try_for_each(|line| write!(f, "\n{line}"))
    }
}

impl ResumeRequest {
    fn parse(id: u32, text: &[u8]) -> Result<Self, Error> {
        let text = text.strip_suffix(b"\n").unwrap_or(text);
        let mut lines = text.split(|&byte| byte == b'\n').skip(1);
        let mut line = || lines.next().ok_or(Error::Malformed("too few lines"));
        let index = number(line()?, "index")?;
        let received = number(line()?, "received")?;
        let hmac = line()?;
        if lines.next().is_some() {
            return Err(Error::Malformed("too many lines"));
        }
        Ok(Self {
            id,
            index,
            received,
            // invariant: the hmac is the last line of the text.
            sum: hashkey(&text[..text.len() - hmac.len()]),
            hmac: decode_8(hmac)?,
        })
    }

    /// Returns the three lines that the hmac signs.
    pub(super) fn signed(id: u32, index: u32, received: u32) -> String {
        format!("{id}\n{index}\n{received}\n")
    }
}

impl Display for ResumeRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&Self::signed(self.id, self.index, self.received))?;
        f.write_str(&encode_8(self.hmac))
    }
}

impl NewResponse {
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (id, public) = split_line(text);
        let public = public.ok_or(Error::Malformed("one line"))?;
        let public = decode_key(public.strip_suffix(b"\n").unwrap_or(public))?;
        match number(id, "id")? {
            0 => Err(Error::Malformed("session id of zero")),
            id => Ok(Self { id, public }),
        }
    }
}

impl Display for NewResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.id, encode_8(self.public.to_le_bytes()))
    }
}

impl ResumeResponse {
    /// Parses a response.
    ///
    /// Text behind the number of the code is ignored: other servers write `200 OK`.
    pub fn parse(text: &[u8]) -> Result<Self, Error> {
        let (received, code) = split_line(text);
        let code = code.ok_or(Error::Malformed("one line"))?;
        let digits = code.iter().take_while(|byte| byte.is_ascii_digit()).count();
        // invariant: they were counted in it.
        let code: u16 = number(&code[..digits], "code")?;
        Ok(Self {
            received: number(received, "received")?,
            code: Code::from_number(code).ok_or(Error::Malformed("unknown code"))?,
        })
    }
}

impl Display for ResumeResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}\n{}", self.received, self.code as u16)
    }
}

impl Code {
    fn from_number(number: u16) -> Option<Self> {
        [
            Self::Ok,
            Self::Malformed,
            Self::Unauthorized,
            Self::Expired,
            Self::NotFound,
            Self::NotAcceptable,
            Self::NetworkError,
        ]
        .into_iter()
        .find(|code| *code as u16 == number)
    }
}

impl Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words = match self {
            Self::Ok => "resumed",
            Self::Malformed => "malformed request",
            Self::Unauthorized => "wrong hmac",
            Self::Expired => "index already used",
            Self::NotFound => "no such session",
            Self::NotAcceptable => "bytes to resend are gone",
            Self::NetworkError => "network error",
        };
        write!(f, "{} {words}", *self as u16)
    }
}

fn encode_8(bytes: [u8; 8]) -> String {
    BASE64.encode(bytes)
}

/// Decodes 8 bytes. Go's encoder pads; some hand-written clients do not.
fn decode_8(text: &[u8]) -> Result<[u8; 8], Error> {
    let bytes = BASE64
        .decode(text)
        .map_err(|_| Error::Malformed("bad base64"))?;
    bytes
        .try_into()
        .map_err(|_| Error::Malformed("base64 of the wrong size"))
}

/// Decodes a public key.
///
/// Of a key longer than 8 bytes the first 8 count.
fn decode_key(text: &[u8]) -> Result<u64, Error> {
    let bytes = BASE64
        .decode(text)
        .map_err(|_| Error::Malformed("bad base64"))?;
    let (first, _) = bytes
        .split_first_chunk()
        .ok_or(Error::Malformed("short public key"))?;
    Ok(u64::from_le_bytes(*first))
}

fn split_line(text: &[u8]) -> (&[u8], Option<&[u8]>) {
    match text.iter().position(|&byte| byte == b'\n') {
        // invariant: it was found there.
        Some(end) => (&text[..end], Some(&text[end + 1..])),
        None => (text, None),
    }
}

fn number<T: FromStr>(digits: &[u8], what: &'static str) -> Result<T, Error> {
    // Rust's parser takes a sign, which the wire does not have.
    digits
        .iter()
        .all(u8::is_ascii_digit)
        .then(|| str::from_utf8(digits).ok()?.parse().ok())
        .flatten()
        .ok_or(Error::Malformed(what))
}
