//! Accepting sessions.

use std::collections::VecDeque;
use std::fmt;
use std::hash::RandomState;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};

use crate::config::Config;
use crate::counters::Counters;
use crate::driver::Driver;
use crate::session::Link;
use crate::strangers::Strangers;
use crate::stream::Stream;
use crate::udp::Socket;

/// Bytes that the strangers of a bind may take in all, and of each socket at least.
const STRANGERS: usize = 4 * 1024 * 1024;
const STRANGERS_PER_SOCKET: usize = 64 * 1024;

/// Sessions that wait to be accepted, at most.
const BACKLOG: usize = 1_024;

/// Accepts KCP sessions on the sockets of one bind.
///
/// Each socket has a task of its own. They go on when the listener is dropped, until all sessions
/// accepted from it have ended; until then it can be [reopened](Control::reopen).
pub struct Listener {
    control: Control,
}

/// Changes and watches a listener from elsewhere.
#[derive(Clone)]
pub struct Control {
    acceptor: Arc<Acceptor>,
}

/// Where the loops of a listener leave new sessions, and what they have in common.
#[derive(Debug)]
pub(super) struct Acceptor {
    local: SocketAddr,
    config: ArcSwap<Config>,
    /// Of the challenges of all sockets.
    key: RandomState,
    /// Whether it was told that clients have error correction where these settings have none.
    warned: AtomicBool,
    arrived: Mutex<VecDeque<Stream>>,
    changed: Notify,
    /// Of its loops.
    links: Box<[Arc<Link>]>,
    phase: AtomicU8,
    /// Of all loops.
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

impl Listener {
    /// Opens the sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// Those of the system. The port counts as taken as long as sessions of an earlier listener
    /// on it live: the two would share it by chance. That one can be reopened.
    pub fn bind(addr: SocketAddr, config: &Config) -> io::Result<Self> {
        let sockets = Socket::bind(addr, config)?;
        let local = sockets[0].local_addr();
        let drivers: Vec<_> = sockets.into_iter().map(Driver::accepting).collect();
        let acceptor = Arc::new(Acceptor {
            local,
            config: ArcSwap::from_pointee(config.clone()),
            key: RandomState::new(),
            warned: AtomicBool::new(false),
            arrived: Mutex::default(),
            changed: Notify::new(),
            links: drivers.iter().map(|driver| driver.link().clone()).collect(),
            phase: AtomicU8::new(OPEN),
            sessions: AtomicUsize::new(0),
            drivers: AtomicUsize::new(drivers.len()),
        });
        for driver in drivers {
            tokio::spawn(driver.accept_for(acceptor.clone()));
        }
        Ok(Self {
            control: Control { acceptor },
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.control.local_addr()
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The next session. Its peer has shown that it receives what is sent to it. Cancel safe.
    pub async fn accept(&self) -> Stream {
        let acceptor = &self.control.acceptor;
        loop {
            let changed = acceptor.changed.notified();
            if let Some(stream) = acceptor.arrived().pop_front() {
                return stream;
            }
            changed.await;
        }
    }

    /// Stops accepting, at once, and waits until all sessions have ended and everything written to them is
    /// delivered or given up, or until it is reopened. A session that is kept open keeps this
    /// waiting.
    pub fn close(self) -> impl Future<Output = ()> + use<> {
        let control = self.control.clone();
        drop(self);
        async move {
            let acceptor = &control.acceptor;
            acceptor
                .wait(|| acceptor.has_ended() || acceptor.is_open())
                .await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let acceptor = &self.control.acceptor;
        acceptor.phase.store(CLOSING, Ordering::Release);
        acceptor.arrived().clear();
        acceptor.changed.notify_waiters();
        acceptor.wake_loops();
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local_addr())
    }
}

impl Control {
    /// Sets what new sessions are made with. The sockets stay as they are.
    pub fn set(&self, config: &Config) {
        if **self.acceptor.config.load() != *config {
            self.acceptor.config.store(Arc::new(config.clone()));
            self.acceptor.warned.store(false, Ordering::Relaxed);
        }
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.acceptor.local
    }

    /// Whether its listener is gone, and its sockets with that or about to be.
    pub fn is_closed(&self) -> bool {
        self.acceptor.phase() == CLOSED
    }

    /// Accepts again on the sockets of a listener that is dropped or about to be, with new
    /// settings. `None` if no session has kept them open; the port is free then.
    ///
    /// Waits for a listener that is not dropped. Cancel safe.
    pub async fn reopen(&self, config: &Config) -> Option<Listener> {
        let acceptor = &self.acceptor;
        acceptor.wait(|| !acceptor.is_open()).await;
        if acceptor.change(CLOSING, OPEN) {
            self.set(config);
            acceptor.changed.notify_waiters();
            return Some(Listener {
                control: self.clone(),
            });
        }
        acceptor.wait(|| acceptor.has_ended()).await;
        None
    }

    /// The totals over all sockets.
    pub async fn counters(&self) -> Counters {
        let mut total = Counters::default();
        for link in &self.acceptor.links {
            let (reply, counters) = oneshot::channel();
            link.send(|mail| mail.counters.push(reply));
            // A loop that has ended has no say.
            total += counters.await.unwrap_or_default();
        }
        total
    }
}

impl Acceptor {
    pub fn config(&self) -> Arc<Config> {
        self.config.load_full()
    }

    /// The book of one socket about those who have no session.
    pub fn strangers(&self) -> Strangers {
        let limit = (STRANGERS / self.links.len()).max(STRANGERS_PER_SOCKET);
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

    pub fn put(&self, stream: Stream) {
        let mut arrived = self.arrived();
        // The other order would leave a stream behind that comes while the listener goes.
        if self.is_open() {
            arrived.push_back(stream);
            drop(arrived);
            self.changed.notify_one();
        }
    }

    pub fn session_opened(&self) {
        self.sessions.fetch_add(1, Ordering::AcqRel);
    }

    pub fn session_ended(&self) {
        if self.sessions.fetch_sub(1, Ordering::AcqRel) == 1 && self.phase() == CLOSING {
            self.wake_loops();
        }
    }

    /// Whether a loop that has no session may end: together with all others.
    pub fn is_over(&self) -> bool {
        match self.phase() {
            OPEN => false,
            CLOSED => true,
            _ => {
                let over =
                    self.sessions.load(Ordering::Acquire) == 0 && self.change(CLOSING, CLOSED);
                if over {
                    self.wake_loops();
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

    fn wake_loops(&self) {
        for link in &self.links {
            link.waker.wake();
        }
    }

    fn arrived(&self) -> MutexGuard<'_, VecDeque<Stream>> {
        // Nothing panics while it is held.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
