//! The primitives that scp and snet share: key exchange, stream cipher, checksums.
//!
//! They are what the protocols demand and no more: a 64-bit exchange and RC4 hide traffic from
//! a passing eye, not from an adversary.

mod dh64;
mod hmac64;
mod rc4;

pub use dh64::{is_public_key, public_key, shared_secret};
pub use hmac64::{Dialect, hashkey, hmac64};
pub use rc4::Rc4;
