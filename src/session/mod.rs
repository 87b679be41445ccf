//! Resumable sessions: the part that all session protocols share.
//!
//! [`Core`] counts and encrypts the bytes of a session and keeps sent bytes for replay; it does no
//! I/O and has no clock. [`Stream`] runs a core over one connection after the other. [`Table`]
//! finds a session by the id that a returning client names.
//!
//! This module does not know the protocol of a session. A handshake establishes how many bytes the
//! peer has received and hands over a connection; its messages and proofs are up to the protocol.

mod core;
mod mailbox;
mod memory;
mod replay;
mod stream;
mod table;

pub use self::core::{Core, NotReplayable};
pub use mailbox::{Ended, Handle, Offer, Refusal, Spare};
pub use memory::Memory;
pub use stream::{Connection, Stream};
pub use table::Table;
