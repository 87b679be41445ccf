//! Peeking at the first bytes of a client, before its upstream is dialled.

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::time::timeout;

use crate::config::{Frame, Peek};

/// Most room made for one step of a framed read, bytes: the length in a frame's header is only a
/// claim.
const STEP: usize = 1024;

/// Reads the first bytes of a client, at most `peek.bytes`.
///
/// Stops when the first frame is complete, `peek.bytes` have come, `peek.timeout` has passed or
/// nothing more will come.
pub(super) async fn peek(client: &mut (impl AsyncRead + Unpin), peek: &Peek) -> Vec<u8> {
    let mut data = Vec::new();
    let reading = async {
        while let wanted @ 1.. = missing(&data, peek) {
            // What arrives first comes in one step.
            data.reserve(match peek.frame {
                Frame::None => wanted,
                _ => wanted.min(STEP),
            });
            match (&mut *client).take(wanted as u64).read_buf(&mut data).await {
                Ok(1..) => {}
                Ok(0) | Err(_) => break,
            }
        }
    };
    // The hooks decide whether it is enough.
    let _ = timeout(peek.timeout, reading).await;
    // It is kept as long as the session.
    data.shrink_to_fit();
    data
}

/// Returns how many more bytes are to be read at most; 0 when there are enough.
fn missing(data: &[u8], peek: &Peek) -> usize {
    let frame = match peek.frame {
        Frame::None if data.is_empty() => peek.bytes,
        Frame::None => 0,
        Frame::U16Be => frame_len(data, |header| u16::from_be_bytes(header).into()),
        Frame::U16Le => frame_len(data, |header| u16::from_le_bytes(header).into()),
        Frame::U32Be => frame_len(data, u32::from_be_bytes),
        Frame::U32Le => frame_len(data, u32::from_le_bytes),
    };
    frame.min(peek.bytes).saturating_sub(data.len())
}

/// Returns the length of the first frame with its header, or of the header alone while that is
/// incomplete.
fn frame_len<const N: usize>(data: &[u8], len: impl Fn([u8; N]) -> u32) -> usize {
    match data.first_chunk() {
        Some(header) => N.saturating_add(len(*header) as usize),
        None => N,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;
    use tokio::io::AsyncWriteExt;

    fn settings(frame: Frame, bytes: usize) -> Peek {
        Peek {
            bytes,
            frame,
            timeout: Duration::from_secs(5),
        }
    }

    /// Returns what is peeked of `sent`, written byte by byte, and what is left.
    async fn peeked(sent: &[u8], settings: Peek) -> (Vec<u8>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1);
        let sent = sent.to_vec();
        let writer = tokio::spawn(async move { far.write_all(&sent).await });
        let data = peek(&mut near, &settings).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        writer.await.unwrap().unwrap();
        (data, rest)
    }

    #[tokio::test(start_paused = true)]
    async fn a_frame_is_read_and_nothing_beyond() {
        for (frame, sent) in [
            (Frame::U16Be, &b"\x00\x03abcdef"[..]),
            (Frame::U16Le, b"\x03\x00abcdef"),
            (Frame::U32Be, b"\x00\x00\x00\x03abcdef"),
            (Frame::U32Le, b"\x03\x00\x00\x00abcdef"),
        ] {
            let (data, rest) = peeked(sent, settings(frame, 4096)).await;
            assert_eq!(data, sent[..sent.len() - 3]);
            assert_eq!(rest, b"def");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_arrives_at_once_is_read_at_once() {
        for (frame, header) in [(Frame::None, &b""[..]), (Frame::U16Be, b"\x0b\xb8")] {
            let (mut near, mut far) = tokio::io::duplex(8192);
            let sent = [header, &[7; 3000]].concat();
            far.write_all(&sent).await.unwrap();
            assert_eq!(peek(&mut near, &settings(frame, 4096)).await, sent);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_frame_is_cut() {
        let (data, rest) = peeked(b"\xff\xffabcdef", settings(Frame::U16Be, 4)).await;
        assert_eq!((&data[..], &rest[..]), (&b"\xff\xffab"[..], &b"cdef"[..]));
        let (data, _) = peeked(b"\xff\xff\xff\xffab", settings(Frame::U32Be, 5)).await;
        assert_eq!(data, b"\xff\xff\xff\xffa");
    }

    #[tokio::test(start_paused = true)]
    async fn what_came_in_time_counts() {
        let (mut near, mut far) = tokio::io::duplex(64);
        far.write_all(b"\x00\x09abc").await.unwrap();
        assert_eq!(
            peek(&mut near, &settings(Frame::U16Be, 4096)).await,
            b"\x00\x09abc"
        );
        far.write_all(b"hello").await.unwrap();
        assert_eq!(
            peek(&mut near, &settings(Frame::None, 4096)).await,
            b"hello"
        );
        assert_eq!(peek(&mut near, &settings(Frame::None, 4096)).await, b"");
    }
}
