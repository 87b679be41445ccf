//! What scripts and plugins see of the fastway endpoints.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::fastway::Role;

/// A connected fastway endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: u32,
    pub addr: SocketAddr,
    /// Virtual connections it has now.
    pub connections: usize,
}

/// Lists the fastway endpoints that are connected.
#[derive(Clone)]
pub struct Roster(Arc<dyn Fn(Role) -> Arc<[Endpoint]> + Send + Sync>);

impl Roster {
    /// `list` gives the endpoints of a kind by their ids.
    pub fn new(list: impl Fn(Role) -> Arc<[Endpoint]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    /// The endpoints of a kind by their ids.
    pub fn list(&self, role: Role) -> Arc<[Endpoint]> {
        (self.0)(role)
    }
}

impl Default for Roster {
    /// Nobody is connected.
    fn default() -> Self {
        Self::new(|_| Arc::default())
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roster")
    }
}
