//! The shape of groups.

use thiserror::Error;

/// Shapes the groups of forward error correction: how many shards carry data in each, and how many
/// are added, as many of which may be lost. Both ends must have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    data: usize,
    parity: usize,
}

/// Tells that no code has such a shape.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("{data} data and {parity} parity shards: both must be positive, their sum at most 256")]
pub struct ShapeError {
    /// Counts the data shards asked for.
    pub data: usize,
    /// Counts the parity shards asked for.
    pub parity: usize,
}

impl Shape {
    /// Makes the shape of groups of `data` and `parity` shards.
    ///
    /// # Errors
    ///
    /// [`ShapeError`] if one of them is zero or their sum is more than 256, the elements of the
    /// field that the code is over.
    pub fn new(data: usize, parity: usize) -> Result<Self, ShapeError> {
        if data == 0 || parity == 0 || data.saturating_add(parity) > 256 {
            return Err(ShapeError { data, parity });
        }
        Ok(Self { data, parity })
    }

    /// Counts the data shards of a group.
    pub fn data(self) -> usize {
        self.data
    }

    /// Counts the parity shards of a group.
    pub fn parity(self) -> usize {
        self.parity
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn impossible_shapes_are_refused() {
        for (data, parity) in [(0, 1), (1, 0), (0, 0), (256, 1), (usize::MAX, 1)] {
            assert_eq!(Shape::new(data, parity), Err(ShapeError { data, parity }));
        }
        let shape = Shape::new(1, 255).unwrap();
        assert_eq!((shape.data(), shape.parity()), (1, 255));
    }
}
