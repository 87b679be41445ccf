//! Assignment of ids, and maps by id.

use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

/// Returns the next id that is not taken; 0 is not an id.
pub(super) fn next_id(last: &mut u32, is_taken: impl Fn(u32) -> bool) -> u32 {
    loop {
        *last = last.wrapping_add(1);
        if *last != 0 && !is_taken(*last) {
            return *last;
        }
    }
}

pub(super) type IdMap<K, V> = HashMap<K, V, BuildHasherDefault<IdHasher>>;
pub(super) type IdSet = HashSet<u32, BuildHasherDefault<IdHasher>>;

/// Hasher for ids that no attacker chooses; one multiplication.
///
/// The gateway assigns most ids, and servers, which choose their own, are authenticated.
#[derive(Debug, Default)]
pub(super) struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.write_u64((*byte).into());
        }
    }

    fn write_u32(&mut self, id: u32) {
        self.write_u64(id.into());
    }

    fn write_u64(&mut self, id: u64) {
        // The map takes its buckets from the low bits and its tags from the high ones.
        let product = (self.0 ^ id).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        self.0 = product ^ (product >> 32);
    }
}
