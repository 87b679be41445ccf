//! Health of a host, as found by checks and by connecting sessions.

use std::sync::MutexGuard;
use std::time::{Duration, Instant};

use crate::sync::Mutex;

/// Share of its sessions that a host starts a slow start with.
const FIRST_SHARE: f64 = 0.1;

/// Health state machine of one address.
///
/// The current time is an argument.
///
/// ```text
///            fall checks failed in a row
///  ┌─────────┐ ───────────────────────► ┌───────────┐
///  │ Healthy │                          │ Unhealthy │
///  └─────────┘ ◄─────────────────────── └───────────┘
///     │   ▲     rise checks good in a row
///     │   │ the time is over, or a session could be connected
///     ▼   │
///  ┌─────────┐
///  │ Ejected │  sessions could not be connected, so often in a row; after it, once is enough
///  └─────────┘
/// ```
#[derive(Debug)]
pub struct Health(Mutex<Vitals>);

/// Health state of a host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Healthy,
    /// Active checks have failed.
    Unhealthy,
    /// Sessions could not be connected to the host.
    Ejected,
}

#[derive(Debug)]
struct Vitals {
    is_up: bool,
    /// Number of checks in a row that contradict `is_up`.
    contrary: u32,
    /// Number of sessions in a row that could not be connected.
    failures: u32,
    ejected_until: Option<Instant>,
    /// Time at which the host was added or became usable again; `None` if it was always there.
    arrived: Option<Instant>,
}

impl State {
    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
            Self::Ejected => "ejected",
        }
    }
}

impl Health {
    /// Creates the health of a healthy host.
    ///
    /// `arrived` is the time at which the host was added, for a slow start; `None` gives the full
    /// share at once.
    pub fn new(arrived: Option<Instant>) -> Self {
        Self(Mutex::new(Vitals {
            is_up: true,
            contrary: 0,
            failures: 0,
            ejected_until: None,
            arrived,
        }))
    }

    pub fn state(&self, now: Instant) -> State {
        let vitals = self.vitals();
        match vitals.ejected_until {
            _ if !vitals.is_up => State::Unhealthy,
            Some(until) if now < until => State::Ejected,
            _ => State::Healthy,
        }
    }

    /// Returns the part of its full share of sessions that the host should get, up to 1.
    ///
    /// The share grows linearly during `slow_start`.
    pub fn share(&self, slow_start: Option<Duration>, now: Instant) -> f64 {
        let vitals = self.vitals();
        match (vitals.arrived.max(vitals.ejected_until), slow_start) {
            (Some(arrived), Some(slow_start)) => {
                let passed = now.saturating_duration_since(arrived).as_secs_f64();
                (passed / slow_start.as_secs_f64()).clamp(FIRST_SHARE, 1.0)
            }
            _ => 1.0,
        }
    }

    /// Records the result of a check.
    ///
    /// Returns whether it changed the state to healthy or unhealthy.
    pub fn checked(&self, is_good: bool, rise: u32, fall: u32, now: Instant) -> bool {
        let mut vitals = self.vitals();
        if is_good == vitals.is_up {
            vitals.contrary = 0;
            return false;
        }
        vitals.contrary += 1;
        if vitals.contrary < if is_good { rise } else { fall } {
            return false;
        }
        vitals.contrary = 0;
        vitals.is_up = is_good;
        if is_good {
            vitals.arrived = Some(now);
        }
        true
    }

    /// Forgets the results of checks, as the host is not checked any more.
    pub fn unchecked(&self) {
        let mut vitals = self.vitals();
        vitals.is_up = true;
        vitals.contrary = 0;
    }

    /// Records that a session was connected to the host.
    pub fn reached(&self, now: Instant) {
        let mut vitals = self.vitals();
        vitals.failures = 0;
        if vitals.ejected_until.take().is_some_and(|until| now < until) {
            vitals.arrived = Some(now);
        }
    }

    /// Records that a session could not be connected to the host.
    ///
    /// Returns whether that ejects the host for `period`: `failures` in a row do, unless `failures`
    /// is 0.
    pub fn missed(&self, failures: u32, period: Duration, now: Instant) -> bool {
        let mut vitals = self.vitals();
        vitals.failures = vitals.failures.saturating_add(1);
        let is_out = vitals.ejected_until.is_some_and(|until| now < until);
        let ejected = failures > 0 && vitals.failures >= failures && !is_out;
        if ejected {
            vitals.ejected_until = Some(now + period);
        }
        ejected
    }

    fn vitals(&self) -> MutexGuard<'_, Vitals> {
        self.0.lock()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PERIOD: Duration = Duration::from_secs(30);

    #[test]
    fn checks_in_a_row_count() {
        let (health, now) = (Health::new(None), Instant::now());
        let check = |good| health.checked(good, 2, 3, now);
        // Failed checks with a good one between.
        for good in [false, false, true, false, false] {
            assert!(!check(good));
            assert_eq!(health.state(now), State::Healthy);
        }
        assert!(check(false));
        for good in [false, true, false, true] {
            assert_eq!(health.state(now), State::Unhealthy);
            assert!(!check(good));
        }
        assert!(check(true));
        assert_eq!(health.state(now), State::Healthy);
        // An unchecked host counts as healthy.
        assert!([false; 3].map(check)[2]);
        health.unchecked();
        assert_eq!(health.state(now), State::Healthy);
        assert!(!check(false));
    }

    #[test]
    fn failures_in_a_row_eject_for_a_while() {
        let (health, start) = (Health::new(None), Instant::now());
        let miss = |now| health.missed(3, PERIOD, now);
        assert!(![miss(start), miss(start)][1]);
        health.reached(start);
        assert!(!miss(start) && !miss(start) && miss(start));
        // A session that was already connecting.
        assert!(!miss(start));
        let end = start + PERIOD;
        assert_eq!(health.state(end - Duration::from_nanos(1)), State::Ejected);
        assert_eq!(health.state(end), State::Healthy);
        // After an ejection, one failure ejects again.
        assert!(miss(end));
        assert_eq!(health.state(end), State::Ejected);
        // One connected session ends the ejection.
        health.reached(end);
        assert_eq!(health.state(end), State::Healthy);
        assert!(!miss(end));
        for _ in 0..100 {
            assert!(!health.missed(0, PERIOD, end));
        }
    }

    #[test]
    fn who_comes_back_starts_slowly() {
        let slow = Some(Duration::from_secs(10));
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let old = Health::new(None);
        assert_eq!((old.share(slow, start), old.share(None, start)), (1.0, 1.0));
        let new = Health::new(Some(start));
        let shares = [0, 1, 5, 10, 11].map(|seconds| new.share(slow, at(seconds)));
        assert_eq!(shares, [0.1, 0.1, 0.5, 1.0, 1.0]);
        assert_eq!(new.share(None, start), 1.0);
        // After failed checks, after an ejection, and when one is cut short.
        old.checked(false, 1, 1, at(0));
        old.checked(true, 1, 1, at(20));
        assert_eq!(old.share(slow, at(25)), 0.5);
        new.missed(1, PERIOD, at(20));
        assert_eq!(new.share(slow, at(55)), 0.5);
        new.missed(1, PERIOD, at(60));
        new.reached(at(70));
        assert_eq!(new.share(slow, at(75)), 0.5);
    }
}
