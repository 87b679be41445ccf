//! A session to ask scripts and plugins about, and what they are given to answer with.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Environment, Limits};
use stablegate::hooks::{Attrs, Call, Ended, HookErrorKind, Question, Reply, SessionInfo};
use stablegate::hooks::{Host, Roster};

/// Limits that nobody well-behaved comes near, however busy the machine.
pub fn limits() -> Limits {
    Limits {
        timeout: Duration::from_secs(10),
        wall_timeout: Duration::from_secs(200),
        load_timeout: Duration::from_secs(60),
        memory: 32 * 1024 * 1024,
    }
}

pub fn environment(shared: &Arc<Shared>, hosts: &[Arc<Host>], fastway: &Roster) -> Environment {
    Environment {
        shared: shared.clone(),
        resolver: Arc::default(),
        hosts: hosts.to_owned(),
        fastway: fastway.clone(),
        grown: Arc::default(),
    }
}

pub fn info() -> SessionInfo {
    SessionInfo {
        id: 7,
        listener: "game".into(),
        session: "scp",
        transport: "tcp",
        client_addr: "192.0.2.1:5000".parse().unwrap(),
        gateway_addr: "[2001:db8::1]:1248".parse().unwrap(),
        target: Some("lobby".into()),
        flags: 3,
        extra: (&["one".to_owned(), "two".to_owned()][..]).into(),
        first_data: Some(Bytes::from_static(b"\x00hello\xff")),
        fastway: None,
    }
}

pub fn question(question: Question) -> Call {
    Call {
        question,
        info: Arc::new(info()),
        attrs: Attrs::new(),
    }
}

pub fn announce() -> Question {
    Question::Announce {
        target: "10.0.0.9:80".into(),
    }
}

pub fn closed() -> Question {
    Question::Closed(Ended {
        received: 10,
        sent: 20,
        resumes: 2,
        duration: Duration::from_millis(1500),
        reason: "upstream_closed",
    })
}

/// The error of a reply that must have one of this kind.
#[track_caller]
pub fn error(reply: &Reply, kind: HookErrorKind) -> &str {
    match &reply.answer {
        Err(error) if error.kind == kind => &error.message,
        other => panic!("expected {kind:?}, got {other:?}"),
    }
}
