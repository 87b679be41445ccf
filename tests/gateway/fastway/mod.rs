//! The fastway services of a running gateway.

mod crossing;
mod hooks;
mod offences;
mod recorded;
mod resumed;
mod rig;
mod stalled;
