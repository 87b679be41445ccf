//! Replay buffer: the last sent bytes of a session, by position.

use std::sync::Arc;

use super::Memory;

/// Size of the smallest allocation, bytes.
const MIN_CAPACITY: usize = 256;
/// Size to which a buffer may grow even when memory is short, bytes.
const LEAST: usize = 1024;

/// Ring of sent bytes kept for replay.
///
/// The ring grows up to its limit and then drops the oldest bytes. When memory is short, it stops
/// growing earlier.
pub(super) struct Replay {
    /// Ring storage, empty or a power of two long; the byte at position `p` is at `p` modulo the
    /// length.
    ring: Box<[u8]>,
    limit: usize,
    /// Position of the oldest byte kept.
    start: u64,
    /// Position behind the newest byte.
    end: u64,
    /// Memory budget that the ring is charged to.
    memory: Option<Arc<Memory>>,
}

impl Replay {
    pub fn new(limit: usize) -> Self {
        Self {
            ring: Box::default(),
            limit,
            start: 0,
            end: 0,
            memory: None,
        }
    }

    /// Charges the ring, which must be empty, to a memory budget.
    pub fn share(&mut self, memory: Arc<Memory>) {
        debug_assert!(self.ring.is_empty());
        self.memory = Some(memory);
    }

    pub fn memory(&self) -> Option<&Memory> {
        self.memory.as_deref()
    }

    #[cfg(test)]
    pub fn starting_at(limit: usize, position: u64) -> Self {
        let mut replay = Self::new(limit);
        (replay.start, replay.end) = (position, position);
        replay
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Returns the allocated size, bytes.
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// Returns how many bytes the ring may keep now.
    pub fn limit(&self) -> usize {
        if self.memory().is_some_and(Memory::is_short) {
            self.limit.min(self.ring.len().max(LEAST))
        } else {
            self.limit
        }
    }

    /// Appends `len` bytes, which `fill` writes piece by piece.
    ///
    /// `fill` is given each destination slice and its range within the `len` bytes. Bytes from the
    /// position `kept` on are not dropped; together with the new ones they must not exceed the
    /// limit given to [`new`](Self::new).
    pub fn append(
        &mut self,
        len: usize,
        kept: u64,
        mut fill: impl FnMut(&mut [u8], std::ops::Range<usize>),
    ) {
        let least = (self.end - kept) as usize + len;
        debug_assert!(least <= self.limit);
        // Memory may have become short since the caller asked for room.
        let limit = self.limit().max(least);
        let all = (self.end - self.start) as usize + len;
        self.start += all.saturating_sub(limit) as u64;
        let needed = ((self.end - self.start) as usize + len).max(MIN_CAPACITY);
        if needed > self.ring.len() {
            self.resize(needed.next_power_of_two());
        }
        let at = self.index(self.end);
        let first = len.min(self.ring.len() - at);
        // invariant: the ring has room for `len` more, and they wrap once at most.
        fill(&mut self.ring[at..at + first], 0..first);
        if first < len {
            fill(&mut self.ring[..len - first], first..len);
        }
        self.end += len as u64;
    }

    /// Drops the bytes before `position`, if that frees memory.
    pub fn shrink(&mut self, position: u64) {
        let len = match (self.end - position) as usize {
            0 => 0,
            kept => kept.max(MIN_CAPACITY).next_power_of_two(),
        };
        if len < self.ring.len() {
            self.start = position;
            self.resize(len);
        }
    }

    /// Returns the bytes from `position` to the end, in two slices.
    ///
    /// # Panics
    /// If a byte of that range is not kept.
    pub fn from(&self, position: u64) -> (&[u8], &[u8]) {
        // invariant: callers ask for what the connection has not taken, which is kept.
        assert!((self.start..=self.end).contains(&position));
        let len = (self.end - position) as usize;
        if len == 0 {
            return (&[], &[]);
        }
        let at = self.index(position);
        let first = len.min(self.ring.len() - at);
        // invariant: the ring holds `len`, and they wrap once at most.
        (&self.ring[at..at + first], &self.ring[..len - first])
    }

    fn index(&self, position: u64) -> usize {
        position as usize & (self.ring.len() - 1)
    }

    /// Reallocates the ring with `len` bytes.
    ///
    /// `len` is 0 or a power of two, and all kept bytes must fit.
    fn resize(&mut self, len: usize) {
        let mut ring = vec![0; len].into_boxed_slice();
        let (a, b) = self.from(self.start);
        let mut position = self.start;
        for piece in [a, b].into_iter().filter(|piece| !piece.is_empty()) {
            // Each piece lies in one run in the old ring, but may wrap in the new one.
            let at = position as usize & (len - 1);
            let first = piece.len().min(len - at);
            // invariant: the ring has room for all that is kept, and a piece wraps once at most.
            ring[at..at + first].copy_from_slice(&piece[..first]);
            ring[..piece.len() - first].copy_from_slice(&piece[first..]);
            position += piece.len() as u64;
        }
        if let Some(memory) = &self.memory {
            memory.resized(self.ring.len(), len);
        }
        self.ring = ring;
    }
}

impl Drop for Replay {
    fn drop(&mut self) {
        if let Some(memory) = &self.memory {
            memory.resized(self.ring.len(), 0);
        }
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replay({}..{} of {})", self.start, self.end, self.limit)
    }
}
