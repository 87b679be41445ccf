//! KCP over real sockets.

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]
#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code, reason = "shared with the tests of the transport")]
#[path = "../../crates/kcp/tests/common/network.rs"]
mod network;
mod sessions;
