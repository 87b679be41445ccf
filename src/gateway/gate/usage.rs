//! Usage counters behind a listener's limits.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::limit::Limit;
use crate::config::{Limits, masked};

/// Most sources remembered that have no connection here; with more, all of those are forgotten.
const REMEMBERED: usize = 65_536;
/// Number of sources below which none is forgotten.
const FEW: usize = 1024;
const SECOND: Duration = Duration::from_secs(1);
const V6_PREFIX: u32 = 64;

/// Source that limits count by: an IPv4 address, or an IPv6 /64, which is what one subscriber has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Source(IpAddr);

/// Usage counters of a listener.
///
/// A connection [begins](Self::begin), is [identified](Self::identify), and may be
/// [admitted](Self::admit) as a session before its handshake is
/// [finished](Self::finish_handshake); a session [leaves](Self::leave) when it ends.
#[derive(Debug, Default)]
pub(super) struct Usage {
    handshakes: usize,
    sessions: usize,
    sources: HashMap<Source, SourceUsage>,
    /// Number of sources at which those without a connection are forgotten next.
    crowded: usize,
}

#[derive(Debug)]
struct SourceUsage {
    handshakes: usize,
    sessions: usize,
    /// Time until which the connections so far use up the allowed rate.
    paid: Instant,
}

impl Source {
    pub fn of(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V4(addr) => Self(addr.into()),
            addr @ IpAddr::V6(_) => Self(masked(addr, V6_PREFIX)),
        }
    }
}

impl Usage {
    /// Counts a connection that begins its handshake, whose source is not known yet.
    pub fn begin(&mut self, limits: &Limits) -> Result<(), Limit> {
        check(self.handshakes, limits.handshakes, Limit::Handshakes)?;
        check(self.handshakes, limits.connections, Limit::Connections)?;
        self.handshakes += 1;
        Ok(())
    }

    /// Counts a handshake for its source, and against the rate of that source.
    pub fn identify(&mut self, limits: &Limits, source: Source, now: Instant) -> Result<(), Limit> {
        self.forget(now);
        let usage = self.sources.entry(source).or_insert(SourceUsage {
            handshakes: 0,
            sessions: 0,
            paid: now,
        });
        check(usage.handshakes, limits.per_source, Limit::PerSource)?;
        if let Some(price) = SECOND.checked_div(limits.new_per_second) {
            let paid = usage.paid.max(now) + price;
            if paid > now + SECOND {
                return Err(Limit::NewPerSecond);
            }
            usage.paid = paid;
        }
        usage.handshakes += 1;
        Ok(())
    }

    /// Counts a new session of `source`.
    pub fn admit(&mut self, limits: &Limits, source: Source) -> Result<(), Limit> {
        check(self.sessions, limits.connections, Limit::Connections)?;
        if let Some(usage) = self.sources.get_mut(&source) {
            check(usage.sessions, limits.per_source, Limit::PerSource)?;
            usage.sessions += 1;
        }
        self.sessions += 1;
        Ok(())
    }

    /// Stops counting a handshake, whatever its outcome.
    pub fn finish_handshake(&mut self, source: Option<Source>) {
        self.handshakes -= 1;
        if let Some(usage) = source.and_then(|source| self.sources.get_mut(&source)) {
            usage.handshakes -= 1;
        }
    }

    /// Stops counting a session that has ended.
    pub fn leave(&mut self, source: Source) {
        self.sessions -= 1;
        if let Some(usage) = self.sources.get_mut(&source) {
            usage.sessions -= 1;
        }
    }

    fn forget(&mut self, now: Instant) {
        if self.sources.len() < self.crowded.max(FEW) {
            return;
        }
        let mut remembered = 0;
        self.sources.retain(|_, usage| {
            let counts = usage.paid > now;
            remembered += usize::from(counts && !usage.is_present());
            counts || usage.is_present()
        });
        if remembered > REMEMBERED {
            self.sources.retain(|_, usage| usage.is_present());
        }
        self.crowded = 2 * self.sources.len();
        self.sources.shrink_to(self.crowded);
    }
}

impl SourceUsage {
    fn is_present(&self) -> bool {
        self.handshakes + self.sessions > 0
    }
}

