//! The gateway itself: what accepts, decides, connects and relays.
//!
//! [`Gateway`] is the whole of it, to be run by the binary or inside another program. All
//! configuration reaches running code through one immutable [`Generation`], swapped atomically;
//! a session keeps the one that decided it.

mod accept;
mod client;
mod explain;
mod expose;
mod fastway;
mod fault;
mod gate;
mod generation;
mod hosts;
mod live;
mod memory;
mod metrics;
mod peek;
mod relay;
mod report;
mod scp;
mod session;
mod shutdown;
mod snet;
mod upstream;

use std::borrow::Cow;
use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub(crate) use explain::{Explained, Filter, MAX_LIMIT, Sessions};
pub use fastway::Switchboard;
pub use gate::Limit;
use generation::apart;
pub use generation::{BuildError, Environment, Generation, Place};
use live::{Registry, Resumed};
use metrics::Metrics;
use report::{Reload, Started};
pub(crate) use report::{Status, writable};
use shutdown::Shutdown;

use crate::admin;
use crate::config::diff::{BindKey, diff};
use crate::config::watch::Watcher;
use crate::config::{self, Bind};
use crate::files::{self, Files};
use crate::proto;
use crate::session::{Core, Handle, Memory, Stream, Table};
use crate::transport::{self, Listener, kcp};

/// How long it may take to look at all files again.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30);

/// A running gateway. Dropping it stops accepting and ends all sessions.
pub struct Gateway {
    state: Arc<State>,
    path: PathBuf,
    binds: AsyncMutex<Binds>,
    /// Keeps reloads apart, which may take long.
    reloading: AsyncMutex<()>,
    /// What looks after the hosts of the current generation.
    upkeep: Mutex<JoinSet<()>>,
    admin: Mutex<Option<admin::Server>>,
    watcher: Watcher,
    started: Started,
    last_reload: Mutex<Option<Reload>>,
}

/// What sessions and accept loops share.
struct State {
    generation: ArcSwap<Generation>,
    environment: Environment,
    table: Mutex<Table<Arc<Entry>>>,
    live: Registry,
    metrics: Metrics,
    /// What their replay buffers take.
    memory: Arc<Memory>,
    /// Sessions past their handshake.
    sessions: TaskTracker,
    /// What connections run, handshakes and sessions.
    connections: TaskTracker,
    /// Sockets that accept, or deliver what ended sessions have left.
    listeners: TaskTracker,
    /// No new sessions.
    draining: CancellationToken,
    /// No sessions at all.
    shutdown: Shutdown,
}

/// A session that may be resumed.
struct Entry {
    owner: Owner,
    handle: Handle<transport::Stream>,
}

/// Whose a session is, in the protocol that it speaks. Another cannot resume it.
enum Owner {
    Scp(Mutex<proto::scp::server::Owner>),
    Snet(proto::snet::server::Owner),
}

/// A session's place in the table; dropping it ends the session for those who would resume it.
struct Listing {
    state: Arc<State>,
    id: u32,
    /// How long the id stays taken after that: a client may go on asking for its session as long
    /// as it would have waited for the gateway.
    remembered: Duration,
}

/// Sockets by what they are in the configuration.
#[derive(Default)]
struct Binds {
    open: HashMap<BindKey, Bound>,
    /// Sockets that a reload has removed and that still carry their sessions.
    closing: Vec<kcp::Control>,
}

/// A socket that accepts.
struct Bound {
    addr: SocketAddr,
    stop: CancellationToken,
    /// Nobody is accepted any more.
    stopped: CancellationToken,
    kcp: Option<kcp::Control>,
}

/// Why a gateway did not start, or a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Build(#[from] BuildError),
    #[error("cannot listen on {bind}: {error}")]
    Bind { bind: Bind, error: io::Error },
    #[error("cannot open the admin interface on {addr}: {error}; the key `admin` moves it")]
    Admin { addr: SocketAddr, error: io::Error },
    #[error("cannot watch files: {0}")]
    Watch(io::Error),
}

