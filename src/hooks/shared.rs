//! The key-value store that all hooks of a gateway share.
//!
//! It outlives reloads and is bounded: a script that never deletes gets an error, not the
//! gateway's memory. [`Store`] is the pure part, told the time by its caller; [`Shared`] is the
//! one that hooks use.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::AttrValue;

/// What all keys and values may take together, with [`ENTRY_COST`] for each.
pub const CAPACITY: usize = 64 * 1024 * 1024;

/// What an entry costs beside its key and its value: two map nodes and the key's counts.
pub const ENTRY_COST: usize = 192;

/// Expired entries removed by one call at most, so that no call pays for all of them.
const SWEEP: usize = 8;

/// Why the store refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SharedError {
    #[error("shared store is full")]
    Full,
    #[error("the value is not a number")]
    NotANumber,
    #[error("the counter overflows")]
    Overflow,
}

/// The store that hooks use, on the system's monotonic clock.
#[derive(Debug)]
pub struct Shared {
    store: Mutex<Store>,
}

impl Default for Shared {
    fn default() -> Self {
        Self {
            store: Mutex::new(Store::new(CAPACITY)),
        }
    }
}

impl Shared {
    /// See [`Store::get`].
    pub fn get(&self, key: &[u8]) -> Option<AttrValue> {
        self.lock().get(key, Instant::now())
    }

