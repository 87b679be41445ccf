//! Written bytes until they are acknowledged: `una..next` is in flight,
//! `next..end` waits for the window. Serial numbers are given at writing, as
//! segments leave in that order anyway.

use super::ring::{ByteRing, SnRing};
use super::segment::before;

/// Fragments of one message at most: a receiver has to hold a whole message,
/// and kcp-go's default window is 32 segments.
const MAX_FRAGMENTS: u32 = 32;

/// One segment between its writing and its acknowledgement.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Outgoing {
    start: u32,
    pub(super) len: u16,
    pub(super) fragment: u8,
    /// How often it was sent, as far as 255.
    pub(super) transmissions: u8,
    acked: bool,
    /// Current timeout in milliseconds and the time it passes.
    pub(super) timeout: u16,
    pub(super) resend_at: u32,
}

impl Outgoing {
    /// When it was last sent.
    pub(super) fn sent_at(&self) -> u32 {
        self.resend_at.wrapping_sub(self.timeout.into())
    }
}

/// How bytes are cut into segments.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cut {
    /// Payload bytes of a full segment.
    pub(super) segment: usize,
    /// Segments held at most.
    pub(super) window: u32,
    pub(super) stream: bool,
}

#[derive(Debug)]
pub(super) struct SendQueue {
    slots: SnRing<Outgoing>,
    bytes: ByteRing,
    una: u32,
    /// The first that is not acknowledged in one way or the other.
    missing: u32,
    next: u32,
    end: u32,
}

impl SendQueue {
    pub(super) fn new(first_sn: u32) -> Self {
        Self {
            slots: SnRing::new(),
            bytes: ByteRing::new(),
            una: first_sn,
            missing: first_sn,
            next: first_sn,
            end: first_sn,
        }
    }

    pub(super) fn una(&self) -> u32 {
        self.una
    }

    pub(super) fn next_sn(&self) -> u32 {
        self.next
    }

    pub(super) fn in_flight(&self) -> u32 {
        self.next.wrapping_sub(self.una)
    }

    pub(super) fn waiting(&self) -> u32 {
        self.end.wrapping_sub(self.next)
    }

    /// Bytes from the first on that is not acknowledged. What was acknowledged behind it counts:
    /// until the gap closes the peer's reader has nothing of it.
    pub(super) fn unacked(&self) -> usize {
        if self.missing == self.end {
            return 0;
        }
        let start = self.slots.at(self.missing).start;
        self.bytes.end().wrapping_sub(start) as usize
    }

    /// Payload bytes [`write`](Self::write) would take now.
    pub(super) fn room(&self, cut: Cut) -> usize {
        self.free_slots(cut) as usize * cut.segment + self.open_tail(cut)
    }

    /// Takes as much of `data` as the window has room for. In message mode what
    /// was taken is one message.
    pub(super) fn write(&mut self, data: &[u8], cut: Cut) -> usize {
        let tail = self.open_tail(cut).min(data.len());
        if tail > 0 {
            // invariant: `tail` is its length at most.
            self.bytes.append(&data[..tail]);
            self.slots.at_mut(self.end.wrapping_sub(1)).len += tail as u16;
        }
        let rest = &data[tail..];
        let most = self.free_slots(cut) as usize * cut.segment;
        let most = if cut.stream {
            most
        } else {
            most.min(MAX_FRAGMENTS as usize * cut.segment)
        };
        // invariant: it is its length at most.
        let rest = &rest[..rest.len().min(most)];
        let count = rest.len().div_ceil(cut.segment) as u32;
        let held = self.in_flight() + self.waiting();
        self.slots.reserve(self.una, held, held + count);
        let mut start = self.bytes.end();
        self.bytes.append(rest);
        for (index, piece) in (1..).zip(rest.chunks(cut.segment)) {
            *self.slots.at_mut(self.end) = Outgoing {
                start,
                len: piece.len() as u16,
                fragment: if cut.stream { 0 } else { (count - index) as u8 },
                ..Outgoing::default()
            };
            start = start.wrapping_add(piece.len() as u32);
            self.end = self.end.wrapping_add(1);
        }
        tail + rest.len()
    }

    /// Moves the first waiting segment into flight; gives its serial number.
    pub(super) fn launch(&mut self) -> u32 {
        debug_assert!(self.waiting() > 0);
        let sn = self.next;
        self.next = self.next.wrapping_add(1);
        sn
    }

    /// Whether `sn` is in flight and not acknowledged.
    pub(super) fn is_missing(&self, sn: u32) -> bool {
        self.is_in_flight(sn) && !self.slots.at(sn).acked
    }

    /// The slot of a segment that is queued or in flight.
    pub(super) fn slot(&self, sn: u32) -> &Outgoing {
        self.slots.at(sn)
    }

    pub(super) fn slot_mut(&mut self, sn: u32) -> &mut Outgoing {
        self.slots.at_mut(sn)
    }

    /// The payload of a segment that is queued or in flight.
    pub(super) fn payload(&self, sn: u32) -> (&[u8], &[u8]) {
        let slot = self.slots.at(sn);
        self.bytes.slices(slot.start, slot.len.into())
    }

