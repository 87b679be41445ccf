//! A gateway that keeps game connections alive.

pub mod config;
pub mod hooks;
pub mod proto;
