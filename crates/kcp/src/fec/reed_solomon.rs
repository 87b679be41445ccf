//! A systematic Reed–Solomon erasure code over GF(2^8) that adds shards up as they come.
//!
//! The code is the one of klauspost/reedsolomon (as kcp-go uses it) and Backblaze: the matrix
//! with entries r^c, made systematic by the inverse of its top square. Multiplying by r^c
//! evaluates at r the polynomial with the given coefficients, and the inverse of the top square
//! finds the coefficients from the values at 0, 1 … d-1. So the d data shards are the values of a
//! polynomial of degree below d at 0 … d-1, and parity shard r is its value at d+r. Every
//! coefficient, of encoding and of recovery alike, is therefore one of Lagrange interpolation,
//! and no matrix is ever inverted.
//!
//! Nothing is stored but sums: each data shard is added to all parity rows when it comes and can
//! be forgotten. The receiver does the same and adds the parity it receives; what remains in a
//! row is what the missing data shards contribute to it.

use super::gf256::{self, Kernel};
use super::shape::Shape;

/// The code for one shape, d data shards and p parity shards.
#[derive(Debug, Clone)]
pub struct ReedSolomon {
    data: usize,
    parity: usize,
    /// For each data shard its coefficients in all parity shards.
    columns: Box<[u8]>,
    kernel: Kernel,
}

impl ReedSolomon {
    /// Makes the code for a shape, run by the fastest kernel of this machine.
    pub fn new(shape: Shape) -> Self {
        Self::with_kernel(shape, Kernel::best())
    }

    /// Like [`ReedSolomon::new`], run by a given kernel.
    pub fn with_kernel(shape: Shape, kernel: Kernel) -> Self {
        let (data, parity) = (shape.data(), shape.parity());
        let points = |shards: std::ops::Range<usize>| shards.map(point).collect::<Vec<u8>>();
        let columns = interpolation(&points(0..data), 0..data, &points(data..data + parity));
        Self {
            data,
            parity,
            columns: columns.into(),
            kernel,
        }
    }

    /// Data shards of a group.
    pub fn data_shards(&self) -> usize {
        self.data
    }

    /// Parity shards of a group.
    pub fn parity_shards(&self) -> usize {
        self.parity
    }

    /// Adds data shard `index` to the parity rows `sums`, which grow to its length if they are
    /// shorter. After all data shards, in whatever order, the rows are the parity shards.
    ///
    /// # Panics
    ///
    /// If `index` is not a data shard or `sums` has another number of rows than there are parity
    /// shards.
    pub fn add_data(&self, index: usize, shard: &[u8], sums: &mut Rows) {
        // invariant: the group gives its own places and rows; there is a column for each.
        assert!(index < self.data && sums.count == self.parity);
        sums.grow(shard.len());
        let column = &self.columns[index * self.parity..][..self.parity];
        sums.add_products(self.kernel, column, shard);
    }

    /// Adds a received parity shard to its row.
    ///
    /// # Panics
    ///
    /// If `index` is not a parity shard of this code or `sums` has not this code's rows.
    pub fn add_parity(&self, index: usize, shard: &[u8], sums: &mut Rows) {
        // invariant: the group gives its own places and rows.
        assert!(index < self.parity && sums.count == self.parity);
        sums.grow(shard.len());
        for (sum, byte) in sums.row_mut(index).iter_mut().zip(shard) {
            *sum ^= byte;
        }
    }

    /// Finds the `missing` data shards from the rows `parity` of `sums`, to which all other data
    /// shards and those parity shards have been added. The rows of the answer are in the order of
    /// `missing` and as long as those of `sums`, so they end in the zeros their shards were
    /// padded with.
    ///
    /// # Panics
    ///
    /// If `missing` and `parity` differ in length or name shards that do not exist.
    pub fn recover(&self, missing: &[usize], parity: &[usize], sums: &Rows) -> Rows {
        // invariant: the group names places of its own, as many of each.
        assert_eq!(missing.len(), parity.len(), "one parity row per shard");
        assert!(missing.iter().all(|index| *index < self.data));
        assert!(parity.iter().all(|index| *index < self.parity));

        // By linearity the sums are the parity of a group that has zeros for every data shard but
        // the missing: interpolate from those zeros, which need no adding, and the sums.
        let zeros = (0..self.data).filter(|index| !missing.contains(index));
        let chosen = parity.iter().map(|index| self.data + index);
        let known: Vec<u8> = chosen.chain(zeros).map(point).collect();
        let wanted: Vec<u8> = missing.iter().copied().map(point).collect();
        let columns = interpolation(&known, 0..parity.len(), &wanted);

        let mut shards = Rows::new(missing.len(), 0);
        shards.grow(sums.len);
        for (index, column) in parity.iter().zip(columns.chunks(wanted.len())) {
            shards.add_products(self.kernel, column, sums.row(*index));
        }
        shards
    }
}

