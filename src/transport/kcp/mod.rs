//! KCP, wire compatible with xtaci/kcp-go without encryption.
//!
//! [`Listener`] and [`Stream`] are the transport. Below them, [`Kcp`] is the state machine of one
//! session and [`fec`] its forward error correction, neither of which knows a socket, clock or
//! randomness; [`segment`] is the codec.
//!
//! ```text
//!  UDP socket ── loop (one task per socket: timers, strangers, batches) ── socket …
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

mod acks;
mod clock;
mod congestion;
mod counters;
mod driver;
pub mod fec;
pub mod gf256;
mod listener;
mod outbox;
mod receive_queue;
mod recovery;
pub mod reed_solomon;
mod ring;
mod rtt;
pub mod segment;
mod send;
mod send_queue;
mod session;
mod settings;
mod shards;
mod socket;
mod state;
mod strangers;
mod stream;
mod timers;

#[cfg(test)]
mod netem;
#[cfg(test)]
mod state_tests;

pub use counters::Counters;
pub use listener::{Control, Listener};
pub use segment::{SegmentError, conversation};
pub use settings::{Settings, Stats};
pub use state::{InputError, Kcp};
pub use stream::Stream;

use crate::config;

/// Bytes that the strangers of a bind may take in all, and of each socket at least.
const STRANGERS: usize = 4 * 1024 * 1024;
const STRANGERS_PER_SOCKET: usize = 64 * 1024;

// In milliseconds:
/// How long what was written before a stream ended may wait for the next acknowledgement.
const LINGER: u64 = 15_000;
/// How long a shut stream waits for more when everything is acknowledged.
const QUIET_END: u64 = 1_000;
/// How long a session that is done stays to acknowledge what is sent again, since it last heard
/// of its peer: the acknowledgement may have been lost.
const REPEATS: u64 = 500;

/// What the state machine is to be made with.
fn settings_of(config: &config::Kcp) -> Settings {
    Settings {
        mtu: config.mtu,
        reserved: config.fec().map_or(0, |_| fec::HEADER as u16),
        nodelay: config.nodelay,
        // invariant: it is at most 5 s.
        interval: config.interval.as_millis() as u16,
        resend: config.resend,
        no_congestion: config.no_congestion,
        send_window: config.send_window,
        receive_window: config.receive_window,
        stream: config.stream,
        write_delay: config.write_delay,
    }
}