fn check(count: usize, limit: usize, what: Limit) -> Result<(), Limit> {
    if limit > 0 && count >= limit {
        return Err(what);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{Ipv4Addr, Ipv6Addr};

    const NONE: Limits = Limits {
        connections: 0,
        per_source: 0,
        new_per_second: 0,
        handshakes: 0,
    };

    fn source(addr: &str) -> Source {
        Source::of(addr.parse().unwrap())
    }

    /// Takes a connection of `source` through its handshake to its session.
    fn session(usage: &mut Usage, limits: &Limits, source: Source) -> Result<(), Limit> {
        usage.begin(limits)?;
        let identified = usage.identify(limits, source, Instant::now());
        let admitted = identified.and_then(|()| usage.admit(limits, source));
        usage.finish_handshake(identified.is_ok().then_some(source));
        admitted
    }

    #[test]
    fn sources_are_subscribers() {
        assert_eq!(source("::ffff:192.0.2.1"), source("192.0.2.1"));
        assert_ne!(source("192.0.2.1"), source("192.0.2.2"));
        assert_eq!(source("2001:db8::1"), source("2001:db8::ffff:0:0:1"));
        assert_ne!(source("2001:db8::1"), source("2001:db8:0:1::1"));
    }

    #[test]
    fn sessions_are_limited() {
        let limits = Limits {
            connections: 3,
            per_source: 2,
            ..NONE
        };
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let mut usage = Usage::default();
        assert_eq!(session(&mut usage, &limits, a), Ok(()));
        assert_eq!(session(&mut usage, &limits, a), Ok(()));
        assert_eq!(session(&mut usage, &limits, a), Err(Limit::PerSource));
        assert_eq!(session(&mut usage, &limits, b), Ok(()));
        assert_eq!(session(&mut usage, &limits, b), Err(Limit::Connections));
        usage.leave(a);
        assert_eq!(session(&mut usage, &limits, b), Ok(()));
        // Reloads may change the limits.
        assert_eq!(session(&mut usage, &NONE, a), Ok(()));
        assert_eq!(session(&mut usage, &limits, a), Err(Limit::Connections));
        usage.leave(b);
        assert_eq!(session(&mut usage, &limits, a), Err(Limit::Connections));
    }

    #[test]
    fn handshakes_are_limited() {
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let now = Instant::now();
        let limits = Limits {
            connections: 3,
            per_source: 1,
            handshakes: 2,
            ..NONE
        };
        let mut usage = Usage::default();
        // With all sessions taken, clients can still resume theirs.
        for _ in 0..3 {
            assert_eq!(session(&mut usage, &NONE, a), Ok(()));
        }
        assert_eq!(usage.begin(&limits), Ok(()));
        assert_eq!(usage.identify(&limits, a, now), Ok(()));
        assert_eq!(usage.begin(&limits), Ok(()));
        assert_eq!(usage.identify(&limits, a, now), Err(Limit::PerSource));
        assert_eq!(usage.identify(&limits, b, now), Ok(()));
        assert_eq!(usage.begin(&limits), Err(Limit::Handshakes));
        let more = Limits {
            handshakes: 0,
            ..limits.clone()
        };
        assert_eq!(usage.begin(&more), Ok(()));
        assert_eq!(usage.begin(&more), Err(Limit::Connections));
        usage.finish_handshake(None);
        usage.finish_handshake(Some(a));
        assert_eq!(usage.begin(&limits), Ok(()));
        assert_eq!(usage.identify(&limits, a, now), Ok(()));
    }

    #[test]
    fn the_rate_is_that_of_each_source() {
        let limits = Limits {
            new_per_second: 4,
            ..NONE
        };
        let (a, b) = (source("192.0.2.1"), source("192.0.2.2"));
        let start = Instant::now();
        let mut usage = Usage::default();
        let at = |ms| start + Duration::from_millis(ms);
        let taken = |usage: &mut Usage, source, ms| {
            let tries = 0..10;
            let come = |_: &i32| usage.identify(&limits, source, at(ms)).is_ok();
            tries.filter(come).count()
        };
        assert_eq!(taken(&mut usage, a, 0), 4);
        assert_eq!(taken(&mut usage, b, 0), 4);
        assert_eq!(taken(&mut usage, a, 249), 0);
        assert_eq!(taken(&mut usage, a, 250), 1);
        assert_eq!(taken(&mut usage, a, 1000), 3);
        // An unused rate is not saved up.
        assert_eq!(taken(&mut usage, a, 60_000), 4);
        assert_eq!(
            usage.identify(&limits, a, at(60_000)),
            Err(Limit::NewPerSecond)
        );
        assert_eq!(usage.identify(&NONE, a, at(60_000)), Ok(()));
    }

    #[test]
    fn a_flood_of_sources_does_not_make_it_grow() {
        let limits = Limits {
            new_per_second: 1,
            ..NONE
        };
        let mut usage = Usage::default();
        let mut now = Instant::now();
        let stays = source("192.0.2.1");
        usage.begin(&limits).unwrap();
        usage.identify(&limits, stays, now).unwrap();
        for n in 0..1_000_000 {
            now += Duration::from_micros(1);
            let addr = Ipv6Addr::from_bits(0x2001_0db8 << 96 | n << 64);
            let flood = Source::of(addr.into());
            usage.begin(&limits).unwrap();
            usage.identify(&limits, flood, now).unwrap();
            usage.finish_handshake(Some(flood));
            assert!(usage.sources.len() <= 2 * (REMEMBERED + 1), "{n}");
        }
        assert!(usage.sources.contains_key(&stays));
        // Sources seen long ago are forgotten.
        let late = now + 2 * SECOND;
        for n in 0..1_000_000 {
            let flood = Source::of(Ipv4Addr::from_bits(n).into());
            usage.identify(&NONE, flood, late).unwrap();
            usage.handshakes += 1;
            usage.finish_handshake(Some(flood));
        }
        assert!(usage.sources.len() <= FEW.max(4), "{}", usage.sources.len());
        usage.finish_handshake(Some(stays));
        assert_eq!(usage.handshakes, 0);
    }
}
