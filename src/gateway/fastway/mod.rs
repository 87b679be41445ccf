//! The fastway services: clients and servers on physical connections, virtual connections between
//! them.
//!
//! All fastway listeners share one [`Switchboard`]. Each physical connection is one task, which
//! takes its frames to the hub, under a lock held for what one read has brought, and writes what
//! others leave in its outbox.
//!
//! An outbox is bounded in bytes: who has a frame for a full one is not read from until there is
//! room. So whoever is slow holds up those who send to it, and nobody else, and not for long: one
//! that keeps others waiting for its `stall_timeout` is cut off. So is one that is behind with more
//! frames than its queue is for when it has its turn.

mod dial;
mod peer;
mod service;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;

use super::State;
use crate::hooks::host::Endpoint;
use crate::link::Outbox;
use crate::proto::fastway::queue::Pool;
use crate::proto::fastway::{self, Event, Hub, Role};

pub(super) use service::Service;

/// Frames beyond a queue's limit that may come before the endpoint has its turn; many times what one
/// read brings.
const BURST: usize = 64 * 1024;

/// For how long a list of endpoints is given to all who ask for it.
const FRESH: Duration = Duration::from_millis(100);

/// Endpoints that are listed at once, while no frame passes.
const SLICE: usize = 256;

/// All fastway endpoints of a gateway, whatever becomes of its configuration.
#[derive(Default)]
pub struct Switchboard {
    hub: Mutex<Exchange>,
    /// What all outboxes hold.
    pool: Arc<Pool>,
    /// By [`Role`].
    rosters: [Mutex<Roster>; 2],
}

/// The endpoints of a kind as they were.
#[derive(Default)]
struct Roster {
    at: Option<Instant>,
    endpoints: Arc<[Endpoint]>,
}

type Exchange = Hub<Arc<Remote>, Option<Box<dial::Call>>>;

/// An endpoint as others reach it.
struct Remote {
    outbox: Outbox<End>,
    /// There may be room in the outbox.
    room: Arc<Notify>,
    addr: SocketAddr,
}

/// Ready when an endpoint whose outbox was full has room.
type Room = Pin<Box<OwnedNotified>>;

/// Why a physical connection ended.
#[derive(Debug, Clone)]
enum End {
    Left,
    Broken(io::ErrorKind),
    Unauthorized,
    LateHandshake,
    Denied(crate::hooks::chain::Denied),
    Violation(fastway::Error),
    Replaced,
    Overflow(usize),
    Stalled(Duration),
    Drained,
    Kicked,
    Shutdown,
    /// Its task panicked.
    Fault,
}

impl Switchboard {
    /// The endpoints of a kind by their ids, as they were less than a tenth of a second ago.
    pub fn endpoints(&self, role: Role) -> Arc<[Endpoint]> {
        // invariant: there is one for each role.
        let roster = &self.rosters[role as usize];
        let mut roster = roster.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        if roster.at.is_none_or(|at| now - at >= FRESH) {
            (roster.at, roster.endpoints) = (Some(now), self.list(role).into());
        }
        roster.endpoints.clone()
    }

    /// How many endpoints of a kind there are.
    pub(super) fn count(&self, role: Role) -> usize {
        self.hub().count(role)
    }

    /// Bytes that wait to be written to endpoints, with what the frames cost besides.
    pub(super) fn queued(&self) -> usize {
        self.pool.bytes()
    }

    /// Lists the endpoints of a kind, a slice at a time: frames go on in between.
    fn list(&self, role: Role) -> Vec<Endpoint> {
        let mut list: Vec<Endpoint> = Vec::new();
        loop {
            let from = match list.last() {
                None => 0,
                Some(last) if last.id == u32::MAX => return list,
                Some(last) => last.id + 1,
            };
            list.reserve(SLICE);
            let hub = self.hub();
            let before = list.len();
            let slice = hub.endpoints(role, from).take(SLICE);
            list.extend(slice.map(|(id, remote, connections)| Endpoint {
                id,
                addr: remote.addr,
                connections,
            }));
            if list.len() < before + SLICE {
                return list;
            }
        }
    }

    /// How many virtual connections there are.
    pub(super) fn connections(&self) -> usize {
        self.hub().connections()
    }

    fn hub(&self) -> MutexGuard<'_, Exchange> {
        // Nothing panics while it is held.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Remote {
    /// Ready when there is room in the outbox again; `None` when there is.
    fn full(&self) -> Option<Room> {
        if !self.outbox.is_full() {
            return None;
        }
        let room = self.room.clone().notified_owned();
        self.outbox.waits_for_room().then(|| Box::pin(room))
    }
}

