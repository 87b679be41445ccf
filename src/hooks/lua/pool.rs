//! The threads that run scripts.
//!
//! Each worker has interpreters of its own. The calls of a script wait in a line of its own, and
//! lines are served in turn. A script gets a further worker only while more are left than it has:
//! alone it may have half of them, with others as busy an equal part, and who comes next always
//! finds one.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cache::Cache;

/// From when on a call counts as slow, and whoever waits for its turn begins to look after it.
const PATIENCE: Duration = Duration::from_millis(5);

/// How long a call waits for its turn even if its own limit is shorter: who waits has done nothing
/// wrong, and a session that comes in late is better than one that is turned away.
const QUEUED: Duration = Duration::from_secs(1);

/// The interpreter's own recursion limits (200 nested C calls) stay well within this.
const STACK: usize = 4 * 1024 * 1024;

/// Worker threads for scripts, shared by all hooks of a gateway.
///
/// Threads are started when calls come, and end when the pool and all its scripts are gone.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// What a [`Pool`] is doing and has done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Threads that are alive, whatever they do.
    pub workers: usize,
    /// Calls that wait for a worker.
    pub queued: usize,
    /// Calls that are being run.
    pub running: usize,
    /// Those that have been for more than 5 ms.
    pub slow: usize,
    /// Those that are far past their limit and have not ended.
    pub stuck: usize,
    /// Calls that ended far past their limit, ever, and those that have not ended.
    pub stuck_ever: u64,
    /// Interpreters that are alive.
    pub vms: usize,
    /// Calls answered, well or not.
    pub calls: u64,
    /// Calls that gave no answer.
    pub errors: u64,
}

/// Why work came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It was not begun in time.
    Overloaded,
    /// It did not end in time, and may still.
    Stuck,
    /// It panicked.
    Died,
}

/// Whose work it is, and how long it may take.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) script: u64,
    /// By the wall clock.
    pub(super) limit: Duration,
}

impl Order {
    /// How long after its beginning the work has ended for sure, but for a single instruction that
    /// takes long.
    fn end(&self) -> Duration {
        self.limit * 2 + QUEUED
    }
}

impl Pool {
    /// A pool of at most so many threads; at least two.
    pub fn new(workers: usize) -> Arc<Self> {
        let shared = Shared {
            size: workers.max(2),
            state: Mutex::default(),
            quiet: Condvar::new(),
            vms: Arc::default(),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        };
        Arc::new(Self {
            shared: Arc::new(shared),
        })
    }

