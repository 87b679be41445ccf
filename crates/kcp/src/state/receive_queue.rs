//! Received payload until it is read: `read..next` lies in order in a byte
//! ring, segments beyond `next` wait in cells until the gap before them closes.

use super::ring::{ByteRing, SnRing};

/// What became of a received segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    New,
    Repeat,
    /// Beyond the window: neither kept nor to be acknowledged.
    Beyond,
}

#[derive(Debug, Clone, Copy, Default)]
struct Incoming {
    place: Place,
    fragment: u8,
    len: u16,
}

#[derive(Debug, Clone, Copy, Default)]
enum Place {
    #[default]
    Absent,
    InOrder,
    Cell(u32),
}

#[derive(Debug)]
pub(super) struct ReceiveQueue {
    slots: SnRing<Incoming>,
    ready: ByteRing,
    cells: Cells,
    window: u32,
    read: u32,
    next: u32,
    /// One past the highest number received.
    end: u32,
    /// Bytes already read of the segment at `read`.
    read_of_first: usize,
}

impl ReceiveQueue {
    /// A queue of at most `window` segments of at most `longest` bytes.
    pub(super) fn new(first_sn: u32, window: u32, longest: usize) -> Self {
        Self {
            slots: SnRing::new(),
            ready: ByteRing::new(),
            cells: Cells::new(longest),
            window,
            read: first_sn,
            next: first_sn,
            end: first_sn,
            read_of_first: 0,
        }
    }

    /// Everything below has arrived.
    pub(super) fn next_sn(&self) -> u32 {
        self.next
    }

    /// Segments it holds at most.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Segments it can take beyond those in order.
    pub(super) fn free(&self) -> u32 {
        self.window
            .saturating_sub(self.next.wrapping_sub(self.read))
    }

    /// Takes in the segment `sn`; `payload` is no longer than agreed.
    pub(super) fn insert(&mut self, sn: u32, fragment: u8, payload: &[u8]) -> Taken {
        let ahead = sn.wrapping_sub(self.next);
        if ahead > u32::MAX / 2 {
            return Taken::Repeat;
        }
        if ahead >= self.free() {
            return Taken::Beyond;
        }
        let span = sn.wrapping_sub(self.read) + 1;
        let live = self.end.wrapping_sub(self.read);
        if span > live {
            self.slots.reserve(self.read, live, span);
            self.end = sn.wrapping_add(1);
        }
        let slot = self.slots.at_mut(sn);
        if !matches!(slot.place, Place::Absent) {
            return Taken::Repeat;
        }
        slot.fragment = fragment;
        slot.len = payload.len() as u16;
        if ahead > 0 {
            slot.place = Place::Cell(self.cells.store(payload));
            return Taken::New;
        }
        slot.place = Place::InOrder;
        self.ready.append(payload);
        self.next = sn.wrapping_add(1);
        self.close_gap();
        self.skip_read();
        Taken::New
    }

    /// Bytes in order and not read.
    pub(super) fn readable(&self) -> usize {
        self.ready.len()
    }

    /// The first of them, as far as they lie together.
    pub(super) fn chunk(&self) -> &[u8] {
        self.ready.front()
    }

    /// Drops the first `len` of them.
    pub(super) fn consume(&mut self, len: usize) {
        self.ready.consume(len);
        self.read_of_first += len;
        self.skip_read();
    }

    /// Length of what is unread of the first message, once all of it is here.
    pub(super) fn message_len(&self) -> Option<usize> {
        let mut len = 0;
        let mut sn = self.read;
        while sn != self.next {
            let slot = self.slots.at(sn);
            len += usize::from(slot.len);
            if slot.fragment == 0 {
                return Some(len - self.read_of_first);
            }
            sn = sn.wrapping_add(1);
        }
        None
    }

    pub(super) fn heap_size(&self) -> usize {
        self.slots.heap_size() + self.ready.heap_size() + self.cells.heap_size()
    }

    /// Whether the queue holds memory it has no use for.
    pub(super) fn is_wasteful(&self) -> bool {
        self.read == self.end && (self.slots.is_bulky() || self.ready.is_bulky())
    }

    /// Gives that memory back.
    pub(super) fn release(&mut self) {
        if self.is_wasteful() {
            self.slots.release();
            self.ready.release();
        }
    }

    fn close_gap(&mut self) {
        while self.next != self.end {
            let slot = self.slots.at_mut(self.next);
            let Place::Cell(cell) = slot.place else {
                break;
            };
            slot.place = Place::InOrder;
            self.ready.append(self.cells.get(cell, slot.len.into()));
            self.cells.free(cell);
            self.next = self.next.wrapping_add(1);
        }
    }

