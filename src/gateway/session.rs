//! The life of a proxied session, from its handshake to its end.

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use tokio::io::AsyncWriteExt;
use tokio::time::timeout;

use super::client::Client;
use super::fault::caught;
use super::gate::Place;
use super::generation::Generation;
use super::hosts::Occupied;
use super::live::{Record, Registration, Went};
use super::metrics::Metrics;
use super::peek::peek;
use super::relay::{self, Relay};
use super::upstream::{ConnectError, Connected, Connector};
use super::{Listing, State, excerpt};
use crate::config;
use crate::hooks::chain::{Chain, Denied, Subject};
use crate::hooks::{Attrs, Ended, SessionInfo};

/// How long an upstream may take to accept the last bytes of a session whose client is gone.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// A session after its handshake, and what decides about it.
pub(super) struct Session<'a> {
    pub state: &'a Arc<State>,
    pub generation: &'a Generation,
    pub listener: &'a config::Listener,
    pub chain: &'a Arc<Chain>,
    pub client: Client,
    pub info: Arc<SessionInfo>,
    pub registration: Registration,
    pub listing: Option<Listing>,
    pub place: Place,
}

/// What decides about a session.
struct Deciding<'a> {
    generation: &'a Generation,
    listener: &'a config::Listener,
    chain: &'a Chain,
    record: &'a Record,
    metrics: &'a Metrics,
}

/// A session with its upstream.
pub(super) struct Opened {
    state: Arc<State>,
    chain: Arc<Chain>,
    subject: Subject,
    started: Instant,
    relay: Relay,
    target: String,
    registration: Registration,
    _occupied: Option<Occupied>,
    _listing: Option<Listing>,
    place: Place,
}

/// Why a session ended.
#[derive(Debug)]
enum Reason {
    Denied(Denied),
    ConnectFailed(ConnectError),
    /// The client left before its upstream was there.
    LeftEarly,
    Relayed(relay::End),
    Kicked,
    Shutdown,
    /// Its task panicked.
    Fault,
}

/// What is told of an ended session.
struct Account {
    target: Option<String>,
    received: u64,
    sent: u64,
    resumes: u64,
    unforwarded: u64,
    reason: Reason,
}

impl Session<'_> {
    /// Connects the session to its upstream. If it gets none, its end is logged and told to its
    /// hooks.
    pub async fn open(self) -> Option<Box<Opened>> {
        let Self {
            state,
            generation,
            listener,
            chain,
            mut client,
            info,
            registration,
            listing,
            place,
        } = self;
        let started = Instant::now();
        let mut subject = Subject {
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
        let opening = record.until_kicked(opening);
        let reason = match caught(state.shutdown.interrupts(opening)).await {
            Some(Some(Some(Ok((connected, first, peeked))))) => {
                tracing::info!(
                    id = subject.info.id,
                    listener = %subject.info.listener,
                    client = %subject.info.client_addr,
                    target = &*excerpt(&connected.addr),
                    "session opened"
                );
                return Some(Box::new(Opened {
                    state: state.clone(),
                    chain: chain.clone(),
                    subject,
                    started,
                    relay: Relay::new(
                        client,
                        connected.upstream,
                        first,
                        peeked,
                        listener.tcp.linger,
                    ),
                    target: connected.addr,
                    registration,
                    _occupied: connected.occupied,
                    _listing: listing,
                    place,
                }));
            }
            Some(Some(Some(Err(reason)))) => reason,
            Some(Some(None)) => Reason::Kicked,
            Some(None) => Reason::Shutdown,
            None => Reason::Fault,
        };
        let usable = !matches!(reason, Reason::Fault);
        let account = Account {
            target: None,
            received: subject.info.first_data.as_ref().map_or(0, Bytes::len) as u64,
            sent: 0,
            resumes: client.resumes(),
            unforwarded: 0,
            reason,
        };
        drop(place);
        // All the client gets is the end.
        let leaving = async {
            if usable {
                let _ = timeout(LAST_WORDS, poll_fn(|cx| client.poll_finish(cx))).await;
            }
        };
        let closing = account.close(chain, &mut subject, record, started.elapsed());
        let _ = tokio::join!(leaving, closing);
        None
    }
}

impl Deciding<'_> {
    /// Asks the hooks and connects to the upstream. Returns what the upstream gets first, and how
    /// much of that came from the client.
    async fn open(
        self,
        client: &mut Client,
        subject: &mut Subject,
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
                Some(occupied) => Went::Host(occupied.host().clone()),
                None => Went::Addr(connected.addr.as_str().into()),
            };
            record.story().target = Some(went);
            let message = chain
                .announce(subject, &connected.addr)
                .await
                .map_err(Reason::Denied)?;
            Ok((connected, message))
        };
        // The client may lose its connection and come back meanwhile.
        let (connected, message) = client.attend(connecting).await.ok_or(Reason::LeftEarly)??;
        let mut first = BytesMut::from(message);
        first.extend_from_slice(&first_data);
        Ok((connected, first, first_data.len()))
    }
}

