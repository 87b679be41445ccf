//! Upstream hosts: the choice of one for a session, their health, and the addresses of their names.

mod addr;
mod choose;
mod health;
mod host;
mod names;
mod settings;
mod table;
mod upkeep;

pub use addr::HostAddr;
pub(crate) use choose::Query;
pub use host::Host;
pub(crate) use names::{Resolved, is_ours};
pub use settings::{Check, Choose, Server, Settings};
pub(crate) use table::{Backend, Hosts, SessionGuard};
