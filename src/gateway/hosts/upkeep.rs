//! What is done for hosts while no session asks for them.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval, timeout};

use super::names::Name;
use super::{Backend, Hosts};
use crate::config::{self, HostAddr};
use crate::resolver::Resolver;
use crate::transport::tcp;

impl Hosts {
    /// Starts what keeps the hosts' addresses fresh and checks their health, when they are to get
    /// sessions. It ends when the result is dropped.
    pub fn upkeep(&self, config: &config::Upstream) -> JoinSet<()> {
        let mut tasks = JoinSet::new();
        let mut seen = HashSet::new();
        for backend in &self.backends {
            if config.health.interval.is_none() {
                backend.host.health.unchecked();
            }
            let HostAddr::Dial { .. } = backend.addr else {
                continue;
            };
            if !seen.insert(&backend.host.addr) {
                continue;
            }
            let limit = config.connect_timeout;
            if let Some(interval) = config.resolve_interval
                && !backend.name.is_literal()
            {
                let (name, resolver) = (backend.name.clone(), self.resolver.clone());
                tasks.spawn(async move {
                    let lookup = |host, port| resolver.addrs(host, port);
                    name.keep_fresh(lookup, interval, limit).await;
                });
            }
            if let Some(every) = config.health.interval {
                let kept = config.resolve_interval.is_some();
                let (backend, settings) = (backend.clone(), config.health.clone());
                tasks.spawn(check(backend, self.resolver.clone(), settings, every, kept));
            }
        }
        tasks
    }
}

/// Checks a host for ever.
async fn check(
    backend: Backend,
    resolver: Arc<Resolver>,
    settings: config::Health,
    every: Duration,
    kept: bool,
) {
    let (host, name) = (&backend.host, &backend.name);
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let result = accepts(name, &resolver, kept, settings.timeout).await;
        if result.as_ref().is_err_and(is_ours) {
            continue;
        }
        let (rise, fall) = (settings.rise, settings.fall);
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

/// Whether one of the addresses of a name accepts a connection in time.
async fn accepts(name: &Name, resolver: &Resolver, kept: bool, limit: Duration) -> io::Result<()> {
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

/// Whether an error says nothing of a host: the gateway had no descriptor, port or memory left.
pub(in crate::gateway) fn is_ours(error: &io::Error) -> bool {
    const OURS: [i32; 5] = [
        libc::EMFILE,
        libc::ENFILE,
        libc::ENOBUFS,
        libc::ENOMEM,
        libc::EADDRNOTAVAIL,
    ];
    error
        .raw_os_error()
        .is_some_and(|code| OURS.contains(&code))
}
