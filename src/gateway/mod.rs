//! The gateway: accepts connections, asks hooks, connects to upstreams and relays.
//!
//! [`Gateway`] is the entry point, for the binary and for programs that embed it. All configuration
//! reaches running code through one immutable [`Generation`], swapped atomically; a session keeps
//! the generation that decided it.

mod accept;
mod builder;
mod engine;
mod environment;
mod error;
mod fastway;
mod fault;
mod gate;
mod generation;
mod handshake;
mod live;
mod metrics;
mod proxy;
mod shrink;
mod shutdown;
mod sockets;
mod state;

pub use builder::Builder;
pub use engine::{Gateway, OpenAdmin, ServeAdmin};
pub use environment::Environment;
pub use error::Error;
pub use fastway::Switchboard;
pub(crate) use fault::Fault;
pub use gate::Limit;
pub(crate) use generation::Loaded;
pub use generation::{BuildError, Generation, Location};
pub(crate) use live::{Destination, Details, Record, Snapshot};
