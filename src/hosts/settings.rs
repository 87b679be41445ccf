//! Settings for choosing, resolving and checking hosts.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::addr::HostAddr;

/// Server of the configuration.
#[derive(Debug, Clone)]
pub struct Server {
    /// Name that clients and hooks ask for.
    pub name: String,
    pub addr: HostAddr,
    /// Weight, the server's share of sessions relative to the other candidates; 0 for a server that
    /// is chosen only by its name.
    pub weight: u32,
    /// Flag that the server gets no new sessions.
    pub drain: bool,
}

/// Settings for choosing, resolving and checking hosts.
#[derive(Debug, Clone)]
pub struct Settings {
    pub choose: Choose,
    /// Time in which a host that is back, or new in a reload, grows to its full share.
    pub slow_start: Option<Duration>,
    /// Interval of lookups; `None` looks names up for each session.
    pub resolve_interval: Option<Duration>,
    /// Time limit of a lookup.
    pub resolve_timeout: Duration,
    /// Settings of active checks, if there are any.
    pub check: Option<Check>,
}

/// Settings of active checks, which test whether a host accepts a TCP connection.
#[derive(Debug, Clone)]
pub struct Check {
    pub interval: Duration,
    pub timeout: Duration,
    /// Number of good checks in a row that bring a host back.
    pub rise: u32,
    /// Number of failed checks in a row that take a host out.
    pub fall: u32,
}

/// Method of choosing among the hosts that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// At random, by weight.
    Weighted,
    /// Host with the fewest sessions for its weight.
    LeastSessions,
    /// By the IP address of the client.
    HashClient,
    /// By the name that was asked for; by weight if there is none.
    HashTarget,
}
