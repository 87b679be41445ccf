//! Which segments in flight to send again, without looking at each of them for
//! each acknowledgement.
//!
//! A segment is missing when enough segments sent after it were acknowledged.
//! Serial numbers leave in order, so for one sent once that means: it lies below
//! the n-th highest acknowledged number. A cursor passes each segment once.
//! Those sent again wait in a queue by time: acknowledgements echo the clock, so
//! one that something sent well after it has overtaken is missing again
//! (the idea of RFC 8985; kcp-go waits for the timeout here). Timeouts need a
//! sweep over the window, but only when the earliest possible one has passed.

use std::collections::VecDeque;

use super::segment::before;
use super::send_queue::SendQueue;

/// Highest threshold for sending again.
pub(super) const MAX_RESEND: usize = 8;

/// Why a segment is sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Cause {
    /// Enough later ones were acknowledged.
    Fast,
    /// One later one was, and there is nothing new to send.
    Early,
    /// Its timeout passed.
    Timeout,
}

#[derive(Debug, Clone, Copy)]
struct Resent {
    sn: u32,
    at: u32,
    transmissions: u8,
}

#[derive(Debug)]
pub(super) struct Recovery {
    threshold: usize,
    /// The highest acknowledged numbers not covered by una, highest first.
    highest: [u32; MAX_RESEND],
    known: usize,
    cursor: u32,
    resent: VecDeque<Resent>,
    /// When the latest transmission known to have arrived was made.
    arrived: Option<u32>,
    /// No timeout passes before this; the earliest may have been acknowledged meanwhile.
    timer: Option<u32>,
    /// Where a sweep for passed timeouts goes on.
    sweep: Option<u32>,
}

impl Recovery {
    pub(super) fn new(threshold: usize, first_sn: u32) -> Self {
        Self {
            threshold: threshold.min(MAX_RESEND),
            highest: [0; MAX_RESEND],
            known: 0,
            cursor: first_sn,
            resent: VecDeque::new(),
            arrived: None,
            timer: None,
            sweep: None,
        }
    }

    /// Segment `sn` was acknowledged, for the first time.
    pub(super) fn on_acked(&mut self, sn: u32) {
        // invariant: `known` is `MAX_RESEND` at most.
        let list = &self.highest[..self.known];
        let at = list.partition_point(|higher| before(sn, *higher));
        if at == MAX_RESEND {
            return;
        }
        self.known = (self.known + 1).min(MAX_RESEND);
        // invariant: `at` is below `MAX_RESEND`, and so below `known` now.
        self.highest[at..self.known].rotate_right(1);
        self.highest[at] = sn;
    }

    /// Something sent at `sent_at` arrived.
    pub(super) fn on_echo(&mut self, sent_at: u32) {
        if self.arrived.is_none_or(|arrived| before(arrived, sent_at)) {
            self.arrived = Some(sent_at);
        }
    }

    /// Everything below `queue.una()` arrived.
    pub(super) fn on_una(&mut self, queue: &SendQueue) {
        let una = queue.una();
        // invariant: `known` is `MAX_RESEND` at most.
        while self.known > 0 && before(self.highest[self.known - 1], una) {
            self.known -= 1;
        }
        if before(self.cursor, una) {
            self.cursor = una;
        }
        if queue.in_flight() == 0 {
            self.timer = None;
            self.sweep = None;
            self.resent.clear();
            self.arrived = None;
        }
    }

    /// A segment left whose timeout passes at `resend_at`.
    pub(super) fn on_sent(&mut self, resend_at: u32) {
        if self.timer.is_none_or(|timer| before(resend_at, timer)) {
            self.timer = Some(resend_at);
        }
    }

    /// The segment [`next`](Self::next) gave left again `at` this time, with its slot brought
    /// up to date.
    pub(super) fn on_resent(&mut self, sn: u32, cause: Cause, at: u32, queue: &SendQueue) {
        if cause == Cause::Timeout {
            self.sweep = Some(sn.wrapping_add(1));
        } else if sn == self.cursor {
            self.cursor = sn.wrapping_add(1);
        } else {
            self.resent.pop_front();
        }
        // A window of them suffices: what falls out has its timeout.
        if self.resent.len() as u32 >= queue.in_flight() {
            self.resent.pop_front();
        }
        self.resent.push_back(Resent {
            sn,
            at,
            transmissions: queue.slot(sn).transmissions,
        });
        self.on_sent(queue.slot(sn).resend_at);
    }

    /// The next segment to send again at `now`; `early` says that nothing new can be sent,
    /// `disorder` by how many milliseconds the path may shuffle.
    /// It stays the next until [`on_resent`](Self::on_resent).
    pub(super) fn next(
        &mut self,
        queue: &SendQueue,
        now: u32,
        early: bool,
        disorder: u32,
    ) -> Option<(u32, Cause)> {
        self.passed_over(queue, early)
            .or_else(|| Some((self.missing_again(queue, disorder)?, Cause::Fast)))
            .or_else(|| Some((self.expired(queue, now)?, Cause::Timeout)))
    }

    /// The earliest time a timeout may pass.
    pub(super) fn timer(&self) -> Option<u32> {
        self.timer
    }

    pub(super) fn heap_size(&self) -> usize {
        self.resent.capacity() * size_of::<Resent>()
    }

    /// Forgets what was sent again, leaving it to its timeouts.
    pub(super) fn release(&mut self) {
        self.resent = VecDeque::new();
    }

