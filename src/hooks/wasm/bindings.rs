//! Types of `plugins/wit`, as they cross the border between gateway and plugin.
//!
//! Loading compares the types of a plugin with these, and fails if they differ.

use std::borrow::Cow;

use bytes::Bytes;
use wasmtime::component::{ComponentType, Lift, Lower};

use crate::hooks::{AttrValue, Call, Ended};

/// Package of the contract's interfaces.
pub(super) const PACKAGE: &str = "stablegate:plugin";

/// Version of the contract.
pub(super) const VERSION: &str = "0.1.0";

/// Returns the full name of an interface of the contract.
pub(super) fn interface(name: &str) -> String {
    format!("{PACKAGE}/{name}@{VERSION}")
}

/// `types.session`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Session<'a> {
    id: u64,
    listener: &'a str,
    session: &'a str,
    transport: &'a str,
    #[component(name = "client-addr")]
    client_addr: String,
    #[component(name = "gateway-addr")]
    gateway_addr: String,
    target: Option<&'a str>,
    flags: u32,
    extra: Vec<String>,
    #[component(name = "first-data")]
    first_data: Option<&'a [u8]>,
    attrs: Vec<(&'a str, ValueRef<'a>)>,
    #[component(name = "server-id")]
    server_id: Option<u32>,
    dial: Option<Dial>,
}

impl<'a> Session<'a> {
    pub(super) fn of(call: &'a Call) -> Self {
        let info = &*call.info;
        let fastway = info.fastway.unwrap_or_default();
        let attrs = call.attrs.iter();
        Self {
            id: info.id,
            listener: &info.listener,
            session: info.session,
            transport: info.transport,
            client_addr: info.client_addr.to_string(),
            gateway_addr: info.gateway_addr.to_string(),
            target: info.target.as_deref(),
            flags: info.flags,
            extra: info.extra.lines().map(Cow::into_owned).collect(),
            first_data: info.first_data.as_deref(),
            attrs: attrs
                .map(|(key, value)| (key.as_str(), ValueRef::of(value)))
                .collect(),
            server_id: fastway.server_id,
            dial: fastway.dial.map(|dial| Dial {
                from: dial.from,
                to: dial.to,
            }),
        }
    }
}

/// `types.dial`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Dial {
    from: u32,
    to: u32,
}

/// `types.value`, on its way to a plugin.
#[derive(ComponentType, Lower)]
#[component(variant)]
pub(super) enum ValueRef<'a> {
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "number")]
    Number(f64),
    #[component(name = "bytes")]
    Bytes(&'a [u8]),
}

impl<'a> ValueRef<'a> {
    fn of(value: &'a AttrValue) -> Self {
        match value {
            AttrValue::Boolean(value) => Self::Boolean(*value),
            AttrValue::Integer(value) => Self::Integer(*value),
            AttrValue::Number(value) => Self::Number(*value),
            AttrValue::String(value) => Self::Bytes(value),
        }
    }
}

/// `types.value`
#[derive(ComponentType, Lift, Lower)]
#[component(variant)]
pub(super) enum Value {
    #[component(name = "boolean")]
    Boolean(bool),
    #[component(name = "integer")]
    Integer(i64),
    #[component(name = "number")]
    Number(f64),
    #[component(name = "bytes")]
    Bytes(Vec<u8>),
}

impl From<Value> for AttrValue {
    fn from(value: Value) -> Self {
        match value {
            Value::Boolean(value) => Self::Boolean(value),
            Value::Integer(value) => Self::Integer(value),
            Value::Number(value) => Self::Number(value),
            Value::Bytes(value) => Self::String(Bytes::from(value)),
        }
    }
}

impl From<AttrValue> for Value {
    fn from(value: AttrValue) -> Self {
        match value {
            AttrValue::Boolean(value) => Self::Boolean(value),
            AttrValue::Integer(value) => Self::Integer(value),
            AttrValue::Number(value) => Self::Number(value),
            AttrValue::String(value) => Self::Bytes(value.into()),
        }
    }
}

/// `types.ended`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct EndedRef<'a> {
    received: u64,
    sent: u64,
    resumes: u64,
    duration: f64,
    reason: &'a str,
}

impl<'a> EndedRef<'a> {
    pub(super) fn of(ended: &'a Ended) -> Self {
        Self {
            received: ended.received,
            sent: ended.sent,
            resumes: ended.resumes,
            duration: ended.duration.as_secs_f64(),
            reason: ended.reason,
        }
    }
}

/// `access-control.decision`
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Decision {
    #[component(name = "pass")]
    Pass,
    #[component(name = "allow")]
    Allow,
    #[component(name = "deny")]
    Deny(String),
}

/// `types.target`
#[derive(ComponentType, Lift)]
#[component(variant)]
pub(super) enum Target {
    #[component(name = "name")]
    Name(String),
    #[component(name = "addr")]
    Addr(String),
    #[component(name = "endpoint")]
    Endpoint(u32),
}

/// `log.level`
#[expect(dead_code, reason = "plugins make them")]
#[derive(ComponentType, Lift, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum Level {
    #[component(name = "debug")]
    Debug,
    #[component(name = "info")]
    Info,
    #[component(name = "warn")]
    Warn,
    #[component(name = "error")]
    Error,
}

/// `shared.error`
#[derive(ComponentType, Lower, Clone, Copy)]
#[component(enum)]
#[repr(u8)]
pub(super) enum SharedError {
    #[component(name = "full")]
    Full,
    #[component(name = "not-a-number")]
    NotANumber,
    #[component(name = "overflow")]
    Overflow,
    #[component(name = "invalid-ttl")]
    InvalidTtl,
}

/// `hosts.host`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Host {
    pub(super) name: String,
    pub(super) addr: String,
    pub(super) weight: u32,
    pub(super) sessions: u64,
    pub(super) healthy: bool,
    pub(super) draining: bool,
}

/// `hosts.endpoint`
#[derive(ComponentType, Lower)]
#[component(record)]
pub(super) struct Endpoint {
    pub(super) id: u32,
    pub(super) addr: String,
    pub(super) connections: u64,
}

/// Parameters and results of the contract's functions.
pub(super) type Access<'a> = (Session<'a>,);
pub(super) type Accessed = (Result<Decision, String>,);
pub(super) type SelectTarget<'a> = (Session<'a>,);
pub(super) type TargetSelected = (Result<Option<Target>, String>,);
pub(super) type Announce<'a> = (Session<'a>, &'a str);
pub(super) type Announced = (Result<Option<Vec<u8>>, String>,);
pub(super) type Closed<'a> = (Session<'a>, EndedRef<'a>);
pub(super) type Told = (Result<(), String>,);
