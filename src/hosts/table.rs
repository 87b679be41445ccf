//! Hosts of one configuration, and the choice among them.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::Rng;

use super::addr::HostAddr;
use super::choose::{self, Candidate, Query};
use super::health::{Health, State};
use super::host::Host;
use super::names::Resolved;
use super::settings::{Choose, Server, Settings};
use crate::resolver::Resolver;

/// Limit of host names looked up at once.
const HOST_LOOKUPS: usize = 256;

/// Hosts of one generation of the configuration.
#[derive(Debug)]
pub(crate) struct Hosts {
    pub(super) backends: Vec<Backend>,
    choose: Choose,
    slow_start: Option<Duration>,
    /// Resolver of host names, kept across reloads.
    ///
    /// Its limit is high, so that lookups start at once unless very many others hang.
    pub resolver: Arc<Resolver>,
    /// Resolver of the names that sessions bring with them, kept across reloads.
    pub session_resolver: Arc<Resolver>,
}

/// Host with the address to dial and the view that scripts get.
#[derive(Debug, Clone)]
pub(crate) struct Backend {
    pub addr: HostAddr,
    pub host: Arc<Host>,
    pub name: Arc<Resolved>,
}

/// Guard that counts a session on its host while it lives.
#[derive(Debug)]
pub(crate) struct SessionGuard(Arc<Host>);

impl Hosts {
    /// Creates the hosts for `servers`, with the state that `previous` has of them.
    ///
    /// Session counts are kept by name and address, health and resolved names by address. Hosts
    /// that `previous` does not have start slowly.
    pub fn new(
        servers: &[Server],
        settings: &Settings,
        previous: Option<&Self>,
        now: Instant,
    ) -> Self {
        // invariant: the whole of nothing.
        let known = previous.map_or(&[][..], |hosts| &hosts.backends);
        let mut uncounted: HashMap<(&str, &HostAddr), Vec<&Backend>> = HashMap::new();
        let mut at_addr: HashMap<&HostAddr, (Arc<Health>, Arc<Resolved>)> = HashMap::new();
        for old in known.iter().rev() {
            let same = (old.host.name.as_str(), &old.addr);
            uncounted.entry(same).or_default().push(old);
            let there = (old.host.health.clone(), old.name.clone());
            at_addr.insert(&old.addr, there);
        }
        let mut backends: Vec<Backend> = Vec::new();
        for new in servers {
            let addr = new.addr.to_string();
            let counted = uncounted.get_mut(&(new.name.as_str(), &new.addr));
            let counted = counted.and_then(Vec::pop);
            let there = at_addr.entry(&new.addr).or_insert_with(|| {
                let name = match &new.addr {
                    HostAddr::BuiltinEcho => Resolved::new("", 0),
                    HostAddr::Dial { host, port } => Resolved::new(host, *port),
                };
                let health = Health::new(previous.map(|_| now));
                (Arc::new(health), Arc::new(name))
            });
            let (health, name) = there.clone();
            let sessions = counted.map(|old| old.host.sessions.clone());
            backends.push(Backend {
                addr: new.addr.clone(),
                host: Arc::new(Host {
                    draining: new.drain,
                    health,
                    sessions: sessions.unwrap_or_default(),
                    ..Host::new(&new.name, &addr, new.weight)
                }),
                name,
            });
        }
        Self {
            backends,
            choose: settings.choose,
            slow_start: settings.slow_start,
            resolver: previous.map_or_else(
                || Arc::new(Resolver::new(HOST_LOOKUPS)),
                |old| old.resolver.clone(),
            ),
            session_resolver: previous
                .map_or_else(Arc::default, |old| old.session_resolver.clone()),
        }
    }

