//! Admission of connections and sessions within a listener's limits.

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, MutexGuard};
use std::time::{Duration, Instant};

use super::limit::Limit;
use super::usage::{Source, Usage};
use crate::config::Limits;
use crate::sync::Mutex;

/// Shortest interval between two reports that a limit is reached.
const REPORT_EVERY: Duration = Duration::from_secs(10);

/// Usage and refusal counters of a listener, kept across reloads.
#[derive(Debug, Default)]
pub(in crate::gateway) struct Admission {
    usage: Mutex<Usage>,
    refusals: [Refusals; Limit::ALL.len()],
}

#[derive(Debug, Default)]
struct Refusals {
    count: AtomicU64,
    reported: Mutex<Option<Instant>>,
}

/// Permit that a connection holds on its listener, and its session after the handshake.
///
/// Dropping the permit gives back all that it holds.
#[derive(Debug)]
pub(in crate::gateway) struct Permit {
    admission: Arc<Admission>,
    source: Option<Source>,
    handshaking: bool,
    admitted: bool,
}

impl Admission {
    /// Admits a connection to its handshake. [`Permit::identify`] counts its source later.
    pub fn begin(self: &Arc<Self>, limits: &Limits) -> Result<Permit, Limit> {
        self.usage().begin(limits)?;
        Ok(Permit {
            admission: self.clone(),
            source: None,
            handshaking: true,
            admitted: false,
        })
    }

    /// Counts a connection that `limit` refused, or a pause for lack of descriptors.
    ///
    /// Returns the count so far when a report is due.
    pub fn refused(&self, limit: Limit, now: Instant) -> Option<u64> {
        // invariant: there is one for each limit.
        let refusals = &self.refusals[limit as usize];
        let count = refusals.count.fetch_add(1, Ordering::Relaxed) + 1;
        let mut reported = refusals.reported.lock();
        if reported.is_some_and(|reported| now < reported + REPORT_EVERY) {
            return None;
        }
        *reported = Some(now);
        Some(count)
    }

    /// Returns how many connections `limit` refused, or how many pauses there were.
    pub fn refusals(&self, limit: Limit) -> u64 {
        // invariant: there is one for each limit.
        self.refusals[limit as usize].count.load(Ordering::Relaxed)
    }

    fn usage(&self) -> MutexGuard<'_, Usage> {
        self.usage.lock()
    }
}

impl Permit {
    /// Returns whether the connection's source is known.
    pub fn is_identified(&self) -> bool {
        self.source.is_some()
    }

    /// Counts the connection for its source, the address `client`.
    pub fn identify(&mut self, limits: &Limits, client: IpAddr, now: Instant) -> Result<(), Limit> {
        let source = Source::of(client);
        self.admission.usage().identify(limits, source, now)?;
        self.source = Some(source);
        Ok(())
    }

    /// Admits the connection as a new session.
    pub fn admit(&mut self, limits: &Limits) -> Result<(), Limit> {
        if let Some(source) = self.source {
            self.admission.usage().admit(limits, source)?;
            self.admitted = true;
        }
        Ok(())
    }

    /// Gives back the handshake's share of the limits.
    pub fn finish_handshake(&mut self) {
        if std::mem::take(&mut self.handshaking) {
            self.admission.usage().finish_handshake(self.source);
        }
    }

    /// Gives back all that the permit holds.
    pub fn release(&mut self) {
        self.finish_handshake();
        if std::mem::take(&mut self.admitted)
            && let Some(source) = self.source
        {
            self.admission.usage().leave(source);
        }
    }

    pub fn admission(&self) -> &Admission {
        &self.admission
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.release();
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
        let gate = Arc::new(Admission::default());
        let client = IpAddr::from([192, 0, 2, 1]);
        let begin = || -> Result<Permit, Limit> {
            let mut place = gate.begin(&limits)?;
            place.identify(&limits, client, Instant::now())?;
            Ok(place)
        };
        let mut session = begin().unwrap();
        assert_eq!(begin().unwrap_err(), Limit::Handshakes);
        session.admit(&limits).unwrap();
        session.finish_handshake();
        // A connection that resumes the session, then one that asks for a new session.
        drop(begin().unwrap());
        assert_eq!(begin().unwrap().admit(&limits), Err(Limit::Connections));
        drop(session);
        assert_eq!(begin().unwrap().admit(&limits), Ok(()));
    }

    #[test]
    fn refusals_are_counted_and_said_now_and_then() {
        let gate = Admission::default();
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
