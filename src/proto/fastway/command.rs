//! Commands in the three versions of the wire format.

use bytes::Bytes;

use super::error::Error;
use super::frame::{DATA_HEADER, header};

/// Version of the wire format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Version {
    /// Version in which an endpoint asks for a connection id before it dials.
    ///
    /// The gateway pings.
    V1,
    /// Version in which an endpoint dials at once, and a refusal names the dialled id.
    ///
    /// The gateway pings.
    ///
    /// In the original of the 5th of October 2016 a refusal named no id. From the next day on all
    /// endpoints read the id, and those of that day ignore it, so it is always sent.
    V2,
    /// Version like v2, except that endpoints ping.
    V3,
}

/// Body of a frame with connection id 0.
///
/// `conn` is 0 in a [`Dial`](Self::Dial) and a [`Refuse`](Self::Refuse) that name no connection
/// (all but v1), `remote` is 0 in a refusal that names none (v1, the first v2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Command {
    /// Endpoint to gateway: asks for a connection id. v1 only.
    New,
    /// Gateway to endpoint: assigns the connection id. v1 only.
    Open { conn: u32 },
    /// Endpoint to gateway: asks for a connection with `remote`.
    Dial { conn: u32, remote: u32 },
    /// Gateway to endpoint: refuses a dial.
    Refuse { conn: u32, remote: u32 },
    /// Gateway to the dialling endpoint, with the id that it dialled; in v1 to both endpoints.
    Accept { conn: u32, remote: u32 },
    /// Gateway to the dialled endpoint; an [`Accept`](Self::Accept) in v1.
    Connect { conn: u32, remote: u32 },
    /// Either side: closes the connection.
    Close { conn: u32 },
    /// Keepalive; [`Version`] says which side asks and which answers.
    Ping,
}

impl Version {
    pub const ALL: [Self; 3] = [Self::V1, Self::V2, Self::V3];

    /// Returns the number of the version in configurations, 1 to 3.
    pub fn number(self) -> u8 {
        self as u8 + 1
    }

    /// Returns the version with this number.
    pub fn of_number(number: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|v| v.number() == number)
    }

    /// Detects the version of a client from the body of its first command.
    ///
    /// v2 and v3 begin alike: both are returned as v3.
    pub fn of_first(body: &[u8]) -> Result<Self, Error> {
        let (&kind, arguments) = body.split_first().ok_or(Error::NoCommand)?;
        match (kind, arguments.len()) {
            // New; Close, Ping and Dial of v1.
            (0, 0) | (5, 4..) | (6, _) | (2, 8..) => Ok(Self::V1),
            // Dial, Close and Ping of the others.
            (0, _) | (4, 4..) | (5, 0..4) => Ok(Self::V3),
            _ => Err(Error::UnknownCommand(kind)),
        }
    }
}

impl Command {
    /// Parses the body of a frame with connection id 0.
    ///
    /// Bytes beyond the arguments are ignored.
    pub fn parse(version: Version, body: &[u8]) -> Result<Self, Error> {
        let (&kind, arguments) = body.split_first().ok_or(Error::NoCommand)?;
        let argument = |at: usize| {
            let field = arguments.get(4 * at..).and_then(|rest| rest.first_chunk());
            field
                .map(|field| u32::from_le_bytes(*field))
                .ok_or(Error::MissingArguments(kind))
        };
        let command = match (version, kind) {
            (Version::V1, 0) => Self::New,
            (Version::V1, 1) => Self::Open { conn: argument(0)? },
            (Version::V1, 2) => Self::Dial {
                conn: argument(0)?,
                remote: argument(1)?,
            },
            (Version::V1, 3) => Self::Refuse {
                conn: argument(0)?,
                remote: 0,
            },
            (Version::V1, 4) | (_, 1) => Self::Accept {
                conn: argument(0)?,
                remote: argument(1)?,
            },
            (Version::V1, 5) | (_, 4) => Self::Close { conn: argument(0)? },
            (Version::V1, 6) | (Version::V2 | Version::V3, 5) => Self::Ping,
            (_, 0) => Self::Dial {
                conn: 0,
                remote: argument(0)?,
            },
            (_, 2) => Self::Connect {
                conn: argument(0)?,
                remote: argument(1)?,
            },
            (Version::V2, 3) if arguments.is_empty() => Self::Refuse { conn: 0, remote: 0 },
            (_, 3) => Self::Refuse {
                conn: 0,
                remote: argument(0)?,
            },
            _ => return Err(Error::UnknownCommand(kind)),
        };
        Ok(command)
    }

    /// Encodes the whole frame.
    ///
    /// Returns `None` for a command that the version lacks: only v1 has `New` and `Open`.
    pub fn encode(self, version: Version) -> Option<Bytes> {
        let v1 = version == Version::V1;
        let (kind, arguments) = match self {
            Self::New | Self::Open { .. } if !v1 => return None,
            Self::New => (0, [None, None]),
            Self::Open { conn } => (1, [Some(conn), None]),
            Self::Dial { conn, remote } if v1 => (2, [Some(conn), Some(remote)]),
            Self::Dial { remote, .. } => (0, [Some(remote), None]),
            Self::Refuse { conn, .. } if v1 => (3, [Some(conn), None]),
            Self::Refuse { remote, .. } => (3, [Some(remote), None]),
            Self::Accept { conn, remote } | Self::Connect { conn, remote } if v1 => {
                (4, [Some(conn), Some(remote)])
            }
            Self::Accept { conn, remote } => (1, [Some(conn), Some(remote)]),
            Self::Connect { conn, remote } => (2, [Some(conn), Some(remote)]),
            Self::Close { conn } => (if v1 { 5 } else { 4 }, [Some(conn), None]),
            Self::Ping => (if v1 { 6 } else { 5 }, [None, None]),
        };
        let mut frame = [0; DATA_HEADER + 9];
        // invariant: there is room for a kind and two arguments of four bytes.
        frame[DATA_HEADER] = kind;
        let mut len = DATA_HEADER + 1;
        for argument in arguments.into_iter().flatten() {
            frame[len..len + 4].copy_from_slice(&argument.to_le_bytes());
            len += 4;
        }
        // invariant: `len` is what was just written.
        frame[..DATA_HEADER].copy_from_slice(&header(0, len - DATA_HEADER));
        Some(Bytes::copy_from_slice(&frame[..len]))
    }

    /// Returns the name of the command.
    pub fn name(self) -> &'static str {
        match self {
            Self::New => "New",
            Self::Open { .. } => "Open",
            Self::Dial { .. } => "Dial",
            Self::Refuse { .. } => "Refuse",
            Self::Accept { .. } => "Accept",
            Self::Connect { .. } => "Connect",
            Self::Close { .. } => "Close",
            Self::Ping => "Ping",
        }
    }
}
