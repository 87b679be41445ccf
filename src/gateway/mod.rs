//! The gateway itself: what accepts, decides, connects and relays.
//!
//! [`Gateway`] is the whole of it, to be run by the binary or inside another program. All
//! configuration reaches running code through one immutable [`Generation`], swapped atomically;
//! a session keeps the one that decided it.

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