    /// Whether a peer could have received everything below `una`.
    pub(super) fn was_sent_below(&self, una: u32) -> bool {
        !before(self.next, una)
    }

    /// Drops everything below `una`, which [was sent](Self::was_sent_below);
    /// gives the segments dropped, 0 for an old `una`.
    pub(super) fn acknowledge_below(&mut self, una: u32) -> u32 {
        if !before(self.una, una) {
            return 0;
        }
        let dropped = una.wrapping_sub(self.una);
        let numbers = (0..dropped).map(|offset| self.una.wrapping_add(offset));
        let freed = numbers.map(|sn| usize::from(self.slots.at(sn).len)).sum();
        self.bytes.consume(freed);
        self.una = una;
        if before(self.missing, una) {
            self.missing = una;
        }
        self.pass_acknowledged();
        dropped
    }

    /// Notes that `sn` arrived; gives whether that is news.
    pub(super) fn acknowledge(&mut self, sn: u32) -> bool {
        if !self.is_missing(sn) {
            return false;
        }
        self.slots.at_mut(sn).acked = true;
        self.pass_acknowledged();
        true
    }

    pub(super) fn heap_size(&self) -> usize {
        self.slots.heap_size() + self.bytes.heap_size()
    }

    /// Whether the queue holds memory it has no use for.
    pub(super) fn is_wasteful(&self) -> bool {
        self.una == self.end && (self.slots.is_bulky() || self.bytes.is_bulky())
    }

    /// Gives that memory back.
    pub(super) fn release(&mut self) {
        if self.is_wasteful() {
            self.slots.release();
            self.bytes.release();
        }
    }

    fn pass_acknowledged(&mut self) {
        while self.missing != self.next && self.slots.at(self.missing).acked {
            self.missing = self.missing.wrapping_add(1);
        }
    }

    fn is_in_flight(&self, sn: u32) -> bool {
        sn.wrapping_sub(self.una) < self.in_flight()
    }

    fn free_slots(&self, cut: Cut) -> u32 {
        cut.window.saturating_sub(self.in_flight() + self.waiting())
    }

    /// Bytes the last waiting segment can still take; none once it was sent.
    fn open_tail(&self, cut: Cut) -> usize {
        if !cut.stream || self.waiting() == 0 {
            return 0;
        }
        let last = self.slots.at(self.end.wrapping_sub(1));
        cut.segment.saturating_sub(last.len.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: Cut = Cut {
        segment: 10,
        window: 4,
        stream: true,
    };

    fn launch_all(queue: &mut SendQueue) {
        while queue.waiting() > 0 {
            queue.launch();
        }
    }

    #[test]
    fn a_stream_fills_segments_until_they_leave() {
        let mut queue = SendQueue::new(u32::MAX - 1);
        assert_eq!(queue.write(b"0123456", STREAM), 7);
        assert_eq!(queue.write(b"789abc", STREAM), 6);
        assert_eq!((queue.waiting(), queue.room(STREAM)), (2, 27));
        launch_all(&mut queue);
        assert_eq!(queue.room(STREAM), 20);
        assert_eq!(queue.write(&[b'x'; 99], STREAM), 20);
        assert_eq!(queue.write(b"y", STREAM), 0);
        assert_eq!(queue.payload(u32::MAX - 1).0, b"0123456789");
        assert_eq!(queue.payload(u32::MAX).0, b"abc");
        assert_eq!(queue.payload(0).0, b"xxxxxxxxxx");
    }

    #[test]
    fn messages_count_their_fragments_down() {
        let cut = Cut {
            stream: false,
            ..STREAM
        };
        let mut queue = SendQueue::new(0);
        assert_eq!(queue.write(&[1; 25], cut), 25);
        assert_eq!(queue.write(&[2; 1], cut), 1);
        let fragments: Vec<u8> = (0..4).map(|sn| queue.slot(sn).fragment).collect();
        assert_eq!(fragments, [2, 1, 0, 0]);
        let wide = Cut { window: 99, ..cut };
        assert_eq!(queue.write(&[3; 400], wide), 320, "a long one becomes two");
    }

    #[test]
    fn acknowledgements_in_any_order_count_once() {
        let mut queue = SendQueue::new(u32::MAX);
        queue.write(&[7; 40], STREAM);
        queue.launch();
        queue.launch();
        assert!(queue.was_sent_below(1) && !queue.was_sent_below(2));
        assert!(queue.acknowledge(0) && !queue.acknowledge(0));
        assert!(!queue.acknowledge(1), "not sent yet");
        assert_eq!(queue.unacked(), 40, "behind a gap");
        assert_eq!(queue.acknowledge_below(u32::MAX), 0);
        assert_eq!(queue.acknowledge_below(1), 2);
        assert_eq!(queue.unacked(), 20);
        assert!(!queue.acknowledge(0), "old");
        launch_all(&mut queue);
        assert_eq!(queue.acknowledge_below(3), 2);
        assert_eq!((queue.unacked(), queue.in_flight()), (0, 0));
    }
}
