//! What sessions and accept loops share.

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

/// What sessions and accept loops share.
pub(crate) struct State {
    pub generation: ArcSwap<Generation>,
    pub environment: Environment,
    table: Mutex<Table<Arc<Entry>>>,
    /// Sessions past their handshake.
    pub live: Arc<Registry>,
    pub metrics: Arc<Metrics>,
    /// What their replay buffers take.
    pub memory: Arc<Memory>,
    /// What connections run, handshakes and sessions.
    pub connections: TaskTracker,
    /// Sockets that accept, or deliver what ended sessions have left.
    pub listeners: TaskTracker,
    /// No new sessions.
    pub draining: CancellationToken,
    /// No sessions at all.
    pub shutdown: Shutdown,
}

/// A session that may be resumed.
pub(crate) struct Entry {
    pub owner: Owner,
    pub handle: Handle<transport::Stream>,
}

/// Whose a session is, in the protocol that it speaks. Another cannot resume it.
pub(crate) enum Owner {
    Scp(Mutex<scp::server::Owner>),
    Snet(snet::server::Owner),
}

/// A session's place in the table; dropping it ends the session for those who would resume it.
pub(crate) struct TableGuard {
    state: Arc<State>,
    id: u32,
    /// How long the id stays taken after that: a client may go on asking for its session as long
    /// as it would have waited for the gateway.
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

    /// Starts a session on its first connection and enters it into the table, under one of the
    /// ids that its protocol can use: its client may be back at once. `None` when none is free.
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

    /// The session that has an id, if it may be resumed.
    pub fn entry(&self, id: u32) -> Option<Arc<Entry>> {
        self.table().get(id).cloned()
    }

    /// A session goes on over another connection.
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
    /// Whose session it is, if it speaks scp.
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
