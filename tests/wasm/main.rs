//! The host of plugins, with plugins in the text format.
#![cfg(feature = "wasm")]

#[path = "../asking/mod.rs"]
mod asking;
#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]
#[path = "../common/mod.rs"]
mod common;

mod cache;
mod conformance;
mod contract;
mod gateway;
mod harm;
mod new;
mod reload;
mod rig;
mod samples;
mod wat;
