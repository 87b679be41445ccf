//! scp sessions over KCP, and from one transport to the other.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use stablegate::client::Address;
use stablegate::client::kcp::fec::Shape;
use stablegate::client::kcp::{Config, Counters};
use stablegate::client::kcp_settings;
use stablegate::client::scp::{Options, Stream};
use stablegate::config::Transport;
use stablegate::gateway::Gateway;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::time::interval;

use crate::common::soon;
use crate::network::{Badness, Network};

/// A gateway with one listener on both transports.
struct Fixture {
    gateway: Arc<Gateway>,
    directory: TempDir,
    host: String,
    tcp: Address,
    kcp: Address,
}

impl Fixture {
    async fn new(host: &str, kcp: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, config(host, kcp)).unwrap();
        let gateway = Gateway::from_file(path).start().await.unwrap();
        let addrs = gateway.local_addrs().await;
        let address = |transport| {
            let is_it =
                |(bind, _): &&(stablegate::config::Bind, SocketAddr)| bind.transport == transport;
            let (_, addr) = addrs.iter().find(is_it).unwrap();
            format!("{transport}://{addr}").parse().unwrap()
        };
        Self {
            tcp: address(Transport::Tcp),
            kcp: address(Transport::Kcp),
            gateway,
            directory,
            host: host.to_owned(),
        }
    }

    async fn reconfigure(&self, kcp: &str) {
        self.reload(&config(&self.host, kcp)).await;
    }

    async fn reload(&self, config: &str) {
        let path = self.directory.path().join("config.yaml");
        std::fs::write(&path, config).unwrap();
        self.gateway.reload().await.unwrap();
    }

    async fn connect(&self, addresses: &[&Address], kcp: Config) -> Stream {
        let options = Options {
            addresses: addresses.iter().copied().cloned().collect(),
            kcp,
            ..Options::new(self.kcp.clone())
        };
        Stream::connect(options).await.unwrap()
    }
}

fn config(host: &str, kcp: &str) -> String {
    format!(
        "admin: ''\nlisteners: [{{name: game, bind: ['tcp://127.0.0.1:0', 'kcp://127.0.0.1:0'], session: scp}}]\n\
         hosts: [{{name: server, addr: '{host}'}}]\n\
         kcp: {{{kcp}}}\n"
    )
}

fn fec() -> Config {
    Config {
        fec: Some(Shape::new(10, 3).unwrap()),
        ..kcp_settings()
    }
}

/// The byte at a position of a stream that nobody could make up.
fn byte(seed: u64, position: u64) -> u8 {
    let word = ((position / 8) ^ (seed << 40)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    (word ^ (word >> 29)).to_le_bytes()[(position % 8) as usize]
}

/// Whether a datagram without error correction is none that carries the segment 30.
fn lacks_segment_30(mut datagram: &[u8]) -> bool {
    while let Some((header, rest)) = datagram.split_first_chunk::<24>() {
        let field = |at: usize| u32::from_le_bytes(header[at..at + 4].try_into().unwrap());
        if header[4] == 81 && field(12) == 30 {
            return false;
        }
        datagram = rest.get(field(20) as usize..).unwrap_or_default();
    }
    true
}

/// A connection that is cut while a segment is missing: what was acknowledged behind it has reached
/// nobody, and has to be sent again.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_acknowledged_behind_a_gap_is_sent_again() {
    const LEN: usize = 150_000;
    let fixture = Fixture::new("builtin:echo", "").await;
    let good = Badness {
        loss: 0,
        duplicate: 0,
        reorder: 0,
        delay: 0,
        jitter: 0,
    };
    let server = fixture.kcp.authority.parse().unwrap();
    let network = Network::passing(server, good, 0, lacks_segment_30).await;
    let address = format!("kcp://{}", network.addr).parse().unwrap();
    let stream = fixture.connect(&[&address], kcp_settings()).await;
    let cutter = stream.cutter();
    let sent: Vec<u8> = (0..LEN as u64).map(|at| byte(3, at)).collect();
    let mut back = vec![0; LEN];
    let (mut from, mut to) = tokio::io::split(stream);
    let moving = async {
        let (written, read) = tokio::join!(to.write_all(&sent), from.read_exact(&mut back));
        written.unwrap();
        read.unwrap();
    };
    let cutting = async {
        let mut pace = interval(Duration::from_millis(250));
        loop {
            pace.tick().await;
            cutter.cut();
        }
    };
    tokio::select! {
        () = moving => {}
        () = cutting => unreachable!(),
    }
    assert!(back == sent);
    assert!(from.unsplit(to).resumes() > 3);
    fixture.gateway.shutdown().await;
}

