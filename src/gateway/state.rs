//! State that sessions and accept loops share.

use std::net::SocketAddr;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::environment::Environment;
use super::generation::Generation;
use super::live::{Registry, Resumed};
use super::metrics::Metrics;
use super::shutdown::Shutdown;
use crate::proto::{scp, snet};
use crate::session::{Core, Handle, Memory, Stream, Table};
use crate::sync::Mutex;
use crate::transport;

/// State that sessions and accept loops share.
pub(crate) struct State {
    pub generation: ArcSwap<Generation>,
    pub environment: Environment,
    table: Mutex<Table<Arc<Entry>>>,
    /// Sessions past their handshake.
    pub live: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    /// Memory account of the replay buffers.
    pub memory: Arc<Memory>,
    /// Tasks of connections: handshakes and sessions.
    pub connections: TaskTracker,
    /// Tasks of sockets that accept, or that deliver what ended sessions have left.
    pub listeners: TaskTracker,
    /// Token that is cancelled when the gateway drains: no new sessions.
    pub draining: CancellationToken,
    /// Shutdown signal: no sessions at all.
    pub shutdown: Shutdown,
}

/// Session that may be resumed.
pub(crate) struct Entry {
    pub owner: Owner,
    pub handle: Handle<transport::Stream>,
}

/// Owner of a session, in the session's protocol. No other client can resume the session.
pub(crate) enum Owner {
    Scp(Mutex<scp::server::Owner>),
    Snet(snet::server::Owner),
}

/// Place of a session in the table. When it is dropped, the session can no longer be resumed.
pub(crate) struct TableGuard {
    state: Arc<State>,
    id: u32,
    /// Time for which the id stays taken after that: a client may go on asking for its session as
    /// long as it would have waited for the gateway.
    remembered: Duration,
}

impl State {
    pub fn new(generation: Generation, environment: Environment) -> Self {
        let memory = Memory::new();
        memory.set_limit(generation.config.replay_memory);
        let metrics = Arc::<Metrics>::default();
        Self {
            generation: ArcSwap::from_pointee(generation),
            environment,
            table: Mutex::default(),
            live: Arc::new(Registry::new(metrics.clone())),
            metrics,
            memory: Arc::new(memory),
            connections: TaskTracker::new(),
            listeners: TaskTracker::new(),
            draining: CancellationToken::new(),
            shutdown: Shutdown::default(),
        }
    }

    /// Starts a session on its first connection and enters it into the table.
    ///
    /// `id_may_be` selects the ids that the protocol can use. The client may resume as soon as this
    /// returns. Returns `None` when no id is free.
    pub fn start(
        self: &Arc<Self>,
        node: u8,
        id_may_be: fn(u32) -> bool,
        owner: Owner,
        core: Core,
        connection: transport::Stream,
        resume_wait: Duration,
    ) -> Option<(Stream<transport::Stream>, TableGuard)> {
        let (stream, handle) = Stream::new(core, connection, resume_wait);
        let entry = Arc::new(Entry { owner, handle });
        let now = Instant::now();
        let id = self
            .table()
            .insert(node, now, &mut rand::rng(), id_may_be, entry)?;
        let guard = TableGuard {
            state: self.clone(),
            id,
            remembered: resume_wait,
        };
        Some((stream, guard))
    }

    /// Returns the session with this id, if it may be resumed.
    pub fn entry(&self, id: u32) -> Option<Arc<Entry>> {
        self.table().get(id).cloned()
    }

    /// Records that a session was resumed over another connection.
    pub fn resumed(
        &self,
        id: u32,
        listener: &str,
        client_addr: SocketAddr,
        transport: &'static str,
        resent: u64,
    ) {
        let resumed = Resumed {
            at: SystemTime::now(),
            transport,
            client_addr,
            resent,
        };
        self.live.resumed(id.into(), resumed);
        tracing::info!(id, listener, client = %client_addr, transport, resent, "session resumed");
    }

    pub fn table(&self) -> MutexGuard<'_, Table<Arc<Entry>>> {
        self.table.lock()
    }
}

impl Entry {
    /// Returns the owner of an scp session; `None` for another protocol.
    pub fn scp(&self) -> Option<MutexGuard<'_, scp::server::Owner>> {
        match &self.owner {
            Owner::Scp(owner) => Some(owner.lock()),
            Owner::Snet(_) => None,
        }
    }
}

impl TableGuard {
    pub fn id(&self) -> u32 {
        self.id
    }
}

impl Drop for TableGuard {
    fn drop(&mut self) {
        self.state
            .table()
            .remove(self.id, Instant::now() + self.remembered);
    }
}
