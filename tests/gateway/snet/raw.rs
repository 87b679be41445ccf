//! A client of snet on a plain socket.

use std::net::SocketAddr;

use stablegate::internal::crypto::Rc4;
use stablegate::internal::proto::snet::Version;
use stablegate::internal::proto::snet::client::{Hello, Ticket};
use stablegate::internal::proto::snet::message::{
    Counts, NewResponse, ResumeResponse, response_len,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::common::soon;

pub const VERSIONS: [Version; 2] = [Version::V1, Version::V2];
/// Not zero, and not a secret.
const PRIVATE: u64 = 0x1234_5678_9abc_def1;

/// One encrypted session, over one connection after the other. It loses nothing, so it has
/// nothing to send again.
pub struct Raw {
    pub socket: TcpStream,
    pub ticket: Ticket,
    pub counts: Counts,
    incoming: Rc4,
    outgoing: Rc4,
}

/// A connection on which these bytes have been sent.
pub async fn dial(addr: SocketAddr, bytes: &[u8]) -> TcpStream {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.set_nodelay(true).unwrap();
    socket.write_all(bytes).await.unwrap();
    socket
}

/// Exactly that many bytes.
pub async fn read(socket: &mut TcpStream, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    let reading = socket.read_exact(&mut bytes);
    soon("bytes of the gateway", reading).await.unwrap();
    bytes
}

/// All that comes before the gateway closes.
pub async fn read_to_end(socket: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = socket.read_to_end(&mut bytes);
    soon("the end of a connection", reading).await.unwrap();
    bytes
}

impl Raw {
    pub async fn connect(addr: SocketAddr, version: Version) -> Self {
        let (request, hello) = Hello::new(PRIVATE, version);
        let socket = dial(addr, &request.to_bytes()).await;
        Self::answered(socket, hello, version).await
    }

    /// Goes on after a hello that the test has sent: that of [`hello`](Self::hello).
    pub async fn answered(mut socket: TcpStream, hello: Hello, version: Version) -> Self {
        let response = read(&mut socket, response_len(version)).await;
        let response = NewResponse::parse(&response, version).unwrap().unwrap();
        let opened = hello.answered(&response).unwrap();
        if let Some(proof) = opened.proof {
            socket.write_all(&proof).await.unwrap();
        }
        Self {
            socket,
            ticket: opened.ticket,
            counts: Counts {
                sent: 0,
                received: 0,
            },
            incoming: opened.incoming,
            outgoing: opened.outgoing,
        }
    }

    /// What a new session is asked for with.
    pub fn hello(version: Version) -> (Vec<u8>, Hello) {
        let (request, hello) = Hello::new(PRIVATE, version);
        (request.to_bytes(), hello)
    }

    pub fn id(&self) -> u64 {
        self.ticket.id()
    }

    /// Sends and has it echoed.
    pub async fn echo(&mut self, text: &str) {
        let mut bytes = text.as_bytes().to_vec();
        self.outgoing.apply(&mut bytes);
        self.socket.write_all(&bytes).await.unwrap();
        self.counts.sent += bytes.len() as u64;
        let mut back = read(&mut self.socket, bytes.len()).await;
        self.counts.received += back.len() as u64;
        self.incoming.apply(&mut back);
        assert_eq!(String::from_utf8_lossy(&back), text);
    }

    /// What asks to go on.
    pub fn resume_request(&self) -> Vec<u8> {
        self.ticket.resume(self.counts).to_bytes()
    }

    /// Goes on over a new connection.
    pub async fn resume(&mut self, addr: SocketAddr) {
        self.socket = dial(addr, &self.resume_request()).await;
        let version = self.ticket.version();
        let response = read(&mut self.socket, response_len(version)).await;
        let response = ResumeResponse::parse(&response, version).unwrap().unwrap();
        assert_eq!(response.counts.received, self.counts.sent);
        assert_eq!(response.counts.sent, self.counts.received);
        if let Some(proof) = self.ticket.prove(&response) {
            self.socket.write_all(&proof).await.unwrap();
        }
    }
}
