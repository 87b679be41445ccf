//! The host of plugins, with plugins in the text format.
#![cfg(feature = "wasm")]

mod conformance;
mod contract;
mod rig;
mod wat;
