//! Key-value store that all hooks of a gateway share.
//!
//! The store outlives reloads and is bounded: a script that never deletes gets an error, not the
//! gateway's memory. [`Store`] is the pure part, which its caller tells the time. [`Shared`] is
//! what hooks use: many stores, each for a part of the keys and under a lock. How long a lock is
//! held does not depend on the size of a key or a value, nor on the number of entries.

use std::collections::BTreeMap;
use std::hash::{BuildHasher, RandomState};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use hashbrown::HashTable;

use super::AttrValue;

use crate::sync::Mutex;

/// Most bytes that all keys and values may take together, with [`ENTRY_COST`] for each.
pub const CAPACITY: usize = 64 * 1024 * 1024;

/// Bytes that an entry takes besides its key and its value: two map nodes and the key's counts.
pub const ENTRY_COST: usize = 192;

/// Number of stores in a [`Shared`].
///
/// Each store grows by itself, so that the time that growing takes is short.
const SHARDS: usize = 64;

/// Most expired entries that one call removes, so that no call pays for all of them.
const SWEEP: usize = 8;

/// Expired entries that are removed from a store at once when there is no room left.
const SLICE: usize = 64;

/// Error of an operation that the store refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    #[error("shared store is full")]
    Full,
    #[error("the value is not a number")]
    NotANumber,
    #[error("the counter overflows")]
    Overflow,
}

/// Store that hooks use, on the system's monotonic clock.
#[derive(Debug)]
pub struct Shared {
    shards: Vec<Mutex<Store>>,
    hasher: RandomState,
}

impl Default for Shared {
    fn default() -> Self {
        let room = Arc::new(Room::new(CAPACITY));
        Self {
            shards: (0..SHARDS)
                .map(|_| Mutex::new(Store::new(room.clone())))
                .collect(),
            hasher: RandomState::new(),
        }
    }
}

impl Shared {
    /// Returns the value of a key. See [`Store::get`].
    pub fn get(&self, key: &[u8]) -> Option<AttrValue> {
        self.at(&self.key(key), |store, key| store.get(key, Instant::now()))
    }