    /// See [`Store::set`].
    pub fn set(
        &self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<(), SharedError> {
        self.lock().set(key, value, ttl, Instant::now())
    }

    /// See [`Store::add`].
    pub fn add(
        &self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<bool, SharedError> {
        self.lock().add(key, value, ttl, Instant::now())
    }

    /// See [`Store::incr`].
    pub fn incr(
        &self,
        key: &[u8],
        by: AttrValue,
        ttl: Option<Duration>,
    ) -> Result<AttrValue, SharedError> {
        self.lock().incr(key, by, ttl, Instant::now())
    }

    /// See [`Store::delete`].
    pub fn delete(&self, key: &[u8]) -> bool {
        self.lock().delete(key, Instant::now())
    }

    fn lock(&self) -> MutexGuard<'_, Store> {
        // The store is consistent between its own statements; a panic leaves it usable.
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A bounded map with expiry. `now` must not go back between calls.
#[derive(Debug)]
pub struct Store {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// When entries expire, with a number that tells apart those of one instant.
    expiry: BTreeMap<(Instant, u64), Arc<[u8]>>,
    next: u64,
    used: usize,
    capacity: usize,
}

#[derive(Debug)]
struct Entry {
    value: AttrValue,
    expires: Option<(Instant, u64)>,
}

impl Store {
    /// An empty store for `capacity` bytes.
    pub fn new(capacity: usize) -> Self {
        Self {
            entries: HashMap::new(),
            expiry: BTreeMap::new(),
            next: 0,
            used: 0,
            capacity,
        }
    }

    /// The value of a key that has not expired.
    pub fn get(&mut self, key: &[u8], now: Instant) -> Option<AttrValue> {
        self.sweep(now);
        self.live(key, now).map(|entry| entry.value.clone())
    }

    /// Sets a key; without `ttl` it stays until it is deleted.
    pub fn set(
        &mut self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<(), SharedError> {
        self.sweep(now);
        let freed = self
            .entries
            .get(key)
            .map_or(0, |entry| cost(key, &entry.value));
        if self.used - freed + cost(key, &value) > self.capacity {
            // Room may be held by what has expired and was not swept yet.
            self.sweep_all(now);
            let freed = self
                .entries
                .get(key)
                .map_or(0, |entry| cost(key, &entry.value));
            if self.used - freed + cost(key, &value) > self.capacity {
                return Err(SharedError::Full);
            }
        }
        self.remove(key);
        self.insert(key, value, ttl, now);
        Ok(())
    }

    /// Sets a key that is not there; says whether it did.
    pub fn add(
        &mut self,
        key: &[u8],
        value: AttrValue,
        ttl: Option<Duration>,
        now: Instant,
    ) -> Result<bool, SharedError> {
        if self.live(key, now).is_some() {
            return Ok(false);
        }
        self.set(key, value, ttl, now).map(|()| true)
    }

    /// Adds to a number and returns the sum; a missing key counts as 0. `ttl` counts from the
    /// call that creates the key, so that a counter covers a fixed window.
    pub fn incr(
        &mut self,
        key: &[u8],
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

    /// Removes a key; says whether it was there.
    pub fn delete(&mut self, key: &[u8], now: Instant) -> bool {
        self.sweep(now);
        let was = self.live(key, now).is_some();
        self.remove(key);
        was
    }

    /// Bytes accounted for.
    pub fn used(&self) -> usize {
        self.used
    }

    fn live(&mut self, key: &[u8], now: Instant) -> Option<&mut Entry> {
        self.entries
            .get_mut(key)
            .filter(|entry| entry.expires.is_none_or(|(at, _)| at > now))
    }

    fn insert(&mut self, key: &[u8], value: AttrValue, ttl: Option<Duration>, now: Instant) {
        self.used += cost(key, &value);
        let key: Arc<[u8]> = key.into();
        // An expiry beyond what the clock can say is none.
        let expires = ttl
            .and_then(|ttl| now.checked_add(ttl))
            .map(|at| (at, self.next));
        if let Some(slot) = expires {
            self.next += 1;
            self.expiry.insert(slot, key.clone());
        }
        self.entries.insert(key, Entry { value, expires });
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.used -= cost(key, &entry.value);
            if let Some(slot) = entry.expires {
                self.expiry.remove(&slot);
            }
        }
    }

    fn sweep(&mut self, now: Instant) {
        for _ in 0..SWEEP {
            if !self.sweep_one(now) {
                return;
            }
        }
    }

    fn sweep_all(&mut self, now: Instant) {
        while self.sweep_one(now) {}
    }

    fn sweep_one(&mut self, now: Instant) -> bool {
        match self.expiry.first_key_value() {
            Some((&(at, _), key)) if at <= now => {
                let key = key.clone();
                self.remove(&key);
                true
            }
            _ => false,
        }
    }
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
    use proptest::prelude::*;

    fn text(text: &str) -> AttrValue {
        AttrValue::String(text.to_owned().into())
    }

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn values_are_kept_replaced_and_deleted() {
        let now = Instant::now();
        let mut store = Store::new(CAPACITY);
        assert_eq!(store.get(b"k", now), None);
        store.set(b"k", text("a"), None, now).unwrap();
        store.set(b"k", text("bb"), None, now).unwrap();
        assert_eq!(store.get(b"k", now + SECOND * 1_000_000), Some(text("bb")));
        assert!(store.delete(b"k", now));
        assert!(!store.delete(b"k", now));
        assert_eq!(store.used(), 0);
    }

    #[test]
    fn entries_expire_at_their_instant() {
        let now = Instant::now();
        let mut store = Store::new(CAPACITY);
        store.set(b"k", text("a"), Some(SECOND), now).unwrap();
        let last = now + SECOND - Duration::from_nanos(1);
        assert_eq!(store.get(b"k", last), Some(text("a")));
        assert_eq!(store.get(b"k", now + SECOND), None);
        assert_eq!(store.used(), 0);
        // A new value forgets the old expiry.
        store.set(b"k", text("a"), Some(SECOND), now).unwrap();
        store.set(b"k", text("b"), None, now).unwrap();
        assert_eq!(store.get(b"k", now + SECOND * 2), Some(text("b")));
    }

    #[test]
    fn add_takes_only_absent_or_expired_keys() {
        let now = Instant::now();
        let mut store = Store::new(CAPACITY);
        assert_eq!(store.add(b"k", text("a"), Some(SECOND), now), Ok(true));
        assert_eq!(store.add(b"k", text("b"), None, now), Ok(false));
        assert_eq!(store.add(b"k", text("c"), None, now + SECOND), Ok(true));
        assert_eq!(store.get(b"k", now + SECOND), Some(text("c")));
    }

    #[test]
    fn counters_cover_a_fixed_window() {
        let now = Instant::now();
        let mut store = Store::new(CAPACITY);
        let one = || AttrValue::Integer(1);
        for (at, want) in [(0, 1), (400, 2), (999, 3), (1000, 1)] {
            let now = now + Duration::from_millis(at);
            let sum = store.incr(b"k", one(), Some(SECOND), now);
            assert_eq!(sum, Ok(AttrValue::Integer(want)));
        }
        let half = store.incr(b"k", AttrValue::Number(0.5), None, now + SECOND);
        assert_eq!(half, Ok(AttrValue::Number(1.5)));
        store.set(b"s", text("a"), None, now + SECOND).unwrap();
        let sum = store.incr(b"s", one(), None, now + SECOND);
        assert_eq!(sum, Err(SharedError::NotANumber));
        store
            .set(b"m", AttrValue::Integer(i64::MAX), None, now + SECOND)
            .unwrap();
        let sum = store.incr(b"m", one(), None, now + SECOND);
        assert_eq!(sum, Err(SharedError::Overflow));
    }

    #[test]
    fn a_full_store_refuses_until_there_is_room() {
        let now = Instant::now();
        let mut store = Store::new(3 * (ENTRY_COST + 1));
        store.set(b"a", AttrValue::Integer(1), None, now).unwrap();
        for key in [b"b", b"c"] {
            store
                .set(key, AttrValue::Integer(1), Some(SECOND), now)
                .unwrap();
        }
        let set = |store: &mut Store, now| store.set(b"d", AttrValue::Integer(1), None, now);
        assert_eq!(set(&mut store, now), Err(SharedError::Full));
        assert_eq!(store.get(b"d", now), None);
        // What is there can still be replaced and counted.
        assert!(store.set(b"a", AttrValue::Integer(2), None, now).is_ok());
        assert!(store.incr(b"a", AttrValue::Integer(2), None, now).is_ok());
        assert_eq!(
            store.set(b"a", text("longer"), None, now),
            Err(SharedError::Full)
        );
        assert_eq!(set(&mut store, now + SECOND), Ok(()));
    }

    #[test]
    fn expired_entries_go_without_being_asked_for() {
        let now = Instant::now();
        let mut store = Store::new(CAPACITY);
        for key in 0..1000u32 {
            store
                .set(&key.to_le_bytes(), text("x"), Some(SECOND), now)
                .unwrap();
        }
        for _ in 0..1000 / SWEEP {
            store.get(b"other", now + SECOND);
        }
        assert_eq!(store.used(), 0);
    }

    proptest! {
        /// Against a plain map that checks expiry on each look.
        #[test]
        fn agrees_with_a_plain_map(steps in prop::collection::vec(
            (0..4u8, 0..6u8, 0..3u64, 0..4u64), 0..200,
        )) {
            let start = Instant::now();
            let mut now = start;
            let mut store = Store::new(CAPACITY);
            let mut model: HashMap<u8, (AttrValue, Option<Instant>)> = HashMap::new();
            for (step, (op, key, ttl, pass)) in steps.into_iter().enumerate() {
                now += SECOND * pass as u32;
                model.retain(|_, (_, at)| at.is_none_or(|at| at > now));
                let ttl = (ttl > 0).then(|| SECOND * ttl as u32);
                let at = ttl.map(|ttl| now + ttl);
                let value = AttrValue::Integer(step as i64);
                let name = [key];
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
