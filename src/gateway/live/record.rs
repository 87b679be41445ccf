//! Records of sessions, for those who look at them from outside.
//!
//! A session's task writes its counts into the atomics of its [`Record`] each time it is polled,
//! and checks there for requests to it. All else in a record changes rarely and is behind a lock.

use std::collections::{BTreeMap, VecDeque};
use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, MutexGuard};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime};

use atomic_waker::AtomicWaker;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::client::{Client, Snapshot};
use crate::gateway::metrics::{ListenerMeter, Metrics};
use crate::hooks::SessionInfo;
use crate::hooks::trace::Trace;
use crate::hosts::Host;
use crate::sync::Mutex;

/// Number of ended sessions that are remembered.
const REMEMBERED: usize = 256;
/// Number of resumes that are remembered of a session.
const HISTORY: usize = 32;
/// Lower bound of the ids of sessions whose protocol has none.
const OWN_NUMBERS: u64 = 1 << 32;

const KICK: u8 = 1;
const LOOK: u8 = 2;

/// Registry of all sessions past their handshake, and of the last that ended.
pub(crate) struct Registry {
    sessions: Mutex<Sessions>,
    numbered: AtomicU64,
    metrics: Arc<Metrics>,
    tracker: TaskTracker,
}

#[derive(Default)]
struct Sessions {
    live: BTreeMap<u64, Arc<Record>>,
    ended: VecDeque<Arc<Record>>,
}

/// Record of a session.
pub(crate) struct Record {
    pub id: u64,
    /// Number of the generation that decided about the session.
    pub generation: u64,
    pub trace: Arc<Trace>,
    pub started: Instant,
    meter: Arc<ListenerMeter>,
    received: AtomicU64,
    sent: AtomicU64,
    replay_memory: AtomicUsize,
    away: AtomicBool,
    /// Requests to the session's task, the bits [`KICK`] and [`LOOK`].
    wanted: AtomicU8,
    waker: AtomicWaker,
    story: Mutex<Details>,
}

/// Part of a record that changes rarely.
pub(crate) struct Details {
    pub info: Arc<SessionInfo>,
    pub target: Option<Destination>,
    /// Id of the session as a fastway endpoint.
    pub endpoint: Option<u32>,
    pub resumes: u64,
    /// Last resumes of the session.
    pub history: Vec<Resumed>,
    pub ended: Option<Box<Ended>>,
    /// Number of the client's first bytes that hooks saw, once the bytes are dropped.
    pub first_data: usize,
    looking: Vec<oneshot::Sender<Snapshot>>,
}

/// Server that a session was connected to.
pub(crate) enum Destination {
    Host(Arc<Host>),
    /// Address that no host has.
    Addr(Box<str>),
}

/// Resume of a session over another connection.
#[derive(Debug, Clone)]
pub(crate) struct Resumed {
    pub at: SystemTime,
    pub transport: &'static str,
    pub client_addr: SocketAddr,
    /// Number of bytes sent again.
    pub resent: u64,
}

/// End of a session.
#[derive(Debug, Clone)]
pub(crate) struct Ended {
    pub at: SystemTime,
    pub after: Duration,
    pub reason: &'static str,
    pub detail: String,
}

/// Place of a session among the live ones, until it is dropped.
pub(crate) struct Registration {
    registry: Arc<Registry>,
    record: Arc<Record>,
    _live: TaskTrackerToken,
}

impl Registry {
    pub fn new(metrics: Arc<Metrics>) -> Self {
        Self {
            sessions: Mutex::default(),
            numbered: AtomicU64::new(0),
            metrics,
            tracker: TaskTracker::new(),
        }
    }

    /// Returns an id for a session whose protocol has none.
    pub fn number(&self) -> u64 {
        OWN_NUMBERS + 1 + self.numbered.fetch_add(1, Ordering::Relaxed)
    }

