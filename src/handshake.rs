//! The records of an scp handshake over a connection, for client and server alike.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::proto::scp::{self, record};

/// Why no record came.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Protocol(#[from] scp::Error),
}

/// Reads one record, and not a byte beyond it. Nothing is allocated before the size is known to
/// be one of a handshake.
pub async fn read_record(connection: &mut (impl AsyncRead + Unpin)) -> Result<Vec<u8>, Error> {
    let mut header = [0; record::HEADER_LEN];
    connection.read_exact(&mut header).await?;
    let mut body = vec![0; record::body_len(header)?];
    connection.read_exact(&mut body).await?;
    Ok(body)
}

/// Writes one record.
pub async fn write_record(
    connection: &mut (impl AsyncWrite + Unpin),
    message: impl ToString,
) -> io::Result<()> {
    connection
        .write_all(&record::encode(&message.to_string()))
        .await?;
    connection.flush().await
}