    /// Returns the hosts as scripts see them.
    pub fn seen(&self) -> Vec<Arc<Host>> {
        let backends = self.backends.iter();
        backends.map(|backend| backend.host.clone()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.backends
            .iter()
            .any(|backend| backend.host.name == name)
    }

    /// Chooses a host that fits `wish`, is not in `tried` and does not drain.
    ///
    /// Unhealthy hosts are chosen only if no healthy one is left, hosts without weight only by their
    /// name and if none with weight is left.
    pub fn choose(
        &self,
        wish: &Query<'_>,
        tried: &[Backend],
        now: Instant,
        rng: &mut impl Rng,
    ) -> Option<Backend> {
        let fits = |backend: &&Backend| {
            let host = &backend.host;
            wish.name.map_or(host.weight > 0, |name| host.name == name)
                && !host.draining
                && !tried.iter().any(|other| Arc::ptr_eq(&other.host, host))
        };
        let is_healthy = |backend: &&Backend| backend.host.health.state(now) == State::Healthy;
        let has_weight = |backend: &&Backend| backend.host.weight > 0;
        let mut usable = self.backends.iter().filter(fits).collect();
        prefer(&mut usable, is_healthy);
        prefer(&mut usable, has_weight);
        let hosts = usable.iter().map(|backend| &backend.host);
        let candidates: Vec<_> = hosts
            .map(|host| Candidate {
                addr: &host.addr,
                weight: host.weight.max(1),
                share: host.health.share(self.slow_start, now),
                sessions: host.sessions(),
            })
            .collect();
        let at = choose::choose(&candidates, self.choose, wish, rng)?;
        // invariant: it was chosen among the candidates, of which there is one for each.
        Some(usable[at].clone())
    }
}

/// Leaves only the preferred ones, if there are any.
fn prefer(all: &mut Vec<&Backend>, is_preferred: impl Fn(&&Backend) -> bool) {
    if all.iter().any(&is_preferred) {
        all.retain(is_preferred);
    }
}

impl Backend {
    pub fn occupy(&self) -> SessionGuard {
        self.host.sessions.fetch_add(1, Ordering::Relaxed);
        SessionGuard(self.host.clone())
    }
}

impl SessionGuard {
    pub fn host(&self) -> &Arc<Host> {
        &self.0
    }
}

impl Drop for SessionGuard {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hosts::settings::Check;
    use crate::processor::Clock;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn hosts(list: &[(&str, &str)]) -> Vec<Server> {
        let host = |(name, addr): &(&str, &str)| Server {
            name: (*name).to_owned(),
            addr: addr.parse().unwrap(),
            weight: 100,
            drain: false,
        };
        list.iter().map(host).collect()
    }

    fn settings() -> Settings {
        Settings {
            choose: Choose::Weighted,
            slow_start: None,
            resolve_interval: Some(Duration::from_secs(30)),
            resolve_timeout: Duration::from_secs(5),
            check: Some(Check {
                interval: Duration::from_secs(1),
                timeout: Duration::from_secs(2),
                rise: 2,
                fall: 3,
            }),
        }
    }

    fn built(config: &[Server], previous: Option<&Hosts>, now: Instant) -> Hosts {
        Hosts::new(config, &settings(), previous, now)
    }

    /// Returns the host that a session gets, if there is one.
    fn chosen(
        hosts: &Hosts,
        name: Option<&str>,
        tried: &[Backend],
        now: Instant,
    ) -> Option<Backend> {
        let wish = Query {
            name,
            client: [127, 0, 0, 1].into(),
            target: name,
        };
        hosts.choose(&wish, tried, now, &mut StdRng::seed_from_u64(1))
    }

    fn addrs(hosts: &Hosts, name: Option<&str>, now: Instant) -> Vec<String> {
        let mut tried = Vec::new();
        while let Some(backend) = chosen(hosts, name, &tried, now) {
            tried.push(backend);
        }
        tried
            .iter()
            .map(|backend| backend.host.addr.clone())
            .collect()
    }

    #[test]
    fn a_host_is_not_tried_twice() {
        let now = Instant::now();
        let hosts = built(
            &hosts(&[("a", "x:1"), ("a", "x:2"), ("b", "x:3")]),
            None,
            now,
        );
        let mut tried = addrs(&hosts, Some("a"), now);
        tried.sort_unstable();
        assert_eq!(tried, ["x:1", "x:2"]);
        assert_eq!(addrs(&hosts, Some("b"), now), ["x:3"]);
        assert_eq!(addrs(&hosts, None, now).len(), 3);
        assert!(addrs(&hosts, Some("none"), now).is_empty());
        assert!(hosts.has("b") && !hosts.has("none"));
    }

    #[test]
    fn the_unhealthy_come_last() {
        let now = Instant::now();
        let hosts = built(
            &hosts(&[("a", "x:1"), ("a", "x:2"), ("a", "x:3")]),
            None,
            now,
        );
        for n in [0, 2] {
            hosts.backends[n].host.health.checked(false, 1, 1, now);
            let last = &addrs(&hosts, Some("a"), now)[2 - n / 2..];
            assert!(last.contains(&hosts.backends[n].host.addr), "{last:?}");
        }
        assert_eq!(addrs(&hosts, Some("a"), now)[0], "x:2");
        hosts.backends[0].host.health.checked(true, 1, 1, now);
        hosts.backends[1]
            .host
            .health
            .missed(1, Duration::from_secs(1), now);
        assert_eq!(addrs(&hosts, Some("a"), now)[0], "x:1");
    }

