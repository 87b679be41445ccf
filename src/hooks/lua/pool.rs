//! The threads that run scripts.
//!
//! A few workers share one queue. A call that is slow may be one that never ends, and native
//! code, such as pattern matching, cannot be interrupted at all; so whoever waits for a call
//! looks after it from time to time ([`Inner::inspect`]):
//!
//! ```text
//!  queued ──► running ── 5 ms ──► lowered: idle priority, and   ── 1.5 × limit ──► given up:
//!               │                 another worker takes its place                   the caller gets
//!               ▼                        │                                         an error
//!            answered ◄──────────────────┴──── (the worker ends) ◄─────────────────────┘
//! ```
//!
//! No thread wakes up while there is nothing to do.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::script::Cache;

/// How long a call may take before its worker is replaced.
const PATIENCE: Duration = Duration::from_millis(5);

/// Most workers that may be slow or given up at once.
const MAX_SLOW: usize = 64;

/// The interpreter's own recursion limits (200 nested C calls) stay well within this.
const STACK: usize = 4 * 1024 * 1024;

/// Worker threads for scripts, shared by all hooks of a gateway.
///
/// Threads are started when calls come, at most as many as the machine has processors; calls
/// that are slow get further ones. They end when the pool and all its scripts are gone.
#[derive(Debug)]
pub struct Pool {
    inner: Arc<Inner>,
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
    /// Workers with a slow call: of lowered priority, ending after it.
    pub slow: usize,
    /// Workers whose call could not be stopped and has not ended yet.
    pub stuck: usize,
    /// Calls that could not be stopped, ever.
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
}

impl Pool {
    /// A pool of `workers` threads, at least one.
    pub fn new(workers: usize) -> Arc<Self> {
        let inner = Arc::new(Inner {
            size: workers.max(1),
            state: Mutex::default(),
            wake: Condvar::new(),
            quiet: Condvar::new(),
            vms: Arc::default(),
            calls: AtomicU64::new(0),
            errors: AtomicU64::new(0),
        });
        Arc::new(Self { inner })
    }

    /// A pool of as many threads as the machine has processors.
    pub fn per_processor() -> Arc<Self> {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }

    /// What it is doing and has done.
    pub fn stats(&self) -> Stats {
        let state = self.inner.lock();
        Stats {
            workers: state.workers.len(),
            queued: state.queue.len(),
            running: state.running().count(),
            slow: state.slow,
            stuck: state.stuck(),
            stuck_ever: state.stuck_ever,
            vms: self.inner.vms.load(Ordering::Relaxed),
            calls: self.inner.calls.load(Ordering::Relaxed),
            errors: self.inner.errors.load(Ordering::Relaxed),
        }
    }

