//! The proxy service: each session has a connection to a server.

mod peek;
mod reason;
mod relay;
mod session;
mod upstream;

pub(super) use session::{Opened, Session};
