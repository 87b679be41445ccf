//! A running gateway: its start, reloads, drain and end.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::Mutex as AsyncMutex;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::environment::Environment;
use super::error::Error;
use super::fault::Fault;
use super::gate::{Admission, Limit};
use super::generation::{Generation, apart};
use super::shrink;
use super::sockets::Sockets;
use super::state::State;
use crate::config::diff::{BindKey, diff};
use crate::config::watch::{Changes, Watcher};
use crate::config::{self, Bind, Config};
use crate::files::{self, Files};
use crate::hosts;
use crate::sync::Mutex;
use crate::transport::kcp;

/// Time limit for looking at all watched files again.
const WATCH_TIMEOUT: Duration = Duration::from_secs(30);

/// Source of a configuration.
pub(super) enum Source {
    /// File, which is watched with all that it names.
    File(PathBuf),
    Value(Box<Config>),
}

/// Function that opens an address for an admin interface.
///
/// The function that it returns serves the interface until the token is cancelled.
pub type OpenAdmin = fn(SocketAddr) -> io::Result<ServeAdmin>;

/// Function that serves an admin interface at its open address, until the token is cancelled.
pub type ServeAdmin = Box<dyn FnOnce(Weak<Gateway>, CancellationToken) + Send>;

/// Running gateway. Dropping it stops accepting and ends all sessions.
pub struct Gateway {
    state: Arc<State>,
    /// File of the configuration, if it has one.
    file: Option<Watched>,
    sockets: AsyncMutex<Sockets>,
    /// Lock that lets one reload run at a time; a reload may take long.
    reloading: AsyncMutex<()>,
    /// Tasks that look after the hosts of the current generation.
    upkeep: Mutex<JoinSet<()>>,
    open_admin: Option<OpenAdmin>,
    admin: Mutex<Option<DropGuard>>,
    started: (SystemTime, Instant),
    last_reload: Mutex<Option<LastReload>>,
}

/// File of a configuration, watched with all that it names.
struct Watched {
    path: PathBuf,
    watcher: Watcher,
}

/// Outcome of a reload.
#[derive(Debug, Clone)]
pub(crate) struct LastReload {
    pub at: SystemTime,
    /// Number of the generation in force since then.
    pub generation: u64,
    /// Error of a reload that changed nothing.
    pub error: Option<Fault>,
}

impl Gateway {
    pub(super) async fn run(
        source: Source,
        environment: Environment,
        open_admin: Option<OpenAdmin>,
    ) -> Result<Arc<Self>, Error> {
        let (generation, file, changes) = match source {
            Source::Value(config) => {
                let generation = Generation::of(*config, &environment, None).await?;
                (generation, None, None)
            }
            Source::File(named) => {
                let generation = Generation::read(&named, &environment, None).await?;
                let (watcher, changes) = Watcher::new().map_err(Error::Watch)?;
                let path = files::absolute(&named);
                let file = Watched { path, watcher };
                file.watch(generation.files()).await;
                (generation, Some(file), Some(changes))
            }
        };
        let mut sockets = Sockets::default();
        let added = diff(&[], &generation.config.listeners).added;
        let opened = sockets.open(&generation, &added).await?;
        let upkeep = upkeep(&generation);
        let admin = open(open_admin, &generation)?;
        let state = Arc::new(State::new(generation, environment));
        sockets.change(&state, &[], opened).await;
        let gateway = Arc::new(Self {
            state,
            file,
            sockets: AsyncMutex::new(sockets),
            reloading: AsyncMutex::default(),
            upkeep: Mutex::new(upkeep),
            open_admin,
            admin: Mutex::default(),
            started: (SystemTime::now(), Instant::now()),
            last_reload: Mutex::default(),
        });
        gateway.serve_admin(admin);
        tokio::spawn(shrink::relieve(gateway.state.clone()));
        #[cfg(target_env = "gnu")]
        tokio::spawn(shrink::give_back(gateway.state.clone()));
        if let Some(changes) = changes {
            tokio::spawn(follow(Arc::downgrade(&gateway), changes));
        }
        Ok(gateway)
    }

