//! Settings of the choice among hosts and of what is known of them.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::addr::HostAddr;

/// A server of the configuration.
#[derive(Debug, Clone)]
pub struct Server {
    /// The name clients and hooks ask for.
    pub name: String,
    pub addr: HostAddr,
    /// Its share of the sessions among the hosts to choose from.
    pub weight: u32,
    /// It gets no new sessions.
    pub drain: bool,
}

/// How hosts are chosen, looked up and checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub choose: Choose,
    /// How long a host that is back, or new in a reload, takes to get its full share.
    pub slow_start: Option<Duration>,
    /// How often names are looked up; `None` is for each session.
    pub resolve_interval: Option<Duration>,
    /// How long a look-up may take.
    pub resolve_timeout: Duration,
    /// Active checks, if there are any.
    pub check: Option<Check>,
}

/// Active checks: whether a host accepts a TCP connection.
#[derive(Debug, Clone)]
pub struct Check {
    pub interval: Duration,
    pub timeout: Duration,
    /// So many good checks in a row bring a host back.
    pub rise: u32,
    /// So many failed ones take it out.
    pub fall: u32,
}

/// How a host is chosen among those that fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Choose {
    /// At random, by weight.
    Weighted,
    /// The one with the fewest sessions for its weight.
    LeastSessions,
    /// By the IP address of the client.
    HashClient,
    /// By the name that was asked for, or at random without one.
    HashTarget,
}
