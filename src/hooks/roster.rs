//! Lists of connected fastway endpoints, for scripts and plugins.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use crate::proto::fastway::Role;

/// A connected fastway endpoint.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub id: u32,
    pub addr: SocketAddr,
    /// Number of virtual connections that the endpoint has now.
    pub connections: usize,
}

/// Source of the lists of connected fastway endpoints.
#[derive(Clone)]
pub struct Roster(Arc<dyn Fn(Role) -> Arc<[Endpoint]> + Send + Sync>);

impl Roster {
    /// Creates a roster; `list` returns the endpoints of a role, in the order of their ids.
    pub fn new(list: impl Fn(Role) -> Arc<[Endpoint]> + Send + Sync + 'static) -> Self {
        Self(Arc::new(list))
    }

    /// Returns the endpoints of a role, in the order of their ids.
    pub fn list(&self, role: Role) -> Arc<[Endpoint]> {
        (self.0)(role)
    }
}

impl Default for Roster {
    /// Returns a roster without endpoints.
    fn default() -> Self {
        Self::new(|_| Arc::default())
    }
}

impl fmt::Debug for Roster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Roster")
    }
}
