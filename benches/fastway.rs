//! What forwarding a fastway message costs, beside a plain relay of length-prefixed messages in
//! the same run.
//!
//! `cargo bench --bench fastway`, with `-- --quick` for a first impression. 100 clients with 8
//! virtual connections each talk to 4 servers: on each connection a message of 100 bytes goes to
//! and fro. The relay has a connection to a server for each client's, and 8 messages under way on
//! it. Gateway and relay run as processes of their own; only their CPU time is read, rounds
//! alternate, figures are medians.

use std::error::Error;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use stablegate::internal::proto::fastway::{self, Version, auth, data};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CLIENTS: usize = 100;
const CONNECTIONS: usize = 8;
const SERVERS: u32 = 4;
const MESSAGE: usize = 100;
const TARGET: f64 = 1.5;
/// How the child process is told that it is the relay.
const RELAY: &str = "--relay";

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Runtime::new()?;
    if let Some(at) = arguments.iter().position(|argument| argument == RELAY) {
        let upstream = arguments.get(at + 1).ok_or("no upstream")?.parse()?;
        return runtime.block_on(relay(upstream));
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let (rounds, messages) = if quick { (3, 50) } else { (9, 400) };
    runtime.block_on(measure(rounds, messages))
}

async fn measure(rounds: usize, messages: usize) -> Result<()> {
    let (gateway, clients, servers) = Process::gateway()?;
    for id in 1..=SERVERS {
        let mut server = connect(servers).await?;
        let mut challenge = auth::Challenge::default();
        server.read_exact(&mut challenge).await?;
        server.write_all(&auth::answer(&challenge, b"", id)).await?;
        tokio::spawn(echo(server));
    }
    let mut by_gateway = Vec::new();
    for n in 0..CLIENTS as u32 {
        by_gateway.push(Client::dial(connect(clients).await?, 1 + n % SERVERS).await?);
    }

    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (relay, entrance) = Process::relay(listener.local_addr()?)?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(echo(stream));
        }
    });
    let mut by_relay = Vec::new();
    for _ in 0..CLIENTS {
        by_relay.push(Client {
            stream: connect(entrance).await?,
            connections: (1..=CONNECTIONS as u32).collect(),
        });
    }

    let mut costs = [Vec::new(), Vec::new()];
    // The first round only warms up.
    for round in 0..=rounds {
        let sides = [(&gateway, &mut by_gateway), (&relay, &mut by_relay)];
        for (costs, (process, clients)) in costs.iter_mut().zip(sides) {
            let before = process.cpu()?;
            converse(clients, messages).await?;
            let spent = process.cpu()? - before;
            // Each comes back.
            let forwarded = 2 * CLIENTS * CONNECTIONS * messages;
            if round > 0 {
                costs.push(spent.as_secs_f64() * 1e6 / forwarded as f64);
            }
        }
    }
    let [ours, plain] = &costs;
    let ratios = ours.iter().zip(plain).map(|(ours, plain)| ours / plain);
    println!(
        "{:34}{:>10}{:>10}   ratio  target",
        "CPU time, µs", "gateway", "relay"
    );
    println!(
        "{:34}{:10.2}{:10.2}{:8.2}{TARGET:8.1}",
        "message of 100 bytes, forwarded",
        median(ours.iter().copied()),
        median(plain.iter().copied()),
        median(ratios),
    );
    Ok(())
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn connect(addr: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(addr).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// A physical connection with its virtual ones.
struct Client {
    stream: TcpStream,
    connections: Vec<u32>,
}

impl Client {
    async fn dial(mut stream: TcpStream, remote: u32) -> Result<Self> {
        let mut connections = Vec::new();
        while connections.len() < CONNECTIONS {
            let dial = fastway::Command::Dial { conn: 0, remote };
            let dial = dial.encode(Version::V3).ok_or("no dial")?;
            stream.write_all(&dial).await?;
            let mut answer = vec![0; stream.read_u32_le().await? as usize];
            stream.read_exact(&mut answer).await?;
            // A server may not be there yet.
            if let fastway::Command::Accept { conn, .. } =
                fastway::Command::parse(Version::V3, &answer[4..])?
            {
                connections.push(conn);
            }
        }
        Ok(Self {
            stream,
            connections,
        })
    }

    /// Sends a message on each connection, and another whenever one has come back.
    async fn converse(mut self, messages: usize) -> Result<Self> {
        let payload = [7; MESSAGE];
        let mut out = BytesMut::new();
        for conn in &self.connections {
            out.extend_from_slice(&data(*conn, &payload));
        }
        let mut to_send = (messages - 1) * CONNECTIONS;
        let mut to_come = messages * CONNECTIONS;
        let (mut from, mut to) = self.stream.split();
        let mut buffer = BytesMut::with_capacity(16 * 1024);
        while to_come > 0 {
            to.write_all_buf(&mut out).await?;
            if from.read_buf(&mut buffer).await? == 0 {
                return Err("closed".into());
            }
            while buffer.len() >= 8 + MESSAGE {
                let frame = buffer.split_to(8 + MESSAGE);
                to_come -= 1;
                if to_send > 0 {
                    to_send -= 1;
                    out.extend_from_slice(&frame);
                }
            }
            buffer.reserve(16 * 1024);
        }
        Ok(self)
    }
}

async fn converse(clients: &mut Vec<Client>, messages: usize) -> Result<()> {
    let mut talks = JoinSet::new();
    for client in clients.drain(..) {
        talks.spawn(client.converse(messages));
    }
    while let Some(client) = talks.join_next().await {
        clients.push(client??);
    }
    Ok(())
}

/// Sends back all messages, and nothing else.
async fn echo(mut stream: TcpStream) -> Result<()> {
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.split();
    forward(&mut from, &mut to, |frame| frame[4..8] != [0; 4]).await
}

/// The baseline: whole messages from one connection to another, all that one read brought at once.
async fn relay(upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("listener=relay addr={}", listener.local_addr()?);
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            client.set_nodelay(true)?;
            let mut server = connect(upstream).await?;
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            tokio::try_join!(
                forward(&mut from_client, &mut to_server, |_| true),
                forward(&mut from_server, &mut to_client, |_| true),
            )
        });
    }
}

