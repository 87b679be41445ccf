//! Threads that finish slow calls: those that did not end at once.
//!
//! A call that is interrupted by the clock is a future that is ready to go on. The threads poll
//! such calls in turn, a tick each, and drop those whose time is over. Turns go from plugin to
//! plugin, however many calls each has: the calls of a plugin that loops wait only for one another.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::hooks::Reply;
use crate::processor::{Clock, background};

/// Most slow calls of one plugin at once. Each holds an instance with all its memory.
const MAX_SLOW: usize = 64;

/// Processor time from which on a call is slow.
const SLOW: Duration = Duration::from_millis(1);

/// Time after a plugin's slow call in which its calls begin on these threads.
const SLOW_FOR: Duration = Duration::from_secs(1);

/// Call that has begun, or is to begin.
pub(super) type Running = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Limits of a call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Processor time.
    pub(super) timeout: Duration,
    /// Deadline in wall-clock time.
    pub(super) end: Instant,
}

/// Reason why a call was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Timeout: the call has used its processor time.
    Timeout,
    /// Wall-clock timeout, with the processor time that the call has used.
    WallTimeout(Duration),
    /// Overload: too many calls of the plugin are slow.
    Overloaded,
}

/// Pace of a plugin's calls, which can be read without a lock.
#[derive(Debug)]
pub(super) struct Pace {
    /// Number of slow calls, waiting or running.
    jobs: AtomicUsize,
    since: Instant,
    /// Time until which the plugin's calls count as slow, in milliseconds from `since`.
    slow_until: AtomicU64,
}

impl Pace {
    pub(super) fn new() -> Arc<Self> {
        Arc::new(Self {
            jobs: AtomicUsize::new(0),
            since: Instant::now(),
            slow_until: AtomicU64::new(0),
        })
    }

    /// Returns whether another call would be refused if it did not end at once.
    pub(super) fn is_overloaded(&self) -> bool {
        self.jobs.load(Ordering::Relaxed) >= MAX_SLOW
    }

    /// Returns whether a call was slow lately.
    pub(super) fn is_slow(&self) -> bool {
        self.now() < self.slow_until.load(Ordering::Relaxed)
    }

    fn was_slow(&self) {
        let until = self.now() + SLOW_FOR.as_millis() as u64;
        self.slow_until.fetch_max(until, Ordering::Relaxed);
    }

    fn now(&self) -> u64 {
        self.since.elapsed().as_millis() as u64
    }
}

/// Threads that finish slow calls. They end when this is dropped.
#[derive(Default)]
pub(super) struct Slow {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    /// Queues of plugins with calls under way, the last served last.
    lines: Vec<Line>,
    closing: bool,
}

/// Queue of one plugin's calls.
struct Line {
    pace: Arc<Pace>,
    queue: VecDeque<Job>,
}

struct Job {
    pace: Arc<Pace>,
    running: Running,
    limits: Limits,
    computed: Duration,
    reply: oneshot::Sender<Result<Reply, Unfinished>>,
}

impl Slow {
    /// Starts `threads` threads.
    pub(super) fn start(threads: usize) -> std::io::Result<Self> {
        let slow = Self::default();
        for number in 0..threads {
            let shared = slow.shared.clone();
            thread::Builder::new()
                .name(format!("wasm-{number}"))
                .spawn(move || shared.work())?;
        }
        Ok(slow)
    }

    /// Runs a call until it ends or its time is over. Dropping the future drops the call.
    pub(super) async fn finish(
        &self,
        pace: &Arc<Pace>,
        running: Running,
        limits: Limits,
    ) -> Result<Reply, Unfinished> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            if pace.is_overloaded() {
                return Err(Unfinished::Overloaded);
            }
            pace.jobs.fetch_add(1, Ordering::Relaxed);
            state.line(pace).queue.push_back(Job {
                pace: pace.clone(),
                running,
                limits,
                computed: Duration::ZERO,
                reply,
            });
        }
        self.shared.wake.notify_one();
        // invariant: a thread drops a job after it has replied, or when this is gone.
        answer.await.unwrap_or(Err(Unfinished::Timeout))
    }
}

impl Drop for Slow {
    fn drop(&mut self) {
        // No call is left: each call holds the engine, which holds this value.
        self.shared.lock().closing = true;
        self.shared.wake.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn work(&self) {
        background();
        let mut state = self.lock();
        loop {
            if state.closing {
                return;
            }
            let Some(job) = state.next() else {
                state = self
                    .wake
                    .wait(state)
                    .unwrap_or_else(PoisonError::into_inner);
                continue;
            };
            drop(state);
            let pace = job.pace.clone();
            let unfinished = job.turn();
            state = self.lock();
            match unfinished {
                Some(job) => state.line(&pace).queue.push_back(job),
                None => drop(pace.jobs.fetch_sub(1, Ordering::Relaxed)),
            }
            let idle = |line: &Line| line.pace.jobs.load(Ordering::Relaxed) == 0;
            state.lines.retain(|line| !idle(line));
        }
    }
}

impl State {
    /// Returns the queue of a plugin.
    fn line(&mut self, pace: &Arc<Pace>) -> &mut Line {
        let known = self
            .lines
            .iter()
            .position(|line| Arc::ptr_eq(&line.pace, pace));
        let at = known.unwrap_or_else(|| {
            self.lines.push(Line {
                pace: pace.clone(),
                queue: VecDeque::new(),
            });
            self.lines.len() - 1
        });
        // invariant: it was found, or put, there.
        &mut self.lines[at]
    }

    /// Takes a call of the plugin whose turn it is.
    fn next(&mut self) -> Option<Job> {
        let at = self.lines.iter().position(|line| !line.queue.is_empty())?;
        // invariant: it was found there.
        self.lines[at..].rotate_left(1);
        self.lines.last_mut()?.queue.pop_front()
    }
}

impl Job {
    /// Runs the call for a tick. Returns the job if the call has not ended.
    fn turn(mut self) -> Option<Self> {
        if self.reply.is_closed() {
            return None;
        }
        // An interrupted call is ready at once and needs no waking.
        let mut context = Context::from_waker(Waker::noop());
        let before = Clock::OWN.computed();
        let polled = self.running.as_mut().poll(&mut context);
        self.computed += Clock::OWN.computed().saturating_sub(before);
        if self.computed >= SLOW {
            self.pace.was_slow();
        }
        let Limits { timeout, end } = self.limits;
        let outcome = match polled {
            Poll::Ready(reply) => Ok(reply),
            Poll::Pending if self.computed >= timeout => Err(Unfinished::Timeout),
            Poll::Pending if Instant::now() >= end => Err(Unfinished::WallTimeout(self.computed)),
            Poll::Pending => return Some(self),
        };
        // The instance is dropped first, so that its memory is free when the answer arrives.
        drop(self.running);
        let _ = self.reply.send(outcome);
        None
    }
}
