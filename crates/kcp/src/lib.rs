//! KCP, wire compatible with xtaci/kcp-go without encryption.
//!
//! [`Listener`] and [`Stream`] are the transport. Below them, [`Kcp`] is the state machine of one
//! session and [`fec`] its forward error correction, neither of which knows a socket, clock or
//! randomness; [`segment`] is the codec.
//!
//! ```text
//!  UDP socket ── driver (one task per socket: timers, strangers, batches) ── socket …
//!                  │  one small lock per session
//!               session (state machine, error correction) ── Stream ── the session's task
//! ```
//!
//! # Strangers
//!
//! A datagram of an unknown peer is dropped unless its first segment is a whole push with serial
//! number 0. Such a peer is challenged: it has to acknowledge an empty segment whose
//! timestamp it can only know from having received it. There is no session before: a forged
//! datagram gets at most three times its bytes to where it claims to come from, and nothing else.
//! An honest peer waits one round trip.
//!
//! Another conversation from the address of a session takes its place once it has answered: its
//! client has started anew behind the same port. Anything else is dropped.

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
