//! A bad network in simulated time: seeded, so that the same seed loses the same datagrams.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// What one direction of the network does to datagrams.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Badness {
    /// Chances in percent.
    pub(super) loss: u32,
    pub(super) duplicate: u32,
    /// Held back by another `delay + jitter`, so that later ones overtake.
    pub(super) reorder: u32,
    /// Milliseconds each takes, and up to how many more.
    pub(super) delay: u32,
    pub(super) jitter: u32,
}

/// One direction. Datagrams go in with [`send`](Self::send) and come out of
/// [`receive`](Self::receive) at their time.
#[derive(Debug)]
pub(super) struct Link {
    badness: Badness,
    random: Random,
    under_way: BinaryHeap<Reverse<(u64, u64, Vec<u8>)>>,
    sent: u64,
}

impl Link {
    pub(super) fn new(badness: Badness, seed: u64) -> Self {
        Self {
            badness,
            random: Random(seed),
            under_way: BinaryHeap::new(),
            sent: 0,
        }
    }

    /// Sends `datagram` at `now`, in milliseconds that do not wrap.
    pub(super) fn send(&mut self, datagram: &[u8], now: u64) {
        if self.random.percent(self.badness.loss) {
            return;
        }
        let copies = 1 + u32::from(self.random.percent(self.badness.duplicate));
        for _ in 0..copies {
            let Badness { delay, jitter, .. } = self.badness;
            let mut takes = delay + self.random.below(jitter + 1);
            if self.random.percent(self.badness.reorder) {
                takes += delay + jitter;
            }
            self.sent += 1;
            let arrives = now + u64::from(takes);
            self.under_way
                .push(Reverse((arrives, self.sent, datagram.to_vec())));
        }
    }

    pub(super) fn receive(&mut self, now: u64) -> Option<Vec<u8>> {
        (self.next_arrival()? <= now)
            .then(|| self.under_way.pop())
            .flatten()
            .map(|Reverse((_, _, datagram))| datagram)
    }

    pub(super) fn next_arrival(&self) -> Option<u64> {
        self.under_way.peek().map(|Reverse((at, _, _))| *at)
    }
}

/// SplitMix64.
#[derive(Debug)]
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(super) fn below(&mut self, bound: u32) -> u32 {
        (self.next() % u64::from(bound.max(1))) as u32
    }

    fn percent(&mut self, chance: u32) -> bool {
        self.below(100) < chance
    }
}
