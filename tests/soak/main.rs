//! Much traffic of all kinds for a while, over connections that break all the time.
//!
//! `STABLEGATE_SOAK` says for how long: seconds, or with a unit, such as `1h`.

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]
#[path = "../common/mod.rs"]
mod common;

#[allow(dead_code, reason = "shared with the tests of fastway")]
#[path = "../gateway/fastway/rig.rs"]
mod rig;

mod churn;
mod fastway;
mod kcp;
mod scp;
mod snet;
mod time;
mod traffic;
