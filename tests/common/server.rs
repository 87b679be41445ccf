//! Servers behind the gateway.

use std::net::SocketAddr;

use tokio::io::AsyncReadExt;
use tokio::net::{TcpListener, TcpStream};

use super::soon;

/// A server that the test plays.
pub struct Server {
    listener: TcpListener,
    pub addr: SocketAddr,
}

impl Server {
    pub async fn start() -> Self {
        Self::start_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn start_on(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.unwrap();
        let addr = listener.local_addr().unwrap();
        Self { listener, addr }
    }

    /// A server that sends back what it gets. Returns where it is.
    pub async fn echo() -> SocketAddr {
        Self::echo_on("127.0.0.1:0".parse().unwrap()).await
    }

    pub async fn echo_on(addr: SocketAddr) -> SocketAddr {
        let server = Self::start_on(addr).await;
        let addr = server.addr;
        tokio::spawn(async move {
            while let Ok((mut connection, _)) = server.listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = connection.split();
                    let _ = tokio::io::copy(&mut from, &mut to).await;
                });
            }
        });
        addr
    }

    /// The gateway's next connection.
    pub async fn accept(&self) -> TcpStream {
        soon("the gateway", self.accept_whenever()).await
    }

    /// The gateway's next connection, should there be one.
    pub async fn accept_whenever(&self) -> TcpStream {
        let (connection, _) = self.listener.accept().await.unwrap();
        connection.set_nodelay(true).unwrap();
        connection
    }
}

/// An address where nobody listens, and nobody will as long as the listener's port is not given
/// out again.
pub async fn dead_addr() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

/// Reads exactly `len` bytes.
pub async fn read(connection: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let reading = connection.read_exact(&mut bytes);
    soon("bytes at the server", reading).await.unwrap();
    bytes
}

/// Reads to the end.
pub async fn read_to_end(connection: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = connection.read_to_end(&mut bytes);
    soon("the end at the server", reading).await.unwrap();
    bytes
}
