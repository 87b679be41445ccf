//! Forward error correction of one session, and what of a datagram is KCP's.

use super::decoder::Decoder;
use super::encoder::{Encoder, Parity};
use super::shape::Shape;
use super::wire::{FecError, Shard};
use crate::counters::FecStats;

/// Milliseconds between two datagrams after which parity of their group comes too late to help;
/// kcp-go's.
const STALE: u64 = 500;
/// Milliseconds without traffic after which the memory of open groups is given back.
const QUIET: u64 = 1_000;

/// A datagram as far as it can be told without a session.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Incoming<'a> {
    /// Plain KCP. Peers without error correction are understood by sessions with it too: it may
    /// just have been turned on.
    Plain(&'a [u8]),
    Shard(Shard<'a>),
}

impl<'a> Incoming<'a> {
    pub fn parse(datagram: &'a [u8]) -> Result<Self, FecError> {
        match Shard::parse(datagram) {
            Ok(shard) => Ok(Self::Shard(shard)),
            Err(FecError::UnknownType) => Ok(Self::Plain(datagram)),
            Err(error) => Err(error),
        }
    }

    /// The segments in it; `None` for parity.
    pub fn payload(&self) -> Option<&'a [u8]> {
        match self {
            Self::Plain(datagram) => Some(datagram),
            Self::Shard(shard) => shard.payload(),
        }
    }
}

/// Both directions of one session.
#[derive(Debug)]
pub(crate) struct Shards {
    encoder: Encoder,
    decoder: Decoder,
    /// When the last datagram came or went.
    active: u64,
    sealed: u64,
}

impl Shards {
    /// Those of a session whose first group, if it was `challenged`, its challenge was sent in.
    pub fn new(shape: Shape, challenged: bool, now: u64) -> Self {
        let mut encoder = Encoder::new(shape);
        if challenged {
            encoder.skip_group();
        }
        Self {
            encoder,
            decoder: Decoder::new(shape),
            active: now,
            sealed: now,
        }
    }

    /// Takes a shard into account and gives what it recovered to `deliver`.
    pub fn input(&mut self, shard: &Shard<'_>, now: u64, mut deliver: impl FnMut(&[u8])) {
        self.active = now;
        // A refused shard counts in the decoder.
        if let Ok(Some(recovered)) = self.decoder.input(shard) {
            recovered.payloads().for_each(&mut deliver);
        }
    }

    /// Writes the header of a datagram whose first [`HEADER`](super::HEADER) bytes are free.
    /// Gives the parity that goes after it.
    pub fn seal(&mut self, datagram: &mut [u8], now: u64) -> Option<Parity> {
        // invariant: the datagram is no longer than the configured mtu and has room in front.
        let parity = self.encoder.seal(datagram).ok().flatten();
        let stale = now - self.sealed >= STALE;
        self.sealed = now;
        self.active = now;
        parity.filter(|_| !stale)
    }

    /// When [`rest`](Self::rest) has something to do.
    pub fn deadline(&self) -> Option<u64> {
        let holds = self.encoder.heap_size() + self.decoder.heap_size() > 0;
        holds.then_some(self.active + QUIET)
    }

    /// Gives memory back if nothing has moved for a while.
    pub fn rest(&mut self, now: u64) {
        if now >= self.active + QUIET {
            self.encoder.release();
            self.decoder.release();
        }
    }

    pub fn stats(&self) -> &FecStats {
        self.decoder.stats()
    }
}