/// A path that swallows everything leaves time to go on over another.
#[tokio::test]
async fn an_address_that_does_not_answer_is_passed_over() {
    let fixture = Fixture::new("builtin:echo", "").await;
    let silent = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = format!("kcp://{}", silent.local_addr().unwrap());
    let options = Options {
        addresses: vec![fixture.tcp.clone(), address.parse().unwrap()],
        resume_wait: Duration::from_secs(6),
        ..Options::new(fixture.tcp.clone())
    };
    let mut stream = Stream::connect(options).await.unwrap();
    echo(&mut stream, b"before").await;
    stream.cutter().cut();
    echo(&mut stream, b"after").await;
    assert_eq!(stream.resumes(), 1);
    fixture.gateway.shutdown().await;
}

/// A path to `server` that swallows everything of its second connection. Ends with the test.
async fn second_connection_swallowed(server: &Address) -> Address {
    let to: SocketAddr = server.authority.parse().unwrap();
    if server.transport == Transport::Tcp {
        let front = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = front.local_addr().unwrap();
        tokio::spawn(async move {
            let mut swallowed = Vec::new();
            for n in 1.. {
                let (mut client, _) = front.accept().await.unwrap();
                if n == 2 {
                    swallowed.push(client);
                    continue;
                }
                tokio::spawn(async move {
                    let mut back = TcpStream::connect(to).await.unwrap();
                    let _ = copy_bidirectional(&mut client, &mut back).await;
                });
            }
        });
        return format!("tcp://{addr}").parse().unwrap();
    }
    let front = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
    let addr = front.local_addr().unwrap();
    tokio::spawn(async move {
        let mut backs = Vec::<(SocketAddr, Arc<UdpSocket>)>::new();
        let mut buffer = [0; 2_000];
        loop {
            let (len, from) = front.recv_from(&mut buffer).await.unwrap();
            let known = backs.iter().position(|(client, _)| *client == from);
            let n = known.unwrap_or(backs.len());
            if known.is_none() {
                let back = Arc::new(UdpSocket::bind("127.0.0.1:0").await.unwrap());
                back.connect(to).await.unwrap();
                backs.push((from, back.clone()));
                let front = front.clone();
                tokio::spawn(async move {
                    let mut buffer = [0; 2_000];
                    while let Ok(len) = back.recv(&mut buffer).await {
                        let _ = front.send_to(&buffer[..len], from).await;
                    }
                });
            }
            if n != 1 {
                let _ = backs[n].1.send(&buffer[..len]).await;
            }
        }
    });
    format!("kcp://{addr}").parse().unwrap()
}

/// A try to come back does not take all the time there is for it.
#[tokio::test]
async fn a_connection_that_is_swallowed_is_begun_anew() {
    let fixture = Fixture::new("builtin:echo", "").await;
    for server in [&fixture.tcp, &fixture.kcp] {
        let options = Options {
            resume_wait: Duration::from_secs(4),
            ..Options::new(second_connection_swallowed(server).await)
        };
        let mut stream = Stream::connect(options).await.unwrap();
        echo(&mut stream, b"before").await;
        stream.cutter().cut();
        echo(&mut stream, b"after").await;
        assert_eq!(stream.resumes(), 1);
    }
    fixture.gateway.shutdown().await;
}

async fn kcp_counters(fixture: &Fixture) -> Counters {
    let counters = fixture.gateway.kcp_counters().await;
    let mut total = Counters::default();
    for (_, counters) in counters {
        total += counters;
    }
    total
}