impl Gateway {
    /// Loads the configuration at `path`, opens its listeners and accepts. From then on the
    /// configuration and all it names are watched, and reloaded when they change.
    pub async fn start(path: impl Into<PathBuf>) -> Result<Arc<Self>, Error> {
        let named = path.into();
        let path = files::absolute(&named);
        let environment = Environment::new();
        let generation = Generation::build(&named, &environment, None).await?;
        let (watcher, mut changes) = Watcher::new().map_err(Error::Watch)?;
        watch(&watcher, generation.files()).await;
        let added = diff(&[], &generation.config.listeners).added;
        let sockets = open(&generation, &added, &[]).await?;
        let upkeep = generation.hosts.upkeep(&generation.config.upstream);
        let admin = open_admin(&generation)?;
        let memory = Memory::new();
        memory.set_limit(generation.config.replay_memory);
        let state = Arc::new(State {
            generation: ArcSwap::from_pointee(generation),
            environment,
            table: Mutex::default(),
            live: Registry::default(),
            metrics: Metrics::default(),
            memory: Arc::new(memory),
            sessions: TaskTracker::new(),
            connections: TaskTracker::new(),
            listeners: TaskTracker::new(),
            draining: CancellationToken::new(),
            shutdown: Shutdown::default(),
        });
        let gateway = Arc::new(Self {
            state,
            path,
            binds: AsyncMutex::default(),
            reloading: AsyncMutex::default(),
            upkeep: Mutex::new(upkeep),
            admin: Mutex::default(),
            watcher,
            started: Started::now(),
            last_reload: Mutex::default(),
        });
        gateway.listen(&mut gateway.binds.lock().await.open, sockets);
        gateway.serve_admin(admin);
        tokio::spawn(memory::relieve(gateway.state.clone()));
        #[cfg(target_env = "gnu")]
        tokio::spawn(memory::give_back(gateway.state.clone()));
        let watching = Arc::downgrade(&gateway);
        let grown = gateway.state.environment.grown.clone();
        tokio::spawn(async move {
            loop {
                let changed = tokio::select! {
                    change = changes.recv() => match change {
                        Some(()) => true,
                        None => return,
                    },
                    () = grown.notified() => false,
                };
                let Some(gateway) = watching.upgrade() else {
                    return;
                };
                if changed {
                    tracing::info!("files have changed");
                    let _ = gateway.reload().await;
                } else {
                    // Those that have changed since they were read are told of at once.
                    let (watcher, files) = (gateway.watcher.clone(), gateway.generation().files());
                    if let Err(error) =
                        apart(WATCH_TIMEOUT, move || watcher.watch_also(files)).await
                    {
                        tracing::error!(error, "looking at the files");
                    }
                }
            }
        });
        Ok(gateway)
    }

    /// Reads everything anew and swaps it in as a whole; if anything is wrong, all stays as it
    /// was. Either is logged. Live sessions go on with what decided them.
    pub async fn reload(self: &Arc<Self>) -> Result<(), Error> {
        let _turn = self.reloading.lock().await;
        let result = self.try_reload().await;
        let told = Reload::now(&result, self.generation().number);
        *lock(&self.last_reload) = Some(told);
        self.state.metrics.reloaded(result.is_ok());
        match &result {
            Ok(()) => {
                tracing::info!(generation = self.generation().number, "reloaded");
            }
            Err(error) => {
                tracing::error!(%error, generation = self.generation().number, "reload failed, nothing changed");
            }
        }
        result
    }

    async fn try_reload(self: &Arc<Self>) -> Result<(), Error> {
        let old = self.state.generation.load_full();
        let previous = Some(old.clone());
        let built = Generation::build(&self.path, &self.state.environment, previous).await;
        let new = match built {
            Ok(new) => new,
            Err(error) => {
                let mut files = error.files.clone();
                files.extend_names(old.files());
                watch(&self.watcher, files).await;
                return Err(error.into());
            }
        };
        watch(&self.watcher, new.files()).await;
        let changes = diff(&old.config.listeners, &new.config.listeners);
        // A socket that goes may be in the way of one that comes (0.0.0.0 and one address of the
        // host), so sockets that cannot be opened now may be after the others are closed. That
        // would not be all or nothing: it is an error.
        let mut binds = self.binds.lock().await;
        let sockets = open(&new, &changes.added, &binds.closing).await?;
        let moved = old.config.admin.bind != new.config.admin.bind;
        let admin = moved.then(|| open_admin(&new)).transpose()?;
        // From here on nothing fails.
        binds.closing.retain(|control| {
            let mut controls = sockets.iter().filter_map(|(_, socket, _)| socket.control());
            !control.is_closed() && !controls.any(|it| it.local_addr() == control.local_addr())
        });
        for (key, bound) in &binds.open {
            if let (Some(kcp), Some((listener, _))) = (&bound.kcp, new.listener(key)) {
                kcp.set(&kcp::Config::from(&listener.kcp));
            }
        }
        *lock(&self.upkeep) = new.hosts.upkeep(&new.config.upstream);
        self.state.memory.set_limit(new.config.replay_memory);
        self.state.generation.store(Arc::new(new));
        for key in &changes.removed {
            if let Some(bound) = binds.open.remove(key) {
                bound.stop.cancel();
                bound.stopped.cancelled().await;
                binds.closing.extend(bound.kcp);
                tracing::info!(addr = %bound.addr, "stopped listening");
            }
        }
        self.listen(&mut binds.open, sockets);
        if let Some(admin) = admin {
            self.serve_admin(admin);
        }
        Ok(())
    }

