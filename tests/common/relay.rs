//! A bad network for streams: a relay whose connections break, stall and carry no more than they
//! may.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::{broadcast, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::soon;

/// Socket buffers of a relay, as they are asked for. A relay acknowledges what it holds, and what
/// it holds, about 15 KiB with these, is lost with a cut.
const BUFFER: u32 = 4 * 1024;
/// The most a relay reads at once.
const CHUNK: usize = 2 * 1024;

/// How a connection breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// Both sides see an end of stream.
    Close,
    /// Both sides see a reset.
    Reset,
}

/// How much a connection carries before it breaks.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    pub up: u64,
    pub down: u64,
    pub cut: Cut,
}

/// Passes bytes on between its clients and an address, until it is told not to.
pub struct Relay {
    pub addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

struct Shared {
    to: SocketAddr,
    /// Bytes per second and direction.
    rate: Option<u64>,
    cuts: broadcast::Sender<Cut>,
    stalled: watch::Sender<bool>,
    live: watch::Sender<usize>,
    accepted: watch::Sender<usize>,
    /// Bytes that have come from clients.
    up: watch::Sender<u64>,
    next: Mutex<Option<Budget>>,
}

/// Why a direction ended.
enum End {
    Eof,
    /// The budget is used up.
    Spent,
}

impl Relay {
    pub async fn start(to: SocketAddr) -> Self {
        Self::start_with(to, None).await
    }

    /// A relay that passes on `rate` bytes per second in each direction.
    pub async fn start_with(to: SocketAddr, rate: Option<u64>) -> Self {
        // Accepted connections inherit the buffers.
        let socket = socket().unwrap();
        socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let listener = socket.listen(64).unwrap();
        let addr = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            to,
            rate,
            cuts: broadcast::Sender::new(4),
            stalled: watch::Sender::new(false),
            live: watch::Sender::new(0),
            accepted: watch::Sender::new(0),
            up: watch::Sender::new(0),
            next: Mutex::default(),
        });
        let serving = shared.clone();
        let accepting = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                serving.accepted.send_modify(|count| *count += 1);
                tokio::spawn(serve(client, serving.clone()));
            }
        });
        Self {
            addr,
            shared,
            accepting,
        }
    }

    /// Breaks all connections there are.
    pub fn cut(&self, cut: Cut) {
        let _ = self.shared.cuts.send(cut);
    }

    /// Lets the next connection carry no more than that.
    pub fn spend(&self, budget: Budget) {
        *self.shared.next.lock().unwrap() = Some(budget);
    }

    /// Holds everything back, or no more.
    pub fn stall(&self, stalled: bool) {
        self.shared.stalled.send_replace(stalled);
    }

    /// Waits until it has that many connections.
    pub async fn live(&self, count: usize) {
        let mut live = self.shared.live.subscribe();
        let waiting = live.wait_for(|live| *live == count);
        soon("connections of the relay", waiting).await.unwrap();
    }

    /// Bytes that have come from clients, passed on or not.
    pub fn up(&self) -> watch::Receiver<u64> {
        self.shared.up.subscribe()
    }

    /// How many connections there have been.
    pub fn accepted(&self) -> usize {
        *self.shared.accepted.borrow()
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.accepting.abort();
        self.cut(Cut::Reset);
    }
}

fn socket() -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    socket.set_recv_buffer_size(BUFFER)?;
    socket.set_send_buffer_size(BUFFER)?;
    Ok(socket)
}

async fn serve(mut client: TcpStream, shared: Arc<Shared>) {
    let mut cuts = shared.cuts.subscribe();
    let budget = shared.next.lock().unwrap().take();
    let Ok(mut server) = connect(&shared).await else {
        return;
    };
    shared.live.send_modify(|live| *live += 1);
    let _ = client.set_nodelay(true);
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    let up = pump(from_client, to_server, &shared, budget.map(|b| b.up), true);
    let down = pump(
        from_server,
        to_client,
        &shared,
        budget.map(|b| b.down),
        false,
    );
    let cut = tokio::select! {
        both = both(up, down) => match both {
            Ok(End::Eof) => None,
            Ok(End::Spent) => budget.map(|budget| budget.cut),
            Err(_) => Some(Cut::Reset),
        },
        cut = cuts.recv() => cut.ok(),
    };
    match cut {
        Some(Cut::Reset) => {
            for socket in [&client, &server] {
                let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO));
            }
        }
        // What is left unread would make it a reset, so the end is said first.
        Some(Cut::Close) => {
            let _ = client.shutdown().await;
            let _ = server.shutdown().await;
        }
        None => {}
    }
    drop((client, server));
    shared.live.send_modify(|live| *live -= 1);
}

async fn connect(shared: &Shared) -> io::Result<TcpStream> {
    let server = socket()?.connect(shared.to).await?;
    server.set_nodelay(true)?;
    Ok(server)
}

/// Runs both directions to their ends, or to the first end that is none of the peer's.
async fn both(
    up: impl Future<Output = io::Result<End>>,
    down: impl Future<Output = io::Result<End>>,
) -> io::Result<End> {
    tokio::pin!(up, down);
    let (mut up_ended, mut down_ended) = (false, false);
    while !up_ended || !down_ended {
        let (end, ended) = tokio::select! {
            end = &mut up, if !up_ended => (end?, &mut up_ended),
            end = &mut down, if !down_ended => (end?, &mut down_ended),
        };
        match end {
            End::Spent => return Ok(End::Spent),
            End::Eof => *ended = true,
        }
    }
    Ok(End::Eof)
}

async fn pump(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    shared: &Shared,
    budget: Option<u64>,
    is_up: bool,
) -> io::Result<End> {
    let mut stalled = shared.stalled.subscribe();
    let mut left = budget.unwrap_or(u64::MAX);
    let mut buffer = [0; CHUNK];
    let mut due = Instant::now();
    // invariant: `shared` has the sender.
    loop {
        if left == 0 {
            return Ok(End::Spent);
        }
        let len = from.read(&mut buffer).await?;
        if is_up {
            shared.up.send_modify(|up| *up += len as u64);
        }
        stalled
            .wait_for(|stalled| !stalled)
            .await
            .expect("a sender");
        if len == 0 {
            to.shutdown().await?;
            return Ok(End::Eof);
        }
        let len = len.min(usize::try_from(left).unwrap_or(usize::MAX));
        to.write_all(&buffer[..len]).await?;
        left -= len as u64;
        if let Some(rate) = shared.rate {
            // Time that was not used is lost, but for a little.
            let grace = Duration::from_millis(20);
            let now = Instant::now();
            due = due.max(now.checked_sub(grace).unwrap_or(now));
            due += Duration::from_secs_f64(len as f64 / rate as f64);
            if due > now {
                sleep_until(due).await;
            }
        }
    }
}
