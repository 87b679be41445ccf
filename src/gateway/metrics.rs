//! What a gateway counts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::hooks::SessionInfo;
use crate::hosts::is_ours;
use crate::metrics::{Count, Family, Histogram};

/// The counts that nothing else keeps.
pub(crate) struct Metrics {
    pub listeners: Family<1, ListenerMeter>,
    /// Live sessions.
    pub sessions: Family<3, Count>,
    pub accepts: Family<2, Count>,
    pub handshake_failures: Family<3, Count>,
    pub opened: Family<2, Count>,
    pub closed: Family<2, Count>,
    pub resumes: Family<3, Count>,
    pub resume_failures: Family<3, Count>,
    pub upstream: Family<1, Histogram>,
    pub upstream_failures: Family<2, Count>,
    pub dials: Family<1, Count>,
    pub reloads: Family<1, Count>,
}

/// What the sessions of a listener have moved and hold.
#[derive(Debug, Default)]
pub(crate) struct ListenerMeter {
    pub received: Count,
    pub sent: Count,
    pub resent: Count,
    /// Bytes of replay buffers.
    pub replay: Count,
    /// Sessions whose client has lost its connection.
    pub away: Count,
}

impl Default for Metrics {
    fn default() -> Self {
        Self {
            listeners: Family::new(["listener"]),
            sessions: Family::new(["listener", "transport", "session"]),
            accepts: Family::new(["listener", "transport"]),
            handshake_failures: Family::new(["listener", "session", "reason"]),
            opened: Family::new(["listener", "session"]),
            closed: Family::new(["listener", "reason"]),
            resumes: Family::new(["listener", "transport", "session"]),
            resume_failures: Family::new(["listener", "session", "code"]),
            upstream: Family::new(["host"]),
            upstream_failures: Family::new(["host", "reason"]),
            dials: Family::new(["result"]),
            reloads: Family::new(["result"]),
        }
    }
}

impl Metrics {
    pub fn listener(&self, name: &str) -> Arc<ListenerMeter> {
        self.listeners.with([name])
    }

    /// Live sessions of a listener.
    pub fn sessions_of(&self, listener: &str) -> u64 {
        let all = self.sessions.all();
        let of_it = all.iter().filter(|(labels, _)| labels[0].1 == listener);
        of_it.map(|(_, count)| count.get()).sum()
    }

    pub fn opened(&self, info: &SessionInfo) {
        let (listener, session) = (&*info.listener, info.session);
        self.opened.with([listener, session]).add(1);
        self.sessions
            .with([listener, info.transport, session])
            .add(1);
    }

    pub fn closed(&self, info: &SessionInfo, transport: &str, reason: &str) {
        let listener = &*info.listener;
        self.closed.with([listener, reason]).add(1);
        self.sessions
            .with([listener, transport, info.session])
            .sub(1);
    }

    pub fn accepted(&self, listener: &str, transport: &str) {
        self.accepts.with([listener, transport]).add(1);
    }

    /// A handshake gave no session, for `reason`. `code` is what a client was told that wanted its
    /// session back.
    pub fn refused(&self, listener: &str, session: &str, reason: &str, code: Option<&str>) {
        let failures = &self.handshake_failures;
        failures.with([listener, session, reason]).add(1);
        if let Some(code) = code {
            let failures = &self.resume_failures;
            failures.with([listener, session, code]).add(1);
        }
    }

    /// A server was dialled: `host` by its name, or empty for an address that is none's.
    pub fn dialled<T>(&self, host: &str, result: &io::Result<T>, took: Duration) {
        let Err(error) = result else {
            return self.upstream.with([host]).record(took);
        };
        let reason = match error.kind() {
            io::ErrorKind::TimedOut => "timeout",
            io::ErrorKind::ConnectionRefused => "refused",
            io::ErrorKind::HostUnreachable | io::ErrorKind::NetworkUnreachable => "unreachable",
            io::ErrorKind::NotFound => "not_found",
            _ if is_ours(error) => "exhausted",
            _ => "other",
        };
        self.upstream_failures.with([host, reason]).add(1);
    }

    /// A fastway endpoint's dial was connected, or refused for that reason.
    pub fn answered_dial(&self, result: &str) {
        self.dials.with([result]).add(1);
    }

    pub fn reloaded(&self, succeeded: bool) {
        let result = if succeeded { "success" } else { "failure" };
        self.reloads.with([result]).add(1);
    }

    /// A session went on over transport `after`, which was on `before`.
    pub fn resumed(&self, info: &SessionInfo, before: &str, after: &str, resent: u64) {
        let (listener, session) = (&*info.listener, info.session);
        self.resumes.with([listener, after, session]).add(1);
        self.listener(listener).resent.add(resent);
        self.sessions.with([listener, before, session]).sub(1);
        self.sessions.with([listener, after, session]).add(1);
    }
}
