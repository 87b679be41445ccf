//! KCP over real sockets.

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]
#[path = "../common/mod.rs"]
mod common;

mod datagrams;
mod fec;
mod sessions;
#[path = "../soak/time.rs"]
mod time;
mod transport;