    fn passed_over(&mut self, queue: &SendQueue, early: bool) -> Option<(u32, Cause)> {
        let fast = (1..=self.known)
            .contains(&self.threshold)
            // invariant: `threshold` is from 1 to `known`.
            .then(|| self.highest[self.threshold - 1]);
        let mark = if early && self.known > 0 {
            self.highest[0]
        } else {
            fast?
        };
        while before(self.cursor, mark) {
            let sn = self.cursor;
            if queue.is_missing(sn) && queue.slot(sn).transmissions == 1 {
                let is_fast = fast.is_some_and(|fast| before(sn, fast));
                return Some((sn, if is_fast { Cause::Fast } else { Cause::Early }));
            }
            self.cursor = sn.wrapping_add(1);
        }
        None
    }

    fn missing_again(&mut self, queue: &SendQueue, disorder: u32) -> Option<u32> {
        let arrived = self.arrived?;
        while let Some(resent) = self.resent.front() {
            let sn = resent.sn;
            if queue.is_missing(sn) && queue.slot(sn).transmissions == resent.transmissions {
                let overtaken = before(resent.at.wrapping_add(disorder), arrived);
                return overtaken.then_some(sn);
            }
            self.resent.pop_front();
        }
        None
    }

    fn expired(&mut self, queue: &SendQueue, now: u32) -> Option<u32> {
        if self.sweep.is_none() && self.timer.is_some_and(|timer| !before(now, timer)) {
            self.timer = None;
            self.sweep = Some(queue.una());
        }
        let mut sn = self.sweep?;
        if before(sn, queue.una()) {
            sn = queue.una();
        }
        while sn != queue.next_sn() {
            if queue.is_missing(sn) {
                let resend_at = queue.slot(sn).resend_at;
                if !before(now, resend_at) {
                    self.sweep = Some(sn);
                    return Some(sn);
                }
                self.on_sent(resend_at);
            }
            sn = sn.wrapping_add(1);
        }
        self.sweep = None;
        None
    }
}

#[cfg(test)]
mod tests {
    use super::super::send_queue::Cut;
    use super::*;

    /// `count` segments from `first` on, in flight since 0 with a timeout of 100.
    fn in_flight(first: u32, count: u32) -> (SendQueue, Recovery) {
        let mut queue = SendQueue::new(first);
        let cut = Cut {
            segment: 1,
            window: count,
            stream: true,
        };
        queue.write(&vec![0; count as usize], cut);
        let mut recovery = Recovery::new(2, first);
        for _ in 0..count {
            let sn = queue.launch();
            queue.slot_mut(sn).transmissions = 1;
            queue.slot_mut(sn).resend_at = 100;
            recovery.on_sent(100);
        }
        (queue, recovery)
    }

    fn acked(queue: &mut SendQueue, recovery: &mut Recovery, sn: u32) {
        if queue.acknowledge(sn) {
            recovery.on_acked(sn);
        }
    }

    fn resend_all(queue: &mut SendQueue, recovery: &mut Recovery, now: u32) -> Vec<(u32, Cause)> {
        let mut resent = Vec::new();
        while let Some((sn, cause)) = recovery.next(queue, now, false, 5) {
            queue.slot_mut(sn).transmissions += 1;
            queue.slot_mut(sn).resend_at = now + 100;
            recovery.on_resent(sn, cause, now, queue);
            resent.push((sn, cause));
        }
        resent
    }

    #[test]
    fn two_later_arrivals_are_enough_across_the_wrap() {
        let first = u32::MAX - 1;
        let (mut queue, mut recovery) = in_flight(first, 8);
        acked(&mut queue, &mut recovery, 3);
        assert_eq!(resend_all(&mut queue, &mut recovery, 10), []);
        acked(&mut queue, &mut recovery, 0);
        let expected = [(first, Cause::Fast), (u32::MAX, Cause::Fast)];
        assert_eq!(resend_all(&mut queue, &mut recovery, 10), expected);
        acked(&mut queue, &mut recovery, 2);
        assert_eq!(
            resend_all(&mut queue, &mut recovery, 10),
            [(1, Cause::Fast)]
        );
    }

    #[test]
    fn arrivals_sent_before_a_timeout_say_nothing_of_what_it_resent() {
        let (mut queue, mut recovery) = in_flight(0, 6);
        assert_eq!(resend_all(&mut queue, &mut recovery, 100).len(), 6);
        (3..6).for_each(|sn| acked(&mut queue, &mut recovery, sn));
        recovery.on_echo(100);
        assert_eq!(resend_all(&mut queue, &mut recovery, 110), []);
        recovery.on_echo(106);
        assert_eq!(resend_all(&mut queue, &mut recovery, 120).len(), 3);
        assert_eq!(resend_all(&mut queue, &mut recovery, 120), []);
    }

    #[test]
    fn an_outage_piles_nothing_up() {
        let (mut queue, mut recovery) = in_flight(0, 8);
        for round in 1..20 {
            assert_eq!(
                resend_all(&mut queue, &mut recovery, round * 100).len(),
                8,
                "round {round}"
            );
        }
        assert!(recovery.resent.len() <= 8);
    }

    #[test]
    fn what_una_covers_is_forgotten() {
        let (mut queue, mut recovery) = in_flight(0, 8);
        [2, 3, 6]
            .into_iter()
            .for_each(|sn| acked(&mut queue, &mut recovery, sn));
        queue.acknowledge_below(5);
        recovery.on_una(&queue);
        assert_eq!((recovery.known, recovery.cursor), (1, 5));
        queue.acknowledge_below(8);
        recovery.on_una(&queue);
        assert_eq!((recovery.known, recovery.timer()), (0, None));
    }
}
