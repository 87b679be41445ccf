//! Forward error correction around KCP datagrams, as xtaci/kcp-go speaks it.
//!
//! Every datagram is a shard: LE32 id ‖ LE16 type (0xf1 data, 0xf2 parity) ‖ body. The body of a
//! data shard is LE16 size (payload + 2) ‖ payload. Ids count up; d data shards and the p parity
//! shards that follow them are a group, and any d of its shards bring back the rest. Parity is
//! computed over the bodies, zero-padded to the longest of the group. Ids wrap to 0 at the
//! greatest multiple of d + p below 2^32, so a group never straddles the wrap.
//! All of it is as in kcp-go 5.4 (its `fec.go`).
//!
//! Neither side keeps shards. Each adds them up in p rows per group as they pass, so an open
//! group costs at most p datagrams of memory and a closed one nothing.
//!
//! No I/O and no clock: a group is old by distance of ids. An owner that sees its session fall
//! idle can call `release` on both sides.
//!
//! ```
//! use stablegate_kcp::fec::{Decoder, Encoder, FecError, HEADER, Shape, Shard};
//!
//! let shape = Shape::new(3, 1).expect("a shape that there is");
//! let (mut encoder, mut decoder) = (Encoder::new(shape), Decoder::new(shape));
//! let mut sent = Vec::new();
//! for payload in ["one", "two", "three"] {
//!     let mut datagram = [&[0; HEADER], payload.as_bytes()].concat();
//!     let parity = encoder.seal(&mut datagram)?;
//!     sent.push(datagram);
//!     for datagram in parity.iter().flat_map(|parity| parity.datagrams()) {
//!         sent.push(datagram.to_vec());
//!     }
//! }
//!
//! // The second is lost, and comes back with the parity.
//! sent.remove(1);
//! let mut received = Vec::new();
//! for datagram in &sent {
//!     let shard = Shard::parse(datagram)?;
//!     received.extend(shard.payload().map(<[u8]>::to_vec));
//!     if let Some(recovered) = decoder.input(&shard)? {
//!         received.extend(recovered.payloads().map(<[u8]>::to_vec));
//!     }
//! }
//! assert_eq!(received, [&b"one"[..], b"three", b"two"]);
//! # Ok::<(), FecError>(())
//! ```

mod decoder;
mod encoder;
pub(crate) mod gf256;
mod ids;
pub(crate) mod reed_solomon;
mod shape;
pub(crate) mod shards;
#[cfg(test)]
mod tests;
mod wire;

pub use decoder::{Decoder, OPEN_GROUPS, Recovered};
pub use encoder::{Encoder, Parity};
pub use shape::{Shape, ShapeError};
pub use wire::{FecError, HEADER, MAX_DATAGRAM, Shard};

pub(crate) use wire::write_header;
