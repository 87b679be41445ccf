//! Cryptographic primitives that scp and snet share: key exchange, stream cipher, checksums.
//!
//! The protocols demand these and no more. A 64-bit key exchange and RC4 hide traffic from a casual
//! observer, not from an attacker.

mod dh64;
mod hmac64;
mod rc4;

pub use dh64::{is_public_key, public_key, shared_secret};
pub use hmac64::{Dialect, hashkey, hmac64};
pub use rc4::Rc4;
