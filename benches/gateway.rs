//! What the gateway costs, beside a plain relay in the same run.
//!
//! `cargo bench --bench gateway`, with `-- --quick` for a first impression. Gateway and relay run
//! as processes of their own, between the same clients and the same servers, which are here. Only
//! their CPU time and memory are read, so that what else the machine does matters little; rounds
//! alternate, figures are medians. If HAProxy is installed it takes part too: it only passes
//! ciphertext on.

use std::error::Error;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use stablegate::internal::crypto::{Dialect, Rc4, public_key, shared_secret};
use stablegate::internal::proto::scp::client::Hello;
use stablegate::internal::proto::scp::message::NewResponse;
use stablegate::internal::proto::scp::record;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::sleep;

type Result<T> = std::result::Result<T, Box<dyn Error + Send + Sync>>;

const CONNECTIONS: usize = 50;
const MESSAGE: usize = 200;
const PIPELINED: usize = 16;
const FIRST_MESSAGE: usize = 64;
/// Sessions that are opened at the same time.
const OPENING: usize = 16;
/// How the child process is told that it is the relay.
const RELAY: &str = "--relay";
const RELAY_KEY: &[u8] = b"what both ends of the relay know";

/// How much is measured.
struct Effort {
    rounds: usize,
    /// Of each connection and round.
    messages: usize,
    /// Of each round.
    sessions: usize,
    idle: usize,
}

const FULL: Effort = Effort {
    rounds: 7,
    messages: 800,
    sessions: 1000,
    idle: 5000,
};

const QUICK: Effort = Effort {
    rounds: 3,
    messages: 160,
    sessions: 200,
    idle: 500,
};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = Runtime::new()?;
    if let Some(at) = arguments.iter().position(|argument| argument == RELAY) {
        let upstream = arguments.get(at + 1).ok_or("no upstream")?.parse()?;
        return runtime.block_on(relay(upstream));
    }
    let quick = arguments.iter().any(|argument| argument == "--quick");
    let mut effort = if quick { QUICK } else { FULL };
    // A gateway has two descriptors for each session, and so have we.
    let needed = 2 * effort.idle as u64 + 500;
    let allowed = raise_descriptor_limit(needed)?;
    if allowed < needed {
        effort.idle = allowed.saturating_sub(500) as usize / 2;
        println!(
            "only {allowed} descriptors allowed: {} idle sessions",
            effort.idle
        );
    }
    crypto();
    let servers = runtime.block_on(Servers::start())?;
    data_path(&runtime, &servers, &effort)?;
    memory(&runtime, &servers, &effort)
}

// ---- What is measured ----

/// CPU per message and per session.
fn data_path(runtime: &Runtime, servers: &Servers, effort: &Effort) -> Result<()> {
    let mut proxies = vec![
        Proxy::gateway(&servers.addr.to_string())?,
        Proxy::relay(servers.addr)?,
    ];
    match Proxy::haproxy(servers.addr) {
        Ok(haproxy) => proxies.push(haproxy),
        Err(error) => println!("without HAProxy: {error}"),
    }
    let names: Vec<_> = proxies.iter().map(|proxy| proxy.name).collect();
    println!(
        "\n{:34}{}   ratio  target",
        "CPU time, µs",
        columns(&names, |name| (*name).to_owned())
    );

    let mut clients = Vec::new();
    for proxy in &proxies {
        clients.push(runtime.block_on(connect_all(proxy.entrance, CONNECTIONS, MESSAGE))?);
    }
    for (what, at_once) in [("message, ping-pong", 1), ("message, pipelined", PIPELINED)] {
        let costs = rounds(&proxies, effort.rounds, |at| {
            let trips = effort.messages / at_once;
            runtime.block_on(converse(&mut clients[at], trips, at_once))?;
            Ok(CONNECTIONS * trips * at_once)
        })?;
        report(what, &costs, 1.5);
    }
    drop(clients);
    runtime.block_on(servers.left_alone());

    let costs = rounds(&proxies, effort.rounds, |at| {
        runtime.block_on(come_and_go(proxies[at].entrance, effort.sessions))?;
        // To the very end: a session outlives its client, who might come back.
        runtime.block_on(servers.left_alone());
        Ok(effort.sessions)
    })?;
    report("session with one message", &costs, 2.0);
    Ok(())
}

