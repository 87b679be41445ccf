//! Fastway services: virtual connections between clients and servers on physical connections.
//!
//! All fastway listeners share one [`Switchboard`]. Each physical connection is one task, which
//! takes its frames to the hub, under a lock held for what one read has brought, and writes what
//! other endpoints leave in its outbox.
//!
//! An outbox is bounded in bytes. An endpoint that has a frame for a full outbox is not read from
//! until there is room, so a slow endpoint holds up only those who send to it. An endpoint that
//! keeps others waiting for its `stall_timeout` is disconnected. So is an endpoint whose queue is
//! still over its limit of frames when its task runs.

mod call;
mod dial;
mod end;
mod peer;
mod service;
mod switchboard;

pub(super) use service::Service;
pub use switchboard::Switchboard;
