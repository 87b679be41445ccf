//! The servers of a configuration, and the choice among them.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use rand::Rng;

use crate::config::{self, HostAddr};
use crate::hooks::host::Host;

/// The hosts of one generation.
#[derive(Debug, Default)]
pub(super) struct Hosts(Vec<Backend>);

/// A host: what is dialled, and what scripts see of it.
#[derive(Debug, Clone)]
pub(super) struct Backend {
    pub addr: HostAddr,
    pub host: Arc<Host>,
}

/// Counts a session on its host as long as it lives.
#[derive(Debug)]
pub(super) struct Occupied(Arc<Host>);

impl Hosts {
    /// The hosts of `config`. Those that `previous` has too keep their live counts.
    pub fn new(config: &[config::Host], previous: Option<&Self>) -> Self {
        let mut known: Vec<_> = previous
            .into_iter()
            .flat_map(|hosts| hosts.0.iter())
            .collect();
        let backend = |new: &config::Host| {
            let addr = new.addr.to_string();
            let same = |old: &&Backend| {
                (&old.host.name, &old.host.addr, old.host.weight) == (&new.name, &addr, new.weight)
            };
            let host = match known.iter().position(same) {
                Some(at) => known.swap_remove(at).host.clone(),
                None => Arc::new(Host::new(&new.name, &addr, new.weight)),
            };
            Backend {
                addr: new.addr.clone(),
                host,
            }
        };
        Self(config.iter().map(backend).collect())
    }

    /// What scripts see.
    pub fn seen(&self) -> Vec<Arc<Host>> {
        self.0.iter().map(|backend| backend.host.clone()).collect()
    }

    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|backend| backend.host.name == name)
    }

    /// Chooses by weight among the hosts called `name`, or among all; never one of `tried`.
    pub fn choose(
        &self,
        name: Option<&str>,
        tried: &[Backend],
        rng: &mut impl Rng,
    ) -> Option<Backend> {
        let fits = |backend: &&Backend| {
            name.is_none_or(|name| backend.host.name == name)
                && !tried
                    .iter()
                    .any(|other| Arc::ptr_eq(&other.host, &backend.host))
        };
        let candidates = || self.0.iter().filter(fits);
        let total: u64 = candidates()
            .map(|backend| u64::from(backend.host.weight))
            .sum();
        if total == 0 {
            return None;
        }
        let mut at = rng.random_range(0..total);
        candidates()
            .find(|backend| {
                let weight = u64::from(backend.host.weight);
                let hit = at < weight;
                at = at.saturating_sub(weight);
                hit
            })
            .cloned()
    }
}

impl Backend {
    pub fn occupy(&self) -> Occupied {
        self.host.sessions.fetch_add(1, Ordering::Relaxed);
        Occupied(self.host.clone())
    }
}

impl Occupied {
    pub fn host(&self) -> &Arc<Host> {
        &self.0
    }
}

impl Drop for Occupied {
    fn drop(&mut self) {
        self.0.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    fn hosts(list: &[(&str, &str, u32)]) -> Vec<config::Host> {
        let host = |(name, addr, weight): &(&str, &str, u32)| config::Host {
            name: (*name).to_owned(),
            addr: addr.parse().unwrap(),
            weight: *weight,
        };
        list.iter().map(host).collect()
    }

    #[test]
    fn weights_are_kept() {
        let config = hosts(&[("a", "x:1", 300), ("a", "x:2", 100), ("b", "x:3", 600)]);
        let hosts = Hosts::new(&config, None);
        let mut rng = StdRng::seed_from_u64(1);
        let mut count = |name: Option<&str>, port: &str| {
            (0..10_000)
                .filter(|_| {
                    let chosen = hosts.choose(name, &[], &mut rng).unwrap();
                    chosen.host.addr.ends_with(port)
                })
                .count()
        };
        assert!((2800..3200).contains(&count(None, ":1")));
        assert!((5800..6200).contains(&count(None, ":3")));
        assert!((7300..7700).contains(&count(Some("a"), ":1")));
        assert_eq!(count(Some("b"), ":3"), 10_000);
    }

    #[test]
    fn a_host_is_not_tried_twice() {
        let config = hosts(&[("a", "x:1", 1), ("a", "x:2", 1), ("b", "x:3", 1)]);
        let hosts = Hosts::new(&config, None);
        let mut rng = StdRng::seed_from_u64(1);
        let first = hosts.choose(Some("a"), &[], &mut rng).unwrap();
        let mut tried = vec![first];
        tried.push(hosts.choose(Some("a"), &tried, &mut rng).unwrap());
        assert_ne!(tried[0].host.addr, tried[1].host.addr);
        assert!(hosts.choose(Some("a"), &tried, &mut rng).is_none());
        assert!(hosts.choose(Some("none"), &[], &mut rng).is_none());
        assert!(hosts.has("b") && !hosts.has("none"));
    }

    #[test]
    fn live_counts_survive_a_reload() {
        let config = hosts(&[("a", "x:1", 1), ("a", "x:1", 1)]);
        let old = Hosts::new(&config, None);
        let occupied = old.0[0].occupy();
        let new = Hosts::new(&config, Some(&old));
        let counts = |hosts: &Hosts| hosts.seen().iter().map(|h| h.sessions()).sum::<u64>();
        assert_eq!(counts(&new), 1);
        drop(occupied);
        assert_eq!(counts(&new), 0);
        let moved = Hosts::new(&self::hosts(&[("a", "x:2", 1)]), Some(&new));
        assert_eq!(counts(&moved), 0);
    }
}
