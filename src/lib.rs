//! A gateway that keeps game connections alive.

pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod gateway;
mod handshake;
pub mod hooks;
pub mod proto;
pub mod session;
pub mod transport;