    /// Blocks until no call waits or runs and what dropped scripts left is freed, or until
    /// `timeout` is over; says whether it is quiet.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        let mut state = self.inner.lock();
        state.watchers += 1;
        let busy = |state: &mut State| !state.is_quiet();
        let waited = self.inner.quiet.wait_timeout_while(state, timeout, busy);
        let (mut guard, result) = waited.unwrap_or_else(PoisonError::into_inner);
        guard.watchers -= 1;
        !result.timed_out()
    }

    /// Runs work on a worker. Dropping the future drops work that has not begun; work that has
    /// is looked after until it ends.
    pub(super) async fn run<R: Send + 'static>(
        &self,
        order: Order,
        work: impl FnOnce(&mut Cache) -> R + Send + 'static,
    ) -> Result<R, Lost> {
        let (reply, mut answer) = oneshot::channel();
        let work = move |cache: &mut Cache| {
            if !reply.is_closed() {
                // Nobody waits any more if this fails.
                let _ = reply.send(work(cache));
            }
        };
        let ticket = Inner::submit(&self.inner, order, Box::new(work))?;
        let mut look = ticket.submitted + PATIENCE;
        let mut watch = Watch {
            inner: &self.inner,
            ticket: Some(ticket),
        };
        loop {
            tokio::select! {
                biased;
                answered = &mut answer => {
                    watch.ticket = None;
                    return answered.map_err(|_| Lost::Died);
                }
                // Real time, also where a test has stopped the runtime's clock.
                () = tokio::time::sleep_until(look.into()) => {}
            }
            match Inner::inspect(&self.inner, ticket, Instant::now()) {
                Outlook::Look(at) => look = at,
                // The answer is there.
                Outlook::Done => look += PATIENCE,
                Outlook::Lost(lost) => {
                    watch.ticket = None;
                    return Err(lost);
                }
            }
        }
    }

    /// Like [`Self::run`], for threads that may block.
    pub(super) fn run_blocking<R: Send + 'static>(
        &self,
        order: Order,
        work: impl FnOnce(&mut Cache) -> R + Send + 'static,
    ) -> Result<R, Lost> {
        let (reply, answer) = sync_channel(1);
        let work = move |cache: &mut Cache| {
            // Nobody waits any more if this fails.
            let _ = reply.send(work(cache));
        };
        let ticket = Inner::submit(&self.inner, order, Box::new(work))?;
        let mut look = ticket.submitted + PATIENCE;
        loop {
            match answer.recv_timeout(look.saturating_duration_since(Instant::now())) {
                Ok(result) => return Ok(result),
                Err(RecvTimeoutError::Disconnected) => return Err(Lost::Died),
                Err(RecvTimeoutError::Timeout) => {}
            }
            match Inner::inspect(&self.inner, ticket, Instant::now()) {
                Outlook::Look(at) => look = at,
                Outlook::Done => look += PATIENCE,
                Outlook::Lost(lost) => return Err(lost),
            }
        }
    }

    /// Has all workers free the interpreters of scripts that are gone.
    pub(super) fn sweep(&self) {
        self.inner.lock().epoch += 1;
        self.inner.wake.notify_all();
    }

    /// Counts an answer.
    pub(super) fn count(&self, error: bool) {
        self.inner.calls.fetch_add(1, Ordering::Relaxed);
        if error {
            self.inner.errors.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The count of interpreters that are alive.
    pub(super) fn live_vms(&self) -> &Arc<AtomicUsize> {
        &self.inner.vms
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let queue = {
            let mut state = self.inner.lock();
            state.closing = true;
            std::mem::take(&mut state.queue)
        };
        // Dropping work may free a script, which takes the lock.
        drop(queue);
        self.inner.wake.notify_all();
    }
}

type Work = Box<dyn FnOnce(&mut Cache) + Send>;

struct Inner {
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
    /// Workers that take further work.
    regular: usize,
    /// Workers that end after their call.
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
    #[cfg(target_os = "linux")]
    thread: libc::pid_t,
    running: Option<Running>,
    lowered: bool,
    stuck: bool,
    /// The epoch of its last sweep.
    swept: u64,
}

struct Running {
    job: u64,
    started: Instant,
    order: Order,
}

/// Names a job to [`Inner::inspect`].
#[derive(Clone, Copy)]
struct Ticket {
    job: u64,
    submitted: Instant,
    limit: Duration,
}

/// What became of a job.
enum Outlook {
    /// Nothing yet; look again then.
    Look(Instant),
    /// Answered, or its work was dropped.
    Done,
    /// It will not be answered.
    Lost(Lost),
}

impl Inner {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn submit(this: &Arc<Self>, order: Order, work: Work) -> Result<Ticket, Lost> {
        let submitted = Instant::now();
        let limit = order.limit;
        let mut state = this.lock();
        if state.idle <= state.queue.len() && state.regular < this.size {
            Self::start_worker(this, &mut state);
        }
        let hopeless = state.regular == 0
            || state.slow >= MAX_SLOW && state.idle == 0 && state.all_slow(submitted);
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
    fn inspect(this: &Arc<Self>, ticket: Ticket, now: Instant) -> Outlook {
        let mut guard = this.lock();
        let state = &mut *guard;
        let mut given_up = Vec::new();
        let mut outlook = None;
        for worker in state.workers.values_mut() {
            let Some(running) = &worker.running else {
                continue;
            };
            let age = now.saturating_duration_since(running.started);
            if age >= PATIENCE && !worker.lowered && state.slow < MAX_SLOW {
                worker.lowered = true;
                #[cfg(target_os = "linux")]
                lower(worker.thread);
                state.slow += 1;
                state.regular -= 1;
            }
            let mut due = running.started + running.order.limit * 3 / 2;
            let mine = running.job == ticket.job;
            if mine {
                due = due.min(ticket.submitted + ticket.limit * 2);
            }
            if now >= due && !worker.stuck {
                worker.stuck = true;
                state.stuck_ever += 1;
                given_up.push((running.order.clone(), age));
            }
            if mine {
                outlook = Some(if worker.stuck {
                    Outlook::Lost(Lost::Stuck)
                } else if worker.lowered {
                    Outlook::Look(due)
                } else {
                    Outlook::Look(due.min(now + PATIENCE))
                });
            }
        }
        let waiting = state.queue.len().saturating_sub(state.idle);
        for _ in 0..waiting.min(this.size.saturating_sub(state.regular)) {
            Self::start_worker(this, state);
        }
        let mut dropped = None;
        let outlook = outlook.unwrap_or_else(|| {
            let Some(at) = state.queue.iter().position(|job| job.id == ticket.job) else {
                return Outlook::Done;
            };
            let due = ticket.submitted + ticket.limit;
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
            }
            Err(error) => tracing::warn!(%error, "cannot start a worker for scripts"),
        }
    }

    /// The life of a worker.
    fn work(&self, me: u64) {
        let mut cache = Cache::default();
        #[cfg(target_os = "linux")]
        if let Some(worker) = self.lock().workers.get_mut(&me) {
            // SAFETY: takes nothing and cannot fail.
            worker.thread = unsafe { libc::gettid() };
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
        if worker.lowered {
            drop(state);
            // Counted as slow until its memory is freed.
            *cache = Cache::default();
            let mut state = self.lock();
            state.workers.remove(&me);
            state.slow -= 1;
            self.tell(&state);
            return None;
        }
        worker.stuck = false;
        loop {
            let epoch = state.epoch;
            let closing = state.closing;
            let worker = state.workers.get_mut(&me)?;
            if closing {
                state.workers.remove(&me);
                state.regular -= 1;
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
            worker.running.is_none() && !worker.lowered && worker.swept == self.epoch
        };
        self.queue.is_empty() && self.workers.values().all(at_rest)
    }
}

/// Looks after a job whose caller has gone, so that a slow one is still replaced and counted.
struct Watch<'a> {
    inner: &'a Arc<Inner>,
    ticket: Option<Ticket>,
}

impl Drop for Watch<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket.take() else {
            return;
        };
        let running =
            |state: MutexGuard<'_, State>| state.running().any(|running| running.job == ticket.job);
        if running(self.inner.lock())
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(look_after(self.inner.clone(), ticket));
        }
    }
}

fn look_after(inner: Arc<Inner>, ticket: Ticket) -> impl Future<Output = ()> + Send {
    async move {
        let mut look = ticket.submitted + PATIENCE;
        loop {
            tokio::time::sleep_until(look.into()).await;
            match Inner::inspect(&inner, ticket, Instant::now()) {
                Outlook::Look(at) => look = at,
                Outlook::Done | Outlook::Lost(_) => return,
            }
        }
    }
}

/// Lets a thread run only when nothing else wants to. It cannot be raised again without
/// privileges, so it ends after its work.
#[cfg(target_os = "linux")]
fn lower(thread: libc::pid_t) {
    // SAFETY: plain data for C, for which zeros are valid.
    let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
    // SAFETY: the thread is alive, as it runs a job; failing leaves its priority as it was.
    unsafe { libc::sched_setscheduler(thread, libc::SCHED_IDLE, &parameters) };
}
