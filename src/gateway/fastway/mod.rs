//! The fastway services: clients and servers on physical connections, virtual connections between
//! them.
//!
//! All fastway listeners share one [`Switchboard`]. Each physical connection is one task, which
//! takes its frames to the hub, under a lock held for what one read has brought, and writes what
//! others leave in its outbox. Who is behind with that when it has its turn is cut off, and nobody
//! waits for it.

mod dial;
mod peer;
mod service;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::State;
use crate::hooks::host::Endpoint;
use crate::link::Outbox;
use crate::proto::fastway::{self, Event, Hub, Role};

pub(super) use service::Service;

/// Frames beyond a queue's limit that may come before the endpoint has its turn; many times what one
/// read brings.
const BURST: usize = 64 * 1024;

/// All fastway endpoints of a gateway, whatever becomes of its configuration.
#[derive(Default)]
pub struct Switchboard(Mutex<Exchange>);

type Exchange = Hub<Arc<Remote>, Option<Box<dial::Call>>>;

/// An endpoint as others reach it.
struct Remote {
    outbox: Outbox<End>,
    addr: SocketAddr,
}

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
    Drained,
    Kicked,
    Shutdown,
    /// Its task panicked.
    Fault,
}

impl Switchboard {
    /// The endpoints of a kind by their ids.
    pub fn endpoints(&self, role: Role) -> Vec<Endpoint> {
        let hub = self.hub();
        let endpoint = |(id, remote, connections): (u32, &Arc<Remote>, usize)| Endpoint {
            id,
            addr: remote.addr,
            connections,
        };
        let mut endpoints: Vec<_> = hub.endpoints(role).map(endpoint).collect();
        drop(hub);
        endpoints.sort_unstable_by_key(|endpoint| endpoint.id);
        endpoints
    }

    /// How many virtual connections there are.
    pub(super) fn connections(&self) -> usize {
        self.hub().connections()
    }

    fn hub(&self) -> MutexGuard<'_, Exchange> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
            Self::Overflow(_) => "slow_reader",
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
            Self::Drained => f.write_str("draining, and no virtual connection is left"),
            Self::Kicked => f.write_str("ended over the admin interface"),
            Self::Shutdown => f.write_str("the gateway shuts down"),
            Self::Fault => f.write_str("a fault of the gateway, which the log tells of"),
        }
    }
}