    /// Sets a key. See [`Store::set`].
    pub fn set(
        &self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<(), SharedError> {
        self.with_room(key, |store, key| {
            store.set(key, value.clone(), ttl, Instant::now())
        })
    }

    /// Sets a key that is not there. See [`Store::add`].
    pub fn add(
        &self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<bool, SharedError> {
        self.with_room(key, |store, key| {
            store.add(key, value.clone(), ttl, Instant::now())
        })
    }

    /// Adds to a number. See [`Store::incr`].
    pub fn incr(
        &self,
        key: &[u8],
        by: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<AttrValue, SharedError> {
        self.with_room(key, |store, key| {
            store.incr(key, by.clone(), ttl, Instant::now())
        })
    }

    /// Removes a key. See [`Store::delete`].
    pub fn delete(&self, key: &[u8]) -> bool {
        self.at(&self.key(key), |store, key| {
            store.delete(key, Instant::now())
        })
    }

    fn key(&self, bytes: &[u8]) -> Key {
        Key {
            hash: self.hasher.hash_one(bytes),
            bytes: bytes.into(),
        }
    }

    /// Runs an operation that may need room; again if removing expired entries has made some.
    fn with_room<T>(
        &self,
        key: &[u8],
        mut run: impl FnMut(&mut Store, &Key) -> Result<T, SharedError>,
    ) -> Result<T, SharedError> {
        let key = self.key(key);
        loop {
            let result = self.at(&key, &mut run);
            if !matches!(result, Err(SharedError::Full)) || !self.sweep() {
                return result;
            }
        }
    }

    /// Removes some expired entries and returns whether there were any.
    fn sweep(&self) -> bool {
        let mut any = false;
        for shard in &self.shards {
            any |= locked(shard, |store| store.sweep(SLICE, Instant::now()));
        }
        any
    }

    /// Runs an operation on the store of a key, under the store's lock.
    fn at<T>(&self, key: &Key, run: impl FnOnce(&mut Store, &Key) -> T) -> T {
        // The table takes its buckets from the low bits and its tags from the high ones.
        // invariant: it is the rest of a division by their number.
        let shard = &self.shards[(key.hash >> 32) as usize % SHARDS];
        locked(shard, |store| run(store, key))
    }
}

/// Runs an operation on a store under its lock. Entries that are removed are dropped without the
/// lock.
fn locked<T>(shard: &Mutex<Store>, run: impl FnOnce(&mut Store) -> T) -> T {
    // The store is consistent between its own statements; a panic leaves it usable.
    let mut store = shard.lock();
    let result = run(&mut store);
    let removed = mem::take(&mut store.removed);
    drop(store);
    drop(removed);
    result
}

/// Memory account that stores share.
#[derive(Debug)]
pub struct Room {
    used: AtomicUsize,
    capacity: usize,
}

impl Room {
    /// Creates an account of `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            used: AtomicUsize::new(0),
            capacity,
        }
    }

    /// Returns the bytes accounted for.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Accounts for `cost` bytes in the place of `freed` ones, if there is room.
    fn exchange(&self, freed: usize, cost: usize) -> Result<(), SharedError> {
        let fits = |used: usize| {
            let used = used - freed + cost;
            (used <= self.capacity).then_some(used)
        };
        self.used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .map(drop)
            .map_err(|_| SharedError::Full)
    }

    fn free(&self, cost: usize) {
        self.used.fetch_sub(cost, Ordering::Relaxed);
    }
}

/// Key with its hash. All keys of one store are hashed alike.
#[derive(Debug, Clone)]
pub struct Key {
    pub hash: u64,
    pub bytes: Arc<[u8]>,
}

/// A bounded map with expiry. `now` must not go back between calls.
#[derive(Debug)]
pub struct Store {
    entries: HashTable<Entry>,
    /// Keys by the time when they expire, with a number that tells apart those of one instant.
    expiry: BTreeMap<(Instant, u64), Key>,
    next: u64,
    room: Arc<Room>,
    /// Entries that were removed, for the caller to drop.
    removed: Vec<Entry>,
}

#[derive(Debug)]
struct Entry {
    key: Key,
    value: AttrValue,
    expires: Option<(Instant, u64)>,
}

impl Store {
    /// Creates an empty store.
    pub fn new(room: Arc<Room>) -> Self {
        Self {
            entries: HashTable::new(),
            expiry: BTreeMap::new(),
            next: 0,
            room,
            removed: Vec::new(),
        }
    }

    /// Returns the value of a key that has not expired.
    pub fn get(&mut self, key: &Key, now: Instant) -> Option<AttrValue> {
        self.sweep(SWEEP, now);
        self.live(key, now).map(|entry| entry.value.clone())
    }

