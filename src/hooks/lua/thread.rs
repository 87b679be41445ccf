//! A worker's thread, seen from another one.

use std::time::Duration;

/// Names a thread that is alive.
#[cfg(target_os = "linux")]
pub(super) struct Thread {
    id: libc::pid_t,
    /// Of what it has computed.
    clock: libc::clockid_t,
}

#[cfg(target_os = "linux")]
impl Thread {
    /// The thread that asks; `None` where the system cannot tell.
    pub(super) fn current() -> Option<Self> {
        let mut clock = 0;
        // SAFETY: the thread is this one; `clock` is written and nothing else.
        let failed = unsafe { libc::pthread_getcpuclockid(libc::pthread_self(), &mut clock) };
        // SAFETY: takes nothing and cannot fail.
        let id = unsafe { libc::gettid() };
        (failed == 0).then_some(Self { id, clock })
    }

    /// The processor time that it has taken in all.
    pub(super) fn computed(&self) -> Option<Duration> {
        let mut time = libc::timespec {
            tv_sec: 0,
            tv_nsec: 0,
        };
        // SAFETY: writes `time` and nothing else; fails when the thread is gone.
        let failed = unsafe { libc::clock_gettime(self.clock, &mut time) };
        let seconds = u64::try_from(time.tv_sec).ok()?;
        let nanos = u32::try_from(time.tv_nsec).ok()?;
        (failed == 0).then(|| Duration::new(seconds, nanos))
    }

    /// Lets it run only when nothing else wants to. It cannot be raised again without
    /// privileges, so it should end soon.
    pub(super) fn lower(&self) {
        // SAFETY: plain data for C, for which zeros are valid.
        let parameters: libc::sched_param = unsafe { std::mem::zeroed() };
        // SAFETY: reads `parameters`; failing leaves the priority as it was.
        unsafe { libc::sched_setscheduler(self.id, libc::SCHED_IDLE, &parameters) };
    }
}

/// Other systems have no such means: slow workers keep their priority.
#[cfg(not(target_os = "linux"))]
pub(super) enum Thread {}

#[cfg(not(target_os = "linux"))]
impl Thread {
    pub(super) fn current() -> Option<Self> {
        None
    }

    pub(super) fn computed(&self) -> Option<Duration> {
        match *self {}
    }

    pub(super) fn lower(&self) {
        match *self {}
    }
}
