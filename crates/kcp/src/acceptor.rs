//! Where the drivers of a listener leave new sessions.

use std::collections::VecDeque;
use std::hash::RandomState;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::Notify;

use crate::config::Config;
use crate::counters::Counters;
use crate::handle::DriverHandle;
use crate::session::Session;
use crate::strangers::Strangers;

/// Bytes that the strangers of a bind may take in all, and of each socket at least.
const STRANGERS: usize = 4 * 1024 * 1024;
const STRANGERS_PER_SOCKET: usize = 64 * 1024;

/// Sessions that wait to be accepted, at most.
const BACKLOG: usize = 1_024;

/// Where the drivers of a listener leave new sessions, and what they have in common.
#[derive(Debug)]
pub(super) struct Acceptor {
    local: SocketAddr,
    config: ArcSwap<Config>,
    /// Of the challenges of all sockets.
    key: RandomState,
    /// Whether it was told that clients have error correction where these settings have none.
    warned: AtomicBool,
    arrived: Mutex<VecDeque<Arc<Session>>>,
    changed: Notify,
    handles: Box<[Arc<DriverHandle>]>,
    phase: AtomicU8,
    /// Of all drivers.
    sessions: AtomicUsize,
    drivers: AtomicUsize,
}

/// The life of a listener's sockets: they are opened together, and none is closed while another
/// still has a session.
///
/// ```text
/// OPEN ── dropped ─► CLOSING ── the last session has ended ─► CLOSED
///   ▲─── reopened ──────┘
/// ```
const OPEN: u8 = 0;
const CLOSING: u8 = 1;
const CLOSED: u8 = 2;

impl Acceptor {
    /// That of an open listener.
    pub fn new(local: SocketAddr, config: Config, handles: Box<[Arc<DriverHandle>]>) -> Self {
        Self {
            local,
            config: ArcSwap::from_pointee(config),
            key: RandomState::new(),
            warned: AtomicBool::new(false),
            arrived: Mutex::default(),
            changed: Notify::new(),
            phase: AtomicU8::new(OPEN),
            sessions: AtomicUsize::new(0),
            drivers: AtomicUsize::new(handles.len()),
            handles,
        }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The next session. Cancel safe.
    pub async fn accept(&self) -> Arc<Session> {
        loop {
            let changed = self.changed.notified();
            if let Some(session) = self.arrived().pop_front() {
                return session;
            }
            changed.await;
        }
    }

    /// Accepts no more.
    pub fn close(&self) {
        self.phase.store(CLOSING, Ordering::Release);
        for session in self.arrived().drain(..) {
            session.leave();
        }
        self.changed.notify_waiters();
        self.wake_drivers();
    }

    /// Waits until all drivers have ended, or it is open again.
    pub async fn closed(&self) {
        self.wait(|| self.has_ended() || self.is_open()).await;
    }

    /// Accepts again once it is closed, if a session has kept it open until then; `false` when all
    /// drivers have ended.
    pub async fn reopen(&self, config: &Config) -> bool {
        self.wait(|| !self.is_open()).await;
        if self.change(CLOSING, OPEN) {
            self.set(config);
            self.changed.notify_waiters();
            return true;
        }
        self.wait(|| self.has_ended()).await;
        false
    }

    /// Sets what new sessions are made with.
    pub fn set(&self, config: &Config) {
        if **self.config.load() != *config {
            self.config.store(Arc::new(config.clone()));
            self.warned.store(false, Ordering::Relaxed);
        }
    }

    /// The totals over all drivers.
    pub async fn counters(&self) -> Counters {
        let mut total = Counters::default();
        for handle in &self.handles {
            total += handle.counters().await;
        }
        total
    }

    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The book of one socket about those who have no session.
    pub fn strangers(&self) -> Strangers {
        let limit = (STRANGERS / self.handles.len()).max(STRANGERS_PER_SOCKET);
        Strangers::new(self.key.clone(), limit)
    }

    /// Tells, once, that a client's error correction is not answered in kind. A client of kcp-go
    /// takes no answer without it, so its user sees nothing but silence.
    pub fn warn_of_fec(&self, client: SocketAddr) {
        if !self.warned.swap(true, Ordering::Relaxed) {
            let addr = self.local;
            tracing::warn!(%addr, %client, "client uses forward error correction, fec_data and fec_parity here are off");
        }
    }

    /// Whether new sessions are wanted, and not more than can be accepted.
    pub fn has_room(&self) -> bool {
        self.is_open() && self.arrived().len() < BACKLOG
    }

    pub fn put(&self, session: Arc<Session>) {
        let mut arrived = self.arrived();
        // The other order would leave a session behind that comes while the listener goes.
        if !self.is_open() {
            drop(arrived);
            return session.leave();
        }
        arrived.push_back(session);
        drop(arrived);
        self.changed.notify_one();
    }

    pub fn session_opened(&self) {
        self.sessions.fetch_add(1, Ordering::AcqRel);
    }

    pub fn session_ended(&self) {
        if self.sessions.fetch_sub(1, Ordering::AcqRel) == 1 && self.phase() == CLOSING {
            self.wake_drivers();
        }
    }

    /// Whether a driver that has no session may end: together with all others.
    pub fn is_over(&self) -> bool {
        match self.phase() {
            OPEN => false,
            CLOSED => true,
            _ => {
                let over =
                    self.sessions.load(Ordering::Acquire) == 0 && self.change(CLOSING, CLOSED);
                if over {
                    self.wake_drivers();
                }
                over
            }
        }
    }

    pub fn driver_ended(&self) {
        self.drivers.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    pub fn is_open(&self) -> bool {
        self.phase() == OPEN
    }

    pub fn is_closed(&self) -> bool {
        self.phase() == CLOSED
    }

    fn has_ended(&self) -> bool {
        self.drivers.load(Ordering::Acquire) == 0
    }

    fn phase(&self) -> u8 {
        self.phase.load(Ordering::Acquire)
    }

    fn change(&self, from: u8, to: u8) -> bool {
        let (success, failure) = (Ordering::AcqRel, Ordering::Acquire);
        self.phase
            .compare_exchange(from, to, success, failure)
            .is_ok()
    }

    async fn wait(&self, until: impl Fn() -> bool) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            changed.as_mut().enable();
            if until() {
                return;
            }
            changed.await;
        }
    }

    fn wake_drivers(&self) {
        for handle in &self.handles {
            handle.waker.wake();
        }
    }

    fn arrived(&self) -> MutexGuard<'_, VecDeque<Arc<Session>>> {
        // Nothing panics while it is held.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
