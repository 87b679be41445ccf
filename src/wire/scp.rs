//! Reading and writing of the records of an scp handshake.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::proto::scp::{self, record};

type Error = super::Error<scp::Error>;

/// Reads one record, and not a byte beyond it.
///
/// Allocates only once the size is known to be within the limit of a handshake.
pub async fn read_record(connection: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut header = [0; record::HEADER_LEN];
    let (first, rest) = header.split_at_mut(1);
    let read = connection.read_exact(first).await;
    read.map_err(Error::Silent)?;
    connection.read_exact(rest).await?;
    let len = record::body_len(header).map_err(Error::Protocol)?;
    let mut body = vec![0; len];
    connection.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes one record.
pub async fn write_record(
    connection: &mut (impl AsyncWrite + Unpin),
    message: impl ToString,
) -> Result<(), Error> {
    let record = record::encode(&message.to_string()).map_err(Error::Protocol)?;
    connection.write_all(&record).await?;
    Ok(connection.flush().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    const RECORD: &[u8] = b"\x00\x0a4294967295";

    /// Writes `pieces` one after the other; returns the record read and the bytes left.
    async fn read(pieces: Vec<Vec<u8>>) -> (Result<Vec<u8>, Error>, Vec<u8>) {
        let (mut near, mut far) = tokio::io::duplex(1);
        let writing = tokio::spawn(async move {
            for piece in pieces {
                far.write_all(&piece).await.unwrap();
            }
        });
        let record = read_record(&mut near).await;
        let mut rest = Vec::new();
        near.read_to_end(&mut rest).await.unwrap();
        writing.await.unwrap();
        (record, rest)
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_in_any_pieces() {
        let whole = [RECORD, b"beyond"].concat();
        let bytes = whole.iter().map(|byte| vec![*byte]).collect();
        let halves = (0..=whole.len()).map(|at| vec![whole[..at].to_vec(), whole[at..].to_vec()]);
        for pieces in halves.chain([bytes]) {
            let (record, rest) = read(pieces).await;
            assert_eq!(record.unwrap(), b"4294967295");
            assert_eq!(rest, b"beyond");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_that_ends_early() {
        for len in 0..RECORD.len() {
            let (record, _) = read(vec![RECORD[..len].to_vec()]).await;
            let ((Err(Error::Io(error)), 1..) | (Err(Error::Silent(error)), 0)) = (&record, len)
            else {
                panic!("{len}: {record:?}");
            };
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{len}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_record_too_long_is_not_read() {
        let (record, rest) = read(vec![b"\xff\xffbody".to_vec()]).await;
        assert!(matches!(
            record,
            Err(Error::Protocol(scp::Error::TooLong(65_535)))
        ));
        assert_eq!(rest, b"body");
    }
}
