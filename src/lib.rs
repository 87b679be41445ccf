//! A gateway that keeps game connections alive.
//!
//! Clients speak a resumable session protocol over a transport of their choice; the gateway
//! forwards each session to a server and hides network breaks from both. A listener combines
//! three layers:
//!
//! - [`transport`]: how bytes travel. TCP or KCP; a session may move from one to the other.
//! - session: who resumes, what is encrypted. scp, snet, or neither. The messages of a protocol
//!   are in [`proto`], the primitives they need in [`crypto`]; what they have in common, counts,
//!   ciphers, replay buffer and the stream over changing connections, is [`session`].
//! - service: what is done with a session. The proxy of [`gateway`] connects each with a server;
//!   the fastway services carry many virtual connections between clients and servers that both
//!   connect to the gateway.
//!
//! The admin interface tells over HTTP what the gateway does, and takes the few orders there are.
//! [`hooks`] decide who gets in and where a session goes. [`config`] is the configuration file.
//! [`client`] is the other end: streams that resume by themselves, and fastway's endpoints.
//! [`health`] is what is known of a server, [`files`] how files are read, [`resolver`] how names are
//! looked up. [`cli`] is the command line.
//!
//! [`proto`], [`crypto`] and [`session::Core`] know no I/O, no clock and no randomness of their
//! own. All configuration reaches running code through one immutable [`gateway::Generation`].

pub mod admin;
pub mod cli;
pub mod client;
pub mod config;
pub mod crypto;
pub mod files;
pub mod gateway;
pub mod hooks;
pub mod hosts;
mod metrics;
pub mod proto;
pub mod resolver;
pub mod session;
mod sync;
pub mod transport;
mod wire;
