//! Table of sessions by id.

use std::collections::VecDeque;
use std::collections::hash_map::{Entry, HashMap};
use std::time::Instant;

use rand::Rng;

/// Number of bits of an id below the node number.
const LOCAL_BITS: u32 = 24;
/// Number of random draws for a free id.
///
/// With 8 million sessions, half of all ids, all draws fail once in 2^64. The ids that a caller
/// allows must be most of all ids.
const TRIES: usize = 64;

/// Sessions of a gateway by id.
///
/// An id has 32 bits: the node number of the gateway in the top 8, then 24 random bits, so that a
/// client cannot count its way to the id of another. The id of an ended session stays taken until
/// the time given to [`remove`](Self::remove): a client that still names that id must not meet a
/// new session.
#[derive(Debug)]
pub struct Table<T> {
    /// Sessions by id; `None` where the session has ended.
    sessions: HashMap<u32, Option<T>>,
    ended: VecDeque<(Instant, u32)>,
}

impl<T> Table<T> {
    /// Returns the live sessions with their ids.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.sessions
            .iter()
            .filter_map(|(id, session)| Some((*id, session.as_ref()?)))
    }

    /// Returns the number of live sessions.
    pub fn len(&self) -> usize {
        self.sessions.len() - self.ended.len()
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub fn get(&self, id: u32) -> Option<&T> {
        self.sessions.get(&id)?.as_ref()
    }

    /// Adds a session under a new random id for which `may_be` returns true.
    ///
    /// Returns `None` when no such id was found.
    pub fn insert(
        &mut self,
        node: u8,
        now: Instant,
        rng: &mut impl Rng,
        may_be: impl Fn(u32) -> bool,
        session: T,
    ) -> Option<u32> {
        self.forget_ended(now);
        for _ in 0..TRIES {
            let id = u32::from(node) << LOCAL_BITS | rng.random_range(1..1 << LOCAL_BITS);
            if may_be(id)
                && let Entry::Vacant(vacant) = self.sessions.entry(id)
            {
                vacant.insert(Some(session));
                return Some(id);
            }
        }
        None
    }

    /// Removes a session and returns it.
    ///
    /// The id stays taken until `until`.
    pub fn remove(&mut self, id: u32, until: Instant) -> Option<T> {
        let session = self.sessions.get_mut(&id)?.take()?;
        self.ended.push_back((until, id));
        Some(session)
    }

    fn forget_ended(&mut self, now: Instant) {
        while let Some(&(until, id)) = self.ended.front()
            && until <= now
        {
            self.ended.pop_front();
            self.sessions.remove(&id);
        }
    }
}

impl<T> Default for Table<T> {
    fn default() -> Self {
        Self {
            sessions: HashMap::new(),
            ended: VecDeque::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;
    use std::time::Duration;

    const SECOND: Duration = Duration::from_secs(1);
    const ANY: fn(u32) -> bool = |_| true;

    #[test]
    fn ids_carry_the_node_and_cannot_be_counted() {
        let (mut table, mut rng, now) =
            (Table::default(), StdRng::seed_from_u64(1), Instant::now());
        let mut ids: Vec<u32> = (0..1000)
            .map(|n| table.insert(7, now, &mut rng, ANY, n).unwrap())
            .collect();
        assert!(ids.iter().all(|id| id >> 24 == 7 && id & 0xff_ffff != 0));
        assert!(ids.windows(2).all(|pair| pair[0].abs_diff(pair[1]) != 1));
        for (n, id) in ids.iter().enumerate() {
            assert_eq!(table.get(*id), Some(&n));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!((ids.len(), table.len()), (1000, 1000));
    }

    #[test]
    fn an_id_is_not_reused_while_it_can_be_named() {
        /// Returns a generator that draws the same id first, then others.
        fn rng() -> StdRng {
            StdRng::seed_from_u64(5)
        }
        let (mut table, now) = (Table::default(), Instant::now());
        let id = table.insert(0, now, &mut rng(), ANY, 'a').unwrap();
        assert_ne!(
            table.insert(0, now, &mut rng(), ANY, 'b'),
            Some(id),
            "while live"
        );
        assert_eq!(table.remove(id, now + SECOND), Some('a'));
        assert_eq!(table.remove(id, now + SECOND), None);
        assert_eq!(table.get(id), None);
        assert_ne!(
            table.insert(0, now, &mut rng(), ANY, 'b'),
            Some(id),
            "while remembered"
        );
        assert_eq!(
            table.insert(0, now + SECOND, &mut rng(), ANY, 'b'),
            Some(id)
        );
    }

    #[test]
    fn ids_are_as_asked_for() {
        let (mut table, mut rng, now) =
            (Table::default(), StdRng::seed_from_u64(1), Instant::now());
        for n in 0..10_000 {
            let id = table.insert(0, now, &mut rng, |id| id % 256 != 7, n);
            assert_ne!(id.unwrap() % 256, 7);
        }
        assert_eq!(table.insert(0, now, &mut rng, |_| false, 0), None);
        assert_eq!(table.len(), 10_000);
    }

    #[test]
    fn no_id_is_free() {
        struct Stuck;
        impl rand::RngCore for Stuck {
            fn next_u32(&mut self) -> u32 {
                7 << 8
            }
            fn next_u64(&mut self) -> u64 {
                7 << 40
            }
            fn fill_bytes(&mut self, bytes: &mut [u8]) {
                bytes.fill(7);
            }
        }
        let (mut table, now) = (Table::default(), Instant::now());
        assert!(table.insert(0, now, &mut Stuck, ANY, ()).is_some());
        assert_eq!(table.insert(0, now, &mut Stuck, ANY, ()), None);
        assert_eq!(table.iter().count(), 1);
    }
}
