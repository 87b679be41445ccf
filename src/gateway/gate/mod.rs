//! A listener's limits: who may come in, as far as there is room.
//!
//! Sessions are limited, and so are handshakes: a connection that resumes a session takes no place
//! but its own in the handshake, and is never turned away because all sessions are taken. A limit
//! of sessions limits handshakes too, to as many again, so that it bounds connections in all.

mod census;

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::config::Limits;
use census::{Census, Source};

/// A limit is said to be reached no more often than that.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// What limits connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    Connections,
    PerSource,
    NewPerSecond,
    Handshakes,
    /// The process has no descriptor left: connections wait. What is counted are the pauses.
    Descriptors,
}

/// The counts of a listener, whatever reloads make of it.
#[derive(Debug, Default)]
pub(super) struct Gate {
    census: Mutex<Census>,
    refusals: [Refusals; Limit::ALL.len()],
}

#[derive(Debug, Default)]
struct Refusals {
    count: AtomicU64,
    reported: Mutex<Option<Instant>>,
}

/// What a connection takes of a listener, and then its session, if it opens one.
#[derive(Debug)]
pub(super) struct Place {
    gate: Arc<Gate>,
    source: Option<Source>,
    handshaking: bool,
    admitted: bool,
}

impl Limit {
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::PerSource,
        Self::NewPerSecond,
        Self::Handshakes,
        Self::Descriptors,
    ];

    /// A stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PerSource => "per_source",
            Self::NewPerSecond => "new_per_second",
            Self::Handshakes => "handshakes",
            Self::Descriptors => "descriptors",
        }
    }
}

impl Gate {
    /// Lets a connection in whose source is to be found out.
    pub fn knock(self: &Arc<Self>, limits: &Limits) -> Result<Place, Limit> {
        self.census().knock(limits)?;
        Ok(Place {
            gate: self.clone(),
            source: None,
            handshaking: true,
            admitted: false,
        })
    }

    /// Counts a connection that a limit has kept out, or a pause. How many those are now, if it is
    /// to be said again.
    pub fn refused(&self, limit: Limit, now: Instant) -> Option<u64> {
        // invariant: there is one for each limit.
        let refusals = &self.refusals[limit as usize];
        let count = refusals.count.fetch_add(1, Ordering::Relaxed) + 1;
        // Nothing panics while it is held.
        let mut reported = refusals
            .reported
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if reported.is_some_and(|reported| now < reported + REPORT_EVERY) {
            return None;
        }
        *reported = Some(now);
        Some(count)
    }

    /// How many connections a limit has kept out, or how many pauses there were.
    pub fn refusals(&self, limit: Limit) -> u64 {
        // invariant: there is one for each limit.
        self.refusals[limit as usize].count.load(Ordering::Relaxed)
    }

    fn census(&self) -> MutexGuard<'_, Census> {
        // Nothing panics while it is held.
        self.census.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// Whether it is known whose connection it is.
    pub fn is_identified(&self) -> bool {
        self.source.is_some()
    }

    /// Tells whose connection it is.
    pub fn identify(&mut self, limits: &Limits, client: IpAddr, now: Instant) -> Result<(), Limit> {
        let source = Source::of(client);
        self.gate.census().identify(limits, source, now)?;
        self.source = Some(source);
        Ok(())
    }

    /// Makes it the place of a new session.
    pub fn admit(&mut self, limits: &Limits) -> Result<(), Limit> {
        if let Some(source) = self.source {
            self.gate.census().admit(limits, source)?;
            self.admitted = true;
        }
        Ok(())
    }

    /// The handshake is over.
    pub fn settle(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            self.gate.census().settle(self.source);
        }
    }

    /// Leaves it to others.
    pub fn vacate(&mut self) {
        self.settle();
        if std::mem::take(&mut self.admitted)
            && let Some(source) = self.source
        {
            self.gate.census().leave(source);
        }
    }

    pub fn gate(&self) -> &Gate {
        &self.gate
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.vacate();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_given_back() {
        let limits = Limits {
            connections: 1,
            handshakes: 1,
            ..Limits::default()
        };
        let gate = Arc::new(Gate::default());
        let client = IpAddr::from([192, 0, 2, 1]);
        let knock = || -> Result<Place, Limit> {
            let mut place = gate.knock(&limits)?;
            place.identify(&limits, client, Instant::now())?;
            Ok(place)
        };
        let mut session = knock().unwrap();
        assert_eq!(knock().unwrap_err(), Limit::Handshakes);
        session.admit(&limits).unwrap();
        session.settle();
        // One that resumes the session, and one that wants another.
        drop(knock().unwrap());
        assert_eq!(knock().unwrap().admit(&limits), Err(Limit::Connections));
        drop(session);
        assert_eq!(knock().unwrap().admit(&limits), Ok(()));
    }

    #[test]
    fn refusals_are_counted_and_said_now_and_then() {
        let gate = Gate::default();
        let start = Instant::now();
        for (seconds, said) in [
            (0, Some(1)),
            (0, None),
            (9, None),
            (10, Some(4)),
            (19, None),
        ] {
            let now = start + Duration::from_secs(seconds);
            assert_eq!(gate.refused(Limit::PerSource, now), said, "{seconds}");
        }
        assert_eq!(gate.refused(Limit::Handshakes, start), Some(1));
        let counts = Limit::ALL.map(|limit| gate.refusals(limit));
        assert_eq!(counts, [0, 5, 0, 1, 0]);
    }
}
