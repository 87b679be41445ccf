//! The state machine of one session, without I/O, clock or randomness.

mod acks;
mod congestion;
mod input;
mod machine;
mod output;
mod receive_queue;
mod recovery;
mod ring;
mod rtt;
pub mod segment;
mod send_queue;
mod settings;
#[cfg(test)]
mod tests;

pub use input::InputError;
pub use machine::Kcp;
pub use settings::Settings;
