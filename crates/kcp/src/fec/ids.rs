//! The ids of shards.

use super::shape::Shape;

/// The circle of ids for one shape.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ids {
    /// Ids per group.
    size: u32,
    /// The id that is 0 again.
    pub(super) limit: u32,
}

impl Ids {
    pub(super) fn new(shape: Shape) -> Self {
        let size =
            u32::try_from(shape.data() + shape.parity()).expect("a group has at most 256 shards");
        let limit = u32::MAX / size * size;
        Self { size, limit }
    }

    pub(super) fn place(self, id: u32) -> usize {
        (id % self.size) as usize
    }

    pub(super) fn group(self, id: u32) -> u32 {
        id / self.size
    }

    /// The first id of the group after that of `id`.
    pub(super) fn next_group(self, id: u32) -> u32 {
        (id - id % self.size + self.size) % self.limit
    }

    /// Groups from `number` on to `newest`, the way around the circle that wrapping goes: large
    /// if `number` is the newer one.
    pub(super) fn age(self, number: u32, newest: u32) -> u32 {
        let groups = self.limit / self.size;
        (newest + groups - number) % groups
    }
}