    /// A pool of two threads for each processor, so that one script can have all processors.
    pub fn per_processor() -> Arc<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::new((2 * processors).max(4))
    }

    /// What it is doing and has done.
    pub fn stats(&self) -> Stats {
        let shared = &self.shared;
        let state = shared.lock();
        let running = || state.workers.iter().filter_map(|it| it.running.as_ref());
        let stuck = running().filter(|running| running.is_stuck()).count();
        Stats {
            workers: state.workers.len(),
            queued: state.lines.values().map(|line| line.waiting.len()).sum(),
            running: state.busy,
            slow: running()
                .filter(|running| running.since.elapsed() > PATIENCE)
                .count(),
            stuck,
            stuck_ever: state.stuck_ever + stuck as u64,
            vms: shared.vms.load(Ordering::Relaxed),
            calls: shared.calls.load(Ordering::Relaxed),
            errors: shared.errors.load(Ordering::Relaxed),
        }
    }

    /// Blocks until no call waits or runs and what dropped scripts left is freed, or until
    /// `timeout` is over; says whether it is quiet.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        let mut state = self.shared.lock();
        state.watchers += 1;
        let busy = |state: &mut State| !state.is_quiet();
        let waited = self.shared.quiet.wait_timeout_while(state, timeout, busy);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.watchers -= 1;
        !result.timed_out()
    }

    /// Runs work on a worker. Dropping the future drops work that has not begun.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        order: Order,
        work: impl FnOnce(&mut Cache, oneshot::Sender<R>) + Send + 'static,
    ) -> Result<R, Lost> {
        let (reply, mut answer) = oneshot::channel();
        let work = Box::new(move |cache: &mut Cache| work(cache, reply));
        let submitted = Instant::now();
        let place = Place {
            shared: &self.shared,
            script: order.script,
            job: Shared::submit(&self.shared, order, work),
        };
        let mut begun = false;
        let mut due = submitted + order.limit.max(QUEUED);
        let mut look = submitted + PATIENCE;
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => return answered.map_err(|_| Lost::Died),
                () = tokio::time::sleep_until(look.into()) => {}
            }
            // Real time, also where a test has stopped the runtime's clock; ever more seldom, as
            // not to let all of it pass at once there.
            let now = Instant::now();
            if !begun && !place.waits() {
                begun = true;
                due = now + order.end();
            }
            if now >= due {
                if begun {
                    return Err(Lost::Stuck);
                } else if place.leave() {
                    return Err(Lost::Overloaded);
                }
            }
            look = due
                .max(now + PATIENCE)
                .min(now + (now - submitted).max(PATIENCE));
        }
    }

    /// Runs work on a thread of its own and waits for it.
    pub(super) fn run_apart<R: Send>(work: impl FnOnce() -> R + Send) -> Result<R, Lost> {
        thread::scope(|scope| {
            let builder = thread::Builder::new()
                .name("lua-load".to_owned())
                .stack_size(STACK);
            let thread = builder.spawn_scoped(scope, work).map_err(|error| {
                tracing::warn!(%error, "cannot start a thread to load a script");
                Lost::Overloaded
            })?;
            thread.join().map_err(|_| Lost::Died)
        })
    }

    /// Has all workers free the interpreters of scripts that are gone.
    pub(super) fn sweep(&self) {
        let mut state = self.shared.lock();
        state.epoch += 1;
        state.wake_all();
    }

    /// Counts an answer.
    pub(super) fn count(&self, error: bool) {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        if error {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of interpreters that are alive.
    pub(super) fn live_vms(&self) -> &Arc<AtomicUsize> {
        &self.shared.vms
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closing = true;
        state.turns.clear();
        let lines = std::mem::take(&mut state.lines);
        state.wake_all();
        drop(state);
        // Dropping work may free a script, which takes the lock.
        drop(lines);
    }
}

type Work = Box<dyn FnOnce(&mut Cache) + Send>;

/// What a pool and its workers share.
struct Shared {
    size: usize,
    state: Mutex<State>,
    /// Watchers wait here for the pool to be quiet.
    quiet: Condvar,
    vms: Arc<AtomicUsize>,
    calls: AtomicU64,
    errors: AtomicU64,
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    /// By script: those that have calls.
    lines: HashMap<u64, Line>,
    /// The scripts that have calls that wait, in the order of their turns.
    turns: VecDeque<u64>,
    workers: Vec<Worker>,
    /// Workers that wait for work; the last was busy last.
    idle: Vec<usize>,
    /// Workers that run a call.
    busy: usize,
    stuck_ever: u64,
    /// Counts scripts that are gone.
    epoch: u64,
    /// The number of the next job.
    next: u64,
    watchers: usize,
    closing: bool,
}

/// The calls of a script.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Job>,
    running: usize,
}

struct Job {
    id: u64,
    order: Order,
    work: Work,
}

struct Worker {
    thread: Thread,
    running: Option<Running>,
    /// The epoch of its last sweep.
    swept: u64,
}

struct Running {
    order: Order,
    since: Instant,
}

/// The place of a call in its line, given up when dropped.
struct Place<'a> {
    shared: &'a Shared,
    script: u64,
    job: u64,
}

