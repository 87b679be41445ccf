//! The script host with real scripts, on whichever interpreter it was built with.

mod contract;
mod fuzz;
mod gateway;
mod pool;
mod reload;
mod rig;
mod sandbox;