/// Sends a message and expects it back.
async fn echo(stream: &mut Stream, message: &[u8]) {
    stream.write_all(message).await.unwrap();
    let mut answer = vec![0; message.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert!(answer == message);
}

#[tokio::test]
async fn settings_change_for_new_sessions() {
    let fixture = Fixture::new("builtin:echo", "").await;
    let message = vec![7; 100_000];
    let mut old = fixture.connect(&[&fixture.kcp], kcp_settings()).await;
    echo(&mut old, &message).await;
    assert_eq!(kcp_counters(&fixture).await.fec.parity_shards, 0);

    fixture.reconfigure("fec_data: 10, fec_parity: 3").await;
    let mut new = fixture.connect(&[&fixture.kcp], fec()).await;
    echo(&mut new, &message).await;
    echo(&mut old, &message).await;
    let counters = kcp_counters(&fixture).await;
    assert!(counters.fec.parity_shards > 0 && counters.fec.errors == 0);
    assert_eq!((counters.connections, counters.stats.in_errors), (2, 0));
    assert_eq!(counters.half_open, 0);
    fixture.gateway.shutdown().await;
}

/// A bind that goes keeps its sessions. Their sockets are taken over when it comes back.
#[tokio::test]
async fn a_bind_comes_back_while_its_sessions_live() {
    let fixture = Fixture::new("builtin:echo", "").await;
    let without = config(&fixture.host, "").replace("'kcp://127.0.0.1:0'", "");
    let with = config(&fixture.host, "").replace("kcp://127.0.0.1:0", &fixture.kcp.to_string());
    let settings = "fec_data: 10, fec_parity: 3";
    let with_fec = with.replace("kcp: {", &format!("kcp: {{{settings}"));
    let mut old = fixture.connect(&[&fixture.kcp], kcp_settings()).await;
    for (config, settings) in [(&with, kcp_settings()), (&with_fec, fec())] {
        fixture.reload(&without).await;
        assert_eq!(fixture.gateway.local_addrs().await.len(), 1);
        echo(&mut old, b"still here").await;
        fixture.reload(config).await;
        echo(&mut old, b"still here").await;
        let mut new = fixture.connect(&[&fixture.kcp], settings).await;
        echo(&mut new, b"here, too").await;
    }
    let (_, counters) = fixture.gateway.kcp_counters().await.remove(0);
    assert_eq!(counters.passive_opens, 3);
    fixture.gateway.shutdown().await;
}

#[tokio::test]
async fn the_end_of_a_session_is_delivered_and_does_not_wait_for_the_client() {
    const LEN: usize = 3_000_000;
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = server.local_addr().unwrap().to_string();
    let fixture = Fixture::new(&host, "read_timeout: 1h}\nscp: {resume_wait: 1h").await;
    let impatient = Config {
        read_timeout: Some(Duration::from_secs(2)),
        ..kcp_settings()
    };
    let mut client = fixture.connect(&[&fixture.kcp], impatient).await;
    let (mut connection, _) = server.accept().await.unwrap();
    let sending = tokio::spawn(async move {
        let bytes: Vec<u8> = (0..LEN as u64).map(|at| byte(9, at)).collect();
        connection.write_all(&bytes).await.unwrap();
    });
    let mut bytes = vec![0; LEN];
    client.read_exact(&mut bytes).await.unwrap();
    assert!((0..).zip(&bytes).all(|(at, found)| *found == byte(9, at)));
    sending.await.unwrap();

    // Long before a client that does not come back, or is silent, would be given up.
    fixture.gateway.drain().await;
    soon("the session ends by itself", fixture.gateway.drained()).await;
    // There is no end of stream over KCP: the client finds out by asking.
    let error = client.read_u8().await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    fixture.gateway.shutdown().await;
}

#[tokio::test]
async fn a_shutdown_cuts_nothing_off() {
    let server = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let host = server.local_addr().unwrap().to_string();
    let fixture = Fixture::new(&host, "").await;
    let mut client = fixture.connect(&[&fixture.kcp], kcp_settings()).await;
    let (mut connection, _) = server.accept().await.unwrap();
    // What the gateway reads at once. With the first byte all of it is on its way.
    connection.write_all(&[7; 10_000]).await.unwrap();
    client.read_u8().await.unwrap();
    drop(connection);
    fixture.gateway.shutdown().await;
    let mut rest = vec![0; 9_999];
    client.read_exact(&mut rest).await.unwrap();
    assert!(rest.iter().all(|byte| *byte == 7));
}