/// Rows of equal length in one buffer, all zeros at first; before each row some room for a header.
#[derive(Debug, Clone, Default)]
pub struct Rows {
    bytes: Vec<u8>,
    count: usize,
    front: usize,
    len: usize,
}

impl Rows {
    /// `count` empty rows, with `front` bytes of room before each. Allocates nothing yet.
    pub fn new(count: usize, front: usize) -> Self {
        Self {
            bytes: Vec::new(),
            count,
            front,
            len: 0,
        }
    }

    /// Number of rows.
    pub fn count(&self) -> usize {
        self.count
    }

    /// Length of each row in bytes.
    pub fn row_len(&self) -> usize {
        self.len
    }

    /// Bytes held on the heap.
    pub fn heap_size(&self) -> usize {
        self.bytes.capacity()
    }

    /// Row `index`.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn row(&self, index: usize) -> &[u8] {
        // invariant: callers count the rows; there are as many of one length.
        assert!(index < self.count);
        &self.bytes[index * self.stride() + self.front..][..self.len]
    }

    /// Row `index` together with the room before it.
    ///
    /// # Panics
    ///
    /// If there is no such row.
    pub fn framed_mut(&mut self, index: usize) -> &mut [u8] {
        // invariant: callers count the rows; there are as many of one length.
        assert!(index < self.count);
        let stride = self.stride();
        &mut self.bytes[index * stride..][..stride]
    }

    /// All rows, each with the room before it, back to back.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Bytes from one row to the next.
    pub fn stride(&self) -> usize {
        self.front + self.len
    }

    fn row_mut(&mut self, index: usize) -> &mut [u8] {
        let front = self.front;
        // invariant: a row is not shorter than the room before it.
        &mut self.framed_mut(index)[front..]
    }

    /// Lengthens the rows with zeros to `len`; does nothing if they are that long.
    fn grow(&mut self, len: usize) {
        if len <= self.len {
            return;
        }
        let old = self.stride();
        self.len = len;
        let new = self.stride();
        let size = self.count * new;
        self.bytes.reserve_exact(size - self.bytes.len());
        self.bytes.resize(size, 0);
        // Backwards, so that no row is overwritten before it has moved.
        for index in (0..self.count).rev() {
            self.bytes
                .copy_within(index * old..(index + 1) * old, index * new);
            // invariant: there are `count` rows of the new length now.
            self.bytes[index * new + old..(index + 1) * new].fill(0);
        }
    }

    fn add_products(&mut self, kernel: Kernel, factors: &[u8], source: &[u8]) {
        let stride = self.stride();
        if let Some(rows) = self.bytes.get_mut(self.front..) {
            kernel.add_products(factors, source, rows, stride);
        }
    }
}

/// Where shard `index` of a group lies on the polynomial.
fn point(index: usize) -> u8 {
    u8::try_from(index).expect("a code has at most 256 shards")
}

