//! The proxy service: connects each session to an upstream.

mod peek;
mod reason;
mod relay;
mod session;
mod upstream;

pub(super) use session::{Opened, Session};