    /// Reloads the configuration's file and all that it names, as a whole.
    ///
    /// If anything is wrong, nothing changes. Either outcome is logged. Live sessions keep the
    /// configuration that decided them.
    ///
    /// # Errors
    /// Those of the [start](super::Builder::start), and [`Error::NoFile`].
    pub async fn reload(self: &Arc<Self>) -> Result<(), Error> {
        let Some(file) = &self.file else {
            return Err(Error::NoFile);
        };
        let _turn = self.reloading.lock().await;
        let old = self.generation();
        let environment = &self.state.environment;
        let read = Generation::read(&file.path, environment, Some(old.clone())).await;
        let mut files = match &read {
            Ok(new) => new.files(),
            Err(error) => error.files.clone(),
        };
        if read.is_err() {
            files.extend_names(old.files());
        }
        file.watch(files).await;
        let result = match read {
            Ok(new) => self.swap(new).await,
            Err(error) => Err(error.into()),
        };
        self.reloaded(&result);
        result
    }

    /// Swaps in another configuration, as a whole, as a [reload](Self::reload) does.
    ///
    /// # Errors
    /// Those of the [start](super::Builder::start).
    pub async fn apply(self: &Arc<Self>, config: Config) -> Result<(), Error> {
        let _turn = self.reloading.lock().await;
        let old = Some(self.generation());
        let result = match Generation::of(config, &self.state.environment, old).await {
            Ok(new) => self.swap(new).await,
            Err(error) => Err(error.into()),
        };
        self.reloaded(&result);
        result
    }

    /// Records, logs and counts the outcome of a reload.
    fn reloaded(&self, result: &Result<(), Error>) {
        let generation = self.generation().number;
        *self.last_reload.lock() = Some(LastReload {
            at: SystemTime::now(),
            generation,
            error: result.as_ref().err().map(Fault::from),
        });
        self.state.metrics.reloaded(result.is_ok());
        match result {
            Ok(()) => tracing::info!(generation, "reloaded"),
            Err(error) => tracing::error!(%error, generation, "reload failed, nothing changed"),
        }
    }

    /// Replaces the current generation by `new`, or changes nothing.
    async fn swap(self: &Arc<Self>, new: Generation) -> Result<(), Error> {
        let old = self.generation();
        let changes = diff(&old.config.listeners, &new.config.listeners);
        // A socket to close may be in the way of one to open (0.0.0.0 and one address of the host).
        // To close first would not be all or nothing, so this is an error.
        let mut sockets = self.sockets.lock().await;
        let opened = sockets.open(&new, &changes.added).await?;
        let moved = old.config.admin.bind != new.config.admin.bind;
        let admin = moved.then(|| open(self.open_admin, &new)).transpose()?;
        // From here on nothing fails.
        sockets.set(&new, &opened);
        *self.upkeep.lock() = upkeep(&new);
        self.state.memory.set_limit(new.config.replay_memory);
        self.state.generation.store(Arc::new(new));
        sockets.change(&self.state, &changes.removed, opened).await;
        if let Some(admin) = admin {
            self.serve_admin(admin);
        }
        Ok(())
    }

    /// Serves the admin interface with `serve`, and stops the previous one.
    fn serve_admin(self: &Arc<Self>, serve: Option<ServeAdmin>) {
        let stop = serve.map(|serve| {
            let until = self.state.shutdown.child_token();
            serve(Arc::downgrade(self), until.clone());
            until.drop_guard()
        });
        *self.admin.lock() = stop;
    }

    /// Returns the configuration in force.
    pub fn generation(&self) -> Arc<Generation> {
        self.state.generation.load_full()
    }

    /// Returns the bound addresses, with the binds of the configuration.
    pub async fn local_addrs(&self) -> Vec<(Bind, SocketAddr)> {
        self.sockets.lock().await.addrs()
    }

    /// Returns the addresses at which these binds are open; `None` for those that do not accept.
    pub(crate) async fn addrs_of(&self, keys: &[BindKey]) -> Vec<Option<SocketAddr>> {
        let sockets = self.sockets.lock().await;
        keys.iter().map(|key| sockets.addr(key)).collect()
    }

    /// Returns the counters of the KCP binds since they were opened, in the order of the binds.
    pub async fn kcp_counters(&self) -> Vec<(BindKey, kcp::Counters)> {
        let controls = self.sockets.lock().await.kcp();
        let mut counters = Vec::new();
        for (bind, control) in controls {
            counters.push((bind, control.counters().await));
        }
        counters
    }

