//! Account of a session that has ended.

use std::time::Duration;

use super::excerpt::excerpt;
use super::record::Record;
use crate::hooks::Ended;
use crate::hooks::chain::{Chain, HookContext};

/// Account of a session that has ended, for the log, the session's record and the hooks.
pub(in crate::gateway) struct Account<'a> {
    pub service: Service<'a>,
    /// Bytes from the client.
    pub received: u64,
    /// Bytes to the client.
    pub sent: u64,
    pub resumes: u64,
    pub duration: Duration,
    /// Stable label of the reason.
    pub reason: &'static str,
    pub detail: String,
}

/// Service that the session was for.
pub(in crate::gateway) enum Service<'a> {
    Proxy {
        /// Address of the server, if one was connected.
        target: Option<&'a str>,
        /// Bytes from the client that the server did not take.
        unforwarded: u64,
    },
    Fastway {
        /// Id of the endpoint, if it joined.
        endpoint: Option<u32>,
    },
}

impl Account<'_> {
    /// Logs the end of the session, notes it in the session's record and tells the hooks.
    pub async fn close(self, chain: &Chain, subject: &mut HookContext, record: &Record) {
        record.ended(self.reason, self.detail.clone(), self.duration);
        let (target, unforwarded, endpoint, message) = match self.service {
            Service::Proxy {
                target,
                unforwarded,
            } => (target, Some(unforwarded), None, "session closed"),
            Service::Fastway { endpoint } => (None, None, endpoint, "endpoint left"),
        };
        tracing::info!(
            id = subject.info.id,
            endpoint,
            listener = %subject.info.listener,
            client = %subject.info.client_addr,
            target = target.map(excerpt).as_deref(),
            received = self.received,
            sent = self.sent,
            resumes = self.resumes,
            unforwarded,
            duration_ms = self.duration.as_millis() as u64,
            reason = self.reason,
            detail = %excerpt(&self.detail),
            "{message}"
        );
        let ended = Ended {
            received: self.received,
            sent: self.sent,
            resumes: self.resumes,
            duration: self.duration,
            reason: self.reason,
        };
        chain.closed(subject, &ended).await;
    }
}