/// Lagrange's coefficients of interpolation from the points `known` (distinct) to the points
/// `wanted` (none of them known): for each of the known points that `of` selects, one after the
/// other, its coefficient at all wanted points.
fn interpolation(known: &[u8], of: std::ops::Range<usize>, wanted: &[u8]) -> Vec<u8> {
    let differences = |x: u8| {
        let others = known.iter().filter(|other| **other != x);
        others.fold(1, |product, other| gf256::mul(product, x ^ other))
    };
    let at_wanted: Vec<u8> = wanted.iter().map(|x| differences(*x)).collect();
    let mut coefficients = Vec::with_capacity(of.len() * wanted.len());
    // invariant: callers select among those that they give.
    for x in &known[of] {
        let at_known = differences(*x);
        coefficients.extend(
            wanted
                .iter()
                .zip(&at_wanted)
                .map(|(y, at)| gf256::div(*at, gf256::mul(x ^ y, at_known))),
        );
    }
    coefficients
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(data: usize, parity: usize) -> ReedSolomon {
        ReedSolomon::new(Shape::new(data, parity).unwrap())
    }

    fn rows_equal_oracle(data: usize, parity: usize, len: usize) {
        let shards = group(data, len);
        let code = code(data, parity);
        let mut sums = Rows::new(parity, 0);
        for (index, shard) in shards.iter().enumerate() {
            code.add_data(index, shard, &mut sums);
        }
        for (index, expected) in oracle(&shards, parity).iter().enumerate() {
            assert_eq!(sums.row(index), expected, "{data}+{parity} × {len}");
        }
    }

    #[test]
    fn parity_is_that_of_the_oracle_in_every_shape_to_20_10() {
        for data in 1..=20 {
            for parity in 1..=10 {
                rows_equal_oracle(data, parity, 1 + (data * 31 + parity * 17) % 97);
            }
        }
    }

    #[test]
    fn parity_is_that_of_the_oracle_at_odd_lengths() {
        for len in (1..70).chain([127, 129, 255, 511, 999, 1399, 1401, 1500]) {
            rows_equal_oracle(3, 2, len);
        }
        for (data, parity) in [(1, 1), (2, 1), (10, 3), (20, 10)] {
            rows_equal_oracle(data, parity, 1500);
        }
        for (data, parity) in [(60, 1), (1, 255), (60, 196)] {
            rows_equal_oracle(data, parity, 9);
        }
    }

    #[test]
    fn shorter_shards_count_as_padded_with_zeros_and_order_does_not_matter() {
        let lens = [5, 40, 1, 33, 0, 70];
        let mut shards: Vec<Vec<u8>> = group(6, 70);
        for (shard, len) in shards.iter_mut().zip(lens) {
            shard[len..].fill(0);
        }
        let expected = oracle(&shards, 4);
        let code = code(6, 4);
        let mut sums = Rows::new(4, 6);
        for index in [2, 0, 3, 1, 5, 4] {
            code.add_data(index, &shards[index][..lens[index]], &mut sums);
        }
        for (index, expected) in expected.iter().enumerate() {
            assert_eq!(sums.row(index), expected);
        }
    }

    #[test]
    fn every_loss_of_small_shapes_is_recovered() {
        for data in 1..=5usize {
            for parity in 1..=4usize {
                for kept in 0u32..1 << (data + parity) {
                    if kept.count_ones() as usize >= data {
                        recovers(data, parity, 35, |index| kept >> index & 1 == 1);
                    }
                }
            }
        }
    }

    #[test]
    fn random_losses_of_large_shapes_are_recovered() {
        let mut state = 7u32;
        let mut random = |below: usize| {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (state >> 8) as usize % below
        };
        for (data, parity) in [(10, 3), (20, 10), (128, 128), (250, 6)] {
            for _ in 0..6 {
                let mut kept = vec![true; data + parity];
                for _ in 0..parity {
                    kept[random(data + parity)] = false;
                }
                recovers(data, parity, 50, |index| kept[index]);
            }
            recovers(data, parity, 50, |index| index >= parity);
        }
    }

    #[test]
    fn a_growing_buffer_keeps_its_rows() {
        let mut rows = Rows::new(3, 2);
        for len in [1, 2, 5, 30] {
            let before: Vec<Vec<u8>> = (0..3)
                .map(|row| match rows.row_len() {
                    0 => Vec::new(),
                    _ => rows.row(row).to_vec(),
                })
                .collect();
            rows.grow(len);
            for (index, mut expected) in before.into_iter().enumerate() {
                expected.resize(len, 0);
                assert_eq!(rows.row(index), expected);
                rows.row_mut(index).fill(index as u8 + 1);
            }
        }
        assert_eq!(rows.as_bytes().len(), 3 * 32);
    }

    fn recovers(data: usize, parity: usize, len: usize, kept: impl Fn(usize) -> bool) {
        let shards = group(data, len);
        let code = code(data, parity);
        let mut all = Rows::new(parity, 0);
        let mut sums = Rows::new(parity, 0);
        for (index, shard) in shards.iter().enumerate() {
            code.add_data(index, shard, &mut all);
            if kept(index) {
                code.add_data(index, shard, &mut sums);
            }
        }
        let missing: Vec<usize> = (0..data).filter(|index| !kept(*index)).collect();
        let rows = (0..parity).filter(|index| kept(data + index));
        let rows: Vec<usize> = rows.take(missing.len()).collect();
        for index in &rows {
            code.add_parity(*index, all.row(*index), &mut sums);
        }
        if missing.is_empty() {
            return;
        }
        let found = code.recover(&missing, &rows, &sums);
        for (row, index) in missing.iter().enumerate() {
            assert_eq!(found.row(row), shards[*index], "{data}+{parity}");
        }
    }

    fn group(data: usize, len: usize) -> Vec<Vec<u8>> {
        let byte =
            |shard: usize, at: usize| (((shard + 3) * (at + 11) * 2_654_435_761) >> 13) as u8;
        let shard = |shard| (0..len).map(|at| byte(shard, at)).collect();
        (0..data).map(shard).collect()
    }

    fn oracle(shards: &[Vec<u8>], parity: usize) -> Vec<Vec<u8>> {
        use reed_solomon_erasure::galois_8::ReedSolomon;
        let code = ReedSolomon::new(shards.len(), parity).unwrap();
        let mut sums = vec![vec![0; shards[0].len()]; parity];
        code.encode_sep(shards, &mut sums).unwrap();
        sums
    }
}
