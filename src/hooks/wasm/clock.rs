//! Clock that interrupts plugins: a thread that counts milliseconds while any plugin runs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Thread};
use std::time::Duration;

/// Interval of ticks. A plugin that runs at a tick gives up its thread.
const TICK: Duration = Duration::from_millis(1);

/// Ticks without a call until the thread goes to sleep.
const IDLE: u32 = 100;

/// Clock that ticks an engine's epoch, until dropped.
#[derive(Debug)]
pub(super) struct Clock {
    thread: Thread,
    state: Arc<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Number of calls that are being run.
    active: AtomicUsize,
    /// Set while the thread sleeps until it is woken.
    asleep: AtomicBool,
    closing: AtomicBool,
}

/// Guard that keeps the clock ticking until dropped.
pub(super) struct Ticking<'a>(&'a State);

impl Clock {
    /// Starts the thread, which calls `tick`.
    pub(super) fn start(tick: impl Fn() + Send + 'static) -> std::io::Result<Self> {
        let state = Arc::<State>::default();
        let shared = state.clone();
        let thread = thread::Builder::new()
            .name("wasm-clock".to_owned())
            .spawn(move || shared.run(&tick))?;
        Ok(Self {
            thread: thread.thread().clone(),
            state,
        })
    }

    /// Keeps the clock ticking for a call that begins.
    pub(super) fn ticking(&self) -> Ticking<'_> {
        let state = &*self.state;
        // Sequentially consistent with the thread that goes to sleep: one of the two sees what the
        // other did.
        state.active.fetch_add(1, Ordering::SeqCst);
        if state.asleep.load(Ordering::SeqCst) && state.asleep.swap(false, Ordering::SeqCst) {
            self.thread.unpark();
        }
        Ticking(state)
    }
}

impl Drop for Ticking<'_> {
    fn drop(&mut self) {
        self.0.active.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Clock {
    fn drop(&mut self) {
        self.state.closing.store(true, Ordering::SeqCst);
        self.state.asleep.store(false, Ordering::SeqCst);
        self.thread.unpark();
    }
}

impl State {
    fn run(&self, tick: &impl Fn()) {
        let mut idle = 0;
        while !self.closing.load(Ordering::SeqCst) {
            thread::sleep(TICK);
            tick();
            if self.active.load(Ordering::SeqCst) > 0 {
                idle = 0;
                continue;
            }
            idle += 1;
            if idle < IDLE {
                continue;
            }
            idle = 0;
            self.asleep.store(true, Ordering::SeqCst);
            if self.active.load(Ordering::SeqCst) > 0 || self.closing.load(Ordering::SeqCst) {
                self.asleep.store(false, Ordering::SeqCst);
            }
            while self.asleep.load(Ordering::SeqCst) {
                thread::park();
            }
        }
    }
}
