//! Background tasks of hosts: periodic lookups and checks.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::addr::HostAddr;
use super::names::{Resolved, is_ours};
use super::settings::{Check, Settings};
use super::table::{Backend, Hosts};
use crate::resolver::Resolver;
use crate::transport::tcp;

impl Hosts {
    /// Starts the tasks that refresh the hosts' addresses and check their health.
    ///
    /// Call when the hosts are to get sessions. The tasks end when the result is dropped.
    pub fn upkeep(&self, settings: &Settings) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for backend in &self.backends {
            if settings.check.is_none() {
                backend.host.health.unchecked();
            }
            let HostAddr::Dial { .. } = backend.addr else {
                continue;
            };
            if !seen.insert(&backend.host.addr) {
                continue;
            }
            let limit = settings.resolve_timeout;
            if let Some(interval) = settings.resolve_interval
                && !backend.name.is_literal()
            {
                let (name, resolver) = (backend.name.clone(), self.resolver.clone());
                tasks.spawn(async move {
                    let lookup = |host, port| resolver.addrs(host, port);
                    name.keep_fresh(lookup, interval, limit).await;
                });
            }
            if let Some(check) = &settings.check {
                let kept = settings.resolve_interval.is_some();
                let (backend, check) = (backend.clone(), check.clone());
                tasks.spawn(keep_checking(backend, self.resolver.clone(), check, kept));
            }
        }
        tasks
    }
}

/// Checks a host at each interval, forever.
async fn keep_checking(backend: Backend, resolver: Arc<Resolver>, check: Check, kept: bool) {
    let (host, name) = (&backend.host, &backend.name);
    let mut ticks = interval(check.interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = accepts(name, &resolver, kept, check.timeout).await;
        if result.as_ref().is_err_and(is_ours) {
            continue;
        }
        let (rise, fall) = (check.rise, check.fall);
        let changed = host
            .health
            .checked(result.is_ok(), rise, fall, Instant::now());
        match result {
            Ok(()) if changed => tracing::info!(addr = host.addr, "host is healthy again"),
            Err(error) if changed => tracing::warn!(addr = host.addr, %error, "host is unhealthy"),
            _ => {}
        }
    }
}

/// Checks that one of the addresses of a name accepts a connection within `limit`.
async fn accepts(
    name: &Resolved,
    resolver: &Resolver,
    kept: bool,
    limit: Duration,
) -> io::Result<()> {
    let mut last = io::ErrorKind::NotFound.into();
    let lookup = |host, port| resolver.addrs(host, port);
    for addr in name.addresses(lookup, kept, limit).await? {
        last = match timeout(limit, tcp::Stream::connect(addr, None)).await {
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => error,
            Err(_) => io::ErrorKind::TimedOut.into(),
        };
    }
    Err(last)
}