    #[test]
    fn one_that_drains_gets_nothing() {
        let now = Instant::now();
        let mut config = hosts(&[("a", "x:1"), ("a", "x:2"), ("b", "x:3")]);
        config[0].drain = true;
        config[2].drain = true;
        let hosts = built(&config, None, now);
        assert_eq!(addrs(&hosts, Some("a"), now), ["x:2"]);
        assert!(addrs(&hosts, Some("b"), now).is_empty());
        // Not even when nobody else is healthy.
        hosts.backends[1].host.health.checked(false, 1, 1, now);
        assert_eq!(addrs(&hosts, None, now), ["x:2"]);
    }

    #[test]
    fn one_without_weight_is_reached_by_its_name_only() {
        let now = Instant::now();
        let mut config = hosts(&[("a", "x:1"), ("a", "x:2"), ("b", "x:3")]);
        config[0].weight = 0;
        config[2].weight = 0;
        let hosts = built(&config, None, now);
        assert_eq!(addrs(&hosts, None, now), ["x:2"]);
        assert_eq!(addrs(&hosts, Some("a"), now), ["x:2", "x:1"]);
        assert_eq!(addrs(&hosts, Some("b"), now), ["x:3"]);
        hosts.backends[1].host.health.checked(false, 1, 1, now);
        assert_eq!(addrs(&hosts, None, now), ["x:2"]);
        assert_eq!(addrs(&hosts, Some("a"), now), ["x:1", "x:2"]);
    }

    #[test]
    fn live_counts_survive_a_reload() {
        let now = Instant::now();
        let mut config = hosts(&[("a", "x:1"), ("a", "x:1")]);
        let old = built(&config, None, now);
        let occupied = old.backends[0].occupy();
        config[0].drain = true;
        config[0].weight = 7;
        let new = built(&config, Some(&old), now);
        let counts = |hosts: &Hosts| hosts.seen().iter().map(|h| h.sessions()).sum::<u64>();
        assert_eq!(counts(&new), 1);
        drop(occupied);
        assert_eq!(counts(&new), 0);
        let _occupied = new.backends[0].occupy();
        let moved = built(&self::hosts(&[("a", "x:2")]), Some(&new), now);
        assert_eq!(counts(&moved), 0);
    }

    #[test]
    fn building_takes_time_by_the_number_of_hosts() {
        let build = |count: usize| {
            let names: Vec<_> = (0..count).map(|at| format!("h{at}:1")).collect();
            let list: Vec<_> = names.iter().map(|addr| ("a", addr.as_str())).collect();
            let config = hosts(&list);
            let (now, started) = (Instant::now(), Clock::OWN.computed());
            let old = built(&config, None, now);
            let new = built(&config, Some(&old), now);
            assert!(Arc::ptr_eq(
                &new.backends[count - 1].name,
                &old.backends[count - 1].name
            ));
            Clock::OWN.computed() - started
        };
        let fastest = |count| (0..5).map(|_| build(count)).min().unwrap();
        let (few, many) = (fastest(1_000), fastest(16_000));
        assert!(many < few * 64, "{few:?} and {many:?}");
    }

    #[test]
    fn health_is_that_of_an_address_and_survives_a_reload() {
        let now = Instant::now();
        let slow = Some(Duration::from_secs(10));
        let mut settings = Settings {
            slow_start: slow,
            ..settings()
        };
        let config = hosts(&[("a", "x:1"), ("b", "x:1"), ("a", "x:2")]);
        let old = Hosts::new(&config, &settings, None, now);
        old.backends[0].host.health.checked(false, 1, 1, now);
        let config = hosts(&[("c", "x:1"), ("a", "x:2"), ("a", "x:3")]);
        let new = Hosts::new(&config, &settings, Some(&old), now);
        let states = |hosts: &Hosts| -> Vec<State> {
            let seen = hosts.seen();
            seen.iter().map(|host| host.health.state(now)).collect()
        };
        use State::{Healthy, Unhealthy};
        assert_eq!(states(&old), [Unhealthy, Unhealthy, Healthy]);
        assert_eq!(states(&new), [Unhealthy, Healthy, Healthy]);
        // Only the new host starts slowly.
        let shares: Vec<_> = new
            .seen()
            .iter()
            .map(|h| h.health.share(slow, now))
            .collect();
        assert_eq!(shares, [1.0, 1.0, 0.1]);
        // Without checks nothing would notice that a host is back. A new configuration changes
        // nothing until it takes effect.
        settings.check = None;
        settings.resolve_interval = None;
        let unchecked = Hosts::new(&config, &settings, Some(&new), now);
        assert_eq!(states(&new), [Unhealthy, Healthy, Healthy]);
        assert!(unchecked.upkeep(&settings).is_empty());
        assert_eq!(states(&unchecked), [Healthy; 3]);
    }
}
