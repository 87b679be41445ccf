//! The segment codec: what a KCP datagram is made of.
//!
//! A datagram holds one or more segments, each a 24-byte little-endian header and its payload, as
//! `ikcp_encode_seg` of KCP's `ikcp.c` and kcp-go write them (and as recorded exchanges of kcp-go
//! have them, which the tests replay):
//!
//! ```text
//! conv u32 | cmd u8 | frg u8 | wnd u16 | ts u32 | sn u32 | una u32 | len u32 | payload
//! ```

use thiserror::Error;

/// Counts the bytes of a segment header (`IKCP_OVERHEAD`).
pub const HEADER_LEN: usize = 24;

/// Counts the bytes of the longest datagram that a kcp-go peer sends or receives, whatever its
/// `mtu` (kcp-go's `mtuLimit`).
pub const PEER_DATAGRAM_LIMIT: usize = 1500;

/// Tells what a segment is for, by KCP's number for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Command {
    /// Carries payload with serial number `sn` (`IKCP_CMD_PUSH`).
    Push = 81,
    /// Acknowledges `sn` and echoes the timestamp it was sent with (`IKCP_CMD_ACK`).
    Ack = 82,
    /// Asks for the receiver's window after it was told to be closed (`IKCP_CMD_WASK`).
    WindowAsk = 83,
    /// Tells the window, in the header as every segment does (`IKCP_CMD_WINS`).
    WindowTell = 84,
}

impl Command {
    fn from_wire(byte: u8) -> Option<Self> {
        [Self::Push, Self::Ack, Self::WindowAsk, Self::WindowTell]
            .into_iter()
            .find(|command| *command as u8 == byte)
    }
}

/// Holds a segment header without its length, which the payload gives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header {
    /// Names the conversation, picked by the client.
    pub conv: u32,
    /// Tells what the segment is for (`cmd`).
    pub command: Command,
    /// Counts the fragments of the same message that follow this one; 0 in stream mode (`frg`).
    pub fragment: u8,
    /// Counts the segments that the sender of this header can still take in (`wnd`).
    pub window: u16,
    /// Tells the sender's clock in milliseconds; in an ack, the echoed clock of the acknowledged
    /// push (`ts`).
    pub timestamp: u32,
    /// Numbers the push, or the acknowledged push; from 0 on, wrapping at 2^32.
    pub sn: u32,
    /// Acknowledges everything below this serial number.
    pub una: u32,
}

/// Holds one decoded segment, its payload borrowed from the datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment<'a> {
    /// Holds everything but the length.
    pub header: Header,
    /// Carries bytes of the stream, or of a message; empty but in a push.
    pub payload: &'a [u8],
}

/// Tells why bytes are not a segment; always the sender's fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum SegmentError {
    /// Fewer bytes than a header.
    #[error("{0} bytes are too few for a segment header")]
    Short(usize),
    /// None of the [`Command`]s.
    #[error("unknown segment command {0}")]
    UnknownCommand(u8),
    /// A length beyond the end of the datagram.
    #[error("segment claims {claimed} bytes of payload, the datagram has {available}")]
    Truncated {
        /// Bytes of payload by the header.
        claimed: u32,
        /// Bytes there are.
        available: usize,
    },
}

impl Header {
    /// Encodes the header as it stands on the wire, for a payload of `payload_len` bytes.
    pub fn encode(&self, payload_len: u32) -> [u8; HEADER_LEN] {
        let mut out = [0; HEADER_LEN];
        // invariant: a header has 24 bytes.
        out[0..4].copy_from_slice(&self.conv.to_le_bytes());
        out[4] = self.command as u8;
        out[5] = self.fragment;
        out[6..8].copy_from_slice(&self.window.to_le_bytes());
        out[8..12].copy_from_slice(&self.timestamp.to_le_bytes());
        out[12..16].copy_from_slice(&self.sn.to_le_bytes());
        out[16..20].copy_from_slice(&self.una.to_le_bytes());
        out[20..24].copy_from_slice(&payload_len.to_le_bytes());
        out
    }
}

