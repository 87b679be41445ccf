//! Imports of plugins: host functions of the interfaces that `plugins/wit` describes.

use std::time::Duration;

use wasmtime::component::Linker;
use wasmtime::{Result, StoreContextMut};

use super::bindings::{Endpoint, Host, Level, SharedError, Value, interface};
use super::guest::Guest;
use crate::hooks::contract::MAX_TTL;
use crate::hooks::shared;
use crate::proto::fastway::Role;

/// Defines all interfaces of the contract.
pub(super) fn define(linker: &mut Linker<Guest>) -> Result<()> {
    log(linker)?;
    shared(linker)?;
    hosts(linker)?;
    config(linker)?;
    attrs(linker)
}

type Context<'a> = StoreContextMut<'a, Guest>;

fn log(linker: &mut Linker<Guest>) -> Result<()> {
    let mut log = linker.instance(&interface("log"))?;
    log.func_wrap(
        "write",
        |mut context: Context<'_>, (level, message): (Level, String)| {
            let level = match level {
                Level::Debug => tracing::Level::DEBUG,
                Level::Info => tracing::Level::INFO,
                Level::Warn => tracing::Level::WARN,
                Level::Error => tracing::Level::ERROR,
            };
            context.data_mut().log.write(level, message.as_bytes());
            Ok(())
        },
    )
}

fn shared(linker: &mut Linker<Guest>) -> Result<()> {
    type Ttl = Option<f64>;
    let mut shared = linker.instance(&interface("shared"))?;
    shared.func_wrap("get", |context: Context<'_>, (key,): (Vec<u8>,)| {
        let value = store(&context).get(&key);
        Ok((value.map(Value::from),))
    })?;
    shared.func_wrap(
        "set",
        |context: Context<'_>, (key, value, seconds): (Vec<u8>, Value, Ttl)| {
            let set = |ttl| Ok(store(&context).set(&key, value.into(), ttl)?);
            Ok((ttl(seconds).and_then(set),))
        },
    )?;
    shared.func_wrap(
        "add",
        |context: Context<'_>, (key, value, seconds): (Vec<u8>, Value, Ttl)| {
            let add = |ttl| Ok(store(&context).add(&key, value.into(), ttl)?);
            Ok((ttl(seconds).and_then(add),))
        },
    )?;
    shared.func_wrap(
        "incr",
        |context: Context<'_>, (key, by, seconds): (Vec<u8>, Value, Ttl)| {
            let incr = |ttl| Ok(store(&context).incr(&key, by.into(), ttl)?.into());
            Ok((ttl(seconds).and_then(incr) as Result<Value, SharedError>,))
        },
    )?;
    shared.func_wrap("delete", |context: Context<'_>, (key,): (Vec<u8>,)| {
        Ok((store(&context).delete(&key),))
    })
}

fn store<'a>(context: &'a Context<'_>) -> &'a shared::Shared {
    &context.data().around.environment.shared
}

fn ttl(seconds: Option<f64>) -> Result<Option<Duration>, SharedError> {
    match seconds {
        None => Ok(None),
        Some(seconds) if seconds > 0.0 => {
            Ok((seconds < MAX_TTL).then(|| Duration::from_secs_f64(seconds)))
        }
        Some(_) => Err(SharedError::InvalidTtl),
    }
}

impl From<shared::SharedError> for SharedError {
    fn from(error: shared::SharedError) -> Self {
        match error {
            shared::SharedError::Full => Self::Full,
            shared::SharedError::NotANumber => Self::NotANumber,
            shared::SharedError::Overflow => Self::Overflow,
        }
    }
}

fn hosts(linker: &mut Linker<Guest>) -> Result<()> {
    let mut hosts = linker.instance(&interface("hosts"))?;
    hosts.func_wrap("list", |context: Context<'_>, ()| {
        let hosts = &context.data().around.environment.hosts;
        let list = hosts.iter().map(|host| Host {
            name: host.name.clone(),
            addr: host.addr.clone(),
            weight: host.weight,
            sessions: host.sessions(),
            healthy: host.is_healthy(),
            draining: host.draining,
        });
        Ok((list.collect::<Vec<_>>(),))
    })?;
    for (name, role) in [
        ("fastway-servers", Role::Server),
        ("fastway-clients", Role::Client),
    ] {
        hosts.func_wrap(name, move |context: Context<'_>, ()| {
            let endpoints = context.data().around.environment.fastway.list(role);
            let list = endpoints.iter().map(|endpoint| Endpoint {
                id: endpoint.id,
                addr: endpoint.addr.to_string(),
                connections: endpoint.connections as u64,
            });
            Ok((list.collect::<Vec<_>>(),))
        })?;
    }
    Ok(())
}

fn config(linker: &mut Linker<Guest>) -> Result<()> {
    let mut config = linker.instance(&interface("config"))?;
    config.func_wrap("get", |context: Context<'_>, (key,): (String,)| {
        let value = match context.data().around.config.get(&key) {
            Some(serde_json::Value::Bool(value)) => Some(Value::Boolean(*value)),
            Some(serde_json::Value::Number(number)) => match number.as_i64() {
                Some(value) => Some(Value::Integer(value)),
                None => number.as_f64().map(Value::Number),
            },
            Some(serde_json::Value::String(value)) => Some(Value::Bytes(value.clone().into())),
            _ => None,
        };
        Ok((value,))
    })?;
    config.func_wrap("json", |context: Context<'_>, ()| {
        Ok((serde_json::to_string(&context.data().around.config)?,))
    })
}

fn attrs(linker: &mut Linker<Guest>) -> Result<()> {
    let mut attrs = linker.instance(&interface("attrs"))?;
    attrs.func_wrap(
        "set",
        |mut context: Context<'_>, (key, value): (String, Value)| {
            Ok(context.data_mut().note(key, Some(value.into()))?)
        },
    )?;
    attrs.func_wrap("remove", |mut context: Context<'_>, (key,): (String,)| {
        Ok(context.data_mut().note(key, None)?)
    })
}
