//! Metrics of the process, under the names that Prometheus' own clients use.

use std::fs;

use crate::metrics::{Kind, Text};

/// Writes the metrics that `/proc` has; without a `/proc`, none.
pub(super) fn write(text: &mut Text) {
    if let Some(stat) = Stat::read() {
        if let Some(started) = stat.started {
            let name = "process_start_time_seconds";
            let help = "When the process started, since 1970.";
            text.single(Kind::Gauge, name, help, started);
        }
        for (kind, name, help, value) in [
            (
                Kind::Counter,
                "process_cpu_seconds_total",
                "CPU time of user and system.",
                stat.cpu,
            ),
            (
                Kind::Gauge,
                "process_threads",
                "Threads of the process.",
                stat.threads,
            ),
            (
                Kind::Gauge,
                "process_virtual_memory_bytes",
                "Virtual memory.",
                stat.virtual_memory,
            ),
            (
                Kind::Gauge,
                "process_resident_memory_bytes",
                "Resident memory.",
                stat.resident_memory,
            ),
        ] {
            text.single(kind, name, help, value);
        }
    }
    if let Ok(descriptors) = fs::read_dir("/proc/self/fd") {
        let name = "process_open_fds";
        text.single(Kind::Gauge, name, "Open descriptors.", descriptors.count());
    }
    if let Some(limit) = descriptor_limit() {
        let help = "The most descriptors that may be open.";
        text.single(Kind::Gauge, "process_max_fds", help, limit);
    }
}

struct Stat {
    cpu: f64,
    /// Start of the process since 1970; unknown where the system does not tell when it booted.
    started: Option<f64>,
    threads: f64,
    virtual_memory: f64,
    resident_memory: f64,
}

impl Stat {
    fn read() -> Option<Self> {
        let stat = fs::read_to_string("/proc/self/stat").ok()?;
        // A process may not be allowed to read this.
        let system = fs::read_to_string("/proc/stat").unwrap_or_default();
        Self::parse(&stat, &system)
    }

    fn parse(stat: &str, system: &str) -> Option<Self> {
        // The name of the program, in parentheses, may hold anything.
        let fields: Vec<f64> = stat
            .rsplit_once(')')?
            .1
            .split_whitespace()
            .skip(1)
            .map(|field| field.parse().unwrap_or(0.0))
            .collect();
        // Fields have the numbers of proc(5); the first here is the fourth.
        let field = |number: usize| fields.get(number - 4).copied();
        let boot = system.lines().find_map(|line| line.strip_prefix("btime "));
        let boot = boot.and_then(|boot| boot.trim().parse::<f64>().ok());
        let (tick, page) = (
            configured(libc::_SC_CLK_TCK),
            configured(libc::_SC_PAGESIZE),
        );
        Some(Self {
            cpu: (field(14)? + field(15)?) / tick,
            started: boot.zip(field(22)).map(|(boot, after)| boot + after / tick),
            threads: field(20)?,
            virtual_memory: field(23)?,
            resident_memory: field(24)? * page,
        })
    }
}

fn configured(name: libc::c_int) -> f64 {
    // SAFETY: it reads a constant of the system.
    let value = unsafe { libc::sysconf(name) };
    value as f64
}

fn descriptor_limit() -> Option<u64> {
    let limits = fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"))?;
    line.split_whitespace().next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_sees_only_itself() {
        let stat = fs::read_to_string("/proc/self/stat").unwrap();
        let seen = Stat::parse(&stat, "").unwrap();
        assert!(seen.started.is_none() && seen.threads >= 1.0);
        let seen = Stat::parse(&stat, "cpu 1 2\nbtime 1700000000\n").unwrap();
        assert!(seen.started.is_some_and(|started| started > 1.7e9));
    }
}
