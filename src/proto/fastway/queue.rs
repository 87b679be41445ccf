//! What waits to be written to an endpoint.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;

/// What a chunk costs besides its bytes: its place, and what keeps its memory.
pub const CHUNK_COST: usize = 192;

/// Chunks taken at once, at most.
pub const BATCH: usize = 64;

/// Bytes of them, unless the first alone has more.
const BATCH_BYTES: usize = 256 * 1024;

/// With more bytes in the queue, chunks up to [`COPIED`] are copied: they may be small parts of the
/// memory that they were read into, which would stay as long as they do.
const COPIED_BEHIND: usize = 64 * 1024;
const COPIED: usize = 16 * 1024;

/// How much may wait in a queue.
#[derive(Debug, Clone)]
pub struct Bounds {
    /// Chunks.
    pub chunks: usize,
    /// Bytes, with [`CHUNK_COST`] for each chunk.
    pub bytes: usize,
    /// What the queue has in common with others.
    pub pool: Arc<Pool>,
    /// Bytes in all queues of the pool.
    pub pool_bytes: usize,
}

/// What all queues hold that have it in common, bytes.
#[derive(Debug, Default)]
pub struct Pool(AtomicUsize);

/// Chunks of frames in the order in which they are to be written, and what they cost.
///
/// A queue is [full](Self::is_full) with its own bytes or, when its pool runs out, with as many as
/// the pool has left: then the longest are full first, and each of a few gets its share. Who keeps
/// to that, and [pushes](Self::push) only to one that is not full, exceeds either bound by one
/// chunk at most. What was [taken](Self::take) last counts until more is taken.
#[derive(Debug)]
pub struct Queue {
    chunks: VecDeque<Bytes>,
    bounds: Bounds,
    bytes: usize,
    taken: usize,
}

impl Pool {
    /// Bytes in all of its queues.
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

    /// Puts a chunk at the end, whatever is there.
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

    /// Adds chunks from the front to `batch`. What was taken before has been written.
    pub fn take(&mut self, batch: &mut VecDeque<Bytes>) {
        self.give_back(self.taken);
        self.taken = 0;
        let mut count = 0;
        while count < BATCH && self.taken < BATCH_BYTES {
            let Some(chunk) = self.chunks.pop_front() else {
                // A burst may have made it large.
                self.chunks.shrink_to(BATCH);
                break;
            };
            count += 1;
            self.taken += cost(&chunk);
            batch.push_back(chunk);
        }
    }

    /// Whether it should be given nothing that can wait. An empty one is never full.
    pub fn is_full(&self) -> bool {
        self.bytes > 0 && self.bytes >= self.threshold()
    }

    /// Whether it has come down so far that it should be given more: to half of what makes it full.
    pub fn is_low(&self) -> bool {
        self.bytes == 0 || self.bytes <= self.threshold() / 2
    }

    /// Chunks that wait, without those taken last.
    pub fn len(&self) -> usize {
        self.chunks.len()
    }

    /// Whether none waits.
    pub fn is_empty(&self) -> bool {
        self.chunks.is_empty()
    }

    /// What they and those taken last cost.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How many chunks it should hold at most.
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
