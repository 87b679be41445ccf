//! Counts, ciphers and replay buffer of one session.

use std::sync::Arc;

use crate::crypto::Rc4;

use super::Memory;
use super::replay::Replay;

/// One end of a resumable session: which bytes were received, which may have to be sent again.
///
/// Positions count payload bytes of the session, as they are on the wire, from 0. Of the bytes to
/// the peer it holds three marks: `confirmed ≤ handed ≤ sent`. What was [`push`](Self::push)ed
/// counts as sent and waits in the replay buffer; [`unsent`](Self::unsent) shows what the
/// connection has yet to take, [`handed`](Self::handed) notes that it did, and
/// [`confirm`](Self::confirm) how much of that has left its queue.
///
/// Between telling the peer what was received and going on over its new connection, the old one
/// may deliver more. The peer, which knows nothing of that, sends it again; such repeats are
/// skipped.
///
/// A confirmed byte is one that the peer's system has acknowledged, not one that the peer has
/// read. So only half of the replay buffer may be unconfirmed; the other half keeps what
/// may be lost on the far side of an acknowledgement.
///
/// Bytes are encrypted once, when they are pushed, and resent as they were.
#[derive(Debug)]
pub struct Core {
    incoming: Option<Rc4>,
    outgoing: Option<Rc4>,
    received: u64,
    repeated: u64,
    replay: Replay,
    handed: u64,
    confirmed: u64,
    window: usize,
}

/// The peer claims to have received what was never sent, or lacks what is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the bytes to resend are no longer in the replay buffer")]
pub struct NotReplayable;

impl Core {
    /// A session that has moved nothing. `replay_limit` is in bytes, at least 2; without a
    /// cipher a direction is plain.
    pub fn new(incoming: Option<Rc4>, outgoing: Option<Rc4>, replay_limit: usize) -> Self {
        Self {
            incoming,
            outgoing,
            received: 0,
            repeated: 0,
            replay: Replay::new(replay_limit),
            handed: 0,
            confirmed: 0,
            window: replay_limit / 2,
        }
    }

    /// Counts the replay buffer among others. Before anything has been pushed.
    pub fn within(mut self, memory: Arc<Memory>) -> Self {
        self.replay.share(memory);
        self
    }

    /// What the replay buffer counts among.
    pub fn memory(&self) -> Option<&Memory> {
        self.replay.memory()
    }

    /// Bytes received from the peer.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes for the peer so far, whether it has them or not.
    pub fn sent(&self) -> u64 {
        self.replay.end()
    }

    /// The most that may be sent and not confirmed, bytes.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Position of the oldest byte that can be sent again.
    pub fn replay_start(&self) -> u64 {
        self.replay.start()
    }

    /// Memory of the replay buffer, bytes.
    pub fn replay_memory(&self) -> usize {
        self.replay.capacity()
    }

    /// Counts and decrypts bytes that the connection delivered. Returns those that are new: all
    /// but the repeats at their start.
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

    /// Notes that the next bytes to be received are those from `position` on, which is no further
    /// than [`received`](Self::received): what came beyond it will be repeated.
    pub fn receive_from(&mut self, position: u64) {
        debug_assert!(position <= self.received);
        self.repeated = self.received - position;
    }

    /// Bytes that the connection will deliver although they are counted already.
    pub fn repeated(&self) -> u64 {
        self.repeated
    }

    /// How many bytes may be pushed now.
    pub fn room(&self) -> usize {
        self.window
            .min(self.replay.limit() / 2)
            .saturating_sub((self.sent() - self.confirmed) as usize)
    }

    /// Takes the first bytes of `plain`, as many as there is [`room`](Self::room) for, and says
    /// how many.
    pub fn push(&mut self, plain: &[u8]) -> usize {
        let len = plain.len().min(self.room());
        let cipher = &mut self.outgoing;
        self.replay
            .append(len, self.confirmed, |to, range| match cipher {
                // invariant: the ranges are parts of `0..len`, and `len` is its length at most.
                Some(cipher) => cipher.apply_to(&plain[range], to),
                None => to.copy_from_slice(&plain[range]),
            });
        len
    }

    /// Frees memory of the replay buffer, if there is some to free: of what is confirmed nothing is
    /// kept any more. A peer whose system has acknowledged bytes that it then loses with its
    /// connection cannot resume.
    pub fn shrink(&mut self) {
        self.replay.shrink(self.confirmed);
    }

    /// What the connection has not taken yet, in two pieces.
    pub fn unsent(&self) -> (&[u8], &[u8]) {
        self.replay.from(self.handed)
    }

    /// Length of [`unsent`](Self::unsent).
    pub fn unsent_len(&self) -> u64 {
        self.sent() - self.handed
    }

    /// Notes that the connection took the first `len` bytes of [`unsent`](Self::unsent).
    pub fn handed(&mut self, len: usize) {
        self.handed += len as u64;
        debug_assert!(self.handed <= self.sent());
    }

    /// Notes that of the bytes handed to the connection all but the last `undelivered` have been
    /// acknowledged.
    pub fn confirm(&mut self, undelivered: usize) {
        let confirmed = self.handed.saturating_sub(undelivered as u64);
        self.confirmed = self.confirmed.max(confirmed);
    }

    /// Whether everything sent is confirmed.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed == self.sent()
    }

    /// Whether a peer that has `received` bytes can be sent all it lacks.
    pub fn can_resume(&self, received: u64) -> Result<(), NotReplayable> {
        if (self.replay.start()..=self.sent()).contains(&received) {
            Ok(())
        } else {
            Err(NotReplayable)
        }
    }

    /// Goes on over a new connection with a peer that has `received` bytes: all that it lacks is
    /// [`unsent`](Self::unsent) again. Returns how many bytes that is. Nothing changes on error.
    pub fn resume(&mut self, received: u64) -> Result<u64, NotReplayable> {
        self.can_resume(received)?;
        self.handed = received;
        self.confirmed = received;
        Ok(self.sent() - received)
    }
}

#[cfg(test)]
mod tests;
