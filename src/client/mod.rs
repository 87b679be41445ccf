//! Client side: streams that survive the loss of connections, and fastway endpoints over any
//! stream.

mod dial;
mod error;
pub mod fastway;
pub mod scp;
pub mod snet;
mod stream;

pub use crate::transport::{Address, AddressError, kcp};
pub use dial::kcp_settings;
pub use error::Error;
pub use stream::{Cutter, Protocol, Stream};
