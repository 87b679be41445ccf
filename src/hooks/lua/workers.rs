//! The threads that run scripts, from their own side and that of their overseers.
//!
//! A few workers share one queue. A call that is slow may be one that never ends, and native
//! code, such as pattern matching, cannot be interrupted at all; so whoever waits for a call
//! looks after it from time to time ([`Inner::inspect`]):
//!
//! ```text
//!  queued ──► running ── 5 ms ──► slow: another worker takes ── 1.5 × limit ──► given up:
//!               │                 its place; idle priority                       the caller gets
//!               │                 once it is seen to compute                     an error
//!               ▼                        │                                           │
//!            answered ◄──────────────────┴────────── (a lowered worker ends) ◄───────┘
//! ```
//!
//! Only computing lowers a worker: on a machine that is busy otherwise a good call may take
//! long, and with idle priority it would take for ever.
//!
//! No thread wakes up while there is nothing to do.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::pool::Stats;
use super::script::Cache;
use super::thread::Thread;

/// How long a call may take before another worker takes the place of its own.
pub(super) const PATIENCE: Duration = Duration::from_millis(5);

/// How long a call waits for a worker even if its own limit is shorter: who waits has done nothing
/// wrong, and a session that comes in late is better than one that is turned away.
const QUEUED: Duration = Duration::from_secs(1);

/// Most workers that may be slow or given up at once.
const MAX_SLOW: usize = 64;

/// The interpreter's own recursion limits (200 nested C calls) stay well within this.
const STACK: usize = 4 * 1024 * 1024;

/// Why work came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    /// It did not end in time; its worker was given up.
    Stuck,
    /// It was not begun: too much is slow.
    Overloaded,
    /// It panicked.
    Died,
}

/// What a worker is asked for, as logs name it.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) hook: Arc<str>,
    pub(super) what: &'static str,
    /// The time limit of the work itself.
    pub(super) limit: Duration,
    /// For how long it may compute before it has to give way to everything else.
    pub(super) priority: Duration,
}

type Work = Box<dyn FnOnce(&mut Cache) + Send>;

/// What a pool and its workers share.
pub(super) struct Inner {
    size: usize,
    state: Mutex<State>,
    /// Workers wait here for work.
    wake: Condvar,
    /// Watchers wait here for the pool to be quiet.
    quiet: Condvar,
    vms: Arc<AtomicUsize>,
    calls: AtomicU64,
    errors: AtomicU64,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner").finish_non_exhaustive()
    }
}

#[derive(Default)]
struct State {
    queue: VecDeque<Job>,
    workers: HashMap<u64, Worker>,
    /// Workers that wait for work.
    idle: usize,
    /// Workers that have not looked for work yet.
    starting: usize,
    /// Workers that take further work.
    regular: usize,
    /// Workers that others stand in for.
    slow: usize,
    stuck_ever: u64,
    /// Counts scripts that are gone.
    epoch: u64,
    /// Numbers for jobs and workers.
    next: u64,
    watchers: usize,
    closing: bool,
}

struct Job {
    id: u64,
    order: Order,
    work: Work,
}

#[derive(Default)]
struct Worker {
    thread: Option<Thread>,
    running: Option<Running>,
    slow: bool,
    lowered: bool,
    stuck: bool,
    /// The epoch of its last sweep.
    swept: u64,
}

struct Running {
    job: u64,
    started: Instant,
    order: Order,
    /// What the thread had computed in all when the call was found to be slow.
    computed: Option<Duration>,
}

/// Names a job to [`Inner::inspect`].
#[derive(Clone, Copy)]
pub(super) struct Ticket {
    job: u64,
    pub(super) submitted: Instant,
    limit: Duration,
}

/// What became of a job.
pub(super) enum Outlook {
    /// Nothing yet; look again then.
    Look(Instant),
    /// Answered, or its work was dropped.
    Done,
    /// It will not be answered.
    Lost(Lost),
}

impl Inner {
    pub(super) fn new(size: usize) -> Arc<Self> {
        Arc::new(Self {
            size,
            state: Mutex::default(),
            wake: Condvar::new(),
            quiet: Condvar::new(),
            vms: Arc::default(),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        })
    }

    pub(super) fn stats(&self) -> Stats {
        let state = self.lock();
        Stats {
            workers: state.workers.len(),
            queued: state.queue.len(),
            running: state.running().count(),
            slow: state.slow,
            stuck: state.stuck(),
            stuck_ever: state.stuck_ever,
            vms: self.vms.load(Ordering::Relaxed),
            calls: self.calls.load(Ordering::Relaxed),
            errors: self.errors.load(Ordering::Relaxed),
        }
    }

    /// See [`Pool::wait_quiet`](super::Pool::wait_quiet).
    pub(super) fn wait_quiet(&self, timeout: Duration) -> bool {
        let mut state = self.lock();
        state.watchers += 1;
        let busy = |state: &mut State| !state.is_quiet();
        let waited = self.quiet.wait_timeout_while(state, timeout, busy);
        let (mut state, result) = waited.unwrap_or_else(PoisonError::into_inner);
        state.watchers -= 1;
        !result.timed_out()
    }

