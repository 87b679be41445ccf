//! Shards as they stand on the wire.

use thiserror::Error;

/// Counts the bytes to leave free in front of a payload for
/// [`Encoder::seal`](super::Encoder::seal): id, type and size.
pub const HEADER: usize = FRAME + 2;

/// Counts the bytes of the longest datagram accepted or made, header included (kcp-go's `mtuLimit`).
pub const MAX_DATAGRAM: usize = 1500;

/// Tells why a datagram was refused. All but the encoder's are the peer's doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FecError {
    /// It ends before its header does.
    #[error("datagram shorter than a FEC header")]
    TooShort,
    /// It exceeds [`MAX_DATAGRAM`].
    #[error("datagram longer than {MAX_DATAGRAM} bytes")]
    TooLong,
    /// It is neither a data nor a parity shard; perhaps the peer has FEC turned off.
    #[error("not a FEC shard")]
    UnknownType,
    /// The size field of a data shard contradicts the datagram's length.
    #[error("size field does not match the datagram")]
    SizeMismatch,
    /// The id is one that wrapping skips.
    #[error("shard id past the wrap")]
    IdPastWrap,
    /// A data shard where a parity shard belongs, or the reverse: the peer's shape is another.
    #[error("shard type does not fit its place in the group")]
    Misplaced,
}

/// Holds one received datagram, its header checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard<'a> {
    pub(super) id: u32,
    pub(super) kind: Kind,
    pub(super) body: &'a [u8],
}

impl<'a> Shard<'a> {
    /// Parses a datagram's header.
    ///
    /// # Errors
    ///
    /// `TooShort`, `TooLong`, `UnknownType`, `SizeMismatch`.
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FecError> {
        if datagram.len() > MAX_DATAGRAM {
            return Err(FecError::TooLong);
        }
        let (id, rest) = datagram.split_first_chunk().ok_or(FecError::TooShort)?;
        let (kind, body) = rest.split_first_chunk().ok_or(FecError::TooShort)?;
        let kind = match u16::from_le_bytes(*kind) {
            DATA => Kind::Data,
            PARITY => Kind::Parity,
            _ => return Err(FecError::UnknownType),
        };
        let size = body.first_chunk().ok_or(FecError::TooShort)?;
        if kind == Kind::Data && usize::from(u16::from_le_bytes(*size)) != body.len() {
            return Err(FecError::SizeMismatch);
        }
        Ok(Self {
            id: u32::from_le_bytes(*id),
            kind,
            body,
        })
    }

    /// Returns what a data shard carries, to be delivered at once whatever the decoder makes of it;
    /// `None` for parity.
    pub fn payload(&self) -> Option<&'a [u8]> {
        match self.kind {
            Kind::Data => payload(self.body),
            Kind::Parity => None,
        }
    }
}

/// Id and type, which parity does not cover.
pub(super) const FRAME: usize = 6;
const DATA: u16 = 0xf1;
pub(super) const PARITY: u16 = 0xf2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Data,
    Parity,
}

/// Writes the header of data shard `id` into the first [`HEADER`] bytes of a datagram of at most
/// [`MAX_DATAGRAM`].
pub(crate) fn write_header(datagram: &mut [u8], id: u32) {
    write_frame(datagram, id, DATA);
    // invariant: callers give no datagram shorter than a header, of which these are parts.
    let body = &mut datagram[FRAME..];
    let size = u16::try_from(body.len()).expect("at most MAX_DATAGRAM");
    body[..2].copy_from_slice(&size.to_le_bytes());
}

pub(super) fn write_frame(datagram: &mut [u8], id: u32, kind: u16) {
    // invariant: callers give no datagram shorter than a header.
    datagram[..4].copy_from_slice(&id.to_le_bytes());
    datagram[4..FRAME].copy_from_slice(&kind.to_le_bytes());
}

/// The payload of a data shard's body, which may be followed by padding; `None` if the size field
/// is impossible.
pub(super) fn payload(body: &[u8]) -> Option<&[u8]> {
    let size = u16::from_le_bytes(*body.first_chunk()?);
    body.get(2..usize::from(size))
}