    /// Sets a key; without `ttl` the key stays until it is deleted.
    ///
    /// Expired entries take room until they are [swept](Self::sweep).
    pub fn set(
        &mut self,
        key: &Key,
        value: AttrValue,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<(), SharedError> {
        self.sweep(SWEEP, now);
        let old = self.entries.find(key.hash, is(key)).map_or(0, cost_of);
        self.room.exchange(old, cost(&key.bytes, &value))?;
        self.unlink(key);
        self.insert(key, value, ttl, now);
        Ok(())
    }

    /// Sets a key that is not there, and returns whether it did.
    pub fn add(
        &mut self,
        key: &Key,
        value: AttrValue,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<bool, SharedError> {
        if self.live(key, now).is_some() {
            return Ok(false);
        }
        self.set(key, value, ttl, now).map(|()| true)
    }

    /// Adds to a number and returns the sum; a missing key counts as 0.
    ///
    /// `ttl` counts from the call that creates the key, so that a counter covers a fixed window.
    pub fn incr(
        &mut self,
        key: &Key,
        by: AttrValue,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<AttrValue, SharedError> {
        let Some(entry) = self.live(key, now) else {
            let value = sum(&AttrValue::Integer(0), &by)?;
            self.set(key, value.clone(), ttl, now)?;
            return Ok(value);
        };
        // Numbers all cost the same, so the accounts need no change.
        entry.value = sum(&entry.value, &by)?;
        Ok(entry.value.clone())
    }

    /// Removes a key and returns whether it was there.
    pub fn delete(&mut self, key: &Key, now: Instant) -> bool {
        self.sweep(SWEEP, now);
        let was = self.live(key, now).is_some();
        self.remove(key);
        was
    }

    /// Removes at most `most` expired entries and returns whether there were any.
    pub fn sweep(&mut self, most: usize, now: Instant) -> bool {
        for swept in 0..most {
            match self.expiry.first_key_value() {
                Some((&(at, _), key)) if at <= now => {
                    let key = key.clone();
                    self.remove(&key);
                }
                _ => return swept > 0,
            }
        }
        true
    }

    fn live(&mut self, key: &Key, now: Instant) -> Option<&mut Entry> {
        self.entries
            .find_mut(key.hash, is(key))
            .filter(|entry| entry.expires.is_none_or(|(at, _)| at > now))
    }

    fn insert(&mut self, key: &Key, value: AttrValue, ttl: Option<Duration>, now: Instant) {
        // An expiry beyond what the clock can say is none.
        let expires = ttl
            .and_then(|ttl| now.checked_add(ttl))
            .map(|at| (at, self.next));
        if let Some(slot) = expires {
            self.next += 1;
            self.expiry.insert(slot, key.clone());
        }
        let entry = Entry {
            key: key.clone(),
            value,
            expires,
        };
        self.entries
            .insert_unique(key.hash, entry, |entry| entry.key.hash);
    }

    fn remove(&mut self, key: &Key) {
        if let Some(cost) = self.unlink(key) {
            self.room.free(cost);
        }
    }

    /// Removes a key without changing the account, and returns the entry's cost.
    fn unlink(&mut self, key: &Key) -> Option<usize> {
        let found = self.entries.find_entry(key.hash, is(key)).ok()?;
        let (entry, _) = found.remove();
        if let Some(slot) = entry.expires {
            self.expiry.remove(&slot);
        }
        let cost = cost_of(&entry);
        self.removed.push(entry);
        Some(cost)
    }
}

fn is(key: &Key) -> impl FnMut(&Entry) -> bool {
    |entry| entry.key.bytes == key.bytes
}

fn cost_of(entry: &Entry) -> usize {
    cost(&entry.key.bytes, &entry.value)
}

fn cost(key: &[u8], value: &AttrValue) -> usize {
    let value = match value {
        AttrValue::String(bytes) => bytes.len(),
        AttrValue::Boolean(_) | AttrValue::Integer(_) | AttrValue::Number(_) => 0,
    };
    ENTRY_COST + key.len() + value
}

fn sum(a: &AttrValue, b: &AttrValue) -> Result<AttrValue, SharedError> {
    match (a, b) {
        (AttrValue::Integer(a), AttrValue::Integer(b)) => a
            .checked_add(*b)
            .map(AttrValue::Integer)
            .ok_or(SharedError::Overflow),
        _ => Ok(AttrValue::Number(number(a)? + number(b)?)),
    }
}

fn number(value: &AttrValue) -> Result<f64, SharedError> {
    match value {
        AttrValue::Integer(value) => Ok(*value as f64),
        AttrValue::Number(value) => Ok(*value),
        AttrValue::Boolean(_) | AttrValue::String(_) => Err(SharedError::NotANumber),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn text(text: &str) -> AttrValue {
        AttrValue::String(text.to_owned().into())
    }

    fn key(bytes: &[u8]) -> Key {
        Key {
            // Some have the same.
            hash: bytes.iter().map(|&byte| u64::from(byte % 3)).sum(),
            bytes: bytes.into(),
        }
    }

    fn store(capacity: usize) -> Store {
        Store::new(Arc::new(Room::new(capacity)))
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn values_are_kept_replaced_and_deleted() {
        let now = Instant::now();
        let mut store = store(CAPACITY);
        assert_eq!(store.get(&key(b"k"), now), None);
        store.set(&key(b"k"), text("a"), None, now).unwrap();
        store.set(&key(b"k"), text("bb"), None, now).unwrap();
        assert_eq!(
            store.get(&key(b"k"), now + SECOND * 1_000_000),
            Some(text("bb"))
        );
        assert!(store.delete(&key(b"k"), now));
        assert!(!store.delete(&key(b"k"), now));
        assert_eq!(store.room.used(), 0);
    }

    #[test]
    fn entries_expire_at_their_instant() {
        let now = Instant::now();
        let mut store = store(CAPACITY);
        store.set(&key(b"k"), text("a"), Some(SECOND), now).unwrap();
        let last = now + SECOND - Duration::from_nanos(1);
        assert_eq!(store.get(&key(b"k"), last), Some(text("a")));
        assert_eq!(store.get(&key(b"k"), now + SECOND), None);
        assert_eq!(store.room.used(), 0);
        // A new value forgets the old expiry.
        store.set(&key(b"k"), text("a"), Some(SECOND), now).unwrap();
        store.set(&key(b"k"), text("b"), None, now).unwrap();
        assert_eq!(store.get(&key(b"k"), now + SECOND * 2), Some(text("b")));
    }

    #[test]
    fn add_takes_only_absent_or_expired_keys() {
        let now = Instant::now();
        let mut store = store(CAPACITY);
        assert_eq!(
            store.add(&key(b"k"), text("a"), Some(SECOND), now),
            Ok(true)
        );
        assert_eq!(store.add(&key(b"k"), text("b"), None, now), Ok(false));
        assert_eq!(
            store.add(&key(b"k"), text("c"), None, now + SECOND),
            Ok(true)
        );
        assert_eq!(store.get(&key(b"k"), now + SECOND), Some(text("c")));
    }

    #[test]
    fn counters_cover_a_fixed_window() {
        let now = Instant::now();
        let mut store = store(CAPACITY);
        let one = || AttrValue::Integer(1);
        for (at, want) in [(0, 1), (400, 2), (999, 3), (1000, 1)] {
            let now = now + Duration::from_millis(at);
            let sum = store.incr(&key(b"k"), one(), Some(SECOND), now);
            assert_eq!(sum, Ok(AttrValue::Integer(want)));
        }
        let half = store.incr(&key(b"k"), AttrValue::Number(0.5), None, now + SECOND);
        assert_eq!(half, Ok(AttrValue::Number(1.5)));
        store
            .set(&key(b"s"), text("a"), None, now + SECOND)
            .unwrap();
        let sum = store.incr(&key(b"s"), one(), None, now + SECOND);
        assert_eq!(sum, Err(SharedError::NotANumber));
        store
            .set(&key(b"m"), AttrValue::Integer(i64::MAX), None, now + SECOND)
            .unwrap();
        let sum = store.incr(&key(b"m"), one(), None, now + SECOND);
        assert_eq!(sum, Err(SharedError::Overflow));
    }

    #[test]
    fn a_full_store_refuses_until_there_is_room() {
        let now = Instant::now();
        let mut store = store(3 * (ENTRY_COST + 1));
        store
            .set(&key(b"a"), AttrValue::Integer(1), None, now)
            .unwrap();
        for name in [b"b", b"c"] {
            store
                .set(&key(name), AttrValue::Integer(1), Some(SECOND), now)
                .unwrap();
        }
        let set = |store: &mut Store, now| store.set(&key(b"d"), AttrValue::Integer(1), None, now);
        assert_eq!(set(&mut store, now), Err(SharedError::Full));
        assert_eq!(store.get(&key(b"d"), now), None);
        // What is there can still be replaced and counted.
        assert!(
            store
                .set(&key(b"a"), AttrValue::Integer(2), None, now)
                .is_ok()
        );
        assert!(
            store
                .incr(&key(b"a"), AttrValue::Integer(2), None, now)
                .is_ok()
        );
        assert_eq!(
            store.set(&key(b"a"), text("longer"), None, now),
            Err(SharedError::Full)
        );
        assert_eq!(set(&mut store, now + SECOND), Ok(()));
    }

    #[test]
    fn expired_entries_go_without_being_asked_for() {
        let now = Instant::now();
        let mut store = store(CAPACITY);
        for number in 0..1000u32 {
            store
                .set(&key(&number.to_le_bytes()), text("x"), Some(SECOND), now)
                .unwrap();
        }
        for _ in 0..1000 / SWEEP {
            store.get(&key(b"other"), now + SECOND);
        }
        assert_eq!(store.room.used(), 0);
    }

    /// Value that records whether a lock is held when it is dropped.
    struct Witness {
        store: Arc<Shared>,
        unlocked: Arc<AtomicUsize>,
    }

    impl AsRef<[u8]> for Witness {
        fn as_ref(&self) -> &[u8] {
            b"value"
        }
    }

    impl Drop for Witness {
        fn drop(&mut self) {
            if self.store.shards.iter().all(|shard| shard.is_free()) {
                self.unlocked.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn what_is_removed_is_dropped_without_a_lock() {
        let store = Arc::<Shared>::default();
        let unlocked = Arc::<AtomicUsize>::default();
        let witness = || {
            let (store, unlocked) = (store.clone(), unlocked.clone());
            AttrValue::String(Bytes::from_owner(Witness { store, unlocked }))
        };
        let ttl = Some(Duration::from_nanos(1));
        // Replaced, deleted, swept by another call for the same key.
        store.set(b"key", witness(), None).unwrap();
        store.set(b"key", witness(), None).unwrap();
        store.delete(b"key");
        store.set(b"key", witness(), ttl).unwrap();
        store.get(b"key");
        assert_eq!(unlocked.load(Ordering::Relaxed), 3);
        // Swept for room.
        let rest = CAPACITY - store.shards[0].lock().room.used() - 10_000;
        let large = AttrValue::String(vec![7; rest].into());
        store.set(b"large", large, None).unwrap();
        store.set(b"other", witness(), ttl).unwrap();
        let more = AttrValue::String(vec![7; 9_500].into());
        store.set(b"more", more, None).unwrap();
        assert_eq!(unlocked.load(Ordering::Relaxed), 4);
    }

    #[test]
    fn what_has_expired_makes_room_at_once() {
        let store = Shared::default();
        let value = text(&"x".repeat(1 << 20));
        for number in 0..60u8 {
            let ttl = Some(Duration::from_nanos(1));
            store.set(&[number], value.clone(), ttl).unwrap();
        }
        let half = AttrValue::String(vec![7; CAPACITY / 2].into());
        store.set(b"half", half.clone(), None).unwrap();
        assert_eq!(store.set(b"more", half, None), Err(SharedError::Full));
        assert_eq!(store.get(b"more"), None);
        assert!(store.delete(b"half"));
    }

    proptest! {
        /// Compares the store with a plain map that checks expiry on each look.
        #[test]
        fn agrees_with_a_plain_map(steps in prop::collection::vec(
            (0..4u8, 0..6u8, 0..3u64, 0..4u64), 0..200,
        )) {
            let start = Instant::now();
            let mut now = start;
            let mut store = store(CAPACITY);
            let mut model: HashMap<u8, (AttrValue, Option<Instant>)> = HashMap::new();
            for (step, (op, key, ttl, pass)) in steps.into_iter().enumerate() {
                now += SECOND * pass as u32;
                model.retain(|_, (_, at)| at.is_none_or(|at| at > now));
                let ttl = (ttl > 0).then(|| SECOND * ttl as u32);
                let at = ttl.map(|ttl| now + ttl);
                let value = AttrValue::Integer(step as i64);
                let name = super::tests::key(&[key]);
                match op {
                    0 => {
                        store.set(&name, value.clone(), ttl, now).unwrap();
                        model.insert(key, (value, at));
                    }
                    1 => {
                        let new = !model.contains_key(&key);
                        prop_assert_eq!(store.add(&name, value.clone(), ttl, now), Ok(new));
                        model.entry(key).or_insert((value, at));
                    }
                    2 => {
                        let entry = model.entry(key).or_insert((AttrValue::Integer(0), at));
                        entry.0 = sum(&entry.0, &value).unwrap();
                        prop_assert_eq!(store.incr(&name, value, ttl, now), Ok(entry.0.clone()));
                    }
                    _ => {
                        prop_assert_eq!(store.delete(&name, now), model.remove(&key).is_some());
                    }
                }
                let want = model.get(&key).map(|(value, _)| value.clone());
                prop_assert_eq!(store.get(&name, now), want);
            }
        }
    }
}
