//! Metrics that a gateway counts.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use crate::hooks::SessionInfo;
use crate::hosts::is_ours;
use crate::metrics::{Count, Family, Histogram, Kind, Metric, Text, borrowed};

/// Declares metrics, each with its field, type, kind, labels, name and help.
macro_rules! metrics {
    ($(#[$meta:meta])* struct $type:ident {$(
        $field:ident: $value:ty, $kind:ident [$($label:literal),+], $name:literal, $help:literal;
    )*}) => {
        $(#[$meta])*
        pub(crate) struct $type {
            /// Meters of the sessions of each listener.
            pub listeners: Family<1, ListenerMeter>,
            $(#[doc = $help] pub $field: Metric<{ [$($label),+].len() }, $value>,)*
        }

        impl Default for $type {
            fn default() -> Self {
                Self {
                    listeners: Family::new(["listener"]),
                    $($field: Metric::new(Kind::$kind, $name, $help, [$($label),+]),)*
                }
            }
        }

        impl $type {
            /// Writes all metrics.
            pub fn write(&self, text: &mut Text) {
                $(text.metric(&self.$field);)*
                let listeners = self.listeners.all();
                for (kind, name, help, read) in ListenerMeter::ALL {
                    text.family(kind, name, help);
                    for (labels, meter) in &listeners {
                        text.sample(&borrowed(labels), read(meter).get());
                    }
                }
            }
        }
    };
}

metrics! {
    /// Metrics that nothing else counts.
    struct Metrics {
        reloads: Count, Counter ["result"], "stablegate_reloads_total",
            "Reloads by how they went.";
        accepts: Count, Counter ["listener", "transport"], "stablegate_accepts_total",
            "Connections accepted.";
        handshake_failures: Count, Counter ["listener", "session", "reason"],
            "stablegate_handshake_failures_total",
            "Connections that became no session and resumed none.";
        sessions: Count, Gauge ["listener", "transport", "session"], "stablegate_sessions",
            "Live sessions by what carries them now.";
        opened: Count, Counter ["listener", "session"], "stablegate_sessions_opened_total",
            "Sessions whose handshake succeeded.";
        closed: Count, Counter ["listener", "reason"], "stablegate_sessions_closed_total",
            "Sessions that ended, by reason.";
        resumes: Count, Counter ["listener", "transport", "session"], "stablegate_resumes_total",
            "Sessions that went on over another connection.";
        resume_failures: Count, Counter ["listener", "session", "code"],
            "stablegate_resume_failures_total",
            "Resumes refused, by what the client was told.";
        upstream: Histogram, Histogram ["host"], "stablegate_upstream_connect_seconds",
            "How long servers took to accept a connection.";
        upstream_failures: Count, Counter ["host", "reason"],
            "stablegate_upstream_connect_failures_total",
            "Servers that could not be reached.";
        dials: Count, Counter ["result"], "stablegate_fastway_dials_total",
            "Dials of endpoints by what came of them.";
    }
}

/// Declares the meters of a listener, each with its field, kind, name and help.
macro_rules! meters {
    ($(#[$meta:meta])* struct $type:ident {$(
        $field:ident: $kind:ident, $name:literal, $help:literal;
    )*}) => {
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub(crate) struct $type {
            $(#[doc = $help] pub $field: Count,)*
        }

        impl $type {
            const ALL: [(Kind, &str, &str, fn(&Self) -> &Count); [$($name),*].len()] =
                [$((Kind::$kind, $name, $help, |meter| &meter.$field)),*];
        }
    };
}

meters! {
    /// Meters of a listener's sessions: what they have moved and hold.
    struct ListenerMeter {
        away: Gauge, "stablegate_sessions_away",
            "Live sessions whose client has lost its connection and may come back.";
        received: Counter, "stablegate_received_bytes_total", "Payload from clients.";
        sent: Counter, "stablegate_sent_bytes_total", "Payload to clients.";
        resent: Counter, "stablegate_resent_bytes_total", "Payload sent again on resumes.";
        replay: Gauge, "stablegate_replay_buffer_bytes",
            "Memory of replay buffers, and what lost connections have delivered unread.";
    }
}

impl Metrics {
    pub fn listener(&self, name: &str) -> Arc<ListenerMeter> {
        self.listeners.with([name])
    }

    /// Returns the number of live sessions of a listener.
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

    /// Counts a handshake that gave no session, for `reason`.
    ///
    /// `code` is what the client was told, if it asked to resume a session.
    pub fn refused(&self, listener: &str, session: &str, reason: &str, code: Option<&str>) {
        let failures = &self.handshake_failures;
        failures.with([listener, session, reason]).add(1);
        if let Some(code) = code {
            let failures = &self.resume_failures;
            failures.with([listener, session, code]).add(1);
        }
    }

    /// Counts a dial of an upstream.
    ///
    /// `host` is the name of the host, or empty for an address that no host has.
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

    /// Counts the answer to a fastway endpoint's dial: connected, or the reason of its refusal.
    pub fn answered_dial(&self, result: &str) {
        self.dials.with([result]).add(1);
    }

    pub fn reloaded(&self, succeeded: bool) {
        let result = if succeeded { "success" } else { "failure" };
        self.reloads.with([result]).add(1);
    }

    /// Counts a resume that moved a session from transport `before` to `after`.
    pub fn resumed(&self, info: &SessionInfo, before: &str, after: &str, resent: u64) {
        let (listener, session) = (&*info.listener, info.session);
        self.resumes.with([listener, after, session]).add(1);
        self.listener(listener).resent.add(resent);
        self.sessions.with([listener, before, session]).sub(1);
        self.sessions.with([listener, after, session]).add(1);
    }
}