    /// Enters a session that is past its handshake.
    pub fn enter(self: &Arc<Self>, info: Arc<SessionInfo>, generation: u64) -> Registration {
        self.metrics.opened(&info);
        let id = info.id;
        let record = Arc::new(Record {
            id,
            generation,
            trace: Arc::default(),
            started: Instant::now(),
            meter: self.metrics.listener(&info.listener),
            received: AtomicU64::new(0),
            sent: AtomicU64::new(0),
            replay_memory: AtomicUsize::new(0),
            away: AtomicBool::new(false),
            wanted: AtomicU8::new(0),
            waker: AtomicWaker::new(),
            story: Mutex::new(Details {
                info,
                target: None,
                endpoint: None,
                resumes: 0,
                history: Vec::new(),
                ended: None,
                first_data: 0,
                looking: Vec::new(),
            }),
        });
        self.sessions.lock().live.insert(id, record.clone());
        Registration {
            registry: self.clone(),
            record,
            _live: self.tracker.token(),
        }
    }

    /// Records that a session was resumed over another connection.
    pub fn resumed(&self, id: u64, resumed: Resumed) {
        let Some(record) = self.get(id) else {
            return;
        };
        let mut story = record.story();
        if story.ended.is_some() {
            return;
        }
        let (before, after) = (story.transport(), resumed.transport);
        let resent = resumed.resent;
        self.metrics.resumed(&story.info, before, after, resent);
        story.resumes += 1;
        if story.history.len() >= HISTORY {
            story.history.remove(0);
        }
        story.history.push(resumed);
    }

    /// Waits until all sessions have ended, once no new ones are admitted.
    pub async fn drained(&self) {
        self.tracker.close();
        self.tracker.wait().await;
    }

    pub fn get(&self, id: u64) -> Option<Arc<Record>> {
        let sessions = self.sessions.lock();
        let ended = || sessions.ended.iter().rev().find(|record| record.id == id);
        sessions.live.get(&id).or_else(ended).cloned()
    }

    /// Returns up to `limit` live sessions with ids above `after`, in the order of their ids.
    pub fn page(&self, after: u64, limit: usize) -> Vec<Arc<Record>> {
        let sessions = self.sessions.lock();
        let from = after.saturating_add(1);
        let page = sessions.live.range(from..).take(limit);
        page.map(|(_, record)| record.clone()).collect()
    }

    /// Returns the sessions that ended last, the latest first.
    pub fn ended(&self) -> Vec<Arc<Record>> {
        self.sessions.lock().ended.iter().rev().cloned().collect()
    }

    pub fn len(&self) -> usize {
        self.sessions.lock().live.len()
    }
}

impl Registration {
    pub fn record(&self) -> &Arc<Record> {
        &self.record
    }
}

impl Drop for Registration {
    fn drop(&mut self) {
        let record = &self.record;
        let mut sessions = self.registry.sessions.lock();
        sessions.live.remove(&record.id);
        if sessions.ended.len() >= REMEMBERED {
            sessions.ended.pop_front();
        }
        sessions.ended.push_back(record.clone());
        drop(sessions);
        record
            .meter
            .replay
            .sub(record.replay_memory.load(Ordering::Relaxed) as u64);
        record
            .meter
            .away
            .sub(record.away.load(Ordering::Relaxed).into());
        let mut story = record.story();
        // Those who wait for a snapshot learn that none will come.
        story.looking.clear();
        let reason = story.ended.as_ref().map_or("fault", |ended| ended.reason);
        self.registry
            .metrics
            .closed(&story.info, story.transport(), reason);
    }
}

