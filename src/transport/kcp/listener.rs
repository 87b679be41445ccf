//! Accepting sessions.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use tokio::sync::{Notify, oneshot};

use super::counters::Counters;
use super::driver::Driver;
use super::session::Link;
use super::socket::Socket;
use super::stream::Stream;
use crate::config::Kcp;

/// Sessions that wait to be accepted, at most.
const BACKLOG: usize = 1_024;

/// Accepts KCP sessions on the sockets of one bind.
///
/// Each socket has a task of its own, which goes on when the listener is dropped until all
/// sessions accepted from it have ended.
pub struct Listener {
    control: Control,
    local: SocketAddr,
}

/// Changes and watches a listener from elsewhere.
#[derive(Clone)]
pub struct Control {
    acceptor: Arc<Acceptor>,
    links: Arc<[Arc<Link>]>,
}

/// Where the loops of a listener leave new sessions.
#[derive(Debug)]
pub(super) struct Acceptor {
    settings: ArcSwap<Kcp>,
    arrived: Mutex<VecDeque<Stream>>,
    changed: Notify,
    open: AtomicBool,
    drivers: AtomicUsize,
}

impl Listener {
    /// Opens the sockets. Must be called within a runtime.
    ///
    /// # Errors
    /// Those of the system. The port counts as taken as long as sessions of an earlier listener
    /// on it live: the two would share it by chance.
    pub fn bind(addr: SocketAddr, settings: &Kcp) -> io::Result<Self> {
        let sockets = Socket::bind(addr, settings)?;
        let local = sockets[0].local_addr();
        let acceptor = Arc::new(Acceptor {
            settings: ArcSwap::from_pointee(settings.clone()),
            arrived: Mutex::default(),
            changed: Notify::new(),
            open: AtomicBool::new(true),
            drivers: AtomicUsize::new(sockets.len()),
        });
        let links = sockets.into_iter().map(|socket| {
            let driver = Driver::new(socket, Some(acceptor.clone()));
            let link = driver.link().clone();
            tokio::spawn(driver);
            link
        });
        let links = links.collect();
        Ok(Self {
            control: Control { acceptor, links },
            local,
        })
    }

    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    pub fn control(&self) -> &Control {
        &self.control
    }

    /// The next session. Its first datagram has arrived. Cancel safe.
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

    /// Stops accepting, and waits until all sessions have ended and everything written to them is
    /// delivered or given up. A session that is kept open keeps this waiting.
    pub async fn close(self) {
        let acceptor = self.control.acceptor.clone();
        drop(self);
        loop {
            let changed = acceptor.changed.notified();
            if acceptor.drivers.load(Ordering::Acquire) == 0 {
                return;
            }
            changed.await;
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let Control { acceptor, links } = &self.control;
        acceptor.open.store(false, Ordering::Release);
        acceptor.arrived().clear();
        for link in links.iter() {
            link.waker.wake();
        }
    }
}

impl fmt::Debug for Listener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Listener({})", self.local)
    }
}

impl Control {
    /// Sets what new sessions are made with. The sockets stay as they are.
    pub fn set(&self, settings: &Kcp) {
        if **self.acceptor.settings.load() != *settings {
            self.acceptor.settings.store(Arc::new(settings.clone()));
        }
    }

    /// The totals over all sockets.
    pub async fn counters(&self) -> Counters {
        let mut total = Counters::default();
        for link in self.links.iter() {
            let (reply, counters) = oneshot::channel();
            link.send(|mail| mail.counters.push(reply));
            // A loop that has ended has no say.
            total += counters.await.unwrap_or_default();
        }
        total
    }
}

impl Acceptor {
    pub fn settings(&self) -> Arc<Kcp> {
        self.settings.load_full()
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
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

    pub fn driver_ended(&self) {
        self.drivers.fetch_sub(1, Ordering::AcqRel);
        self.changed.notify_waiters();
    }

    fn arrived(&self) -> MutexGuard<'_, VecDeque<Stream>> {
        // Nothing panics while it is held.
        self.arrived.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
