//! The host of plugins, with plugins in the text format.
#![cfg(feature = "wasm")]

#[path = "../common/mod.rs"]
mod common;

mod bombs;
mod cache;
mod conformance;
mod contract;
mod gateway;
mod new;
mod reload;
mod rig;
mod samples;
mod wat;
