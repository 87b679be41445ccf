//! Reading and writing of the messages of an snet handshake.

use std::io;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::proto::snet::message::{MAX_REQUEST, PADDING, Proof, Request, response_len};
use crate::proto::snet::{self, Version};

/// Time to wait for padding, which a client may not send.
///
/// All known clients that send padding send it together with the request.
const PADDING_WAIT: Duration = Duration::from_millis(100);

type Error = super::Error<snet::Error>;

/// Writes one message.
pub async fn write_message(
    connection: &mut (impl AsyncWrite + Unpin),
    message: &[u8],
) -> io::Result<()> {
    connection.write_all(message).await?;
    connection.flush().await
}

/// Reads a request, and not a byte beyond it.
pub async fn read_request(
    connection: &mut (impl AsyncRead + Unpin),
    only: Option<Version>,
) -> Result<Request, Error> {
    let mut bytes = Vec::with_capacity(MAX_REQUEST);
    loop {
        if let Some(request) = Request::parse(&bytes, only).map_err(Error::Protocol)? {
            return Ok(request);
        }
        let missing = Request::missing(&bytes, only) as u64;
        let mut rest = (&mut *connection).take(missing);
        let error = match rest.read_buf(&mut bytes).await {
            Ok(1..) => continue,
            Ok(0) => io::ErrorKind::UnexpectedEof.into(),
            Err(error) => error,
        };
        return Err(match bytes.is_empty() {
            true => Error::Silent(error),
            false => Error::Io(error),
        });
    }
}

/// Reads the padding of a new request, if there is any.
///
/// A client without padding sends nothing before the answer, so bytes that arrive now cannot be
/// payload. Bytes that arrived later would be payload.
pub async fn skip_padding(connection: &mut (impl AsyncRead + Unpin)) -> Result<(), Error> {
    let mut padding = [0; PADDING];
    let mut len = 0;
    while len < PADDING {
        // invariant: `len` is below `PADDING`.
        let read = match timeout(PADDING_WAIT, connection.read(&mut padding[len..])).await {
            Ok(read) => read?,
            Err(_) => break,
        };
        if read == 0 {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
        }
        // invariant: no more is read than there is room for.
        if padding[len..len + read].iter().any(|&byte| byte != 0) {
            return Err(Error::Protocol(snet::Error::Padding));
        }
        len += read;
    }
    Ok(())
}

/// Reads the answer to a request.
pub async fn read_response(
    connection: &mut (impl AsyncRead + Unpin),
    version: Version,
) -> io::Result<Vec<u8>> {
    let mut response = vec![0; response_len(version)];
    connection.read_exact(&mut response).await?;
    Ok(response)
}

/// Reads a client's proof that it has the key of its session.
pub async fn read_proof(connection: &mut (impl AsyncRead + Unpin)) -> io::Result<Proof> {
    let mut proof = Proof::default();
    connection.read_exact(&mut proof).await?;
    Ok(proof)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::duplex;
    use tokio::time::{Instant, sleep};

    const GAP: Duration = Duration::from_millis(99);

    /// Skips the padding of `sent`, whose pieces arrive 99 ms apart; returns the bytes left and the
    /// time taken.
    async fn after_padding(sent: &[&[u8]]) -> (Result<(), Error>, Vec<u8>, Duration) {
        let (mut near, mut far) = duplex(64);
        let pieces: Vec<Vec<u8>> = sent.iter().map(|piece| piece.to_vec()).collect();
        let writer = tokio::spawn(async move {
            for piece in pieces {
                far.write_all(&piece).await.unwrap();
                sleep(GAP).await;
            }
            // The client waits for its answer.
            sleep(Duration::from_secs(1)).await;
        });
        let start = Instant::now();
        let result = skip_padding(&mut near).await;
        let took = start.elapsed();
        writer.await.unwrap();
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        (result, rest, took)
    }

    #[tokio::test(start_paused = true)]
    async fn padding_of_any_length() {
        let zeros = [0; PADDING + 1];
        for (sent, rest, took) in [
            (&[&zeros[..PADDING]][..], 0, Duration::ZERO),
            // Bytes beyond the padding are not read, whatever they are.
            (&[&zeros[..]], 1, Duration::ZERO),
            (&[], 0, PADDING_WAIT),
            (&[&zeros[..10]], 0, PADDING_WAIT),
            (&[&zeros[..1], &zeros[..23]], 0, GAP),
            (&[&zeros[..1], &zeros[..22], &zeros[..1]], 0, 2 * GAP),
        ] {
            let (result, left, time) = after_padding(sent).await;
            assert!(result.is_ok());
            assert_eq!((left.len(), time), (rest, took), "{sent:?}");
        }
        let (result, ..) = after_padding(&[&zeros[..5], b"\0x"]).await;
        assert!(matches!(result, Err(Error::Protocol(snet::Error::Padding))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_leaves_before_it_is_answered() {
        let (mut near, far) = duplex(64);
        drop(far);
        assert!(matches!(skip_padding(&mut near).await, Err(Error::Io(_))));
        let request = read_request(&mut near, None).await;
        assert!(matches!(request, Err(Error::Silent(_))));
        let (mut near, mut far) = duplex(64);
        far.write_all(b"\0").await.unwrap();
        drop(far);
        let request = read_request(&mut near, None).await;
        assert!(matches!(request, Err(Error::Io(_))));
    }

    /// Checks that no byte beyond a request is read, byte by byte and all at once.
    #[tokio::test(start_paused = true)]
    async fn a_request_is_read_and_nothing_beyond() {
        for space in [1, 64] {
            let (mut near, mut far) = duplex(space);
            let wire = [&[0, 5][..], &[0; 7], b"proof"].concat();
            let writer = tokio::spawn(async move { far.write_all(&wire).await });
            let request = read_request(&mut near, None).await.unwrap();
            assert!(matches!(request, Request::New(new) if new.public == 5));
            let mut rest = Vec::new();
            near.read_to_end(&mut rest).await.unwrap();
            assert_eq!(rest, b"proof");
            writer.await.unwrap().unwrap();
        }
    }
}