impl Record {
    pub fn story(&self) -> MutexGuard<'_, Details> {
        self.story.lock()
    }

    pub fn started_at(&self) -> SystemTime {
        SystemTime::now() - self.started.elapsed()
    }

    pub fn received(&self) -> u64 {
        self.received.load(Ordering::Relaxed)
    }

    pub fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    pub fn replay_memory(&self) -> usize {
        self.replay_memory.load(Ordering::Relaxed)
    }

    /// Returns whether the client has lost its connection and may resume.
    pub fn is_away(&self) -> bool {
        self.away.load(Ordering::Relaxed)
    }

    /// Publishes what the session's task has moved so far and the state of its client. Only that
    /// task calls this, each time it was polled.
    pub fn publish(&self, received: u64, sent: u64, client: &Client) {
        let before = self.received();
        if received != before {
            self.received.store(received, Ordering::Relaxed);
            self.meter.received.add(received - before);
        }
        let before = self.sent();
        if sent != before {
            self.sent.store(sent, Ordering::Relaxed);
            self.meter.sent.add(sent - before);
        }
        let (memory, before) = (client.replay_memory(), self.replay_memory());
        if memory != before {
            self.replay_memory.store(memory, Ordering::Relaxed);
            self.meter.replay.add(memory as u64);
            self.meter.replay.sub(before as u64);
        }
        let (away, before) = (client.is_away(), self.is_away());
        if away != before {
            self.away.store(away, Ordering::Relaxed);
            self.meter.away.add(away.into());
            self.meter.away.sub(before.into());
        }
        if self.wanted.load(Ordering::Relaxed) & LOOK != 0 {
            self.wanted.fetch_and(!LOOK, Ordering::AcqRel);
            for looking in std::mem::take(&mut self.story().looking) {
                let _ = looking.send(client.look());
            }
        }
    }

    /// Runs `future` in the session's task. Returns `None` if the session is kicked first.
    pub async fn until_kicked<F: Future>(&self, future: F) -> Option<F::Output> {
        let mut future = pin!(future);
        poll_fn(|cx| {
            self.waker.register(cx.waker());
            if let Poll::Ready(output) = future.as_mut().poll(cx) {
                return Poll::Ready(Some(output));
            }
            match self.wanted.load(Ordering::Acquire) & KICK {
                0 => Poll::Pending,
                _ => Poll::Ready(None),
            }
        })
        .await
    }

    /// Ends the session.
    pub fn kick(&self) {
        self.want(KICK);
    }

    /// Returns a snapshot by the session's task. It is empty while the session is connected neither
    /// to a server nor to the hub, and once it has ended.
    pub async fn look(&self) -> Snapshot {
        let (looking, look) = oneshot::channel();
        {
            let mut story = self.story();
            if story.ended.is_some() || (story.target.is_none() && story.endpoint.is_none()) {
                return Snapshot::default();
            }
            story.looking.push(looking);
        }
        self.want(LOOK);
        look.await.unwrap_or_default()
    }

    fn want(&self, what: u8) {
        self.wanted.fetch_or(what, Ordering::AcqRel);
        self.waker.wake();
    }

    /// Records how the session ended.
    pub fn ended(&self, reason: &'static str, detail: String, after: Duration) {
        let mut story = self.story();
        story.looking.clear();
        // Only the number of these bytes is shown.
        if let Some(data) = &story.info.first_data {
            story.first_data = data.len();
            Arc::make_mut(&mut story.info).first_data = None;
        }
        story.ended = Some(Box::new(Ended {
            at: SystemTime::now(),
            after,
            reason,
            detail,
        }));
    }
}

impl Destination {
    pub fn addr(&self) -> &str {
        match self {
            Self::Host(host) => &host.addr,
            Self::Addr(addr) => addr,
        }
    }

    /// Returns the name of the host, if one has the address.
    pub fn host(&self) -> Option<&str> {
        match self {
            Self::Host(host) => Some(&host.name),
            Self::Addr(_) => None,
        }
    }
}

impl Details {
    /// Returns the transport that carries the session now, or did last.
    pub fn transport(&self) -> &'static str {
        let last = self.history.last();
        last.map_or(self.info.transport, |resumed| resumed.transport)
    }

    /// Returns the client's address now, or its last.
    pub fn client_addr(&self) -> SocketAddr {
        let last = self.history.last();
        last.map_or(self.info.client_addr, |resumed| resumed.client_addr)
    }
}