    /// Has all workers free the interpreters of scripts that are gone.
    pub(super) fn sweep(&self) {
        self.lock().epoch += 1;
        self.wake.notify_all();
    }

    /// Drops the work that waits and ends the workers.
    pub(super) fn close(&self) {
        let queue = {
            let mut state = self.lock();
            state.closing = true;
            std::mem::take(&mut state.queue)
        };
        // Dropping work may free a script, which takes the lock.
        drop(queue);
        self.wake.notify_all();
    }

    /// Whether a worker is at a job.
    pub(super) fn is_running(&self, ticket: Ticket) -> bool {
        let state = self.lock();
        state.running().any(|running| running.job == ticket.job)
    }

    /// Counts an answer.
    pub(super) fn count(&self, error: bool) {
        self.calls.fetch_add(1, Ordering::Relaxed);
        if error {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of interpreters that are alive.
    pub(super) fn live_vms(&self) -> &Arc<AtomicUsize> {
        &self.vms
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Queues work, starting a worker for it if there may be another.
    pub(super) fn submit(this: &Arc<Self>, order: Order, work: Work) -> Result<Ticket, Lost> {
        let submitted = Instant::now();
        let limit = order.limit;
        let mut state = this.lock();
        if state.ready() <= state.queue.len() && state.regular < this.size {
            Self::start_worker(this, &mut state);
        }
        let hopeless = state.regular == 0
            || state.slow >= MAX_SLOW && state.ready() == 0 && state.all_slow(submitted);
        if hopeless {
            drop(state);
            return Err(Lost::Overloaded);
        }
        let job = state.number();
        state.queue.push_back(Job {
            id: job,
            order,
            work,
        });
        let wake = state.idle > 0;
        drop(state);
        if wake {
            this.wake.notify_one();
        }
        Ok(Ticket {
            job,
            submitted,
            limit,
        })
    }

    /// Says what became of a job, replaces workers that are slow and gives up those that are
    /// stuck, whosever job they run.
    pub(super) fn inspect(this: &Arc<Self>, ticket: Ticket, now: Instant) -> Outlook {
        let mut guard = this.lock();
        let state = &mut *guard;
        let mut given_up = Vec::new();
        let mut found_slow = false;
        let mut outlook = None;
        for worker in state.workers.values_mut() {
            let Some(running) = &mut worker.running else {
                continue;
            };
            let age = now.saturating_duration_since(running.started);
            if age >= PATIENCE && !worker.slow && state.slow < MAX_SLOW {
                worker.slow = true;
                state.slow += 1;
                state.regular -= 1;
                found_slow = true;
            }
            if worker.slow
                && !worker.lowered
                && let Some(thread) = &worker.thread
                && let Some(computed) = thread.computed()
            {
                let before = *running.computed.get_or_insert(computed);
                if computed.saturating_sub(before) >= running.order.priority {
                    thread.lower();
                    worker.lowered = true;
                }
            }
            let due = running.started + running.order.limit * 3 / 2;
            let mine = running.job == ticket.job;
            if now >= due && !worker.stuck {
                worker.stuck = true;
                state.stuck_ever += 1;
                given_up.push((running.order.clone(), age));
            }
            if mine {
                outlook = Some(if worker.stuck {
                    Outlook::Lost(Lost::Stuck)
                } else {
                    // Ever more seldom. Not only once: under a runtime whose clock a test has
                    // stopped, that would let all this time pass at once.
                    Outlook::Look(due.min(now + age.max(PATIENCE)))
                });
            }
        }
        // Who waits behind slow calls may be as slow: a worker for each, lest those at the end
        // wait once for each two before them.
        let wanted = if found_slow { MAX_SLOW } else { this.size };
        let waiting = state.queue.len().saturating_sub(state.ready());
        for _ in 0..waiting.min(wanted.saturating_sub(state.regular)) {
            Self::start_worker(this, state);
        }
        let mut dropped = None;
        let outlook = outlook.unwrap_or_else(|| {
            let Some(at) = state.queue.iter().position(|job| job.id == ticket.job) else {
                return Outlook::Done;
            };
            let due = ticket.submitted + ticket.limit.max(QUEUED);
            if now < due {
                return Outlook::Look(due.min(now + PATIENCE));
            }
            dropped = state.queue.remove(at);
            Outlook::Lost(Lost::Overloaded)
        });
        drop(guard);
        // Dropping work may free a script, which takes the lock.
        drop(dropped);
        for (order, age) in given_up {
            tracing::warn!(
                hook = %order.hook,
                call = order.what,
                running_for = ?age,
                "a script could not be stopped; its worker is given up"
            );
        }
        outlook
    }

    fn start_worker(this: &Arc<Self>, state: &mut State) {
        let id = state.number();
        let inner = this.clone();
        let spawned = thread::Builder::new()
            .name(format!("lua-{id}"))
            .stack_size(STACK)
            .spawn(move || inner.work(id));
        match spawned {
            Ok(_) => {
                let worker = Worker {
                    swept: state.epoch,
                    ..Worker::default()
                };
                state.workers.insert(id, worker);
                state.regular += 1;
                state.starting += 1;
            }
            Err(error) => tracing::warn!(%error, "cannot start a worker for scripts"),
        }
    }

    /// The life of a worker.
    fn work(&self, me: u64) {
        let mut cache = Cache::default();
        {
            let mut state = self.lock();
            state.starting -= 1;
            if let Some(worker) = state.workers.get_mut(&me) {
                worker.thread = Thread::current();
            }
        }
        while let Some(work) = self.next(me, &mut cache) {
            if catch_unwind(AssertUnwindSafe(|| work(&mut cache))).is_err() {
                // The caller is told by its channel. What the interpreters are in is unknown.
                cache = Cache::default();
            }
            cache.tidy();
        }
    }

    /// Ends the job that `me` ran and waits for its next one; `None` when there is none for it.
    fn next(&self, me: u64, cache: &mut Cache) -> Option<Work> {
        let mut state = self.lock();
        let worker = state.workers.get_mut(&me)?;
        worker.running = None;
        worker.stuck &= worker.lowered;
        if worker.slow && !worker.lowered {
            worker.slow = false;
            state.slow -= 1;
            state.regular += 1;
        }
        loop {
            let surplus = state.regular > self.size && state.queue.is_empty();
            let (epoch, ending) = (state.epoch, state.closing || surplus);
            let worker = state.workers.get_mut(&me)?;
            if worker.lowered {
                drop(state);
                // Counted as slow until its memory is freed.
                *cache = Cache::default();
                state = self.lock();
                state.slow -= 1;
                state.workers.remove(&me);
                self.tell(&state);
                return None;
            }
            if ending {
                state.regular -= 1;
                state.workers.remove(&me);
                self.tell(&state);
                return None;
            }
            if worker.swept != epoch {
                drop(state);
                cache.sweep();
                state = self.lock();
                state.workers.get_mut(&me)?.swept = epoch;
                continue;
            }
            if let Some(job) = state.queue.pop_front() {
                state.workers.get_mut(&me)?.running = Some(Running {
                    job: job.id,
                    started: Instant::now(),
                    order: job.order,
                    computed: None,
                });
                return Some(job.work);
            }
            state.idle += 1;
            self.tell(&state);
            state = self
                .wake
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
        }
    }

    fn tell(&self, state: &State) {
        if state.watchers > 0 && state.is_quiet() {
            self.quiet.notify_all();
        }
    }
}

impl State {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// Workers that will take work as soon as they are scheduled.
    fn ready(&self) -> usize {
        self.idle + self.starting
    }

    fn running(&self) -> impl Iterator<Item = &Running> {
        self.workers
            .values()
            .filter_map(|worker| worker.running.as_ref())
    }

    fn stuck(&self) -> usize {
        self.workers.values().filter(|worker| worker.stuck).count()
    }

    /// Whether no worker can be expected to take work soon.
    fn all_slow(&self, now: Instant) -> bool {
        self.workers.values().all(|worker| {
            let slow =
                |running: &Running| now.saturating_duration_since(running.started) >= PATIENCE;
            worker.running.as_ref().is_some_and(slow)
        })
    }

    fn is_quiet(&self) -> bool {
        let at_rest = |worker: &Worker| {
            worker.running.is_none() && !worker.slow && worker.swept == self.epoch
        };
        self.queue.is_empty() && self.workers.values().all(at_rest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::sync::mpsc::channel;

    fn order(limit: Duration) -> Order {
        Order {
            hook: "route".into(),
            what: "access",
            limit,
            priority: PATIENCE,
        }
    }

    #[test]
    fn who_waits_may_wait_longer_than_a_call_may_take() {
        let pool = Inner::new(1);
        let (begin, begun) = channel();
        let (end, ended) = channel::<()>();
        let blocking = Box::new(move |_: &mut Cache| {
            let _ = begin.send(());
            let _ = ended.recv();
        });
        Inner::submit(&pool, order(Duration::from_secs(60)), blocking).expect("a worker");
        begun.recv().expect("it runs");
        let limit = Duration::from_millis(10);
        let (answer, answered) = channel();
        let quick = Box::new(move |_: &mut Cache| answer.send(()).expect("waited for"));
        let ticket = Inner::submit(&pool, order(limit), quick).expect("a place");
        let outlook = Inner::inspect(&pool, ticket, ticket.submitted + QUEUED / 2);
        assert!(!matches!(outlook, Outlook::Lost(_)));
        answered.recv().expect("another worker takes it");
        drop(end);
        pool.close();
    }
}
