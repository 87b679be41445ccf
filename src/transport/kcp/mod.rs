//! KCP, wire compatible with xtaci/kcp-go without encryption.
//!
//! [`Kcp`] is the state machine of one session; it knows no socket, clock or
//! randomness. [`segment`] is its codec.

mod acks;
mod congestion;
pub mod fec;
pub mod gf256;
mod receive_queue;
mod recovery;
pub mod reed_solomon;
mod ring;
mod rtt;
pub mod segment;
mod send_queue;
mod settings;
mod state;

#[cfg(test)]
mod netem;
#[cfg(test)]
mod state_tests;

pub use segment::{SegmentError, conversation, opener};
pub use settings::{Settings, Stats};
pub use state::{InputError, Kcp};