impl<'a> Segment<'a> {
    /// Decodes the first segment of `datagram`; returns it and the bytes behind it.
    ///
    /// # Errors
    /// [`SegmentError`], by which the rest of the datagram is unusable too.
    pub fn decode(datagram: &'a [u8]) -> Result<(Self, &'a [u8]), SegmentError> {
        let Some((head, rest)) = datagram.split_first_chunk::<HEADER_LEN>() else {
            return Err(SegmentError::Short(datagram.len()));
        };
        let command = Command::from_wire(head[4]).ok_or(SegmentError::UnknownCommand(head[4]))?;
        let claimed = word(head, 20);
        let Some((payload, rest)) = rest.split_at_checked(claimed as usize) else {
            return Err(SegmentError::Truncated {
                claimed,
                available: rest.len(),
            });
        };
        let header = Header {
            conv: word(head, 0),
            command,
            fragment: head[5],
            window: u16::from_le_bytes([head[6], head[7]]),
            timestamp: word(head, 8),
            sn: word(head, 12),
            una: word(head, 16),
        };
        Ok((Self { header, payload }, rest))
    }
}

/// Reads the conversation of a datagram by its first segment, unchecked otherwise; `None` if it is
/// too short for that.
pub fn conversation(datagram: &[u8]) -> Option<u32> {
    datagram
        .first_chunk::<4>()
        .map(|bytes| u32::from_le_bytes(*bytes))
}

/// Whether serial number or clock value `a` comes before `b`; both wrap at 2^32.
pub(super) fn before(a: u32, b: u32) -> bool {
    (a.wrapping_sub(b) as i32) < 0
}

fn word(head: &[u8; HEADER_LEN], at: usize) -> u32 {
    // invariant: callers ask for words of a header.
    u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Vec<u8> {
        let header = Header {
            conv: 0x1122_3344,
            command: Command::Push,
            fragment: 3,
            window: 2048,
            timestamp: 0xffff_fffe,
            sn: 0,
            una: 7,
        };
        let mut bytes = header.encode(5).to_vec();
        bytes.extend(b"hello");
        bytes
    }

    #[test]
    fn known_bytes() {
        // The first recorded datagram of vectors/kcp.json.
        let bytes = [
            0x37, 0xcc, 0xfd, 0xec, 0x51, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0,
            0, 7, 14, 21, 28,
        ];
        let (segment, rest) = Segment::decode(&bytes).expect("recorded segment");
        assert!(rest.is_empty());
        assert_eq!(segment.header.conv, 3_976_055_863);
        assert_eq!(segment.header.command, Command::Push);
        assert_eq!(segment.header.window, 2048);
        assert_eq!(segment.payload, [0, 7, 14, 21, 28]);
        assert_eq!(segment.header.encode(5), bytes[..HEADER_LEN]);
    }

    #[test]
    fn two_segments_in_a_datagram() {
        let mut bytes = sample();
        bytes.extend(sample());
        let (first, rest) = Segment::decode(&bytes).expect("first");
        let (second, rest) = Segment::decode(rest).expect("second");
        assert_eq!(first, second);
        assert_eq!(first.payload, b"hello");
        assert!(rest.is_empty());
    }

    #[test]
    fn truncated_at_each_byte() {
        let bytes = sample();
        for cut in 0..bytes.len() {
            let error = Segment::decode(&bytes[..cut]).expect_err("cut short");
            match error {
                SegmentError::Short(len) => assert!(len == cut && cut < HEADER_LEN),
                SegmentError::Truncated { claimed, available } => {
                    assert_eq!((claimed, available), (5, cut - HEADER_LEN));
                }
                SegmentError::UnknownCommand(_) => panic!("command is known"),
            }
        }
    }

    #[test]
    fn unknown_command_and_lying_length() {
        for command in (0..=80u8).chain(85..=255) {
            let mut bytes = sample();
            bytes[4] = command;
            let error = Segment::decode(&bytes).expect_err("unknown");
            assert_eq!(error, SegmentError::UnknownCommand(command));
        }
        for claimed in [6, 0x7fff_ffff, 0x8000_0000, u32::MAX] {
            let mut bytes = sample();
            bytes[20..24].copy_from_slice(&claimed.to_le_bytes());
            let error = Segment::decode(&bytes).expect_err("lie");
            let available = 5;
            assert_eq!(error, SegmentError::Truncated { claimed, available });
        }
    }

    #[test]
    fn order_wraps() {
        assert!(before(1, 2) && !before(2, 1) && !before(2, 2));
        assert!(before(u32::MAX, 0) && before(0xffff_fff0, 0x10));
        assert!(!before(0x10, 0xffff_fff0));
    }
}
