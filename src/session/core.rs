//! State of one session without I/O: byte counts, ciphers and replay buffer.

use std::sync::Arc;

use crate::crypto::Rc4;

use super::Memory;
use super::replay::Replay;

/// One end of a resumable session, without I/O.
///
/// Positions count payload bytes of the session, as they are on the wire, from 0. For the bytes to
/// the peer there are three marks: `confirmed ≤ handed ≤ sent`. Bytes that were
/// [`push`](Self::push)ed count as sent and wait in the replay buffer. [`unsent`](Self::unsent)
/// returns the bytes that the connection has yet to take, [`written`](Self::written) records that the
/// connection took some, and [`confirm`](Self::acknowledge) that the peer's system has acknowledged
/// some.
///
/// The old connection may deliver more bytes after the peer was told how many were received. The
/// peer does not know of these and sends them again over the new connection; such repeats are
/// skipped.
///
/// A confirmed byte is acknowledged by the peer's system; the peer may not have read it yet. So
/// only half of the replay buffer may be unconfirmed; the other half keeps bytes that were
/// acknowledged and may still be lost at the peer.
///
/// Bytes are encrypted once, when they are pushed, and sent again unchanged.
#[derive(Debug)]
pub struct Core {
    incoming: Option<Rc4>,
    outgoing: Option<Rc4>,
    received: u64,
    repeated: u64,
    replay: Replay,
    written: u64,
    acked: u64,
    window: usize,
}

/// Error of a peer that claims bytes never sent, or lacks bytes no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes to resend are no longer in the replay buffer")]
pub struct NotReplayable;

impl Core {
    /// Creates a session that has sent and received nothing.
    ///
    /// `replay_limit` is in bytes, at least 2. Without a cipher a direction is not encrypted.
    pub fn new(incoming: Option<Rc4>, outgoing: Option<Rc4>, replay_limit: usize) -> Self {
        Self {
            incoming,
            outgoing,
            received: 0,
            repeated: 0,
            replay: Replay::new(replay_limit),
            written: 0,
            acked: 0,
            window: replay_limit / 2,
        }
    }

    /// Charges the replay buffer to a shared memory budget.
    ///
    /// Call before the first [`push`](Self::push).
    pub fn within(mut self, memory: Arc<Memory>) -> Self {
        self.replay.share(memory);
        self
    }

    /// Returns the memory budget that the replay buffer is charged to.
    pub fn memory(&self) -> Option<&Memory> {
        self.replay.memory()
    }

    /// Returns the number of bytes received from the peer.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Returns the number of bytes sent to the peer, received or not.
    pub fn sent(&self) -> u64 {
        self.replay.end()
    }

    /// Returns how many bytes may be sent and unconfirmed at most.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Returns the position of the oldest byte that can be sent again.
    pub fn replay_start(&self) -> u64 {
        self.replay.start()
    }

    /// Returns the allocated size of the replay buffer, bytes.
    pub fn replay_memory(&self) -> usize {
        self.replay.capacity()
    }

    /// Counts and decrypts bytes that the connection delivered.
    ///
    /// Returns the new bytes: all but the repeats at the start.
    pub fn receive<'a>(&mut self, bytes: &'a mut [u8]) -> &'a mut [u8] {
        let repeated = bytes
            .len()
            .min(usize::try_from(self.repeated).unwrap_or(usize::MAX));
        self.repeated -= repeated as u64;
        // invariant: it is their number at most.
        let new = &mut bytes[repeated..];
        self.received += new.len() as u64;
        if let Some(cipher) = &mut self.incoming {
            cipher.apply(new);
        }
        new
    }

    /// Records that the next bytes the connection delivers are those from `position` on.
    ///
    /// `position` is at most [`received`](Self::received); the bytes between the two are repeats.
    pub fn receive_from(&mut self, position: u64) {
        debug_assert!(position <= self.received);
        self.repeated = self.received - position;
    }

    /// Returns how many bytes the connection will deliver that are already counted.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// Returns how many bytes may be pushed now.
    pub fn room(&self) -> usize {
        self.window
            .min(self.replay.limit() / 2)
            .saturating_sub((self.sent() - self.acked) as usize)
    }

    /// Encrypts and queues the first bytes of `plain`, as many as there is [`room`](Self::room)
    /// for.
    ///
    /// Returns how many bytes were taken.
    pub fn push(&mut self, plain: &[u8]) -> usize {
        let len = plain.len().min(self.room());
        let cipher = &mut self.outgoing;
        self.replay
            .append(len, self.acked, |to, range| match cipher {
                // invariant: the ranges are parts of `0..len`, and `len` is its length at most.
                Some(cipher) => cipher.apply_to(&plain[range], to),
                None => to.copy_from_slice(&plain[range]),
            });
        len
    }

    /// Frees the memory that confirmed bytes take in the replay buffer, if there is any.
    ///
    /// Afterwards a peer cannot resume if its system acknowledged bytes and lost them with the
    /// connection.
    pub fn shrink(&mut self) {
        self.replay.shrink(self.acked);
    }

    /// Returns the bytes the connection has not taken yet, in two slices.
    pub fn unsent(&self) -> (&[u8], &[u8]) {
        self.replay.from(self.written)
    }

    /// Returns the length of [`unsent`](Self::unsent).
    pub fn unsent_len(&self) -> u64 {
        self.sent() - self.written
    }

    /// Records that the connection took the first `len` bytes of [`unsent`](Self::unsent).
    pub fn written(&mut self, len: usize) {
        self.written += len as u64;
        debug_assert!(self.written <= self.sent());
    }

    /// Records that the bytes handed to the connection are acknowledged, except the last
    /// `unacked`.
    pub fn acknowledge(&mut self, unacked: usize) {
        let acked = self.written.saturating_sub(unacked as u64);
        self.acked = self.acked.max(acked);
    }

    /// Returns whether all sent bytes are confirmed.
    pub fn is_acked(&self) -> bool {
        self.acked == self.sent()
    }

    /// Checks that all bytes a peer lacks can be sent again.
    ///
    /// `received` is the number of bytes the peer has.
    pub fn can_resume(&self, received: u64) -> Result<(), NotReplayable> {
        if (self.replay.start()..=self.sent()).contains(&received) {
            Ok(())
        } else {
            Err(NotReplayable)
        }
    }

    /// Resumes over a new connection with a peer that has `received` bytes.
    ///
    /// All bytes the peer lacks become [`unsent`](Self::unsent) again; returns how many. Nothing
    /// changes on error.
    pub fn resume(&mut self, received: u64) -> Result<u64, NotReplayable> {
        self.can_resume(received)?;
        self.written = received;
        self.acked = received;
        Ok(self.sent() - received)
    }
}

#[cfg(test)]
mod tests;
