//! Views of sessions, for the admin interface.

use std::borrow::Cow;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::time::rfc3339;
use crate::gateway::{Destination, Details, Gateway, Record, Snapshot};
use crate::hooks::trace::{Decision, Outcome};
use crate::hooks::{AttrValue, Attrs};

/// Number of sessions looked at before other tasks get their turn.
const STRIDE: usize = 1000;

/// Filter of a list of sessions, with its page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    #[serde(default)]
    state: Wanted,
    listener: Option<String>,
    /// Address of the client, with or without its port.
    client: Option<String>,
    /// Target that the client asked for, the host's name, or the address it was connected to.
    target: Option<String>,
    /// Id above which the live sessions are listed.
    #[serde(default)]
    after: u64,
    #[serde(default = "default_limit")]
    pub limit: usize,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wanted {
    #[default]
    Live,
    Ended,
}

/// Most sessions listed at once.
pub(super) const MAX_LIMIT: usize = 1000;

fn default_limit() -> usize {
    100
}

/// Page of sessions.
#[derive(Debug, Serialize)]
pub(super) struct Sessions {
    sessions: Vec<Summary>,
    /// Value of `after` for the next page, if there may be one.
    next: Option<u64>,
    /// Number of live sessions.
    live: usize,
}

/// Session in a list.
#[derive(Debug, Serialize)]
struct Summary {
    id: u64,
    listener: String,
    session: &'static str,
    transport: &'static str,
    client_addr: SocketAddr,
    requested: Option<String>,
    /// Address of the server.
    target: Option<String>,
    host: Option<String>,
    endpoint: Option<u32>,
    state: &'static str,
    #[serde(serialize_with = "rfc3339")]
    started_at: SystemTime,
    age_seconds: f64,
    received_bytes: u64,
    sent_bytes: u64,
    resumes: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    ended: Option<EndedView>,
}

#[derive(Debug, Serialize)]
struct EndedView {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    reason: &'static str,
    detail: String,
}

/// Session with all that is known of it.
#[derive(Debug, Serialize)]
pub(super) struct Explained {
    #[serde(flatten)]
    summary: Summary,
    /// Number of the generation that decided about the session.
    generation: u64,
    gateway_addr: SocketAddr,
    flags: u32,
    extra: Vec<String>,
    /// Number of the client's first bytes that hooks saw.
    first_data_bytes: usize,
    decisions: Vec<Value>,
    /// Connections of the session: the first, and the last of those it was resumed over.
    transports: Vec<TransportView>,
    round_trip_seconds: Option<f64>,
    undelivered_bytes: Option<usize>,
    replay_buffer: Option<ReplayView>,
}

#[derive(Debug, Serialize)]
struct TransportView {
    #[serde(serialize_with = "rfc3339")]
    at: SystemTime,
    transport: &'static str,
    client_addr: SocketAddr,
    resent_bytes: u64,
}

#[derive(Debug, Serialize)]
struct ReplayView {
    memory_bytes: usize,
    kept_bytes: u64,
    unconfirmed_bytes: usize,
    window_bytes: usize,
    unread_bytes: usize,
}

impl Sessions {
    /// Returns a page of the sessions that `filter` takes, by their ids; of those that have ended,
    /// the latest first.
    pub async fn list(gateway: &Gateway, filter: &Filter) -> Self {
        let live = &gateway.state().live;
        let mut page = Self {
            sessions: Vec::new(),
            next: None,
            live: live.len(),
        };
        let take = |record: &Arc<Record>| {
            let story = record.story();
            filter.takes(&story).then(|| Summary::of(record, &story))
        };
        if filter.state == Wanted::Ended {
            let ended = live.ended();
            page.sessions = ended.iter().filter_map(take).take(filter.limit).collect();
            return page;
        }
        let mut after = filter.after;
        loop {
            let records = live.page(after, STRIDE);
            for record in &records {
                after = record.id;
                page.sessions.extend(take(record));
                if page.sessions.len() == filter.limit {
                    page.next = Some(after);
                    return page;
                }
            }
            if records.len() < STRIDE {
                return page;
            }
            tokio::task::yield_now().await;
        }
    }
}

/// Ends a live session. Returns whether there is one.
pub(super) fn kick(gateway: &Gateway, id: u64) -> bool {
    let record = gateway.state().live.get(id);
    let live = record.filter(|record| record.story().ended.is_none());
    live.inspect(|record| record.kick()).is_some()
}

impl Filter {
    fn takes(&self, story: &Details) -> bool {
        let client = |text: &String| {
            let addr = story.client_addr();
            match text.parse::<IpAddr>() {
                Ok(ip) => ip == addr.ip(),
                Err(_) => *text == addr.to_string(),
            }
        };
        let target = |text: &String| {
            let went = story.target.as_ref();
            story.info.target.as_ref() == Some(text)
                || went.is_some_and(|went| went.addr() == text || went.host() == Some(text))
        };
        let listener = |name: &String| **name == *story.info.listener;
        self.listener.as_ref().is_none_or(listener)
            && self.client.as_ref().is_none_or(client)
            && self.target.as_ref().is_none_or(target)
    }
}

