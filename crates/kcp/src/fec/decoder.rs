//! The receiving side.

use super::ids::Ids;
use super::reed_solomon::{ReedSolomon, Rows};
use super::shape::Shape;
use super::wire::{FecError, Kind, Shard, payload};
use crate::counters::FecStats;

/// Counts the groups that the decoder keeps open: the newest seen and the three before it, as
/// kcp-go does.
pub const OPEN_GROUPS: usize = 4;

/// Shards this many groups behind the newest are taken for the peer's present place, and the
/// newest for a stray; nearer ones are merely late.
const LATE_GROUPS: u32 = 128;

/// Recovers what the other side sent and was lost.
///
/// For each datagram: [`Shard::parse`], deliver [`Shard::payload`], then [`Decoder::input`] and
/// deliver what it recovered. A payload may come twice, recovered first and then late itself:
/// KCP's serial numbers sort that out.
#[derive(Debug)]
pub struct Decoder {
    code: ReedSolomon,
    ids: Ids,
    /// The number of the group that ends the window of open groups.
    newest: Option<u32>,
    pub(super) groups: Vec<Group>,
    stats: FecStats,
}

impl Decoder {
    /// Makes a decoder for groups of the peer's shape.
    pub fn new(shape: Shape) -> Self {
        Self {
            ids: Ids::new(shape),
            code: ReedSolomon::new(shape),
            newest: None,
            groups: Vec::new(),
            stats: FecStats::default(),
        }
    }

    /// Takes a shard into account and returns the missing payloads of its group if it was the one
    /// needed to recover them. Duplicates and shards of expired groups are ignored.
    ///
    /// # Errors
    ///
    /// `IdPastWrap`, `Misplaced`. The payload of a refused data shard is still good.
    pub fn input(&mut self, shard: &Shard<'_>) -> Result<Option<Recovered>, FecError> {
        let place = self.place(shard).inspect_err(|_| self.stats.errors += 1)?;
        self.stats.parity_shards += u64::from(shard.kind == Kind::Parity);

        let Some(at) = self.open(self.ids.group(shard.id)) else {
            return Ok(None);
        };
        // invariant: it was found, or put, there.
        let (code, group) = (&self.code, &mut self.groups[at]);
        if group.settled || !group.seen.insert(place) {
            return Ok(None);
        }
        group.shards += 1;
        group.data_shards += usize::from(shard.kind == Kind::Data);
        if group.data_shards == code.data_shards() {
            group.settle();
            return Ok(None);
        }
        match shard.kind {
            Kind::Data => code.add_data(place, shard.body, &mut group.sums),
            Kind::Parity => {
                code.add_parity(place - code.data_shards(), shard.body, &mut group.sums);
            }
        }
        if group.shards < code.data_shards() {
            return Ok(None);
        }
        let recovered = Recovered(group.recover(code));
        group.settle();

        let good = recovered.payloads().count();
        self.stats.recovered += good as u64;
        self.stats.errors += (recovered.0.count() - good) as u64;
        Ok(Some(recovered))
    }

    /// Releases the memory of all open groups, none of which will be recovered then: for
    /// sessions that fall idle.
    pub fn release(&mut self) {
        self.retain(|_| false);
        self.groups = Vec::new();
    }

    /// Returns what has been counted since the decoder was made. What [`Shard::parse`] refuses is the
    /// caller's to count.
    pub fn stats(&self) -> &FecStats {
        &self.stats
    }

    /// Counts the heap bytes held for open groups: at most [`OPEN_GROUPS`] × p ×
    /// [`MAX_DATAGRAM`](super::MAX_DATAGRAM) and a few hundred.
    pub fn heap_size(&self) -> usize {
        let sums = self.groups.iter().map(|group| group.sums.heap_size());
        self.groups.capacity() * size_of::<Group>() + sums.sum::<usize>()
    }

    /// Where in its group a shard belongs, if its id can be and fits its type.
    fn place(&self, shard: &Shard<'_>) -> Result<usize, FecError> {
        if shard.id >= self.ids.limit {
            return Err(FecError::IdPastWrap);
        }
        let place = self.ids.place(shard.id);
        if (place < self.code.data_shards()) != (shard.kind == Kind::Data) {
            return Err(FecError::Misplaced);
        }
        Ok(place)
    }

    /// The index of group `number`, opened and older ones expired as needed; `None` if it is
    /// itself too old.
    fn open(&mut self, number: u32) -> Option<usize> {
        let newest = *self.newest.get_or_insert(number);
        let age = self.ids.age(number, newest);
        if (OPEN_GROUPS as u32..LATE_GROUPS).contains(&age) {
            return None;
        }
        // Anything else outside the window moves it: forward for a newer group, and back for one
        // so old that the window must have followed a stray id. A forged datagram thus costs the
        // groups then open, not all groups up to its id.
        if age >= LATE_GROUPS {
            self.newest = Some(number);
            let ids = self.ids;
            self.retain(|group| ids.age(group.number, number) < OPEN_GROUPS as u32);
        }
        if let Some(at) = self.groups.iter().position(|group| group.number == number) {
            return Some(at);
        }
        self.groups.push(Group {
            number,
            sums: Rows::new(self.code.parity_shards(), 0),
            ..Group::default()
        });
        Some(self.groups.len() - 1)
    }

    fn retain(&mut self, keep: impl Fn(&Group) -> bool) {
        let short = &mut self.stats.short_shards;
        self.groups.retain(|group| {
            let keep = keep(group);
            if !keep && !group.settled {
                *short += group.shards as u64;
            }
            keep
        });
    }
}

/// Holds recovered data shards of one group.
#[derive(Debug)]
pub struct Recovered(Rows);

impl Recovered {
    /// Iterates over their payloads, in the order of their ids. A shard whose size field cannot be
    /// is left out: some shard of its group was forged or damaged.
    pub fn payloads(&self) -> impl Iterator<Item = &[u8]> {
        (0..self.0.count()).filter_map(|index| payload(self.0.row(index)))
    }
}

#[derive(Debug, Default)]
pub(super) struct Group {
    number: u32,
    /// Places of the shards received.
    seen: Places,
    shards: usize,
    data_shards: usize,
    /// The sum of everything received, each row wanting only the missing data and its parity.
    sums: Rows,
    /// Complete, by itself or by recovery; only remembered so that stragglers are recognised.
    settled: bool,
}

impl Group {
    /// The missing data shards. There are as many parity shards as those: the caller comes as
    /// soon as there are as many shards as data shards in a group.
    fn recover(&self, code: &ReedSolomon) -> Rows {
        let (data, parity) = (code.data_shards(), code.parity_shards());
        let missing: Vec<usize> = (0..data)
            .filter(|place| !self.seen.contains(*place))
            .collect();
        let rows = (0..parity).filter(|row| self.seen.contains(data + row));
        code.recover(&missing, &rows.collect::<Vec<usize>>(), &self.sums)
    }

    fn settle(&mut self) {
        self.settled = true;
        self.sums = Rows::default();
    }
}

/// A set of places in a group.
#[derive(Debug, Default)]
struct Places([u64; 4]);

impl Places {
    /// Whether `place` is new.
    fn insert(&mut self, place: usize) -> bool {
        let new = !self.contains(place);
        // invariant: a group has 256 shards at most.
        self.0[place / 64] |= 1 << (place % 64);
        new
    }

    fn contains(&self, place: usize) -> bool {
        // invariant: a group has 256 shards at most.
        self.0[place / 64] >> (place % 64) & 1 == 1
    }
}