    /// Passes the segments read to their end, empty ones at once.
    fn skip_read(&mut self) {
        while self.read != self.next {
            let slot = self.slots.at_mut(self.read);
            let len = usize::from(slot.len);
            if len > self.read_of_first {
                break;
            }
            self.read_of_first -= len;
            *slot = Incoming::default();
            self.read = self.read.wrapping_add(1);
        }
    }
}

/// Fixed-size buffers for segments out of order, all given back when the last is free.
#[derive(Debug)]
struct Cells {
    size: usize,
    bytes: Vec<u8>,
    unused: Vec<u32>,
    used: usize,
}

impl Cells {
    fn new(size: usize) -> Self {
        Self {
            size,
            bytes: Vec::new(),
            unused: Vec::new(),
            used: 0,
        }
    }

    fn store(&mut self, payload: &[u8]) -> u32 {
        let cell = self.unused.pop().unwrap_or_else(|| {
            let fresh = self.bytes.len() / self.size;
            self.bytes.resize(self.bytes.len() + self.size, 0);
            fresh as u32
        });
        let start = cell as usize * self.size;
        // invariant: cells are as long as the longest payload taken.
        self.bytes[start..start + payload.len()].copy_from_slice(payload);
        self.used += 1;
        cell
    }

    fn get(&self, cell: u32, len: usize) -> &[u8] {
        let start = cell as usize * self.size;
        // invariant: the cell was stored, with that length.
        &self.bytes[start..start + len]
    }

    fn free(&mut self, cell: u32) {
        self.used -= 1;
        if self.used == 0 {
            self.bytes = Vec::new();
            self.unused = Vec::new();
        } else {
            self.unused.push(cell);
        }
    }

    fn heap_size(&self) -> usize {
        self.bytes.capacity() + self.unused.capacity() * size_of::<u32>()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(queue: &mut ReceiveQueue) -> Vec<u8> {
        let mut out = Vec::new();
        while queue.readable() > 0 {
            out.extend(queue.chunk());
            queue.consume(queue.chunk().len());
        }
        out
    }

    #[test]
    fn any_order_across_the_wrap() {
        let first = u32::MAX - 1;
        let mut queue = ReceiveQueue::new(first, 8, 4);
        for offset in [3u32, 1, 2, 5] {
            let sn = first.wrapping_add(offset);
            assert_eq!(queue.insert(sn, 0, &[offset as u8; 3]), Taken::New);
            assert_eq!(queue.insert(sn, 0, &[99; 3]), Taken::Repeat);
        }
        assert_eq!(queue.readable(), 0);
        assert_eq!(queue.insert(first, 0, &[0]), Taken::New);
        assert_eq!(queue.insert(first, 0, &[99]), Taken::Repeat);
        assert_eq!(read_all(&mut queue), [0, 1, 1, 1, 2, 2, 2, 3, 3, 3]);
        queue.insert(2, 0, &[4]);
        assert_eq!(read_all(&mut queue), [4, 5, 5, 5]);
        queue.release();
        assert_eq!(queue.cells.heap_size(), 0);
    }

    #[test]
    fn the_window_counts_unread_segments() {
        let mut queue = ReceiveQueue::new(0, 4, 4);
        assert_eq!(queue.insert(4, 0, &[1]), Taken::Beyond);
        assert_eq!(queue.insert(u32::MAX, 0, &[1]), Taken::Repeat);
        (0..4).for_each(|sn| assert_eq!(queue.insert(sn, 0, &[sn as u8; 2]), Taken::New));
        assert_eq!(queue.free(), 0);
        assert_eq!(queue.insert(4, 0, &[1]), Taken::Beyond);
        queue.consume(3);
        assert_eq!(queue.free(), 1, "half a segment is a segment");
        assert_eq!(queue.insert(4, 0, &[9]), Taken::New);
        assert_eq!(read_all(&mut queue), [1, 2, 2, 3, 3, 9]);
        assert_eq!(queue.free(), 4);
    }

    #[test]
    fn empty_segments_take_no_place() {
        let mut queue = ReceiveQueue::new(0, 4, 4);
        queue.insert(0, 0, &[]);
        assert_eq!((queue.free(), queue.next_sn()), (4, 1));
        queue.insert(1, 0, &[1, 2]);
        queue.insert(2, 0, &[]);
        queue.consume(1);
        assert_eq!(queue.free(), 2);
        queue.consume(1);
        assert_eq!(queue.free(), 4);
    }

    #[test]
    fn a_message_is_whole_when_its_last_fragment_is_here() {
        let mut queue = ReceiveQueue::new(0, 8, 4);
        queue.insert(0, 1, &[1; 4]);
        assert_eq!(queue.message_len(), None);
        queue.insert(2, 0, &[3; 3]);
        assert_eq!(queue.message_len(), None);
        queue.insert(1, 0, &[2; 2]);
        assert_eq!(queue.message_len(), Some(6));
        queue.consume(6);
        assert_eq!(queue.message_len(), Some(3));
    }
}