async fn forward(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    wanted: impl Fn(&[u8]) -> bool,
) -> Result<()> {
    let mut buffer = BytesMut::with_capacity(16 * 1024);
    let mut out = BytesMut::with_capacity(16 * 1024);
    loop {
        buffer.reserve(4096);
        if from.read_buf(&mut buffer).await? == 0 {
            return Ok(to.shutdown().await?);
        }
        while let Some(length) = buffer.first_chunk() {
            let len = 4 + u32::from_le_bytes(*length) as usize;
            if buffer.len() < len {
                break;
            }
            if wanted(&buffer[..len]) {
                out.extend_from_slice(&buffer[..len]);
            }
            buffer.advance(len);
        }
        to.write_all(&out).await?;
        out.clear();
    }
}

/// A process that is measured.
struct Process {
    child: Child,
    /// Holds its configuration.
    _directory: Option<TempDir>,
}

impl Process {
    /// The gateway, and where its clients and servers connect.
    fn gateway() -> Result<(Self, SocketAddr, SocketAddr)> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.yaml");
        std::fs::write(
            &config,
            "admin: ''\nlisteners:\n\
             - {name: clients, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-client}\n\
             - {name: servers, bind: ['tcp://127.0.0.1:0'], session: plain, service: fastway-server}\n",
        )?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_stablegate"))
            .args(["run", "--grace", "0s", "--config"])
            .arg(config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()?;
        let log = child.stderr.take().ok_or("no log")?;
        let addrs = announced(log, &["listener=\"clients\"", "listener=\"servers\""])?;
        let process = Self {
            child,
            _directory: Some(directory),
        };
        Ok((process, addrs[0], addrs[1]))
    }

    fn relay(upstream: SocketAddr) -> Result<(Self, SocketAddr)> {
        let mut child = Command::new(std::env::current_exe()?)
            .args([RELAY, &upstream.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().ok_or("no output")?;
        let addrs = announced(output, &["listener=relay"])?;
        let process = Self {
            child,
            _directory: None,
        };
        Ok((process, addrs[0]))
    }

    /// CPU time that all threads of the process have used.
    fn cpu(&self) -> Result<Duration> {
        let mut clock = 0;
        // SAFETY: an all-zero timespec is valid.
        let mut time: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: both calls write nothing but the variables they are given.
        let result = unsafe {
            match libc::clock_getcpuclockid(self.child.id() as libc::pid_t, &mut clock) {
                0 => libc::clock_gettime(clock, &mut time),
                error => error,
            }
        };
        if result != 0 {
            return Err("no CPU clock".into());
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The addresses that a process says it listens on, in lines with these words; what it says later
/// is dropped.
fn announced(
    output: impl std::io::Read + Send + 'static,
    words: &[&str],
) -> Result<Vec<SocketAddr>> {
    let mut output = BufReader::new(output);
    let mut found = vec![None; words.len()];
    while found.contains(&None) {
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 {
            return Err("it ended before it listened".into());
        }
        let at = words.iter().position(|word| line.contains(word));
        if let (Some(at), Some((_, addr))) = (at, line.split_once("addr=")) {
            found[at] = Some(addr.trim().parse()?);
        }
    }
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Ok(found.into_iter().flatten().collect())
}
