//! What a gateway tells of itself.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde::{Serialize, Serializer};

use super::generation::Loaded;
use super::{Error, Gateway, lock};
use crate::admin::Fault;
use crate::config::diff::BindKey;
use crate::config::{Hook, Listener, Service, Session};
use crate::hooks::stats::{Asked, HookStats};

/// The last second of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// A gateway as a whole, at one moment.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    version: &'static str,
    #[serde(serialize_with = "rfc3339")]
    started_at: SystemTime,
    uptime_seconds: f64,
    node: u8,
    /// Counts up with each reload that succeeded.
    generation: u64,
    draining: bool,
    sessions: usize,
    listeners: Vec<ListenerStatus>,
    hosts: Vec<HostStatus>,
    hooks: Vec<HookStatus>,
    last_reload: Option<Reload>,
}

#[derive(Debug, Serialize)]
struct ListenerStatus {
    name: String,
    session: Session,
    service: Service,
    hooks: Vec<String>,
    binds: Vec<BindStatus>,
    sessions: u64,
    away: u64,
    received_bytes: u64,
    sent_bytes: u64,
    resent_bytes: u64,
    replay_buffer_bytes: u64,
}

#[derive(Debug, Serialize)]
struct BindStatus {
    transport: String,
    /// `None` when it does not accept: the gateway drains.
    addr: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    name: String,
    addr: String,
    weight: u32,
    sessions: u64,
    /// It gets no new sessions.
    draining: bool,
    health: &'static str,
}

#[derive(Debug, Serialize)]
struct HookStatus {
    name: String,
    file: String,
    sha256: String,
    #[serde(serialize_with = "rfc3339")]
    loaded_at: SystemTime,
    calls: u64,
    errors: u64,
    last_error: Option<ErrorStatus>,
    /// Those that it was asked for.
    decisions: Vec<DecisionStatus>,
}

#[derive(Debug, Serialize)]
struct ErrorStatus {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    message: String,
}

#[derive(Debug, Serialize)]
struct DecisionStatus {
    decision: &'static str,
    calls: u64,
    errors: u64,
    denials: u64,
    /// What sessions waited for an answer: upper bounds of the quantiles.
    latency_seconds: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

/// How a reload went.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Reload {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    succeeded: bool,
    /// The one in force since then.
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Fault>,
}

/// When a gateway started.
pub(super) struct Started {
    at: SystemTime,
    instant: Instant,
}

impl Started {
    pub fn now() -> Self {
        Self {
            at: SystemTime::now(),
            instant: Instant::now(),
        }
    }
}

impl Reload {
    pub(super) fn now(result: &Result<(), Error>, generation: u64) -> Self {
        Self {
            at: SystemTime::now(),
            succeeded: result.is_ok(),
            generation,
            error: result.as_ref().err().map(Fault::from),
        }
    }
}

impl Gateway {
    /// Whether what is in force is what the files say, as far as that was tried.
    pub(super) fn last_reload_succeeded(&self) -> bool {
        let last = lock(&self.last_reload);
        last.as_ref().is_none_or(|reload| reload.succeeded)
    }

    /// What it is doing.
    pub(crate) async fn status(&self) -> Status {
        let generation = self.generation();
        let config = &generation.config;
        let binds = self.binds.lock().await;
        let listener = |listener: &Listener| {
            let keys = BindKey::of(listener);
            let bind = |key: &BindKey| BindStatus {
                transport: key.bind.transport.to_string(),
                addr: binds.open.get(key).map(|bound| bound.addr),
            };
            let meter = self.state.metrics.listener(&listener.name);
            ListenerStatus {
                sessions: self.state.metrics.sessions_of(&listener.name),
                away: meter.away.get(),
                received_bytes: meter.received.get(),
                sent_bytes: meter.sent.get(),
                resent_bytes: meter.resent.get(),
                replay_buffer_bytes: meter.replay.get(),
                name: listener.name.clone(),
                session: listener.session,
                service: listener.service,
                hooks: listener.hooks.clone(),
                binds: keys.iter().map(bind).collect(),
            }
        };
        let listeners = config.listeners.iter().map(listener).collect();
        let hosts = generation.hosts.seen().into_iter().map(|host| HostStatus {
            name: host.name.clone(),
            addr: host.addr.clone(),
            weight: host.weight,
            sessions: host.sessions(),
            draining: host.draining,
            health: host.health.state(Instant::now()).label(),
        });
        let stats = &self.state.environment.stats;
        let hooks = config.hooks.iter().zip(&generation.loaded);
        let hooks =
            hooks.map(|(hook, loaded)| HookStatus::new(hook, loaded, &stats.of(&hook.name)));
        Status {
            version: env!("CARGO_PKG_VERSION"),
            started_at: self.started.at,
            uptime_seconds: self.started.instant.elapsed().as_secs_f64(),
            node: config.node,
            generation: generation.number,
            draining: self.is_draining(),
            sessions: self.sessions(),
            listeners,
            hosts: hosts.collect(),
            hooks: hooks.collect(),
            last_reload: lock(&self.last_reload).clone(),
        }
    }
}

impl HookStatus {
    fn new(hook: &Hook, loaded: &Loaded, stats: &HookStats) -> Self {
        let decisions: Vec<_> = stats
            .decisions()
            .map(|(name, asked)| DecisionStatus::new(name, asked))
            .filter(|decision| decision.calls > 0)
            .collect();
        Self {
            name: hook.name.clone(),
            file: hook.program.path().display().to_string(),
            sha256: loaded.sha256.clone(),
            loaded_at: loaded.at,
            calls: decisions.iter().map(|decision| decision.calls).sum(),
            errors: decisions.iter().map(|decision| decision.errors).sum(),
            last_error: stats.last_error().map(|error| ErrorStatus {
                at: error.at,
                message: error.message,
            }),
            decisions,
        }
    }
}

impl DecisionStatus {
    fn new(decision: &'static str, asked: &Asked) -> Self {
        let quantile = |share| Some(asked.latency.quantile(share)?.as_secs_f64());
        Self {
            decision,
            calls: asked.latency.count(),
            errors: asked.errors().values().sum(),
            denials: asked.denials.get(),
            latency_seconds: Quantiles {
                p50: quantile(0.5),
                p90: quantile(0.9),
                p99: quantile(0.99),
                max: quantile(1.0),
            },
        }
    }
}

pub(super) fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(writable(*at)))
}

/// Returns the nearest time that formats of dates can write, from 1970 to 9999: a machine's clock
/// may be wrong.
pub(crate) fn writable(at: SystemTime) -> SystemTime {
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_written() {
        let day = Duration::from_secs(86_400);
        for (at, written) in [
            (UNIX_EPOCH - 400 * day, "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + day, "1970-01-02T00:00:00.000Z"),
            (UNIX_EPOCH + 3_000_000 * day, "9999-12-31T23:59:59.000Z"),
        ] {
            let text = rfc3339(&at, serde_json::value::Serializer).unwrap();
            assert_eq!(text, written);
        }
    }
}
