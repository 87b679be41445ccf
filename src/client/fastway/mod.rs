//! fastway's endpoints: clients and servers with many virtual connections over one stream.
//!
//! An [`Endpoint`] runs over any stream: a TCP or KCP connection, or a session that resumes by
//! itself, in which case it survives the loss of connections. Endpoints and connections are
//! handles: clones are the same thing, any task may use them, and what the last one was dropped
//! of is closed.

mod connection;
mod endpoint;
mod error;
mod inbox;
mod options;
mod shared;
mod task;

pub use connection::Connection;
pub use endpoint::Endpoint;
pub use error::Error;
pub use options::Options;

pub use crate::proto::fastway::Version;
