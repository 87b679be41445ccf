//! The resumable core, shared by every session protocol.
//!
//! [`Core`] counts and encrypts the bytes of a session and keeps those the peer may have to be
//! sent again; it knows no I/O and no clock. [`Stream`] runs it over one connection after the
//! other. [`Table`] finds the session that a returning client names.
//!
//! Which protocol a session speaks is not known here: a handshake establishes what the peer has
//! received and hands a connection over, how that was said and proven is its own affair.

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
