//! Status of a gateway, for the admin interface.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use serde::Serialize;

use super::time::rfc3339;
use crate::config::diff::BindKey;
use crate::config::{Hook, Service, Session};
use crate::gateway::{Fault, Gateway, Loaded};
use crate::hooks::stats::{Asked, HookStats};

/// Status of a gateway as a whole, at one moment.
#[derive(Debug, Serialize)]
pub(super) struct Status {
    version: &'static str,
    #[serde(serialize_with = "rfc3339")]
    started_at: SystemTime,
    uptime_seconds: f64,
    node: u8,
    /// Number of the generation, which counts up with each reload that succeeded.
    generation: u64,
    draining: bool,
    sessions: usize,
    listeners: Vec<ListenerStatus>,
    hosts: Vec<HostStatus>,
    hooks: Vec<HookStatus>,
    last_reload: Option<ReloadStatus>,
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
    /// Address of the socket; `None` when it does not accept, as the gateway drains.
    addr: Option<SocketAddr>,
}

#[derive(Debug, Serialize)]
struct HostStatus {
    name: String,
    addr: String,
    weight: u32,
    sessions: u64,
    /// Whether the host gets no new sessions.
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
    /// Decisions that the hook was asked for.
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
    /// Time that sessions waited for an answer: upper bounds of the quantiles.
    latency_seconds: Quantiles,
}

#[derive(Debug, Serialize)]
struct Quantiles {
    p50: Option<f64>,
    p90: Option<f64>,
    p99: Option<f64>,
    max: Option<f64>,
}

#[derive(Debug, Serialize)]
struct ReloadStatus {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    succeeded: bool,
    /// Number of the generation in force since then.
    generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Fault>,
}

impl Status {
    /// Returns the status of a gateway.
    pub async fn of(gateway: &Gateway) -> Self {
        let generation = gateway.generation();
        let config = &generation.config;
        let state = gateway.state();
        let mut listeners = Vec::new();
        for listener in &config.listeners {
            let keys = BindKey::of(listener);
            let addrs = gateway.addrs_of(&keys).await;
            let binds = keys.iter().zip(addrs).map(|(key, addr)| BindStatus {
                transport: key.bind.transport.to_string(),
                addr,
            });
            let meter = state.metrics.listener(&listener.name);
            listeners.push(ListenerStatus {
                sessions: state.metrics.sessions_of(&listener.name),
                away: meter.away.get(),
                received_bytes: meter.received.get(),
                sent_bytes: meter.sent.get(),
                resent_bytes: meter.resent.get(),
                replay_buffer_bytes: meter.replay.get(),
                name: listener.name.clone(),
                session: listener.session,
                service: listener.service,
                hooks: listener.hooks.clone(),
                binds: binds.collect(),
            });
        }
        let hosts = generation.hosts.seen().into_iter().map(|host| HostStatus {
            name: host.name.clone(),
            addr: host.addr.clone(),
            weight: host.weight,
            sessions: host.sessions(),
            draining: host.draining,
            health: host.health.state(Instant::now()).label(),
        });
        let stats = &state.environment.stats;
        let hooks = config.hooks.iter().zip(&generation.loaded);
        let hooks =
            hooks.map(|(hook, loaded)| HookStatus::new(hook, loaded, &stats.of(&hook.name)));
        let (started_at, started) = gateway.started();
        let last_reload = gateway.last_reload().map(|reload| ReloadStatus {
            at: reload.at,
            succeeded: reload.error.is_none(),
            generation: reload.generation,
            error: reload.error,
        });
        Self {
            version: env!("CARGO_PKG_VERSION"),
            started_at,
            uptime_seconds: started.elapsed().as_secs_f64(),
            node: config.node,
            generation: generation.number,
            draining: gateway.is_draining(),
            sessions: gateway.sessions(),
            listeners,
            hosts: hosts.collect(),
            hooks: hooks.collect(),
            last_reload,
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