/// Memory of sessions that have been used and rest.
fn memory(runtime: &Runtime, servers: &Servers, effort: &Effort) -> Result<()> {
    println!("\n{:34}{:>10}  target", "resident memory, KiB", "");
    let upstream = servers.addr.to_string();
    for (what, proxy, target) in [
        ("idle session", Proxy::gateway(&upstream)?, "     8.0"),
        (
            "idle session, builtin:echo",
            Proxy::gateway("builtin:echo")?,
            "     8.0",
        ),
        (
            "idle connection of the relay",
            Proxy::relay(servers.addr)?,
            "",
        ),
    ] {
        let first = runtime.block_on(connect_all(proxy.entrance, CONNECTIONS, FIRST_MESSAGE))?;
        let before = proxy.resident_kib()?;
        let clients = runtime.block_on(connect_all(proxy.entrance, effort.idle, FIRST_MESSAGE))?;
        let grown = proxy.resident_kib()? - before;
        println!("{what:34}{:10.2}{target}", grown / effort.idle as f64);
        drop((first, clients, proxy));
        runtime.block_on(servers.left_alone());
    }
    Ok(())
}

/// The primitives, against the plainest way to write them.
fn crypto() {
    const PAIRS: u64 = 10_000;
    const P: u128 = 0xffff_ffff_ffff_ffc5;
    let plain_pow = |base: u64, mut exponent: u64| {
        let (mut product, mut base) = (1, u128::from(base));
        while exponent > 0 {
            if exponent & 1 == 1 {
                product = product * base % P;
            }
            base = base * base % P;
            exponent >>= 1;
        }
        product as u64
    };
    let private = |n: u64| (n + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let exchange = nanoseconds_per(PAIRS, |n| {
        black_box(public_key(private(n)));
        black_box(shared_secret(private(n), private(!n)));
    });
    let plain_exchange = nanoseconds_per(PAIRS, |n| {
        black_box(plain_pow(5, private(n)));
        black_box(plain_pow(private(!n), private(n)));
    });
    println!("{:34}{:>10}{:>10}   ratio", "primitives", "ours", "plain");
    println!(
        "{:34}{exchange:10.0}{plain_exchange:10.0}{:8.2}",
        "dh64, two exponentiations, ns",
        exchange / plain_exchange
    );

    const LEN: usize = 16 * 1024;
    const TIMES: u64 = 500;
    let plain_rc4 = |state: &mut [u8; 256], i: &mut u8, j: &mut u8, data: &mut [u8]| {
        for byte in data {
            *i = i.wrapping_add(1);
            *j = j.wrapping_add(state[usize::from(*i)]);
            state.swap((*i).into(), (*j).into());
            let at = state[usize::from(*i)].wrapping_add(state[usize::from(*j)]);
            *byte ^= state[usize::from(at)];
        }
    };
    let megabytes = |nanoseconds: f64| LEN as f64 * 1000.0 / nanoseconds;
    let (mut cipher, mut data, mut other) = (Rc4::new(RELAY_KEY), [7; LEN], [0; LEN]);
    let in_place = megabytes(nanoseconds_per(TIMES, |_| {
        cipher.apply(black_box(&mut data))
    }));
    let across = megabytes(nanoseconds_per(TIMES, |_| {
        cipher.apply_to(black_box(&data), black_box(&mut other));
    }));
    let (mut state, mut i, mut j) = (std::array::from_fn(|i| i as u8), 0, 0);
    let plain = megabytes(nanoseconds_per(TIMES, |_| {
        plain_rc4(&mut state, &mut i, &mut j, black_box(&mut data));
    }));
    for (what, ours) in [
        ("RC4 in place, MB/s", in_place),
        ("RC4 across, MB/s", across),
    ] {
        println!("{what:34}{ours:10.0}{plain:10.0}{:8.2}", ours / plain);
    }
}

/// The best of several tries: these run here, and compete with nobody we measure.
fn nanoseconds_per(times: u64, mut run: impl FnMut(u64)) -> f64 {
    (0..5)
        .map(|_| {
            let started = Instant::now();
            (0..times).for_each(&mut run);
            started.elapsed().as_nanos() as f64 / times as f64
        })
        .fold(f64::INFINITY, f64::min)
}

/// Lets each proxy in turn do what `load` gives it, which says how many things that were. Returns
/// CPU microseconds for each of them, by proxy and round.
fn rounds(
    proxies: &[Proxy],
    rounds: usize,
    mut load: impl FnMut(usize) -> Result<usize>,
) -> Result<Vec<Vec<f64>>> {
    let mut costs = vec![Vec::new(); proxies.len()];
    // The first round only warms up.
    for round in 0..=rounds {
        for (at, proxy) in proxies.iter().enumerate() {
            let before = proxy.cpu()?;
            let things = load(at)?;
            let spent = (proxy.cpu()? - before).as_secs_f64() * 1e6;
            if round > 0 {
                costs[at].push(spent / things as f64);
            }
        }
    }
    Ok(costs)
}

fn report(what: &str, costs: &[Vec<f64>], target: f64) {
    let ratios = costs[0]
        .iter()
        .zip(&costs[1])
        .map(|(ours, plain)| ours / plain);
    println!(
        "{what:34}{}{:8.2}{target:8.1}",
        columns(costs, |costs| format!(
            "{:.2}",
            median(costs.iter().copied())
        )),
        median(ratios),
    );
}

fn columns<T>(cells: &[T], text: impl Fn(&T) -> String) -> String {
    cells
        .iter()
        .map(|cell| format!("{:>10}", text(cell)))
        .collect()
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

// ---- Clients ----

/// A client's end: what it says is encrypted, and so is what it hears.
struct Client {
    stream: TcpStream,
    incoming: Rc4,
    outgoing: Rc4,
}

impl Client {
    async fn connect(to: Entrance) -> Result<Self> {
        let mut stream = TcpStream::connect(to.addr).await?;
        stream.set_nodelay(true)?;
        let cipher = match to.scp {
            true => handshake(&mut stream).await?,
            false => Rc4::new(RELAY_KEY),
        };
        Ok(Self {
            stream,
            incoming: cipher.clone(),
            outgoing: cipher,
        })
    }

    /// Sends messages, each by itself, and waits until all have come back.
    async fn echo(&mut self, at_once: usize, len: usize) -> Result<()> {
        let (mut message, mut answer) = ([0; MESSAGE], [0; MESSAGE]);
        for n in 0..at_once {
            message[..len].fill(n as u8);
            self.outgoing.apply(&mut message[..len]);
            self.stream.write_all(&message[..len]).await?;
        }
        for n in 0..at_once {
            self.stream.read_exact(&mut answer[..len]).await?;
            self.incoming.apply(&mut answer[..len]);
            if answer[..len] != [n as u8; MESSAGE][..len] {
                return Err("the echo is not what was sent".into());
            }
        }
        Ok(())
    }
}

async fn handshake(stream: &mut TcpStream) -> Result<Rc4> {
    let (request, hello) = Hello::new(rand::random(), Dialect::Current, None, 0, &[]);
    stream
        .write_all(&record::encode(&request.to_string())?)
        .await?;
    let mut header = [0; record::HEADER_LEN];
    stream.read_exact(&mut header).await?;
    let mut body = vec![0; record::body_len(header)?];
    stream.read_exact(&mut body).await?;
    let ticket = hello.answered(&NewResponse::parse(&body)?)?;
    Ok(ticket.secret().cipher())
}

/// Opens connections and uses each once.
async fn connect_all(to: Entrance, count: usize, len: usize) -> Result<Vec<Client>> {
    let mut clients = Vec::new();
    for _ in 0..count {
        let mut client = Client::connect(to).await?;
        client.echo(1, len).await?;
        clients.push(client);
    }
    Ok(clients)
}

async fn converse(clients: &mut Vec<Client>, trips: usize, at_once: usize) -> Result<()> {
    let mut talks = JoinSet::<Result<Client>>::new();
    for mut client in clients.drain(..) {
        talks.spawn(async move {
            for _ in 0..trips {
                client.echo(at_once, MESSAGE).await?;
            }
            Ok(client)
        });
    }
    while let Some(done) = talks.join_next().await {
        clients.push(done??);
    }
    Ok(())
}

/// Opens sessions, a few at a time; each is used once and closed.
async fn come_and_go(to: Entrance, sessions: usize) -> Result<()> {
    let left = Arc::new(AtomicUsize::new(sessions));
    let mut visitors = JoinSet::<Result<()>>::new();
    for _ in 0..OPENING {
        let left = left.clone();
        visitors.spawn(async move {
            while left
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                .is_ok()
            {
                Client::connect(to).await?.echo(1, FIRST_MESSAGE).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = visitors.join_next().await {
        done??;
    }
    Ok(())
}

// ---- Servers, and what stands between ----

/// Sends everything back.
struct Servers {
    addr: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Servers {
    async fn start() -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let connections = Arc::new(AtomicUsize::new(0));
        let counter = connections.clone();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let counter = counter.clone();
                counter.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    let _ = stream.set_nodelay(true);
                    let (mut from, mut to) = stream.split();
                    let mut cipher = None;
                    let _ = copy(&mut from, &mut to, &mut cipher, 4096).await;
                    counter.fetch_sub(1, Ordering::Relaxed);
                });
            }
        });
        Ok(Self { addr, connections })
    }

    /// Waits until nobody is connected.
    async fn left_alone(&self) {
        while self.connections.load(Ordering::Relaxed) > 0 {
            sleep(Duration::from_millis(10)).await;
        }
    }
}

/// The baseline: two copies for each connection, each with the cipher's work.
async fn relay(upstream: SocketAddr) -> Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("addr={}", listener.local_addr()?);
    loop {
        let (mut client, _) = listener.accept().await?;
        tokio::spawn(async move {
            let mut server = TcpStream::connect(upstream).await?;
            client.set_nodelay(true)?;
            server.set_nodelay(true)?;
            let (mut from_client, mut to_client) = client.split();
            let (mut from_server, mut to_server) = server.split();
            let mut ciphers = [Rc4::new(RELAY_KEY), Rc4::new(RELAY_KEY)].map(Some);
            let [up, down] = &mut ciphers;
            tokio::try_join!(
                copy(&mut from_client, &mut to_server, up, 16 * 1024),
                copy(&mut from_server, &mut to_client, down, 16 * 1024),
            )
        });
    }
}