/// Does what the hub says. It is called with the hub's lock held: that is what keeps the order.
fn emit(state: &State) -> impl FnMut(Event<'_, Arc<Remote>, Option<Box<dial::Call>>>) {
    move |event| match event {
        Event::Frame { to, frame } => {
            if to.outbox.push_anyway([frame]) > BURST {
                to.outbox.end(End::Overflow(to.outbox.limit()));
            }
        }
        Event::Replaced { peer } => peer.outbox.end(End::Replaced),
        Event::Ended {
            connection,
            received,
            sent,
            cause,
        } => {
            if let Some(call) = connection {
                state
                    .connections
                    .spawn(call.closed(received, sent, cause.label()));
            }
        }
    }
}

/// The same, and finds out whether one of those who got a frame is full now.
fn emit_and_look(
    state: &State,
    full: &mut Option<Room>,
) -> impl FnMut(Event<'_, Arc<Remote>, Option<Box<dial::Call>>>) {
    let mut emit = emit(state);
    move |event| {
        let to = match &event {
            Event::Frame { to, .. } if full.is_none() => Some(Arc::clone(to)),
            _ => None,
        };
        emit(event);
        if let Some(to) = to {
            *full = to.full();
        }
    }
}

impl End {
    /// A stable label for logs, hooks and metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Left => "closed",
            Self::Broken(_) => "client_gone",
            Self::Unauthorized => "unauthorized",
            Self::LateHandshake => "timeout",
            Self::Denied(_) => "denied",
            Self::Violation(error) => error.label(),
            Self::Replaced => "replaced",
            Self::Overflow(_) | Self::Stalled(_) => "slow_reader",
            Self::Drained => "drained",
            Self::Kicked => "kicked",
            Self::Shutdown => "shutdown",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Left => f.write_str("it closed"),
            Self::Broken(kind) => write!(f, "its connection broke: {}", io::Error::from(*kind)),
            Self::Unauthorized => f.write_str("it does not know the key"),
            Self::LateHandshake => f.write_str("its handshake took too long"),
            Self::Denied(denied) => {
                write!(f, "denied by hook {}: {}", denied.hook, denied.reason)
            }
            Self::Violation(error) => error.fmt(f),
            Self::Replaced => f.write_str("another server has connected with its id"),
            Self::Overflow(limit) => write!(f, "more than {limit} frames wait for it"),
            Self::Stalled(limit) => write!(f, "it kept others waiting for {limit:?}"),
            Self::Drained => f.write_str("draining, and no virtual connection is left"),
            Self::Kicked => f.write_str("ended over the admin interface"),
            Self::Shutdown => f.write_str("the gateway shuts down"),
            Self::Fault => f.write_str("a fault of the gateway, which the log tells of"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::fastway::queue::Bounds;
    use crate::proto::fastway::{Identity, Version};

    const CLIENTS: u32 = 3000;

    fn remote(switchboard: &Switchboard) -> Arc<Remote> {
        Arc::new(Remote {
            outbox: Outbox::new(Bounds {
                chunks: 1,
                bytes: 1,
                pool: switchboard.pool.clone(),
                pool_bytes: 1,
            }),
            room: Arc::default(),
            addr: "192.0.2.1:1".parse().unwrap(),
        })
    }

    fn ids(endpoints: &[Endpoint]) -> impl Iterator<Item = u32> {
        endpoints.iter().map(|endpoint| endpoint.id)
    }

    #[test]
    fn lists_are_whole_and_taken_now_and_then() {
        let switchboard = Switchboard::default();
        let join = |identity| {
            let remote = remote(&switchboard);
            switchboard.hub().join(identity, remote, &mut |_| ()).1
        };
        assert!(switchboard.list(Role::Client).is_empty());
        let client = Identity::Client {
            version: None,
            max_connections: 1,
        };
        for id in 1..=CLIENTS {
            assert_eq!(join(client), id);
        }
        assert!(ids(&switchboard.list(Role::Client)).eq(1..=CLIENTS));
        // Ids of servers are any.
        for id in [0, u32::MAX, 7] {
            let version = Version::V3;
            join(Identity::Server { version, id });
        }
        assert!(ids(&switchboard.list(Role::Server)).eq([0, 7, u32::MAX]));

        let start = Instant::now();
        let mut lists = vec![switchboard.endpoints(Role::Client)];
        for _ in 0..10_000 {
            let list = switchboard.endpoints(Role::Client);
            if !Arc::ptr_eq(&list, &lists[lists.len() - 1]) {
                lists.push(list);
            }
        }
        let most = 1 + start.elapsed().as_millis() / FRESH.as_millis();
        assert!(lists.len() as u128 <= most, "{} of {most}", lists.len());
        assert!(ids(&lists[0]).eq(1..=CLIENTS));
    }
}
