//! Worker pool: the threads that run scripts.
//!
//! Each worker has interpreters of its own. The calls of a script wait in a queue of the script,
//! and queues are served in turn. A script gets a further worker only while more workers are free
//! than the script has. So a script alone gets half of the workers, scripts that are equally busy
//! get equal parts, and the next script always finds a free worker.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, Thread};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::cache::Cache;

/// Threshold of slow calls, and the first interval at which a waiting call looks for its turn.
const PATIENCE: Duration = Duration::from_millis(5);

/// Queue timeout: a call may wait longer than its own limit, because late beats denied.
const QUEUED: Duration = Duration::from_secs(1);

/// Stack size of a thread. The interpreter's own recursion limits (200 nested C calls) stay well
/// within it.
const STACK: usize = 4 * 1024 * 1024;

/// Worker pool for scripts, shared by all hooks of a gateway.
///
/// Threads are started when calls come, and end when the pool and all its scripts are gone.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// Statistics of a [`Pool`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stats {
    /// Threads that are alive, busy or not.
    pub workers: usize,
    /// Calls that wait for a worker.
    pub queued: usize,
    /// Calls that are being run.
    pub running: usize,
    /// Running calls that have run for more than 5 ms.
    pub slow: usize,
    /// Running calls that are far past their limit.
    pub stuck: usize,
    /// Calls that have ever been far past their limit, ended or not.
    pub stuck_ever: u64,
    /// Interpreters that are alive.
    pub vms: usize,
    /// Calls that ended, with an answer or an error.
    pub calls: u64,
    /// Calls that ended with an error.
    pub errors: u64,
}

/// Reason why work gave no result.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// Overload: the work was not begun in time.
    Overloaded,
    /// Stuck work: it did not end in time, and may still run.
    Stuck,
    /// Panic of the work.
    Died,
}

/// Order of work: the script and the limit.
#[derive(Debug, Clone, Copy)]
pub(super) struct Order {
    pub(super) script: u64,
    /// Limit in wall-clock time.
    pub(super) limit: Duration,
}

impl Order {
    /// Returns how long after its beginning the work has surely ended, unless a single instruction
    /// takes long.
    fn end(&self) -> Duration {
        self.limit * 2 + QUEUED
    }
}

impl Pool {
    /// Creates a pool of at most `workers` threads; at least two.
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

    /// Creates a pool of two threads for each processor, so that one script can have all
    /// processors.
    pub fn per_processor() -> Arc<Self> {
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Self::new((2 * processors).max(4))
    }

    /// Returns the pool's statistics.
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

    /// Blocks until the pool is quiet or `timeout` is over, and returns whether it is quiet.
    ///
    /// A pool is quiet when no call waits or runs and the interpreters of dropped scripts are
    /// freed.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        let mut state = self.shared.lock();
        state.watchers += 1;
        let busy = |state: &mut State| !state.is_quiet();
        let waited = self.shared.quiet.wait_timeout_while(state, timeout, busy);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.watchers -= 1;
        !result.timed_out()
    }

    /// Runs work on a worker.
    ///
    /// Dropping the future drops work that has not begun.
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
            // Reads the system's clock, also where a test has stopped the runtime's clock. The
            // intervals grow, so that a stopped clock does not let all of the time pass at once.
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

    /// Runs work on a thread of its own and waits for the result.
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

    /// Makes all workers free the interpreters of scripts that are gone.
    pub(super) fn sweep(&self) {
        let mut state = self.shared.lock();
        state.epoch += 1;
        state.wake_all();
    }

    /// Counts an answer, or an error.
    pub(super) fn count(&self, error: bool) {
        self.shared.calls.fetch_add(1, Ordering::Relaxed);
        if error {
            self.shared.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Returns the count of interpreters that are alive.
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

/// State that a pool and its workers share.
struct Shared {
    size: usize,
    state: Mutex<State>,
    /// Signal to watchers that the pool is quiet.
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
    /// Queues of the scripts that have calls, by script.
    lines: HashMap<u64, Line>,
    /// Scripts that have waiting calls, in the order of their turns.
    turns: VecDeque<u64>,
    workers: Vec<Worker>,
    /// Workers that wait for work; the last one was busy last.
    idle: Vec<usize>,
    /// Number of workers that run a call.
    busy: usize,
    stuck_ever: u64,
    /// Number of scripts that are gone.
    epoch: u64,
    /// Number of the last job.
    next: u64,
    watchers: usize,
    closing: bool,
}

/// Queue of a script's calls.
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
    /// Epoch of the worker's last sweep.
    swept: u64,
}

struct Running {
    order: Order,
    since: Instant,
}

/// Place of a call in its queue, given up when dropped.
struct Place<'a> {
    shared: &'a Shared,
    script: u64,
    job: u64,
}

impl Place<'_> {
    /// Returns whether the call still waits.
    fn waits(&self) -> bool {
        let state = self.shared.lock();
        let line = state.lines.get(&self.script);
        line.is_some_and(|line| line.position(self.job).is_some())
    }

    /// Gives the place up, and returns whether the call still waited.
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

    /// Puts work at the end of its script's queue, and returns the job's number.
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

    /// Wakes or starts a worker, if a call may be run.
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

    /// Runs the calls of a worker until the pool closes.
    fn work(this: &Arc<Self>, me: usize) {
        let mut cache = Cache::default();
        while let Some(work) = Self::next(this, me, &mut cache) {
            if catch_unwind(AssertUnwindSafe(|| work(&mut cache))).is_err() {
                // The caller learns it from the closed channel. The interpreters may be in any
                // state.
                cache = Cache::default();
            }
        }
    }

    /// Ends the call that `me` ran and waits for its next one; `None` when the pool closes.
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
                // The end of a call may let more than one waiting call run.
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
    /// Returns where a call waits in the queue; the numbers of jobs go up.
    fn position(&self, job: u64) -> Option<usize> {
        self.waiting.binary_search_by_key(&job, |it| it.id).ok()
    }
}

impl State {
    /// Returns the script whose turn it is, as an index of `turns`.
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

    /// Removes a waiting call from its queue.
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
    /// Returns whether the call has run for much longer than its limit.
    fn is_stuck(&self) -> bool {
        self.since.elapsed() > self.order.end()
    }
}