async fn copy(
    from: &mut ReadHalf<'_>,
    to: &mut WriteHalf<'_>,
    cipher: &mut Option<Rc4>,
    at_once: usize,
) -> std::io::Result<()> {
    let mut space = vec![0; at_once];
    loop {
        let len = from.read(&mut space).await?;
        if len == 0 {
            return to.shutdown().await;
        }
        if let Some(cipher) = cipher {
            cipher.apply(&mut space[..len]);
        }
        to.write_all(&space[..len]).await?;
    }
}

/// A process between clients and servers.
struct Proxy {
    name: &'static str,
    process: Child,
    entrance: Entrance,
    /// Holds its configuration.
    _directory: Option<TempDir>,
}

#[derive(Clone, Copy)]
struct Entrance {
    addr: SocketAddr,
    /// Whether a handshake is expected.
    scp: bool,
}

impl Proxy {
    fn gateway(upstream: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("config.yaml");
        std::fs::write(
            &config,
            format!(
                "admin: ''\nscp: {{resume_wait: 1s}}\nhosts: [{{name: echo, addr: \"{upstream}\"}}]\n\
                 listeners:\n  - {{name: bench, bind: [\"tcp://127.0.0.1:0\"], session: scp, service: proxy}}\n"
            ),
        )?;
        let mut process = Command::new(env!("CARGO_BIN_EXE_stablegate"))
            .args(["run", "--grace", "0s", "--config"])
            .arg(config)
            .env_remove("RUST_LOG")
            .stderr(Stdio::piped())
            .spawn()?;
        let log = process.stderr.take().ok_or("no log")?;
        Ok(Self {
            name: "gateway",
            process,
            entrance: Entrance {
                addr: announced(log)?,
                scp: true,
            },
            _directory: Some(directory),
        })
    }

