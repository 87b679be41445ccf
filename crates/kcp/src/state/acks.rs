//! Acknowledgements waiting to be sent.

use super::segment::before;

/// A received push to acknowledge: its serial number and the clock it carried.
#[derive(Debug, Clone, Copy)]
pub(super) struct Echo {
    pub(super) sn: u32,
    pub(super) timestamp: u32,
}

/// As kcp-go does, only pushes out of order are acknowledged one by one: the
/// `una` of every header covers the rest, and the newest is named for the
/// round-trip measurement. Traffic in order thus never touches the list.
#[derive(Debug, Default)]
pub(super) struct Acks {
    newest: Option<Echo>,
    strays: Vec<Echo>,
    /// Pushes since acknowledgements were last sent.
    count: u32,
    due: Option<u32>,
}

impl Acks {
    /// Notes a push. `received_below` is the first serial number still missing,
    /// `due` the time to have answered by, `most` the entries to keep: what is
    /// left out the peer sends again.
    pub(super) fn note(&mut self, echo: Echo, received_below: u32, due: u32, most: usize) {
        let previous = self.newest.replace(echo);
        if let Some(previous) = previous
            && !before(previous.sn, received_below)
            && self.strays.len() < most
        {
            self.strays.push(previous);
        }
        self.count += 1;
        self.due.get_or_insert(due);
    }

    pub(super) fn due(&self) -> Option<u32> {
        self.due
    }

    /// Whether it is time to answer: the delay is over, or so many pushes came
    /// that a peer filling its window should not wait for it.
    pub(super) fn is_due(&self, now: u32, many: u32) -> bool {
        self.count >= many || self.due.is_some_and(|due| !before(now, due))
    }

    /// Whether something arrived out of order, which the peer should learn
    /// before it reads anything else.
    pub(super) fn has_strays(&self) -> bool {
        !self.strays.is_empty()
    }

    /// The next one to send. The newest comes last, as the receiver measures by the last.
    pub(super) fn pop(&mut self, received_below: u32) -> Option<Echo> {
        while let Some(echo) = self.strays.pop() {
            if !before(echo.sn, received_below) {
                return Some(echo);
            }
        }
        self.count = 0;
        self.due = None;
        self.newest.take()
    }

    pub(super) fn heap_size(&self) -> usize {
        self.strays.capacity() * size_of::<Echo>()
    }

    pub(super) fn release(&mut self) {
        self.strays.shrink_to_fit();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn note(acks: &mut Acks, sn: u32, received_below: u32) {
        let echo = Echo { sn, timestamp: sn };
        acks.note(echo, received_below, 10, 100);
    }

    fn drain(acks: &mut Acks, received_below: u32) -> Vec<u32> {
        std::iter::from_fn(|| acks.pop(received_below).map(|echo| echo.sn)).collect()
    }

    #[test]
    fn in_order_only_the_newest() {
        let mut acks = Acks::default();
        (0..50).for_each(|sn| note(&mut acks, sn, sn + 1));
        assert_eq!(acks.heap_size(), 0);
        assert!(!acks.is_due(9, 51) && acks.is_due(9, 50) && acks.is_due(10, 51));
        assert_eq!(drain(&mut acks, 50), [49]);
        assert_eq!(acks.due(), None);
    }

    #[test]
    fn strays_one_by_one_unless_covered_meanwhile() {
        let mut acks = Acks::default();
        [2, 3, 5, 7]
            .into_iter()
            .for_each(|sn| note(&mut acks, sn, 0));
        assert_eq!(drain(&mut acks, 4), [5, 7]);
    }
}
