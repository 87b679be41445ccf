//! The script host with real scripts, on whichever interpreter it was built with.

#[path = "../asking/mod.rs"]
mod asking;

mod contract;
mod fuzz;
mod gateway;
mod pool;
mod reload;
mod rig;
mod sandbox;