    /// Serves the admin interface there, and no longer where it was.
    fn serve_admin(self: &Arc<Self>, socket: Option<admin::Socket>) {
        let until = self.state.shutdown.child_token();
        let server = socket.map(|socket| socket.serve(Arc::downgrade(self), until));
        *lock(&self.admin) = server;
    }

    fn listen(
        &self,
        binds: &mut HashMap<BindKey, Bound>,
        sockets: Vec<(BindKey, Listener, SocketAddr)>,
    ) {
        for (key, listener, addr) in sockets {
            let stop = self.state.shutdown.child_token();
            let bound = Bound {
                addr,
                stop: stop.clone(),
                stopped: CancellationToken::new(),
                kcp: listener.control(),
            };
            let generation = self.generation();
            let name = generation
                .listener(&key)
                .map(|(listener, _)| listener.name.as_str());
            tracing::info!(listener = name, transport = %key.bind.transport, %addr, "listening");
            let stopped = bound.stopped.clone();
            binds.insert(key.clone(), bound);
            let accepting = accept::accept(self.state.clone(), listener, key, stop, stopped);
            self.state.listeners.spawn(accepting);
        }
    }

    /// The configuration in force.
    pub fn generation(&self) -> Arc<Generation> {
        self.state.generation.load_full()
    }

    /// The bound addresses, by the binds of the configuration.
    pub async fn local_addrs(&self) -> Vec<(Bind, SocketAddr)> {
        let binds = self.binds.lock().await;
        binds
            .open
            .iter()
            .map(|(key, bound)| (key.bind, bound.addr))
            .collect()
    }

    /// What the KCP binds have counted since they were opened, in the order of the binds.
    pub async fn kcp_counters(&self) -> Vec<(BindKey, kcp::Counters)> {
        let controls: Vec<_> = {
            let binds = self.binds.lock().await;
            let kcp = binds
                .open
                .iter()
                .filter_map(|(key, bound)| Some((key.clone(), bound.kcp.clone()?)));
            kcp.collect()
        };
        let mut controls: Vec<(BindKey, kcp::Control)> = controls;
        controls.sort_by(|(a, _), (b, _)| a.cmp(b));
        let mut counters = Vec::new();
        for (bind, control) in controls {
            counters.push((bind, control.counters().await));
        }
        counters
    }

    /// How many connections the limits of listeners have kept out, and how often there was no
    /// descriptor for any.
    pub fn refusals(&self) -> Vec<(String, Limit, u64)> {
        let generation = self.generation();
        let of = |(listener, gate): (&config::Listener, &Arc<gate::Gate>)| {
            Limit::ALL.map(|limit| (listener.name.clone(), limit, gate.refusals(limit)))
        };
        generation.gates().flat_map(of).collect()
    }

    /// Whether new sessions are turned away.
    pub fn is_draining(&self) -> bool {
        self.state.draining.is_cancelled()
    }

    /// Bytes that the replay buffers of all sessions take.
    pub fn replay_memory(&self) -> usize {
        self.state.memory.used()
    }

    /// How many sessions are live.
    pub fn sessions(&self) -> usize {
        self.state.live.len()
    }

    /// Stops letting sessions in. Clients can still come back to theirs, so listeners with
    /// sessions that resume stay open for that.
    pub async fn drain(&self) {
        self.state.draining.cancel();
        let generation = self.generation();
        self.binds.lock().await.open.retain(|key, bound| {
            let listener = generation
                .listener(key)
                .map(|(listener, _)| listener.session);
            let stays = listener.is_some_and(|session| session != config::Session::Plain);
            if !stays {
                bound.stop.cancel();
            }
            stays
        });
        self.state.sessions.close();
    }

