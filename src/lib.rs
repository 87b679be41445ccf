//! A gateway that keeps game connections alive.

pub mod config;
pub mod crypto;
pub mod hooks;
pub mod proto;
pub mod session;
