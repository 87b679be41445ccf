//! The fastway services of a running gateway.

#[path = "../common/mod.rs"]
mod common;

mod crossing;
mod hooks;
mod offences;
mod recorded;
mod resumed;
mod rig;
mod soak;
mod stalled;
