//! When each session of a driver is due next.

/// Stands for "not in the heap".
const NOWHERE: u32 = u32::MAX;

/// A heap of deadlines in which each slot has one at most and can be found, so that a deadline
/// that moves leaves nothing behind.
#[derive(Debug, Default)]
pub(super) struct Timers {
    /// Earliest first, as a binary heap.
    heap: Vec<(u64, u32)>,
    /// Where in the heap each slot is.
    places: Vec<u32>,
}

impl Timers {
    /// The earliest deadline.
    pub fn next(&self) -> Option<u64> {
        self.heap.first().map(|(at, _)| *at)
    }

    /// The deadline of `slot`.
    pub fn get(&self, slot: u32) -> Option<u64> {
        let place = self.place(slot)?;
        // invariant: a slot that has a place is there.
        Some(self.heap[place].0)
    }

    pub fn set(&mut self, slot: u32, at: u64) {
        let place = match self.place(slot) {
            Some(place) => place,
            None => {
                let slots = self.places.len().max(slot as usize + 1);
                self.places.resize(slots, NOWHERE);
                self.heap.push((at, slot));
                self.heap.len() - 1
            }
        };
        // invariant: a slot that has a place is there.
        self.heap[place].0 = at;
        self.settle(place);
    }

    pub fn remove(&mut self, slot: u32) {
        if let Some(place) = self.place(slot) {
            // invariant: its place was found there.
            self.places[slot as usize] = NOWHERE;
            self.heap.swap_remove(place);
            if place < self.heap.len() {
                self.settle(place);
            }
        }
    }

    /// Removes and gives the slot with the earliest deadline if that has come.
    pub fn pop(&mut self, now: u64) -> Option<u32> {
        let &(at, slot) = self.heap.first()?;
        if at > now {
            return None;
        }
        self.remove(slot);
        Some(slot)
    }

    fn place(&self, slot: u32) -> Option<usize> {
        let place = *self.places.get(slot as usize)?;
        (place != NOWHERE).then_some(place as usize)
    }

    /// Moves the entry at `place` up or down to where it belongs.
    fn settle(&mut self, mut place: usize) {
        // invariant: callers give places of the heap; parents and children are cut to it.
        let entry = self.heap[place];
        while place > 0 && entry < self.heap[(place - 1) / 2] {
            self.put(place, self.heap[(place - 1) / 2]);
            place = (place - 1) / 2;
        }
        loop {
            let children = 2 * place + 1..(2 * place + 3).min(self.heap.len());
            // invariant: they end where the heap does.
            match children.min_by_key(|child| self.heap[*child]) {
                Some(child) if self.heap[child] < entry => {
                    self.put(place, self.heap[child]);
                    place = child;
                }
                _ => break,
            }
        }
        self.put(place, entry);
    }

    fn put(&mut self, place: usize, entry: (u64, u32)) {
        // invariant: callers give places of the heap, and slots in it have been set.
        self.heap[place] = entry;
        self.places[entry.1 as usize] = place as u32;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        #[test]
        fn as_a_sorted_map(steps in prop::collection::vec((0u8..4, 0u32..40, 0u64..100), 1..400)) {
            let mut timers = Timers::default();
            let mut model = BTreeMap::new();
            for (step, slot, at) in steps {
                match step {
                    0 | 1 => {
                        timers.set(slot, at);
                        model.insert(slot, at);
                    }
                    2 => {
                        timers.remove(slot);
                        model.remove(&slot);
                    }
                    _ => {
                        let first = model.iter().map(|(slot, at)| (*at, *slot)).min();
                        let due = first.filter(|(due, _)| *due <= at).map(|(_, slot)| slot);
                        prop_assert_eq!(timers.pop(at), due);
                        due.map(|slot| model.remove(&slot));
                    }
                }
                prop_assert_eq!(timers.next(), model.values().min().copied());
                prop_assert_eq!(timers.get(slot), model.get(&slot).copied());
            }
        }
    }
}
