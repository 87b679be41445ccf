//! The library's client.

use std::net::SocketAddr;

use stablegate::client::scp::{Options, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::soon;

/// Where to connect, and nothing else.
pub fn options(addr: SocketAddr) -> Options {
    Options::new(addr.to_string().parse().unwrap())
}

/// A session that asks for nothing.
pub async fn connect(addr: SocketAddr) -> Stream {
    connect_with(options(addr)).await
}

pub async fn connect_with(options: Options) -> Stream {
    soon("a session", Stream::connect(options)).await.unwrap()
}

/// Sends and has it echoed.
pub async fn echoed(stream: &mut Stream, text: &[u8]) {
    stream.write_all(text).await.unwrap();
    let mut back = vec![0; text.len()];
    soon("the echo", stream.read_exact(&mut back))
        .await
        .unwrap();
    assert_eq!(back, text);
}
