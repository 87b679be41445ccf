//! The threads that finish calls which did not end at once.
//!
//! A call that is interrupted by the clock is a future that is ready to go on. The threads take
//! turns with all of them, a tick each, and drop those whose time is over. Each hook has its turn,
//! however many calls the others have: those of a hook that loops wait for one another.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Instant;

use tokio::sync::oneshot;

use super::engine::background;
use crate::hooks::Reply;

/// Most calls of one hook that are on their way at once. Each holds an instance with all its
/// memory.
const MAX_SLOW: usize = 64;

/// A call that has begun.
pub(super) type Running = Pin<Box<dyn Future<Output = Reply> + Send>>;

/// Why a call was not finished.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unfinished {
    /// Its time is over.
    Timeout,
    /// There are too many of its hook.
    Overloaded,
}

/// Threads that end when it is dropped.
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
    /// Hooks that have calls under way, the last that had its turn last.
    lines: Vec<Line>,
    closing: bool,
}

/// The calls of one hook.
struct Line {
    hook: Arc<str>,
    queue: VecDeque<Job>,
    /// Jobs that are in the queue or being run.
    jobs: usize,
}

struct Job {
    hook: Arc<str>,
    running: Running,
    deadline: Instant,
    reply: oneshot::Sender<Result<Reply, Unfinished>>,
}

impl Slow {
    /// Starts so many threads.
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

    /// Runs a call of a hook to its end, or to its deadline. Dropping the future drops the call.
    pub(super) async fn finish(
        &self,
        hook: &Arc<str>,
        running: Running,
        deadline: Instant,
    ) -> Result<Reply, Unfinished> {
        let (reply, answer) = oneshot::channel();
        {
            let mut state = self.shared.lock();
            let line = state.line(hook);
            if line.jobs >= MAX_SLOW {
                return Err(Unfinished::Overloaded);
            }
            line.jobs += 1;
            line.queue.push_back(Job {
                hook: hook.clone(),
                running,
                deadline,
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
        // No call is left: each holds the engine that holds this.
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
            let hook = job.hook.clone();
            let unfinished = job.turn();
            state = self.lock();
            let line = state.line(&hook);
            match unfinished {
                Some(job) => line.queue.push_back(job),
                None => line.jobs -= 1,
            }
            state.lines.retain(|line| line.jobs > 0);
        }
    }
}

impl State {
    /// The calls of a hook.
    fn line(&mut self, hook: &Arc<str>) -> &mut Line {
        let known = self.lines.iter().position(|line| line.hook == *hook);
        let at = known.unwrap_or_else(|| {
            self.lines.push(Line {
                hook: hook.clone(),
                queue: VecDeque::new(),
                jobs: 0,
            });
            self.lines.len() - 1
        });
        // invariant: it was found, or put, there.
        &mut self.lines[at]
    }

    /// A call of the hook whose turn it is.
    fn next(&mut self) -> Option<Job> {
        let at = self.lines.iter().position(|line| !line.queue.is_empty())?;
        // invariant: it was found there.
        self.lines[at..].rotate_left(1);
        self.lines.last_mut()?.queue.pop_front()
    }
}

impl Job {
    /// Lets it run for a tick. Gives it back if it has not ended.
    fn turn(mut self) -> Option<Self> {
        if self.reply.is_closed() {
            return None;
        }
        // What is ready to go on needs no waking.
        let mut context = Context::from_waker(Waker::noop());
        let outcome = match self.running.as_mut().poll(&mut context) {
            Poll::Ready(reply) => Ok(reply),
            Poll::Pending if Instant::now() < self.deadline => return Some(self),
            Poll::Pending => Err(Unfinished::Timeout),
        };
        // The instance goes first: who is told may count what is left.
        drop(self.running);
        let _ = self.reply.send(outcome);
        None
    }
}
