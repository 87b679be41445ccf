#![doc = include_str!("../README.md")]
#![warn(missing_docs)]

mod acceptor;
mod clock;
mod config;
mod counters;
mod driver;
pub mod fec;
mod handle;
mod listener;
mod session;
mod state;
mod strangers;
mod stream;
mod timers;
mod udp;

#[cfg(test)]
mod netem;

/// What the benchmarks of this crate measure apart; no part of its interface.
#[doc(hidden)]
pub mod internal {
    pub use crate::fec::gf256::Kernel;
    pub use crate::fec::reed_solomon::{ReedSolomon, Rows};
}

pub use config::Config;
pub use counters::{Counters, FecStats, Metric, MetricKind, Stats};
pub use listener::{Control, Listener};
pub use state::{InputError, Kcp, Settings, segment};
pub use stream::Stream;
