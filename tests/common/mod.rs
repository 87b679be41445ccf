//! What the end-to-end tests share: the gateway as a process, a client that says exactly what it
//! is told to, servers, and a bad network to put between them.

mod client;
mod dns;
pub mod gateway;
pub mod http;
#[path = "../../crates/kcp/tests/common/pattern.rs"]
mod pattern;
mod raw;
mod relay;
mod server;

use std::io::Write;
use std::time::Duration;

pub use client::{connect, connect_with, echoed, options};
pub use dns::NameServer;
pub use gateway::{Gateway, Log, Output, command, run, without_admin};
pub use pattern::Pattern;
pub use raw::{Raw, ask, read_record, record};
pub use relay::{Budget, Cut, Relay};
pub use server::{Server, dead_addr, read, read_to_end};

/// How long anything may take that should come at once: a failure, not a pause.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`; panics with `what` when it does not come.
#[track_caller]
pub fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: waited in vain: {what}"),
        }
    }
}

/// A configuration with one scp listener called `game` and one host called `server`.
pub fn scp_to(server: impl std::fmt::Display, more: &str) -> String {
    format!(
        "listeners: [{{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}}]\n\
         hosts: [{{name: server, addr: '{server}'}}]\n{more}"
    )
}

pub fn unhex(text: &str) -> Vec<u8> {
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).unwrap())
        .collect()
}

/// For a test's random choices: the environment's `STABLEGATE_SEED`, or a new one. To be shown
/// when the test fails.
pub fn seed() -> u64 {
    match std::env::var("STABLEGATE_SEED") {
        Ok(seed) => seed.parse().expect("STABLEGATE_SEED is a number"),
        Err(_) => rand::random(),
    }
}

/// Says why a test did not run: past the capture of what tests print.
pub fn skipped(why: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED: {why}").unwrap();
}
