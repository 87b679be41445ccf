//! snet end to end: the running gateway, the library's client, and one that says exactly what it
//! is told to.

mod gateway;
mod raw;
mod refused;
