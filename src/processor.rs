//! Processor time of threads, which on a busy machine is less than wall-clock time, and their
//! priority.

use std::time::Duration;

/// Clock of a thread's processor time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock(libc::clockid_t);

impl Clock {
    /// Clock of whichever thread reads it.
    pub(crate) const OWN: Self = Self(libc::CLOCK_THREAD_CPUTIME_ID);

    /// Returns the clock of this thread, for other threads to read.
    #[cfg(feature = "wasm")]
    pub(crate) fn of_this_thread() -> Self {
        let mut id = libc::CLOCK_THREAD_CPUTIME_ID;
        // SAFETY: this thread is there while it asks; writes `id` and nothing else.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut id) };
        debug_assert_eq!(failed, 0);
        Self(id)
    }

    /// Returns the processor time that the thread has had; zero once the thread is gone.
    pub(crate) fn computed(self) -> Duration {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes `time` and nothing else; fails for the clock of a thread that is gone.
        unsafe { libc::clock_gettime(self.0, &mut time) };
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
    }
}

/// Lowers the priority of this thread below that of the threads that carry sessions.
#[cfg(feature = "wasm")]
pub(crate) fn background() {
    // SAFETY: takes and changes nothing but the priority of this thread, which on Linux is what
    // a process id of 0 means. Failing leaves it as it was.
    unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 10) };
}
