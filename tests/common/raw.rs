//! A client of scp on a plain socket, for saying exactly what a test wants said.

use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stablegate::internal::crypto::{Dialect, Rc4, hashkey, hmac64, public_key, shared_secret};
use stablegate::internal::proto::scp::Secret;
use stablegate::internal::proto::scp::message::{Code, NewResponse, ResumeResponse};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::{Cut, soon};

/// Not zero, and not a secret.
const PRIVATE: u64 = 0x1234_5678_9abc_def1;

/// One session, over one connection after the other.
pub struct Raw {
    /// `None` while it is away.
    socket: Option<TcpStream>,
    pub id: u32,
    /// Of the last resume.
    pub index: u32,
    /// Bytes of the stream it has.
    pub received: u64,
    secret: [u8; 8],
    dialect: Dialect,
    incoming: Rc4,
    outgoing: Rc4,
    /// All that it sent, as it was on the wire.
    sent: Vec<u8>,
}

/// A message with its size in front. Sizes no handshake has are for the test to write.
pub fn record(message: impl AsRef<[u8]>) -> Vec<u8> {
    let message = message.as_ref();
    let size = u16::try_from(message.len()).unwrap().to_be_bytes();
    [&size, message].concat()
}

/// Connects, writes `bytes` and reads all that comes back.
pub async fn ask(addr: SocketAddr, bytes: impl AsRef<[u8]>) -> Vec<u8> {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    socket.write_all(bytes.as_ref()).await.unwrap();
    let mut answer = Vec::new();
    let reading = socket.read_to_end(&mut answer);
    soon("the end of an answer", reading).await.unwrap();
    answer
}

impl Raw {
    /// A new session that asks for nothing.
    pub async fn connect(addr: SocketAddr) -> Self {
        Self::open(addr, Dialect::Current, "").await
    }

    /// A new session. `more` stands behind the public key.
    pub async fn open(addr: SocketAddr, dialect: Dialect, more: &str) -> Self {
        // Small, so that a client that does not read is soon full.
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(16 * 1024).unwrap();
        let mut socket = socket.connect(addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        let public = STANDARD.encode(public_key(PRIVATE).to_le_bytes());
        let hello = record(format!("0\n{public}{more}"));
        socket.write_all(&hello).await.unwrap();
        let answer = soon("an answer", read_record(&mut socket)).await;
        let answer = NewResponse::parse(&answer).unwrap();
        let shared = shared_secret(PRIVATE, answer.public).unwrap();
        let cipher = Secret::new(shared, dialect).cipher();
        Self {
            socket: Some(socket),
            id: answer.id,
            index: 0,
            received: 0,
            secret: shared.to_le_bytes(),
            dialect,
            incoming: cipher.clone(),
            outgoing: cipher,
            sent: Vec::new(),
        }
    }

    /// The connection.
    pub fn socket(&mut self) -> &mut TcpStream {
        self.socket.as_mut().expect("a connection")
    }

    /// Loses the connection, with all that it has not delivered.
    pub fn leave(&mut self, how: Cut) {
        let socket = self.socket.take().expect("a connection");
        if how == Cut::Reset {
            let options = socket2::SockRef::from(&socket);
            options.set_linger(Some(Duration::ZERO)).unwrap();
        }
    }

    pub fn sent(&self) -> u64 {
        self.sent.len() as u64
    }

    /// How many of the bytes written to the connection have not been acknowledged.
    pub fn unacknowledged(&mut self) -> u64 {
        let mut queued: libc::c_int = 0;
        let socket = self.socket().as_raw_fd();
        // SAFETY: the descriptor is open, and TIOCOUTQ writes one int.
        let result = unsafe { libc::ioctl(socket, libc::TIOCOUTQ, &mut queued) };
        assert_eq!(result, 0);
        queued as u64
    }

    /// Takes over a connection whose resume with `index` was accepted, and which lacks nothing.
    pub fn adopt(&mut self, socket: TcpStream, index: u32) {
        self.socket = Some(socket);
        self.index = index;
    }

    /// Counts and encrypts, without sending: as if it had been lost on the way.
    pub fn lose(&mut self, plain: &[u8]) -> &[u8] {
        let start = self.sent.len();
        self.sent.extend_from_slice(plain);
        self.outgoing.apply(&mut self.sent[start..]);
        &self.sent[start..]
    }

    pub async fn send(&mut self, plain: &[u8]) {
        let bytes = self.lose(plain).to_vec();
        let sending = self.socket().write_all(&bytes);
        soon("room to send", sending).await.unwrap();
    }

    /// The next `len` bytes.
    pub async fn receive(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        let reading = self.socket().read_exact(&mut bytes);
        soon("bytes of the session", reading).await.unwrap();
        self.count(&mut bytes);
        bytes
    }

    /// All bytes up to the end of the connection.
    pub async fn receive_to_end(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        let reading = self.socket().read_to_end(&mut bytes);
        soon("the end of the connection", reading).await.unwrap();
        self.count(&mut bytes);
        bytes
    }

    /// Sends and has it echoed.
    pub async fn echo(&mut self, text: &str) {
        self.send(text.as_bytes()).await;
        let back = self.receive(text.len()).await;
        assert_eq!(String::from_utf8_lossy(&back), text);
    }

    fn count(&mut self, bytes: &mut [u8]) {
        self.received += bytes.len() as u64;
        self.incoming.apply(bytes);
    }

    /// The text that asks for a resume, signed by the owner of the session.
    pub fn request(&self, index: u32, received: u64) -> String {
        let signed = format!("{}\n{index}\n{}\n", self.id, received as u32);
        let hmac = hmac64(self.dialect, hashkey(signed.as_bytes()), self.secret);
        format!("{signed}{}", STANDARD.encode(hmac))
    }

    /// Asks for a resume on a new connection, which is returned with the answer.
    pub async fn ask(&self, addr: SocketAddr, text: &str) -> (TcpStream, ResumeResponse) {
        let mut socket = TcpStream::connect(addr).await.unwrap();
        socket.set_nodelay(true).unwrap();
        socket.write_all(&record(text)).await.unwrap();
        let answer = soon("an answer", read_record(&mut socket)).await;
        (socket, ResumeResponse::parse(&answer).unwrap())
    }

    /// Asks for the session, which the gateway must not know any more.
    pub async fn is_forgotten(&mut self, addr: SocketAddr) {
        self.index += 1;
        let answer = ask(addr, record(self.request(self.index, self.received))).await;
        assert_eq!(answer, b"\x00\x050\n404");
    }

    /// Goes on over a new connection. Returns the old one, if it was not away.
    pub async fn resume(&mut self, addr: SocketAddr) -> Option<TcpStream> {
        self.index += 1;
        let text = self.request(self.index, self.received);
        let (socket, answer) = self.ask(addr, &text).await;
        assert_eq!(answer.code, Code::Ok);
        self.go_on(socket, answer).await
    }

    /// Goes on over a connection that was accepted: sends what the gateway lacks.
    pub async fn go_on(
        &mut self,
        mut socket: TcpStream,
        answer: ResumeResponse,
    ) -> Option<TcpStream> {
        let lacking = &self.sent[answer.received as usize..];
        let sending = socket.write_all(lacking);
        soon("room to send again", sending).await.unwrap();
        self.socket.replace(socket)
    }
}

/// Reads one message, and not a byte more.
pub async fn read_record(socket: &mut TcpStream) -> Vec<u8> {
    let size = socket.read_u16().await.unwrap();
    let mut body = vec![0; size.into()];
    socket.read_exact(&mut body).await.unwrap();
    body
}