impl Opened {
    /// Runs the session to its end, which is logged and told to its hooks.
    pub async fn run(mut self: Box<Self>) {
        let reason = {
            let record = self.registration.record();
            // Pinned here, so that what wraps it holds no further copies of it.
            let relaying = pin!(self.relay.run(record));
            let relaying = record.until_kicked(relaying);
            match caught(self.state.shutdown.interrupts(relaying)).await {
                Some(Some(Some(end))) => Reason::Relayed(end),
                Some(Some(None)) => Reason::Kicked,
                Some(None) => Reason::Shutdown,
                None => Reason::Fault,
            }
        };
        Box::pin(self.close(reason)).await;
    }

    async fn close(mut self: Box<Self>, reason: Reason) {
        let relay = &mut self.relay;
        if !matches!(reason, Reason::Fault) {
            // Pushes out what a resuming upstream holds; a broken one says so at once.
            let _ = timeout(LAST_WORDS, relay.upstream.shutdown()).await;
        }
        let account = Account {
            target: Some(std::mem::take(&mut self.target)),
            received: relay.received,
            sent: relay.sent,
            resumes: relay.client.resumes(),
            unforwarded: relay.unforwarded,
            reason,
        };
        let duration = self.started.elapsed();
        // Whoever reads of the end may rely on there being room.
        self.place.vacate();
        let record = self.registration.record();
        account
            .close(&self.chain, &mut self.subject, record, duration)
            .await;
    }
}

impl Account {
    async fn close(
        self,
        chain: &Chain,
        subject: &mut Subject,
        record: &Record,
        duration: Duration,
    ) {
        let detail = self.reason.to_string();
        record.ended(self.reason.label(), detail.clone(), duration);
        tracing::info!(
            id = subject.info.id,
            listener = %subject.info.listener,
            client = %subject.info.client_addr,
            target = self.target.as_deref().map(excerpt).as_deref(),
            received = self.received,
            sent = self.sent,
            resumes = self.resumes,
            unforwarded = self.unforwarded,
            duration_ms = duration.as_millis() as u64,
            reason = self.reason.label(),
            detail = %excerpt(&detail),
            "session closed"
        );
        let ended = Ended {
            received: self.received,
            sent: self.sent,
            resumes: self.resumes,
            duration,
            reason: self.reason.label(),
        };
        chain.closed(subject, &ended).await;
    }
}

impl Reason {
    /// A stable label for logs, hooks and metrics.
    fn label(&self) -> &'static str {
        match self {
            Self::Denied(_) => "denied",
            Self::ConnectFailed(ConnectError::Exhausted(_)) => "exhausted",
            Self::ConnectFailed(ConnectError::TargetTooLong(_)) => "target_too_long",
            Self::ConnectFailed(_) => "connect_failed",
            Self::LeftEarly => "left_early",
            Self::Relayed(end) => match end {
                relay::End::Closed => "closed",
                relay::End::HalfClosed => "half_closed",
                relay::End::UpstreamClosed => "upstream_closed",
                relay::End::Undelivered => "undelivered",
                relay::End::UpstreamFailed(_) => "upstream_failed",
                relay::End::ClientGone(_) => "client_gone",
            },
            Self::Kicked => "kicked",
            Self::Shutdown => "shutdown",
            Self::Fault => "fault",
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Denied(Denied { hook, reason }) => write!(f, "denied by hook {hook}: {reason}"),
            Self::ConnectFailed(error) => write!(f, "cannot connect to a server: {error}"),
            Self::LeftEarly => f.write_str("the client left before its server was there"),
            Self::Relayed(end) => match end {
                relay::End::Closed => f.write_str("both sides closed"),
                relay::End::HalfClosed => {
                    f.write_str("one side closed, and with the other nothing moved any more")
                }
                relay::End::UpstreamClosed => f.write_str("the server closed"),
                relay::End::Undelivered => {
                    f.write_str("the server closed and the client did not come for the rest")
                }
                relay::End::UpstreamFailed(kind) => {
                    write!(
                        f,
                        "the server's connection broke: {}",
                        io::Error::from(*kind)
                    )
                }
                relay::End::ClientGone(io::ErrorKind::TimedOut) => {
                    f.write_str("the client did not come back")
                }
                relay::End::ClientGone(kind) => {
                    write!(
                        f,
                        "the client's connection broke: {}",
                        io::Error::from(*kind)
                    )
                }
            },
            Self::Kicked => f.write_str("ended over the admin interface"),
            Self::Shutdown => f.write_str("the gateway shuts down"),
            Self::Fault => f.write_str("a fault of the gateway, which the log tells of"),
        }
    }
}
