//! The threads that run scripts, from the side of those who wait for them.

use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use tokio::runtime::Handle;
use tokio::sync::oneshot;

use super::script::Cache;
use super::workers::{Inner, Lost, Order, Outlook, PATIENCE, Ticket};

/// Worker threads for scripts, shared by all hooks of a gateway.
///
/// Threads are started when calls come, at most as many as the machine has processors; while
/// calls are slow there are further ones. They end when the pool and all its scripts are gone.
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
    /// Workers with a slow call, which others stand in for.
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

impl Pool {
    /// A pool of `workers` threads, at least one.
    pub fn new(workers: usize) -> Arc<Self> {
        let inner = Inner::new(workers.max(1));
        Arc::new(Self { inner })
    }

    /// A pool of as many threads as the machine has processors.
    pub fn per_processor() -> Arc<Self> {
        Self::new(thread::available_parallelism().map_or(1, usize::from))
    }

    /// What it is doing and has done.
    pub fn stats(&self) -> Stats {
        self.inner.stats()
    }

    /// Blocks until no call waits or runs and what dropped scripts left is freed, or until
    /// `timeout` is over; says whether it is quiet.
    pub fn wait_quiet(&self, timeout: Duration) -> bool {
        self.inner.wait_quiet(timeout)
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
        self.inner.sweep();
    }

    /// Counts an answer.
    pub(super) fn count(&self, error: bool) {
        self.inner.count(error);
    }

    /// The count of interpreters that are alive.
    pub(super) fn live_vms(&self) -> &Arc<AtomicUsize> {
        self.inner.live_vms()
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.inner.close();
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
        if self.inner.is_running(ticket)
            && let Ok(runtime) = Handle::try_current()
        {
            runtime.spawn(look_after(self.inner.clone(), ticket));
        }
    }
}

async fn look_after(inner: Arc<Inner>, ticket: Ticket) {
    let mut look = ticket.submitted + PATIENCE;
    loop {
        tokio::time::sleep_until(look.into()).await;
        match Inner::inspect(&inner, ticket, Instant::now()) {
            Outlook::Look(at) => look = at,
            Outlook::Done | Outlook::Lost(_) => return,
        }
    }
}
