//! Proxied sessions, from their handshake to their end.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::peek::peek;
use super::reason::Reason;
use super::relay::Relay;
use super::upstream::{Connected, Connector};
use crate::config;
use crate::gateway::gate::Permit;
use crate::gateway::generation::Generation;
use crate::gateway::live::account::{Account, Service};
use crate::gateway::live::{Client, Destination, Record, Registration, excerpt, run};
use crate::gateway::metrics::Metrics;
use crate::gateway::state::{State, TableGuard};
use crate::hooks::chain::{Chain, HookContext};
use crate::hooks::{Attrs, SessionInfo};
use crate::hosts::SessionGuard;

/// Time limit for either side to accept the last bytes of a session that ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Session after its handshake, with what decides about it.
pub(in crate::gateway) struct Session<'a> {
    pub state: &'a Arc<State>,
    pub generation: &'a Generation,
    pub listener: &'a config::Listener,
    pub chain: &'a Arc<Chain>,
    pub client: Client,
    pub info: Arc<SessionInfo>,
    pub registration: Registration,
    pub guard: Option<TableGuard>,
    pub permit: Permit,
}

/// Context in which a session's upstream is decided.
struct Deciding<'a> {
    generation: &'a Generation,
    listener: &'a config::Listener,
    chain: &'a Chain,
    record: &'a Record,
    metrics: &'a Metrics,
}

/// Session that is connected to its upstream.
pub(in crate::gateway) struct Opened {
    state: Arc<State>,
    chain: Arc<Chain>,
    subject: HookContext,
    started: Instant,
    relay: Relay,
    target: String,
    registration: Registration,
    _occupied: Option<SessionGuard>,
    guard: Option<TableGuard>,
    permit: Permit,
}

impl Session<'_> {
    /// Connects the session to its upstream. If it gets none, logs its end, tells the hooks, and
    /// returns `None`.
    pub async fn open(self) -> Option<Box<Opened>> {
        let Self {
            state,
            generation,
            listener,
            chain,
            mut client,
            info,
            registration,
            guard,
            permit,
        } = self;
        let started = Instant::now();
        let mut subject = HookContext {
            info,
            attrs: Attrs::new(),
            trace: Some(registration.record().trace.clone()),
        };
        let record = registration.record();
        let deciding = Deciding {
            generation,
            listener,
            chain,
            record,
            metrics: &state.metrics,
        };
        let opening = Box::pin(deciding.open(&mut client, &mut subject));
        let reason = match run(&state.shutdown, record, opening).await {
            Ok(Ok((connected, first, peeked))) => {
                tracing::info!(
                    id = subject.info.id,
                    listener = %subject.info.listener,
                    client = %subject.info.client_addr,
                    target = &*excerpt(&connected.addr),
                    "session opened"
                );
                let linger = listener.tcp.linger;
                return Some(Box::new(Opened {
                    state: state.clone(),
                    chain: chain.clone(),
                    subject,
                    started,
                    relay: Relay::new(client, connected.upstream, first, peeked, linger),
                    target: connected.addr,
                    registration,
                    _occupied: connected.occupied,
                    guard,
                    permit,
                }));
            }
            Ok(Err(reason)) => reason,
            Err(stopped) => Reason::Stopped(stopped),
        };
        let account = Account {
            service: Service::Proxy {
                target: None,
                unforwarded: 0,
            },
            received: subject.info.first_data.as_ref().map_or(0, Bytes::len) as u64,
            sent: 0,
            resumes: client.resumes(),
            duration: started.elapsed(),
            reason: reason.label(),
            detail: reason.to_string(),
        };
        // Released before the end is reported: whoever reads of it may rely on there being room,
        // and on the session being gone, with nothing to resume.
        drop((permit, guard));
        // The client gets no answer but the end.
        let leaving = async {
            if !reason.is_fault() {
                let _ = timeout(LAST_WORDS, poll_fn(|cx| client.poll_finish(cx))).await;
            }
        };
        let closing = account.close(chain, &mut subject, record);
        let _ = tokio::join!(leaving, closing);
        None
    }
}

impl Deciding<'_> {
    /// Asks the hooks and connects to the upstream.
    ///
    /// Returns the upstream, the bytes that it gets first, and how many of them came from the
    /// client.
    async fn open(
        self,
        client: &mut Client,
        subject: &mut HookContext,
    ) -> Result<(Connected, BytesMut, usize), Reason> {
        let Self {
            generation,
            listener,
            chain,
            record,
            metrics,
        } = self;
        let mut first_data = Bytes::new();
        if let Some(settings) = &listener.peek {
            first_data = peek(client, settings).await.into();
            Arc::make_mut(&mut subject.info).first_data = Some(first_data.clone());
        }
        record.story().info = subject.info.clone();
        let connecting = async {
            chain.access(subject).await.map_err(Reason::Denied)?;
            let target = chain.select_target(subject).await.map_err(Reason::Denied)?;
            let connector = Connector {
                hosts: &generation.hosts,
                config: &generation.config.upstream,
                info: &subject.info.clone(),
                metrics,
            };
            let connected = connector
                .connect(target)
                .await
                .map_err(Reason::ConnectFailed)?;
            let went = match &connected.occupied {
                Some(occupied) => Destination::Host(occupied.host().clone()),
                None => Destination::Addr(connected.addr.as_str().into()),
            };
            record.story().target = Some(went);
            let message = chain
                .announce(subject, &connected.addr)
                .await
                .map_err(Reason::Denied)?;
            Ok((connected, message))
        };
        // The client may lose its connection and come back meanwhile.
        let (connected, message) = client.drive(connecting).await.ok_or(Reason::LeftEarly)??;
        let mut first = BytesMut::from(message);
        first.extend_from_slice(&first_data);
        Ok((connected, first, first_data.len()))
    }
}

impl Opened {
    /// Runs the session to its end, logs the end and tells the hooks.
    pub async fn run(mut self: Box<Self>) {
        let reason = {
            let record = self.registration.record();
            // Pinned here, so that what wraps it holds no further copies of it.
            let relaying = pin!(self.relay.run(record));
            match run(&self.state.shutdown, record, relaying).await {
                Ok(end) => Reason::Relayed(end),
                Err(stopped) => Reason::Stopped(stopped),
            }
        };
        Box::pin(self.close(reason)).await;
    }

    async fn close(mut self: Box<Self>, reason: Reason) {
        let relay = &mut self.relay;
        if !reason.is_fault() {
            // Pushes out what a resuming upstream holds; a broken one says so at once.
            let _ = timeout(LAST_WORDS, relay.upstream.shutdown()).await;
        }
        let account = Account {
            service: Service::Proxy {
                target: Some(&self.target),
                unforwarded: relay.unforwarded,
            },
            received: relay.received,
            sent: relay.sent,
            resumes: relay.client.resumes(),
            duration: self.started.elapsed(),
            reason: reason.label(),
            detail: reason.to_string(),
        };
        // Released before the end is reported: whoever reads of it may rely on there being room, and
        // on the session being gone.
        self.permit.release();
        self.guard = None;
        let record = self.registration.record();
        account.close(&self.chain, &mut self.subject, record).await;
    }
}