    fn relay(upstream: SocketAddr) -> Result<Self> {
        let mut process = Command::new(std::env::current_exe()?)
            .args([RELAY, &upstream.to_string()])
            .stdout(Stdio::piped())
            .spawn()?;
        let output = process.stdout.take().ok_or("no output")?;
        Ok(Self {
            name: "relay",
            process,
            entrance: Entrance {
                addr: announced(output)?,
                scp: false,
            },
            _directory: None,
        })
    }

    fn haproxy(upstream: SocketAddr) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let config = directory.path().join("haproxy.cfg");
        // It cannot tell which port it took, so it gets one that was free just now.
        let addr = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
        std::fs::write(
            &config,
            format!(
                "global\n  nbthread 2\ndefaults\n  mode tcp\n  timeout connect 5s\n  \
                 timeout client 1h\n  timeout server 1h\nlisten bench\n  bind {addr}\n  \
                 server echo {upstream}\n"
            ),
        )?;
        let process = Command::new("haproxy")
            .args(["-db", "-q", "-f"])
            .arg(config)
            .spawn()?;
        let proxy = Self {
            name: "haproxy",
            process,
            entrance: Entrance { addr, scp: false },
            _directory: Some(directory),
        };
        let started = Instant::now();
        while std::net::TcpStream::connect(addr).is_err() {
            if started.elapsed() > Duration::from_secs(5) {
                return Err("it does not listen".into());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(proxy)
    }

    /// CPU time that all threads of the process have used.
    fn cpu(&self) -> Result<Duration> {
        let mut clock = 0;
        // SAFETY: an all-zero timespec is valid.
        let mut time: libc::timespec = unsafe { std::mem::zeroed() };
        // SAFETY: both calls write nothing but the variables they are given.
        let result = unsafe {
            match libc::clock_getcpuclockid(self.process.id() as libc::pid_t, &mut clock) {
                0 => libc::clock_gettime(clock, &mut time),
                error => error,
            }
        };
        if result != 0 {
            return Err("no CPU clock".into());
        }
        Ok(Duration::new(time.tv_sec as u64, time.tv_nsec as u32))
    }

    fn resident_kib(&self) -> Result<f64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.split_whitespace().next());
        Ok(number.ok_or("no VmRSS")?.parse()?)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// The address that a process says it listens on; what it says later is dropped.
fn announced(output: impl std::io::Read + Send + 'static) -> Result<SocketAddr> {
    let mut output = BufReader::new(output);
    let addr = loop {
        let mut line = String::new();
        if output.read_line(&mut line)? == 0 {
            return Err("it ended before it listened".into());
        }
        if let Some((_, addr)) = line.split_once("addr=") {
            break addr.trim().parse()?;
        }
    };
    std::thread::spawn(move || std::io::copy(&mut output, &mut std::io::sink()));
    Ok(addr)
}

/// Returns how many descriptors we may have, at best `wanted`.
fn raise_descriptor_limit(wanted: u64) -> Result<u64> {
    let mut limit = libc::rlimit {
        rlim_cur: 0,
        rlim_max: 0,
    };
    // SAFETY: it writes nothing but the variable it is given.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    limit.rlim_cur = limit.rlim_cur.max(wanted).min(limit.rlim_max);
    // SAFETY: it only reads what it is given.
    if unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) } != 0 {
        return Err(std::io::Error::last_os_error().into());
    }
    Ok(limit.rlim_cur)
}
