//! Write queue of an endpoint.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// Overhead charged for each chunk, bytes: its place in the queue and the allocation it holds.
pub const CHUNK_COST: usize = 192;

/// Limit of chunks taken at once.
pub const BATCH: usize = 64;

/// Limit of bytes taken at once, unless the first chunk alone has more.
const BATCH_BYTES: usize = 256 * 1024;

/// Size of the queue from which chunks up to [`COPIED`] are copied, bytes.
///
/// Such chunks may be small parts of a read buffer, which they would keep allocated.
const COPIED_BEHIND: usize = 64 * 1024;
const COPIED: usize = 16 * 1024;

/// Limits of a queue.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Limit of chunks.
    pub chunks: usize,
    /// Limit of bytes, with [`CHUNK_COST`] for each chunk.
    pub bytes: usize,
    /// Pool that the queue shares with others.
    pub pool: Arc<Pool>,
    /// Limit of bytes in all queues of the pool.
    pub pool_bytes: usize,
}

/// Total of bytes in all queues that share the pool.
#[derive(Debug, Default)]
pub struct Pool(AtomicUsize);

/// Queue of chunks of frames in the order of writing, with their cost in bytes.
///
/// A queue is [full](Self::is_full) at its own limit of bytes or, when its pool runs out, at as
/// many bytes as the pool has left. So the longest queues are full first, and each of a few gets
/// its share. A caller that only [pushes](Self::push) to queues that are not full exceeds either
/// limit by one chunk at most. Chunks [taken](Self::take) last count until more are taken.
#[derive(Debug)]
pub struct Queue {
    chunks: VecDeque<Bytes>,
    bounds: Bounds,
    bytes: usize,
    taken: usize,
}

impl Pool {
    /// Returns the bytes in all queues of the pool.
    pub fn bytes(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Queue {
    pub fn new(bounds: Bounds) -> Self {
        Self {
            chunks: VecDeque::new(),
            bounds,
            bytes: 0,
            taken: 0,
        }
    }

    /// Queues a chunk, even beyond the limits.
    pub fn push(&mut self, chunk: Bytes) {
        let chunk = match self.bytes >= COPIED_BEHIND && chunk.len() <= COPIED {
            true => Bytes::copy_from_slice(&chunk),
            false => chunk,
        };
        let cost = cost(&chunk);
        self.bytes += cost;
        self.bounds.pool.0.fetch_add(cost, Ordering::Relaxed);
        self.chunks.push_back(chunk);
    }

    /// Moves chunks from the front to `batch`; those taken before have been written.
    pub fn take(&mut self, batch: &mut VecDeque<Bytes>) {
        self.give_back(self.taken);
        self.taken = 0;
        let mut count = 0;
        while count < BATCH && self.taken < BATCH_BYTES {
            let Some(chunk) = self.chunks.pop_front() else {
                // A burst may have grown the queue.
                self.chunks.shrink_to(BATCH);
                break;
            };
            count += 1;
            self.taken += cost(&chunk);
            batch.push_back(chunk);
        }
    }

    /// Returns whether the queue should get no more chunks that can wait.
    ///
    /// An empty queue is never full.
    pub fn is_full(&self) -> bool {
        self.bytes > 0 && self.bytes >= self.threshold()
    }

    /// Returns whether the queue is down to half of the bytes that make it full, and should get
    /// more.
    pub fn is_low(&self) -> bool {
        self.bytes == 0 || self.bytes <= self.threshold() / 2
    }

    /// Returns the number of waiting chunks, without those taken last.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Returns whether no chunk waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// Returns the cost of the waiting chunks and those taken last, bytes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Returns the limit of chunks.
    pub fn limit(&self) -> usize {
        self.bounds.chunks
    }

    fn threshold(&self) -> usize {
        let left = self
            .bounds
            .pool_bytes
            .saturating_sub(self.bounds.pool.bytes());
        self.bounds.bytes.min(left)
    }

    fn give_back(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.bounds.pool.0.fetch_sub(bytes, Ordering::Relaxed);
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.give_back(self.bytes);
    }
}

fn cost(chunk: &Bytes) -> usize {
    CHUNK_COST + chunk.len()
}
