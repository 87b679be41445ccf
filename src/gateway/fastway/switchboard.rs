//! The hub that all fastway listeners share, and the outboxes of its endpoints.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use tokio::sync::Notify;
use tokio::sync::futures::OwnedNotified;
use tokio_util::task::TaskTracker;

use super::call::Call;
use super::end::End;
use crate::hooks::roster::Endpoint;
use crate::proto::fastway::queue::Pool;
use crate::proto::fastway::{Event, Hub, Role};
use crate::sync::Mutex;
use crate::wire::fastway::Outbox;

/// Number of frames over a queue's limit beyond which an endpoint is disconnected before its task
/// runs; many times what one read brings.
const BURST: usize = 64 * 1024;

/// Time for which a list of endpoints is given to all who ask for it.
const FRESH: Duration = Duration::from_millis(100);

/// Number of endpoints that are listed at once, while no frame passes.
const SLICE: usize = 256;

/// Hub of all fastway endpoints of a gateway, kept across reloads.
#[derive(Default)]
pub struct Switchboard {
    hub: Mutex<Exchange>,
    /// Memory account of all outboxes.
    pub(super) pool: Arc<Pool>,
    /// Lists of endpoints, by [`Role`].
    rosters: [Mutex<Roster>; 2],
}

/// List of the endpoints of one role, as of a moment.
#[derive(Default)]
struct Roster {
    at: Option<Instant>,
    endpoints: Arc<[Endpoint]>,
}

pub(super) type Exchange = Hub<Arc<Remote>, Option<Box<Call>>>;

/// Endpoint as others reach it.
pub(super) struct Remote {
    pub outbox: Outbox<End>,
    /// Notification that there may be room in the outbox.
    pub room: Arc<Notify>,
    pub addr: SocketAddr,
}

/// Future that is ready when an endpoint whose outbox was full has room.
pub(super) type Room = Pin<Box<OwnedNotified>>;

impl Switchboard {
    /// Returns the endpoints of a role by their ids, as of less than a tenth of a second ago.
    pub fn endpoints(&self, role: Role) -> Arc<[Endpoint]> {
        // invariant: there is one for each role.
        let roster = &self.rosters[role as usize];
        let mut roster = roster.lock();
        let now = Instant::now();
        if roster.at.is_none_or(|at| now - at >= FRESH) {
            (roster.at, roster.endpoints) = (Some(now), self.list(role).into());
        }
        roster.endpoints.clone()
    }

    /// Returns how many endpoints of a role there are.
    pub(crate) fn count(&self, role: Role) -> usize {
        self.hub().count(role)
    }

    /// Returns the bytes that are queued for endpoints, with the overhead of their frames.
    pub(crate) fn queued(&self) -> usize {
        self.pool.bytes()
    }

    /// Lists the endpoints of a role, a slice at a time: frames pass in between.
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

    /// Returns how many virtual connections there are.
    pub(crate) fn connections(&self) -> usize {
        self.hub().connections()
    }

    pub(super) fn hub(&self) -> MutexGuard<'_, Exchange> {
        self.hub.lock()
    }
}

impl Remote {
    /// Returns a future that is ready when the outbox has room again; `None` if it has room now.
    pub fn full(&self) -> Option<Room> {
        if !self.outbox.is_full() {
            return None;
        }
        let room = self.room.clone().notified_owned();
        self.outbox.waits_for_room().then(|| Box::pin(room))
    }
}

/// Returns a function that carries out the hub's events. `tasks` tell hooks of dials that ended.
///
/// It is called with the hub's lock held, which keeps the order of frames.
pub(super) fn emit(tasks: &TaskTracker) -> impl FnMut(Event<'_, Arc<Remote>, Option<Box<Call>>>) {
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
                tasks.spawn(call.closed(received, sent, cause.label()));
            }
        }
    }
}

/// Returns a function that carries out the hub's events as [`emit`] does, and sets `full` if an
/// endpoint that got a frame has no room left.
pub(super) fn emit_and_look(
    tasks: &TaskTracker,
    full: &mut Option<Room>,
) -> impl FnMut(Event<'_, Arc<Remote>, Option<Box<Call>>>) {
    let mut emit = emit(tasks);
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
        // Servers may have any id.
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