impl Summary {
    fn of(record: &Record, story: &Details) -> Self {
        let info = &story.info;
        let ended = story.ended.as_ref();
        let age = ended.map_or_else(|| record.started.elapsed(), |ended| ended.after);
        let went = story.target.as_ref();
        let target = went.map(|went| went.addr().to_owned());
        Self {
            id: record.id,
            listener: info.listener.to_string(),
            session: info.session,
            transport: story.transport(),
            client_addr: story.client_addr(),
            requested: info.target.clone(),
            state: match () {
                () if ended.is_some() => "ended",
                () if target.is_none() && story.endpoint.is_none() => "opening",
                () if record.is_away() => "away",
                () => "live",
            },
            target,
            host: went.and_then(|went| Some(went.host()?.to_owned())),
            endpoint: story.endpoint,
            started_at: record.started_at(),
            age_seconds: age.as_secs_f64(),
            received_bytes: record.received(),
            sent_bytes: record.sent(),
            resumes: story.resumes,
            ended: ended.map(|ended| EndedView {
                at: ended.at,
                reason: ended.reason,
                detail: ended.detail.clone(),
            }),
        }
    }
}

impl Explained {
    /// Returns all about one session, if it is live or one of the last that ended.
    pub async fn find(gateway: &Gateway, id: u64) -> Option<Self> {
        let record = gateway.state().live.get(id)?;
        let look = record.look().await;
        Some(Self::of(&record, look))
    }

    fn of(record: &Record, look: Snapshot) -> Self {
        let story = record.story();
        let info = &story.info;
        let first = TransportView {
            at: record.started_at(),
            transport: info.transport,
            client_addr: info.client_addr,
            resent_bytes: 0,
        };
        let further = story.history.iter().map(|resumed| TransportView {
            at: resumed.at,
            transport: resumed.transport,
            client_addr: resumed.client_addr,
            resent_bytes: resumed.resent,
        });
        let first_data = info.first_data.as_ref();
        let decisions = record.trace.decisions();
        let target = story.target.as_ref().map(Destination::addr);
        let decision = |decision| decision_view(decision, record.generation, target);
        Self {
            summary: Summary::of(record, &story),
            generation: record.generation,
            gateway_addr: info.gateway_addr,
            flags: info.flags,
            extra: info.extra.lines().map(Cow::into_owned).collect(),
            first_data_bytes: first_data.map_or(story.first_data, |data| data.len()),
            decisions: decisions.iter().map(decision).collect(),
            transports: [first].into_iter().chain(further).collect(),
            // It may have lost its connection since.
            round_trip_seconds: look
                .round_trip
                .filter(|_| !record.is_away())
                .map(|time| time.as_secs_f64()),
            undelivered_bytes: look.unacked.filter(|_| !record.is_away()),
            replay_buffer: look.replay.map(|replay| ReplayView {
                memory_bytes: replay.memory,
                kept_bytes: replay.kept,
                unconfirmed_bytes: replay.unacked,
                window_bytes: replay.window,
                unread_bytes: replay.unread,
            }),
        }
    }
}

fn decision_view(decision: &Decision, generation: u64, target: Option<&str>) -> Value {
    let mut input = Map::new();
    if let Some(attrs) = &decision.attrs {
        input.insert("attrs".to_owned(), attrs_view(&attrs.kept));
        if attrs.cut {
            input.insert("attrs_cut".to_owned(), json!(true));
        }
    }
    if decision.question() == "announce" {
        input.insert("target".to_owned(), json!(target));
    }
    let mut result = Map::new();
    let (key, value) = match &decision.outcome {
        Outcome::Pass | Outcome::Allow => ("", Value::Null),
        Outcome::Deny(reason) => ("reason", json!(reason)),
        Outcome::Target(target) => ("target", json!(target)),
        Outcome::Message(len) => ("bytes", json!(len)),
        Outcome::Failed(kind, message) => {
            result.insert("kind".to_owned(), json!(kind.label()));
            ("message", json!(message))
        }
    };
    if !value.is_null() {
        result.insert(key.to_owned(), value);
    }
    json!({
        "hook": decision.hook(),
        "decision": decision.question(),
        "generation": generation,
        "input": input,
        "outcome": decision.outcome.label(),
        "result": result,
        "cost_seconds": f64::from(decision.cost) / 1e6,
    })
}

fn attrs_view(attrs: &Attrs) -> Value {
    let value = |value: &AttrValue| match value {
        AttrValue::Boolean(value) => json!(value),
        AttrValue::Integer(value) => json!(value),
        AttrValue::Number(value) => json!(value),
        AttrValue::String(bytes) => json!(String::from_utf8_lossy(bytes)),
    };
    let attrs = attrs.iter().map(|(key, v)| (key.clone(), value(v)));
    Value::Object(attrs.collect())
}
