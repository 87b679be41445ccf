//! KCP, wire compatible with xtaci/kcp-go without encryption.
//!
//! [`Listener`] and [`Stream`] are the transport. Below them, [`Kcp`] is the state machine of one
//! session and [`fec`] its forward error correction, neither of which knows a socket, clock or
//! randomness; [`segment`] is the codec.
//!
//! ```text
//!  UDP socket ── loop (one task per socket: timers, half-open sessions, batches) ── socket …
//!                  │  one small lock per session
//!               session (state machine, error correction) ── Stream ── the session's task
//! ```
//!
//! # Strangers
//!
//! A datagram of an unknown peer is dropped unless its first segment is a whole push with serial
//! number 0. Such a session is half open until its peer has echoed a timestamp of something sent
//! to it, which shows that it receives what is sent to its address. There can be 1,024 of them per
//! socket and 64 per address (per /64 of IPv6); further openers are dropped, and come again if
//! they are honest. After 10 s a half-open session counts as a full one if nothing was sent to it,
//! and breaks otherwise.
//!
//! Another conversation from the address of a session takes its place if it begins at serial
//! number 0: its client has started anew behind the same port. A half-open session stays for its
//! first second nevertheless, so that nobody makes one after the other. Anything else is dropped.

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
mod stream;
mod timers;

#[cfg(test)]
mod netem;
#[cfg(test)]
mod state_tests;

pub use counters::Counters;
pub use listener::{Control, Listener};
pub use segment::{SegmentError, conversation, opener};
pub use settings::{Settings, Stats};
pub use state::{InputError, Kcp};
pub use stream::Stream;

use crate::config;

/// Half-open sessions per socket, and per source address.
const HALF_OPEN: u64 = 1_024;
const HALF_OPEN_PER_SOURCE: u32 = 64;

// In milliseconds:
/// How long a peer may take to show that it receives what is sent to it.
const PROOF: u64 = 10_000;
/// How long a half-open session is not to be replaced by another from the same address.
const REPLACEABLE: u64 = 1_000;
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