impl Place<'_> {
    /// Whether the call has not begun.
    fn waits(&self) -> bool {
        let state = self.shared.lock();
        let line = state.lines.get(&self.script);
        line.is_some_and(|line| line.position(self.job).is_some())
    }

    /// Gives it up; says whether the call had not begun.
    fn leave(&self) -> bool {
        let mut state = self.shared.lock();
        let job = state.remove(self.script, self.job);
        drop(state);
        // Dropping work may free a script, which takes the lock.
        job.is_some()
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts work at the end of its line; gives its number.
    fn submit(this: &Arc<Self>, order: Order, work: Work) -> u64 {
        let mut state = this.lock();
        state.next += 1;
        let id = state.next;
        let line = state.lines.entry(order.script).or_default();
        line.waiting.push_back(Job { id, order, work });
        if line.waiting.len() == 1 {
            state.turns.push_back(order.script);
        }
        Self::wake(this, &mut state);
        id
    }

    /// Has a worker come for a call that may be run, if there is one.
    fn wake(this: &Arc<Self>, state: &mut State) {
        if state.turn(this.size).is_none() {
            return;
        }
        if let Some(worker) = state.idle.pop() {
            // invariant: workers are numbered as they are added, and stay.
            state.workers[worker].thread.unpark();
        } else if state.workers.len() < this.size {
            let shared = this.clone();
            let me = state.workers.len();
            let spawned = thread::Builder::new()
                .name(format!("lua-{me}"))
                .stack_size(STACK)
                .spawn(move || Self::work(&shared, me));
            match spawned {
                Ok(handle) => state.workers.push(Worker {
                    thread: handle.thread().clone(),
                    running: None,
                    swept: state.epoch,
                }),
                Err(error) => tracing::warn!(%error, "cannot start a worker for scripts"),
            }
        }
    }

    /// The life of a worker.
    fn work(this: &Arc<Self>, me: usize) {
        let mut cache = Cache::default();
        while let Some(work) = Self::next(this, me, &mut cache) {
            if catch_unwind(AssertUnwindSafe(|| work(&mut cache))).is_err() {
                // The caller is told by its channel. What the interpreters are in is unknown.
                cache = Cache::default();
            }
        }
    }

    /// Ends the call that `me` ran and waits for its next one; `None` when there will be none.
    fn next(this: &Arc<Self>, me: usize, cache: &mut Cache) -> Option<Work> {
        let mut state = this.lock();
        state.finish(me);
        loop {
            if state.closing {
                return None;
            }
            // invariant: workers are numbered as they are added, and stay.
            if state.workers[me].swept != state.epoch {
                let epoch = state.epoch;
                drop(state);
                cache.sweep();
                state = this.lock();
                state.workers[me].swept = epoch;
                continue;
            }
            if let Some(work) = state.take(me, this.size) {
                // There may be more than one that could not be run before.
                Self::wake(this, &mut state);
                return Some(work);
            }
            state.idle.push(me);
            if state.watchers > 0 && state.is_quiet() {
                this.quiet.notify_all();
            }
            drop(state);
            thread::park();
            state = this.lock();
            state.idle.retain(|&worker| worker != me);
        }
    }
}

impl Line {
    /// Where a call waits; their numbers go up.
    fn position(&self, job: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&job, |it| it.id).ok()
    }
}

impl State {
    /// Whose turn it is, as an index of `turns`.
    fn turn(&self, size: usize) -> Option<usize> {
        let free = size - self.busy;
        self.turns
            .iter()
            // invariant: who has a turn has a line.
            .position(|script| self.lines[script].running < free)
    }

    /// Takes the next call for a worker.
    fn take(&mut self, worker: usize, size: usize) -> Option<Work> {
        let script = self.turns.remove(self.turn(size)?)?;
        let line = self.lines.get_mut(&script)?;
        let job = line.waiting.pop_front()?;
        line.running += 1;
        if !line.waiting.is_empty() {
            self.turns.push_back(script);
        }
        self.busy += 1;
        // invariant: workers are numbered as they are added, and stay.
        self.workers[worker].running = Some(Running {
            order: job.order,
            since: Instant::now(),
        });
        Some(job.work)
    }

    /// Notes that a worker has ended its call.
    fn finish(&mut self, worker: usize) {
        // invariant: workers are numbered as they are added, and stay.
        let Some(running) = self.workers[worker].running.take() else {
            return;
        };
        self.busy -= 1;
        self.stuck_ever += u64::from(running.is_stuck());
        let script = running.order.script;
        if let Some(line) = self.lines.get_mut(&script) {
            line.running -= 1;
            if line.running == 0 && line.waiting.is_empty() {
                self.lines.remove(&script);
            }
        }
    }

    /// Takes a call that waits out of its line.
    fn remove(&mut self, script: u64, job: u64) -> Option<Job> {
        let line = self.lines.get_mut(&script)?;
        let at = line.position(job)?;
        let job = line.waiting.remove(at);
        if line.waiting.is_empty() {
            self.turns.retain(|&it| it != script);
            if line.running == 0 {
                self.lines.remove(&script);
            }
        }
        job
    }

    fn wake_all(&mut self) {
        for worker in self.idle.drain(..) {
            // invariant: workers are numbered as they are added, and stay.
            self.workers[worker].thread.unpark();
        }
    }

    fn is_quiet(&self) -> bool {
        let swept = |worker: &Worker| worker.swept == self.epoch;
        self.busy == 0 && self.turns.is_empty() && self.workers.iter().all(swept)
    }
}

impl Running {
    /// Whether it has run for much longer than it may.
    fn is_stuck(&self) -> bool {
        self.since.elapsed() > self.order.end()
    }
}
