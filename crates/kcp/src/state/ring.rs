//! The two buffers everything else is built on: slots indexed by serial number,
//! and payload bytes indexed by stream position. Both are power-of-two rings
//! that grow on demand and address by masking, so a position keeps its meaning
//! when the ring grows and when it wraps at 2^32.

/// Slots for a run of serial numbers, as long as it was told to
/// [`reserve`](Self::reserve).
#[derive(Debug)]
pub(super) struct SnRing<T> {
    slots: Vec<T>,
}

impl<T: Copy + Default> SnRing<T> {
    pub(super) const fn new() -> Self {
        Self { slots: Vec::new() }
    }

    /// Makes room for `span` slots from `first` on, where `live` of them are in use.
    pub(super) fn reserve(&mut self, first: u32, live: u32, span: u32) {
        let span = span as usize;
        if span <= self.slots.len() {
            return;
        }
        let mut grown = vec![T::default(); span.next_power_of_two().max(Self::SMALLEST)];
        let mask = grown.len() - 1;
        for sn in (0..live).map(|offset| first.wrapping_add(offset)) {
            // invariant: the mask is below the length, a power of two.
            grown[sn as usize & mask] = *self.at(sn);
        }
        self.slots = grown;
    }

    pub(super) fn at(&self, sn: u32) -> &T {
        // invariant: callers have reserved slots; the mask is below their number, a power of two.
        &self.slots[sn as usize & (self.slots.len() - 1)]
    }

    pub(super) fn at_mut(&mut self, sn: u32) -> &mut T {
        let mask = self.slots.len() - 1;
        // invariant: callers have reserved slots; the mask is below their number, a power of two.
        &mut self.slots[sn as usize & mask]
    }

    pub(super) fn heap_size(&self) -> usize {
        self.slots.capacity() * size_of::<T>()
    }

    /// Whether giving the slots back is worth it; a few are kept for the next message.
    pub(super) fn is_bulky(&self) -> bool {
        self.slots.len() > Self::SMALLEST
    }

    /// Gives all slots back. The ring holds nothing live.
    pub(super) fn release(&mut self) {
        self.slots = Vec::new();
    }

    const SMALLEST: usize = 8;
}

/// Bytes of a stream between two positions, both counted modulo 2^32. The positions of an empty
/// ring mean nothing: it begins anew at its front, which is still in the processor's cache.
#[derive(Debug)]
pub(super) struct ByteRing {
    /// The room, as far as it was ever filled. The rest is not touched, not even with zeros.
    bytes: Vec<u8>,
    /// Bytes there is room for, a power of two; 0 before the first.
    size: usize,
    /// The position of the first byte of the room.
    base: u32,
    start: u32,
    end: u32,
}

impl ByteRing {
    pub(super) const fn new() -> Self {
        Self {
            bytes: Vec::new(),
            size: 0,
            base: 0,
            start: 0,
            end: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.end.wrapping_sub(self.start) as usize
    }

    /// The position the next appended byte gets.
    pub(super) fn end(&self) -> u32 {
        self.end
    }

    pub(super) fn append(&mut self, data: &[u8]) {
        self.reserve(data.len());
        let at = self.index(self.end);
        let (first, second) = data.split_at(data.len().min(self.size - at));
        self.put(at, first);
        self.put(0, second);
        self.end = self.end.wrapping_add(data.len() as u32);
    }

    /// `len` bytes from `position` on, in two parts where they pass the ring's edge.
    pub(super) fn slices(&self, position: u32, len: usize) -> (&[u8], &[u8]) {
        let at = self.index(position);
        let first = len.min(self.size - at);
        // invariant: callers ask for what was appended and not consumed.
        (&self.bytes[at..at + first], &self.bytes[..len - first])
    }

    /// The oldest bytes, up to the ring's edge.
    pub(super) fn front(&self) -> &[u8] {
        self.slices(self.start, self.len()).0
    }

    /// Drops the oldest `len` bytes.
    pub(super) fn consume(&mut self, len: usize) {
        debug_assert!(len <= self.len());
        self.start = self.start.wrapping_add(len as u32);
        if self.start == self.end {
            (self.base, self.start, self.end) = (0, 0, 0);
        }
    }

    pub(super) fn heap_size(&self) -> usize {
        self.bytes.capacity()
    }

    /// Whether giving the buffer back is worth it; a small one is kept for the next message.
    pub(super) fn is_bulky(&self) -> bool {
        self.bytes.capacity() > Self::KEPT
    }

    /// Gives the buffer back. The ring is empty.
    pub(super) fn release(&mut self) {
        debug_assert_eq!(self.len(), 0);
        *self = Self::new();
    }

    fn reserve(&mut self, more: usize) {
        let needed = self.len() + more;
        if needed <= self.size {
            return;
        }
        let size = needed.next_power_of_two().max(Self::SMALLEST);
        let at = self.index(self.start);
        self.bytes
            .reserve_exact(size.saturating_sub(self.bytes.len()));
        // What had passed the edge, with the room full, goes on behind it, where there is more now.
        let passed = (at + self.len()).saturating_sub(self.size);
        self.bytes.extend_from_within(..passed);
        self.base = self.start.wrapping_sub(at as u32);
        self.size = size;
    }

    /// Puts `data` at `at`, which is no further than the ring was ever filled.
    fn put(&mut self, at: usize, data: &[u8]) {
        let (over, new) = data.split_at(data.len().min(self.bytes.len() - at));
        // invariant: that much was filled.
        self.bytes[at..at + over.len()].copy_from_slice(over);
        self.bytes.extend_from_slice(new);
    }

    fn index(&self, position: u32) -> usize {
        position.wrapping_sub(self.base) as usize & self.size.wrapping_sub(1)
    }

    const SMALLEST: usize = 128;
    const KEPT: usize = 512;
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn slots_survive_growth_across_the_wrap() {
        let mut ring = SnRing::<u32>::new();
        let first = u32::MAX - 2;
        for live in 0..100u32 {
            ring.reserve(first, live, live + 1);
            *ring.at_mut(first.wrapping_add(live)) = live;
        }
        for offset in 0..100 {
            assert_eq!(*ring.at(first.wrapping_add(offset)), offset);
        }
    }

    proptest! {
        #[test]
        fn bytes_match_a_plain_queue(
            start in any::<u32>(),
            steps in proptest::collection::vec((0usize..2_000, 0usize..2_000), 1..60),
        ) {
            let mut ring = ByteRing { base: start, start, end: start, ..ByteRing::new() };
            let mut model: Vec<u8> = Vec::new();
            let mut next = 0u8;
            for (add, take) in steps {
                let data: Vec<u8> = (0..add).map(|_| { next = next.wrapping_add(1); next }).collect();
                ring.append(&data);
                model.extend(&data);
                let (a, b) = ring.slices(ring.start, ring.len());
                prop_assert_eq!([a, b].concat(), model.clone());
                let take = take.min(model.len());
                ring.consume(take);
                model.drain(..take);
                prop_assert!(model.starts_with(ring.front()));
                prop_assert_eq!(model.is_empty(), ring.front().is_empty());
                let middle = model.len() / 2;
                let position = ring.start.wrapping_add(middle as u32);
                let (a, b) = ring.slices(position, model.len() - middle);
                prop_assert_eq!(&[a, b].concat(), &model[middle..]);
            }
        }
    }
}
