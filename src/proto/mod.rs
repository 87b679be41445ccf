//! Wire formats without I/O: bytes in, bytes and events out.

pub(crate) mod base64;
pub mod fastway;
pub mod proxy_header;
pub mod scp;
pub mod snet;
pub mod sproto;
