//! snet end to end: the running gateway, the library's client, and one that says exactly what it
//! is told to.

#[path = "../common/mod.rs"]
mod common;

mod gateway;
mod raw;
mod refused;
mod soak;
