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

mod call;
mod dial;
mod end;
mod peer;
mod service;
mod switchboard;

pub(super) use service::Service;
pub use switchboard::Switchboard;
