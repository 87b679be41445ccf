//! The replay buffer: the last bytes of a stream, by their position in it.

/// Smallest allocation, bytes.
const MIN_CAPACITY: usize = 256;

/// A ring over the tail of a byte stream. It grows as bytes come, up to its limit, and then
/// forgets the oldest.
pub(super) struct Replay {
    /// A power of two long, or empty; the byte at position `p` is at `p` modulo that.
    ring: Box<[u8]>,
    limit: usize,
    /// Position of the oldest byte kept.
    start: u64,
    /// Position behind the newest byte.
    end: u64,
}

impl Replay {
    pub fn new(limit: usize) -> Self {
        Self {
            ring: Box::default(),
            limit,
            start: 0,
            end: 0,
        }
    }

    #[cfg(test)]
    pub fn starting_at(limit: usize, position: u64) -> Self {
        Self {
            start: position,
            end: position,
            ..Self::new(limit)
        }
    }

    pub fn start(&self) -> u64 {
        self.start
    }

    pub fn end(&self) -> u64 {
        self.end
    }

    /// Bytes held in memory.
    pub fn capacity(&self) -> usize {
        self.ring.len()
    }

    /// Appends `len` bytes, at most the limit, which `fill` writes piece by piece: it is given
    /// where they go and their place among the `len`.
    pub fn append(&mut self, len: usize, mut fill: impl FnMut(&mut [u8], std::ops::Range<usize>)) {
        debug_assert!(len <= self.limit);
        self.reserve(len);
        let kept = (self.end - self.start) as usize;
        self.start += (kept + len).saturating_sub(self.limit) as u64;
        let at = self.index(self.end);
        let first = len.min(self.ring.len() - at);
        fill(&mut self.ring[at..at + first], 0..first);
        if first < len {
            fill(&mut self.ring[..len - first], first..len);
        }
        self.end += len as u64;
    }

    /// The bytes from `position` to the end, in two pieces.
    ///
    /// # Panics
    /// If they are not all there.
    pub fn from(&self, position: u64) -> (&[u8], &[u8]) {
        assert!((self.start..=self.end).contains(&position));
        let len = (self.end - position) as usize;
        if len == 0 {
            return (&[], &[]);
        }
        let at = self.index(position);
        let first = len.min(self.ring.len() - at);
        (&self.ring[at..at + first], &self.ring[..len - first])
    }

    fn index(&self, position: u64) -> usize {
        position as usize & (self.ring.len() - 1)
    }

    /// Makes room for `len` more bytes beside those kept, as far as the limit allows.
    fn reserve(&mut self, len: usize) {
        let kept = (self.end - self.start) as usize;
        let needed = (kept + len).min(self.limit).max(MIN_CAPACITY);
        if needed <= self.ring.len() {
            return;
        }
        let mut grown = vec![0; needed.next_power_of_two()].into_boxed_slice();
        let mask = grown.len() - 1;
        let (a, b) = self.from(self.start);
        let mut position = self.start;
        for piece in [a, b] {
            // Each piece lies in one run in the old ring, but may wrap in the new one.
            let at = position as usize & mask;
            let first = piece.len().min(grown.len() - at);
            grown[at..at + first].copy_from_slice(&piece[..first]);
            grown[..piece.len() - first].copy_from_slice(&piece[first..]);
            position += piece.len() as u64;
        }
        self.ring = grown;
    }
}

impl std::fmt::Debug for Replay {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Replay({}..{} of {})", self.start, self.end, self.limit)
    }
}
