//! A gateway for fastway, and those who connect to it.

use std::net::SocketAddr;

use bytes::Bytes;
use stablegate::client::fastway::{Connection, Endpoint, Options, Version};
use stablegate::internal::proto::fastway::{Command, auth, data};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use crate::common::{Gateway, soon};

/// Listeners for clients, of any version and of each of the older ones, and for servers of each version.
pub fn config(fastway: &str) -> String {
    format!("{}{}", listeners(""), settings(fastway))
}

/// `more` stands in each listener.
pub fn listeners(more: &str) -> String {
    let listener = |name: &str, service: &str, version: &str| {
        format!(
            "  - {{name: {name}, bind: ['tcp://127.0.0.1:0'], session: plain, \
             service: fastway-{service}, fastway: {{{version}}}{more}}}\n"
        )
    };
    [
        "listeners:\n".to_owned(),
        listener("clients", "client", ""),
        listener("clients1", "client", "client_version: 1"),
        listener("clients2", "client", "client_version: 2"),
        listener("servers1", "server", "server_version: 1"),
        listener("servers2", "server", "server_version: 2"),
        listener("servers3", "server", "server_version: 3"),
    ]
    .concat()
}

pub fn settings(fastway: &str) -> String {
    format!("fastway: {{auth_key: sesame{fastway}}}\n")
}

/// Where clients of a version connect.
pub fn clients(gateway: &Gateway, version: Version) -> SocketAddr {
    let name = match version {
        Version::V2 => "clients2",
        _ => "clients",
    };
    gateway.addrs(name)[0]
}

/// Where servers of a version connect.
pub fn servers(gateway: &Gateway, version: Version) -> SocketAddr {
    gateway.addrs(&format!("servers{}", version.number()))[0]
}

pub fn options(version: Version) -> Options {
    Options {
        version,
        ..Options::default()
    }
}

pub async fn tcp(addr: SocketAddr) -> TcpStream {
    let stream = soon("a connection", TcpStream::connect(addr))
        .await
        .unwrap();
    stream.set_nodelay(true).unwrap();
    stream
}

pub async fn client(gateway: &Gateway, version: Version) -> Endpoint {
    Endpoint::client(tcp(clients(gateway, version)).await, options(version))
}

/// A server, once it can be dialled.
pub async fn server(gateway: &Gateway, version: Version, id: u32) -> Endpoint {
    let stream = tcp(servers(gateway, version)).await;
    let local = stream.local_addr().unwrap().to_string();
    let server = Endpoint::server(stream, id, b"sesame", options(version));
    let server = soon("a challenge", server).await.unwrap();
    // A client may have had the same address, to another port of the gateway.
    let fits = |line: &serde_json::Value| {
        line["message"] == "endpoint joined" && line["client"] == local && line["endpoint"] == id
    };
    gateway.log().wait("a server joined", fits).await;
    server
}

/// Waits until the endpoint with this address can be dialled; returns its id.
pub async fn joined(gateway: &Gateway, addr: &str) -> u32 {
    let fits =
        |line: &serde_json::Value| line["message"] == "endpoint joined" && line["client"] == addr;
    let line = gateway.log().wait("an endpoint joined", fits).await;
    line["endpoint"].as_u64().unwrap() as u32
}

/// Has two endpoints connected.
pub async fn connect(from: &Endpoint, to: &Endpoint, id: u32) -> (Connection, Connection) {
    let dialled = soon("an answer", from.dial(id)).await.unwrap();
    let accepted = soon("a dial", to.accept()).await.unwrap();
    assert_eq!(dialled.id(), accepted.id());
    (dialled, accepted)
}

pub async fn passes(from: &Connection, to: &Connection, text: &'static str) {
    from.send(text).await.unwrap();
    let received = soon("a message", to.receive()).await;
    assert_eq!(received, Ok(Bytes::from(text)));
}

/// An endpoint that says exactly what a test wants said.
pub struct Raw(pub TcpStream);

impl Raw {
    pub async fn client(addr: SocketAddr) -> Self {
        Self(tcp(addr).await)
    }

    pub async fn server(addr: SocketAddr, id: u32) -> Self {
        let mut raw = Self(tcp(addr).await);
        let challenge = raw.read(auth::CHALLENGE_LEN).await.try_into().unwrap();
        raw.send(&auth::answer(&challenge, b"sesame", id)).await;
        raw
    }

    /// One whose system takes little before it is read.
    pub async fn narrow(addr: SocketAddr) -> Self {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        Self(socket.connect(addr).await.unwrap())
    }

    pub async fn send(&mut self, bytes: &[u8]) {
        soon("room", self.0.write_all(bytes)).await.unwrap();
    }

    pub async fn say(&mut self, version: Version, command: Command) {
        self.send(&command.encode(version).unwrap()).await;
    }

    pub async fn send_data(&mut self, conn: u32, payload: &[u8]) {
        self.send(&data(conn, payload)).await;
    }

    pub async fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        soon("bytes", self.0.read_exact(&mut bytes)).await.unwrap();
        bytes
    }

    /// Reads one frame, its length included.
    pub async fn frame(&mut self) -> Vec<u8> {
        let mut frame = self.read(4).await;
        let len = u32::from_le_bytes(frame[..].try_into().unwrap());
        frame.extend(self.read(len as usize).await);
        frame
    }

    /// Reads one frame that must be this command.
    #[track_caller]
    pub fn hears(&mut self, version: Version, command: Command) -> impl Future<Output = ()> {
        let caller = std::panic::Location::caller();
        async move {
            let frame = self.frame().await;
            let heard = Command::parse(version, &frame[8..]);
            assert_eq!(
                (&frame[4..8], heard),
                (&[0; 4][..], Ok(command)),
                "{caller}"
            );
        }
    }

    /// Waits for the gateway to close; what comes before is dropped.
    pub async fn is_closed(&mut self) {
        let mut rest = Vec::new();
        // What it had not read makes a reset of it.
        let _ = soon("the end", self.0.read_to_end(&mut rest)).await;
    }
}