    /// Waits until all sessions of a gateway that [drains](Self::drain) have ended.
    pub async fn drained(&self) {
        self.state.sessions.wait().await;
    }

    /// Ends all sessions and waits until their ends are logged.
    pub async fn end(&self) {
        self.state.shutdown.begin();
        self.drain().await;
        self.state.connections.close();
        self.state.connections.wait().await;
    }

    /// The same, and waits until what was sent to clients is delivered or given up.
    pub async fn shutdown(&self) {
        self.end().await;
        self.state.listeners.close();
        self.state.listeners.wait().await;
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        self.state.draining.cancel();
        self.state.shutdown.begin();
    }
}

impl State {
    /// Starts a session on its first connection and enters it into the table, under one of the
    /// ids that its protocol can use: its client may be back at once. `None` when none is free.
    fn start(
        self: &Arc<Self>,
        node: u8,
        id_may_be: fn(u32) -> bool,
        owner: Owner,
        core: Core,
        connection: transport::Stream,
        resume_wait: Duration,
    ) -> Option<(Stream<transport::Stream>, Listing)> {
        let (stream, handle) = Stream::new(core, connection, resume_wait);
        let entry = Arc::new(Entry { owner, handle });
        let now = Instant::now();
        let id = self
            .table()
            .insert(node, now, &mut rand::rng(), id_may_be, entry)?;
        let listing = Listing {
            state: self.clone(),
            id,
            remembered: resume_wait,
        };
        Some((stream, listing))
    }

    /// A session goes on over another connection.
    fn resumed(
        &self,
        id: u32,
        listener: &str,
        client_addr: SocketAddr,
        transport: &'static str,
        resent: u64,
    ) {
        if let Some(record) = self.live.get(id.into()) {
            let resumed = Resumed {
                at: SystemTime::now(),
                transport,
                client_addr,
                resent,
            };
            record.resumed(self, resumed);
        }
        tracing::info!(id, listener, client = %client_addr, transport, resent, "session resumed");
    }

    fn table(&self) -> MutexGuard<'_, Table<Arc<Entry>>> {
        lock(&self.table)
    }
}

impl Listing {
    fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for Listing {
    fn drop(&mut self) {
        self.state
            .table()
            .remove(self.id, Instant::now() + self.remembered);
    }
}

/// The first characters of a text that a client may have had a part in, for a line of the log.
fn excerpt(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(256) {
        // invariant: a character begins there.
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

/// Nothing panics while one of ours is held.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Watches these files. They are read for that, some of which are large.
async fn watch(watcher: &Watcher, files: Files) {
    let watcher = watcher.clone();
    if let Err(error) = apart(WATCH_TIMEOUT, move || watcher.watch_files(files)).await {
        tracing::error!(error, "looking at the files");
    }
}

fn open_admin(generation: &Generation) -> Result<Option<admin::Socket>, Error> {
    let Some(addr) = generation.config.admin.bind else {
        return Ok(None);
    };
    let opened = admin::Socket::open(addr);
    opened
        .map(Some)
        .map_err(|error| Error::Admin { addr, error })
}

/// Opens all sockets or none; those that are still there are taken over.
async fn open(
    generation: &Generation,
    keys: &[BindKey],
    closing: &[kcp::Control],
) -> Result<Vec<(BindKey, Listener, SocketAddr)>, Error> {
    let mut sockets = Vec::new();
    for key in keys {
        let Some((settings, _)) = generation.listener(key) else {
            continue;
        };
        let opening = async {
            let there = closing
                .iter()
                .filter(|_| key.bind.transport == config::Transport::Kcp)
                .find(|control| control.local_addr() == key.bind.addr);
            let reopened = match there {
                Some(control) => control.reopen(&kcp::Config::from(&settings.kcp)).await,
                None => None,
            };
            let listener = match reopened {
                Some(listener) => Listener::Kcp(listener),
                None => Listener::bind(&key.bind, settings)?,
            };
            let addr = listener.local_addr()?;
            Ok((key.clone(), listener, addr))
        };
        let opened = opening.await.map_err(|error| Error::Bind {
            bind: key.bind,
            error,
        });
        sockets.push(opened?);
    }
    Ok(sockets)
}
