//! The gateway as a whole, as those see it who run it, connect to it or stand behind it.

#[path = "../common/mod.rs"]
mod common;

mod admin;
mod bad_input;
mod cli;
mod fastway;
mod hooks;
mod hosts;
mod limits;
mod migrate;
mod process;
mod proxy_header;
mod reload;
mod session;
mod snet;
mod upstream;
mod watch;
