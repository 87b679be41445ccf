//! fastway: many virtual connections over one physical connection, without I/O.
//!
//! Clients and servers both connect to the gateway and exchange frames with it. A frame is the LE32
//! length of the rest, the LE32 connection id, and the body. Id 0 carries a [`Command`], every
//! other id the data of a virtual connection. Data frames are the same in all [versions](Version)
//! of the wire format; commands are not.
//!
//! [`Decoder`] splits a stream of bytes into frames. [`Hub`] is the gateway: it holds all endpoints
//! and their virtual connections, and emits the frames for each endpoint. [`Endpoint`] is the other
//! end. [`auth`] is the handshake of servers.
//!
//! Source: the implementations of fast/fastway in Go and C#, of three different years.

pub mod auth;
mod command;
mod endpoint;
mod error;
mod frame;
mod hub;
pub mod message;
pub mod queue;
#[cfg(test)]
mod tests;

pub use command::{Command, Version};
pub use endpoint::{Endpoint, Event as EndpointEvent};
pub use error::Error;
pub use frame::{DATA_HEADER, Decoder, Frame, data};
pub use hub::{Cause, Dial, Event, Hub, Identity, Peer, Refusal, Role};