    /// Returns how many connections each limit of each listener has refused, and how often
    /// accepting paused for lack of descriptors.
    pub fn refusals(&self) -> Vec<(String, Limit, u64)> {
        let generation = self.generation();
        let of = |(listener, admission): (&config::Listener, &Arc<Admission>)| {
            Limit::ALL.map(|limit| (listener.name.clone(), limit, admission.refusals(limit)))
        };
        generation.admissions().flat_map(of).collect()
    }

    /// Returns whether the gateway drains, which is when new sessions are refused.
    pub fn is_draining(&self) -> bool {
        self.state.draining.is_cancelled()
    }

    /// Returns the bytes that the replay buffers of all sessions take.
    pub fn replay_memory(&self) -> usize {
        self.state.memory.used()
    }

    /// Returns how many sessions are live.
    pub fn sessions(&self) -> usize {
        self.state.live.len()
    }

    /// Returns when the gateway was started.
    pub(crate) fn started(&self) -> (SystemTime, Instant) {
        self.started
    }

    /// Returns the outcome of the last reload, if there was one.
    pub(crate) fn last_reload(&self) -> Option<LastReload> {
        self.last_reload.lock().clone()
    }

    /// Returns the state that the sessions share.
    pub(crate) fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// Stops admitting new sessions.
    ///
    /// Clients can still resume theirs, so listeners whose sessions can be resumed stay open.
    pub async fn drain(&self) {
        self.state.draining.cancel();
        let generation = self.generation();
        self.sockets.lock().await.drain(&generation);
    }

    /// Waits until all sessions of a gateway that [drains](Self::drain) have ended.
    pub async fn drained(&self) {
        self.state.live.drained().await;
    }

    /// Ends all sessions and waits until their ends are logged.
    pub async fn end(&self) {
        self.state.shutdown.begin();
        self.drain().await;
        self.state.connections.close();
        self.state.connections.wait().await;
    }

    /// Ends all sessions and waits until their ends are logged, and until what was sent to clients
    /// is delivered or given up.
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

impl Watched {
    /// Watches these files, in place of those before. Reads them for that, and some are large.
    async fn watch(&self, files: Files) {
        let watcher = self.watcher.clone();
        if let Err(error) = apart(WATCH_TIMEOUT, move || watcher.watch_files(files)).await {
            tracing::error!(error, "looking at the files");
        }
    }

    /// Watches these files, too. Reports at once those that have changed since they were read.
    async fn watch_also(&self, files: Files) {
        let watcher = self.watcher.clone();
        if let Err(error) = apart(WATCH_TIMEOUT, move || watcher.watch_also(files)).await {
            tracing::error!(error, "looking at the files");
        }
    }
}

/// Reloads a gateway whenever its files have changed.
async fn follow(gateway: Weak<Gateway>, mut changes: Changes) {
    let Some(grown) = gateway
        .upgrade()
        .map(|it| it.state.environment.grown.clone())
    else {
        return;
    };
    loop {
        let changed = tokio::select! {
            change = changes.recv() => match change {
                Some(()) => true,
                None => return,
            },
            () = grown.notified() => false,
        };
        let Some(gateway) = gateway.upgrade() else {
            return;
        };
        if changed {
            tracing::info!("files have changed");
            let _ = gateway.reload().await;
        } else if let Some(file) = &gateway.file {
            file.watch_also(gateway.generation().files()).await;
        }
    }
}

/// Opens the admin interface of a configuration, if it has one.
fn open(
    open_admin: Option<OpenAdmin>,
    generation: &Generation,
) -> Result<Option<ServeAdmin>, Error> {
    let (Some(open), Some(addr)) = (open_admin, generation.config.admin.bind) else {
        return Ok(None);
    };
    let opened = open(addr).map(Some);
    opened.map_err(|error| Error::Admin { addr, error })
}

/// Starts the upkeep of a generation's hosts, which ends when the returned set is dropped.
fn upkeep(generation: &Generation) -> JoinSet<()> {
    let settings = hosts::Settings::from(&generation.config.upstream);
    generation.hosts.upkeep(&settings)
}
