//! Metrics as Prometheus reads them.

use std::collections::BTreeMap;

use super::process;
use crate::config::Bind;
use crate::config::diff::BindKey;
use crate::gateway::Gateway;
use crate::hooks::stats::Asked;
use crate::metrics::{Kind, Text};
use crate::proto::fastway::Role;
use crate::transport::kcp::{Counters, MetricKind};

/// Returns all metrics of a gateway in Prometheus' text format.
pub(super) async fn text(gateway: &Gateway) -> String {
    let mut text = Text::default();
    write_gateway(gateway, &mut text);
    gateway.state().metrics.write(&mut text);
    write_limits(gateway, &mut text);
    write_hosts(gateway, &mut text);
    write_hooks(gateway, &mut text);
    write_fastway(gateway, &mut text);
    write_kcp(&mut text, &gateway.kcp_counters().await);
    process::write(&mut text);
    text.into_string()
}

fn write_gateway(gateway: &Gateway, text: &mut Text) {
    text.family(
        Kind::Gauge,
        "stablegate_build_info",
        "1, with the version as a label.",
    );
    text.sample(&[("version", env!("CARGO_PKG_VERSION"))], 1);
    text.single(
        Kind::Gauge,
        "stablegate_generation",
        "The generation of the configuration in force.",
        gateway.generation().number,
    );
    text.single(
        Kind::Gauge,
        "stablegate_draining",
        "1 while new sessions are turned away.",
        u8::from(gateway.is_draining()),
    );
    text.single(
        Kind::Gauge,
        "stablegate_last_reload_successful",
        "0 if the last reload failed.",
        u8::from(
            gateway
                .last_reload()
                .is_none_or(|reload| reload.error.is_none()),
        ),
    );
}

fn write_limits(gateway: &Gateway, text: &mut Text) {
    text.family(
        Kind::Counter,
        "stablegate_refusals_total",
        "Connections that a limit has kept out; of descriptors, the pauses of 0.1 s without one.",
    );
    for (listener, limit, count) in gateway.refusals() {
        text.sample(&[("listener", &listener), ("limit", limit.label())], count);
    }
}

fn write_hosts(gateway: &Gateway, text: &mut Text) {
    let mut hosts = BTreeMap::new();
    for host in gateway.generation().hosts.seen() {
        let key = (host.name.clone(), host.addr.clone());
        let of_it = hosts.entry(key).or_insert((0, host.is_healthy()));
        of_it.0 += host.sessions();
    }
    let name = "stablegate_host_sessions";
    text.family(Kind::Gauge, name, "Live sessions by host.");
    for ((name, addr), (sessions, _)) in &hosts {
        text.sample(&[("host", name), ("addr", addr)], sessions);
    }
    text.family(
        Kind::Gauge,
        "stablegate_host_healthy",
        "0 if a host cannot be reached, as far as checks and sessions have found.",
    );
    for ((name, addr), (_, healthy)) in &hosts {
        text.sample(&[("host", name), ("addr", addr)], u8::from(*healthy));
    }
}

fn write_hooks(gateway: &Gateway, text: &mut Text) {
    type Write = dyn Fn(&mut Text, &[(&str, &str)], &Asked);
    let hooks = gateway.state().environment.stats.all();
    let mut each = |kind, name, help, write: &Write| {
        text.family(kind, name, help);
        for stats in &hooks {
            for (decision, asked) in stats.decisions() {
                let labels = [("hook", &*stats.name), ("decision", decision)];
                write(text, &labels, asked);
            }
        }
    };
    each(
        Kind::Histogram,
        "stablegate_hook_call_seconds",
        "How long sessions waited for answers of hooks.",
        &|text, labels, asked| {
            if asked.latency.count() > 0 {
                text.histogram(labels, &asked.latency);
            }
        },
    );
    each(
        Kind::Counter,
        "stablegate_hook_denials_total",
        "Sessions denied, by errors too.",
        &|text, labels, asked| {
            if asked.latency.count() > 0 {
                text.sample(labels, asked.denials.get());
            }
        },
    );
    each(
        Kind::Counter,
        "stablegate_hook_errors_total",
        "Calls that gave no answer.",
        &|text, labels, asked| {
            for (kind, count) in asked.errors() {
                text.sample(&[labels, &[("kind", kind)]].concat(), count);
            }
        },
    );
    let pool = gateway.state().environment.runners.scripts();
    for (kind, name, help, value) in [
        (
            Kind::Gauge,
            "stablegate_script_workers",
            "Threads that run scripts.",
            pool.workers as u64,
        ),
        (
            Kind::Gauge,
            "stablegate_script_calls_queued",
            "Calls that wait for a worker.",
            pool.queued as u64,
        ),
        (
            Kind::Gauge,
            "stablegate_script_calls_running",
            "Calls that are being run.",
            pool.running as u64,
        ),
        (
            Kind::Gauge,
            "stablegate_script_workers_slow",
            "Workers whose call has run for more than 5 ms.",
            pool.slow as u64,
        ),
        (
            Kind::Gauge,
            "stablegate_script_workers_stuck",
            "Workers whose call is far past its limits and has not ended.",
            pool.stuck as u64,
        ),
        (
            Kind::Counter,
            "stablegate_script_calls_stuck_total",
            "Calls that went far past their limits.",
            pool.stuck_ever,
        ),
        (
            Kind::Gauge,
            "stablegate_script_interpreters",
            "Interpreters that are alive.",
            pool.vms as u64,
        ),
    ] {
        text.single(kind, name, help, value);
    }
}

fn write_fastway(gateway: &Gateway, text: &mut Text) {
    let switchboard = &gateway.state().environment.fastway;
    text.family(
        Kind::Gauge,
        "stablegate_fastway_endpoints",
        "Endpoints that have joined.",
    );
    for (name, role) in [("client", Role::Client), ("server", Role::Server)] {
        text.sample(&[("role", name)], switchboard.count(role));
    }
    text.single(
        Kind::Gauge,
        "stablegate_fastway_virtual_connections",
        "Virtual connections.",
        switchboard.connections(),
    );
    text.single(
        Kind::Gauge,
        "stablegate_fastway_queue_bytes",
        "What waits to be written to endpoints.",
        switchboard.queued(),
    );
}

fn write_kcp(text: &mut Text, binds: &[(BindKey, Counters)]) {
    let name = |key: &BindKey| match &key.chosen_port {
        // Only these tell two such binds apart.
        Some((listener, nth)) => format!("{} of {listener}, {nth}", Bind::to_string(&key.bind)),
        None => key.bind.to_string(),
    };
    let mut binds: Vec<_> = binds
        .iter()
        .map(|(key, counters)| (name(key), counters.metrics()))
        .collect();
    // Without any KCP bind the families are written all the same.
    for metric in Counters::default().metrics() {
        let (kind, suffix) = match metric.kind {
            MetricKind::Counter => (Kind::Counter, "_total"),
            MetricKind::Gauge => (Kind::Gauge, ""),
        };
        let family = format!("stablegate_kcp_{}{suffix}", metric.name);
        text.family(kind, family, metric.help);
        for (bind, metrics) in &mut binds {
            if let Some(metric) = metrics.next() {
                text.sample(&[("bind", bind)], metric.value);
            }
        }
    }
}
