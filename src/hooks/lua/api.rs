//! Host functions behind the Lua table `gateway`; the prelude puts them in their places.
//!
//! A host function returns a value, or nil and a message that the prelude raises with the line of
//! the script that made the call. No host function runs for long: arguments are bounded by the
//! interpreter's memory limit, and what could take longer has a limit of its own.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use base64::Engine as _;
use hmac::{Hmac, KeyInit, Mac};
use md5::{Digest, Md5};
use mlua::{IntoLua, Lua, LuaSerdeExt, LuaString, MultiValue, Table, Value};
use sha1::Sha1;
use sha2::Sha256;
use subtle::ConstantTimeEq;
use tokio::runtime::Handle;
use tracing::Level;

use super::program::Program;
use super::source::Sources;
use super::value::{Args, Fail, scalar, scalar_to_lua, type_of};
use super::{json, limit};
use crate::hooks::AttrValue;
use crate::hooks::contract::Log;
use crate::proto::base64::{BASE64, BASE64_URL};
use crate::proto::fastway::Role;
use crate::proto::proxy_header;
use crate::proto::sproto::{self, Field};
use crate::resolver::Resolver;

/// Longest host name that is looked up, bytes.
const MAX_NAME: usize = 253;

/// Longest time to wait for a lookup, whatever time is left.
const MAX_LOOKUP: Duration = Duration::from_secs(5);

/// Returns the table of host functions that the prelude takes.
pub(super) fn table(lua: &Lua, program: &Program, log: &Rc<RefCell<Log>>) -> mlua::Result<Table> {
    let host = lua.create_table()?;
    let api = Api { lua, host: &host };
    host.raw_set("seed", rand::random::<i64>())?;
    host.raw_set("null", lua.null())?;
    host.raw_set("config", json::table(lua, &program.config)?)?;
    host.raw_set("check_time", limit::check_time(lua)?)?;
    host.raw_set(
        "failed",
        lua.create_function(|lua, failure: Value| {
            limit::note_place(lua);
            Ok(failure)
        })?,
    )?;
    // Nothing in an interpreter may hold the program: workers keep an interpreter while its program
    // lives.
    let sources = program.sources.clone();
    host.raw_set(
        "module",
        lua.create_function(move |lua, name: LuaString| module(lua, &sources, &name))?,
    )?;
    self::log(&api, log)?;
    shared(&api, program)?;
    encodings(&api)?;
    hashes(&api)?;
    network(&api, program)?;
    Ok(host)
}

struct Api<'a> {
    lua: &'a Lua,
    host: &'a Table,
}

impl Api<'_> {
    /// Adds a function that the prelude exports under `name` with its `_` read as a dot.
    fn add<R: IntoLua>(
        &self,
        name: &'static str,
        f: impl Fn(&Lua, Args) -> Result<R, Fail> + 'static,
    ) -> mlua::Result<()> {
        let f = self.lua.create_function(move |lua, values: MultiValue| {
            match f(lua, Args { name, values }) {
                Ok(value) => Ok((value.into_lua(lua)?, None)),
                Err(Fail::Script(message)) => Ok((Value::Nil, Some(message))),
                Err(Fail::Lua(error)) => Err(error),
            }
        })?;
        self.host.raw_set(name, f)
    }
}

/// Returns `(function)`, `(nil, message)`, or `(nil, nil, message)` for a message with its own
/// line.
fn module(
    lua: &Lua,
    sources: &Sources,
    name: &LuaString,
) -> mlua::Result<(Value, Option<String>, Option<String>)> {
    let Ok(name) = name.to_str() else {
        return Ok((Value::Nil, Some("module name is not UTF-8".into()), None));
    };
    let source = match sources.module(&name) {
        Ok(source) => source,
        Err(message) => return Ok((Value::Nil, Some(message), None)),
    };
    match source.load(lua) {
        Ok(f) => Ok((Value::Function(f), None, None)),
        Err(mlua::Error::SyntaxError { message, .. }) => Ok((Value::Nil, None, Some(message))),
        Err(error) => Err(error),
    }
}

fn log(api: &Api<'_>, log: &Rc<RefCell<Log>>) -> mlua::Result<()> {
    for (name, level) in [
        ("log_debug", Level::DEBUG),
        ("log_info", Level::INFO),
        ("log_warn", Level::WARN),
        ("log_error", Level::ERROR),
    ] {
        let log = log.clone();
        api.add(name, move |lua, args| {
            let message = args.bytes(lua, 0)?;
            log.borrow_mut().write(level, &message.as_bytes());
            Ok(Value::Nil)
        })?;
    }
    Ok(())
}

fn shared(api: &Api<'_>, program: &Program) -> mlua::Result<()> {
    let store = program.environment.shared.clone();
    api.add("shared_get", move |lua, args| {
        match store.get(&args.bytes(lua, 0)?.as_bytes()) {
            Some(value) => Ok(scalar_to_lua(lua, &value)?),
            None => Ok(Value::Nil),
        }
    })?;
    let store = program.environment.shared.clone();
    api.add("shared_set", move |lua, args| {
        let key = args.bytes(lua, 0)?;
        store.set(&key.as_bytes(), args.scalar(1)?, args.ttl(2)?)?;
        Ok(Value::Nil)
    })?;
    let store = program.environment.shared.clone();
    api.add("shared_add", move |lua, args| {
        let key = args.bytes(lua, 0)?;
        Ok(store.add(&key.as_bytes(), args.scalar(1)?, args.ttl(2)?)?)
    })?;
    let store = program.environment.shared.clone();
    api.add("shared_incr", move |lua, args| {
        let key = args.bytes(lua, 0)?;
        let by = match args.get(1) {
            Value::Nil => AttrValue::Integer(1),
            Value::Integer(_) | Value::Number(_) => args.scalar(1)?,
            _ => return Err(args.bad(1, "number")),
        };
        let sum = store.incr(&key.as_bytes(), by, args.ttl(2)?)?;
        Ok(scalar_to_lua(lua, &sum)?)
    })?;
    let store = program.environment.shared.clone();
    api.add("shared_delete", move |lua, args| {
        Ok(store.delete(&args.bytes(lua, 0)?.as_bytes()))
    })
}

fn encodings(api: &Api<'_>) -> mlua::Result<()> {
    api.add("sproto_encode", |lua, args| {
        let Value::Table(table) = args.get(0) else {
            return Err(args.bad(0, "table"));
        };
        let mut fields = Vec::new();
        for entry in table.pairs::<Value, Value>() {
            let (key, value) = entry?;
            let tag = match key {
                Value::Integer(tag) => u16::try_from(tag).ok(),
                _ => None,
            };
            let tag = tag
                .filter(|&tag| tag <= sproto::MAX_TAG)
                .ok_or_else(|| Fail::from("sproto tags are integers from 0 to 32767"))?;
            let value = match scalar(&value) {
                Some(value @ (AttrValue::Integer(_) | AttrValue::Boolean(_))) => value,
                Some(value @ AttrValue::String(_)) => value,
                _ => {
                    return Err(Fail::Script(format!(
                        "sproto field {tag} is a {}, expected an integer, boolean or string",
                        type_of(&value)
                    )));
                }
            };
            fields.push((tag, value));
        }
        fields.sort_unstable_by_key(|&(tag, _)| tag);
        let fields: Vec<_> = fields
            .iter()
            .map(|(tag, value)| {
                let field = match value {
                    AttrValue::Boolean(value) => Field::Boolean(*value),
                    AttrValue::Integer(value) => Field::Integer(*value),
                    AttrValue::String(bytes) => Field::String(bytes),
                    AttrValue::Number(_) => unreachable!("refused above"),
                };
                (*tag, field)
            })
            .collect();
        Ok(lua.create_string(sproto::encode(&fields)?)?)
    })?;
    api.add("sproto_pack", |lua, args| {
        let packed = sproto::pack(&args.bytes(lua, 0)?.as_bytes());
        Ok(lua.create_string(packed)?)
    })?;
    api.add("sproto_unpack", |lua, args| {
        let raw = sproto::unpack(&args.bytes(lua, 0)?.as_bytes(), 1024 * 1024)?;
        Ok(lua.create_string(raw)?)
    })?;
    api.add("sproto_announce", |lua, args| {
        let kind = match args.get(0) {
            Value::Integer(kind) => u32::try_from(*kind).ok(),
            _ => None,
        };
        let kind = kind.ok_or_else(|| args.bad(0, "type number"))?;
        let (remote, local) = (args.text(lua, 1)?, args.text(lua, 2)?);
        Ok(lua.create_string(sproto::announcement(kind, &remote, &local))?)
    })?;
    api.add("proxy_header", |lua, args| {
        let (src, dst) = (args.address(lua, 1)?, args.address(lua, 2)?);
        let header = match args.text(lua, 0)?.as_str() {
            "v1" => proxy_header::encode_v1(src, dst),
            "v2" => proxy_header::encode_v2(src, dst),
            _ => return Err(args.bad(0, "'v1' or 'v2'")),
        };
        Ok(lua.create_string(header)?)
    })?;
    api.add("frame", |lua, args| {
        let (payload, kind) = (args.bytes(lua, 0)?, args.text(lua, 1)?);
        let payload = payload.as_bytes();
        let short = || u16::try_from(payload.len());
        let long = || u32::try_from(payload.len());
        let length = match kind.as_str() {
            "u16be" => short().map(|n| n.to_be_bytes().to_vec()),
            "u16le" => short().map(|n| n.to_le_bytes().to_vec()),
            "u32be" => long().map(|n| n.to_be_bytes().to_vec()),
            "u32le" => long().map(|n| n.to_le_bytes().to_vec()),
            _ => return Err(args.bad(1, "'u16be', 'u16le', 'u32be' or 'u32le'")),
        };
        let mut frame = length.map_err(|_| {
            Fail::Script(format!(
                "{} bytes do not fit in a {kind} frame",
                payload.len()
            ))
        })?;
        frame.extend_from_slice(&payload);
        Ok(lua.create_string(frame)?)
    })?;
    api.add("json_encode", |lua, args| json::encode(lua, args.get(0)))?;
    api.add("json_decode", |lua, args| {
        json::decode(lua, &args.bytes(lua, 0)?.as_bytes())
    })?;
    api.add("base64_encode", |lua, args| {
        let bytes = args.bytes(lua, 0)?;
        let bytes = bytes.as_bytes();
        if args.get(1).is_nil() {
            return Ok(BASE64.encode(&*bytes));
        }
        match args.text(lua, 1)?.as_str() {
            "url" => Ok(BASE64_URL.encode(&*bytes)),
            _ => Err(args.bad(1, "'url' or nothing")),
        }
    })?;
    api.add("base64_decode", |lua, args| {
        let text = args.bytes(lua, 0)?;
        let text = text.as_bytes();
        let is_url = memchr::memchr2(b'-', b'_', &text).is_some();
        let engine = if is_url { &BASE64_URL } else { &BASE64 };
        let bytes = engine
            .decode(&*text)
            .map_err(|error| Fail::Script(format!("invalid base64: {error}")))?;
        Ok(lua.create_string(bytes)?)
    })
}

fn hashes(api: &Api<'_>) -> mlua::Result<()> {
    fn digest<D: Digest>(lua: &Lua, args: &Args) -> Result<String, Fail> {
        Ok(hex(&D::digest(&*args.bytes(lua, 0)?.as_bytes())))
    }
    api.add("hash_md5", |lua, args| digest::<Md5>(lua, &args))?;
    api.add("hash_sha1", |lua, args| digest::<Sha1>(lua, &args))?;
    api.add("hash_sha256", |lua, args| digest::<Sha256>(lua, &args))?;
    api.add("hash_hmac_sha256", |lua, args| {
        let (key, data) = (args.bytes(lua, 0)?, args.bytes(lua, 1)?);
        let mut mac = Hmac::<Sha256>::new_from_slice(&key.as_bytes())
            .map_err(|error| Fail::Script(error.to_string()))?;
        mac.update(&data.as_bytes());
        Ok(hex(&mac.finalize().into_bytes()))
    })?;
    api.add("hash_equal", |lua, args| {
        let (a, b) = (args.bytes(lua, 0)?, args.bytes(lua, 1)?);
        Ok(bool::from(a.as_bytes().ct_eq(&b.as_bytes())))
    })
}

fn network(api: &Api<'_>, program: &Program) -> mlua::Result<()> {
    let hosts = program.environment.hosts.clone();
    let hosts = move |lua: &Lua, ()| {
        let list = lua.create_table_with_capacity(hosts.len(), 0)?;
        for host in &hosts {
            let entry = lua.create_table_with_capacity(0, 6)?;
            entry.raw_set("name", host.name.as_str())?;
            entry.raw_set("addr", host.addr.as_str())?;
            entry.raw_set("weight", host.weight)?;
            entry.raw_set("sessions", host.sessions())?;
            entry.raw_set("healthy", host.is_healthy())?;
            entry.raw_set("draining", host.draining)?;
            list.raw_push(entry)?;
        }
        Ok(list)
    };
    api.host.raw_set("hosts", api.lua.create_function(hosts)?)?;
    for (name, role) in [
        ("fastway_servers", Role::Server),
        ("fastway_clients", Role::Client),
    ] {
        let roster = program.environment.fastway.clone();
        let list = move |lua: &Lua, ()| {
            let endpoints = roster.list(role);
            let list = lua.create_table_with_capacity(endpoints.len(), 0)?;
            for endpoint in endpoints.iter() {
                let entry = lua.create_table_with_capacity(0, 3)?;
                entry.raw_set("id", endpoint.id)?;
                entry.raw_set("addr", endpoint.addr.to_string())?;
                entry.raw_set("connections", endpoint.connections)?;
                list.raw_push(entry)?;
            }
            Ok(list)
        };
        api.host.raw_set(name, api.lua.create_function(list)?)?;
    }
    let resolver = program.environment.resolver.clone();
    let resolve = move |lua: &Lua, values: MultiValue| {
        let args = Args {
            name: "resolve",
            values,
        };
        match args.text(lua, 0) {
            Ok(name) => match lookup(&resolver, &name) {
                Ok(found) => Ok((Some(found), None, None)),
                Err(message) => Ok((None, Some(message), None)),
            },
            Err(Fail::Script(misuse)) => Ok((None, None, Some(misuse))),
            Err(Fail::Lua(error)) => Err(error),
        }
    };
    api.host
        .raw_set("resolve", api.lua.create_function(resolve)?)
}

/// Returns the addresses of a name.
///
/// Waits on the runtime that made the call, for most of the time that is left: the script shall
/// still be able to go on without an answer.
fn lookup(resolver: &Resolver, name: &str) -> Result<Vec<String>, String> {
    if name.is_empty() || name.len() > MAX_NAME {
        return Err("not a host name".to_owned());
    }
    // Workers run a call in the context of the runtime that made it.
    let Ok(runtime) = Handle::try_current() else {
        return Err("names cannot be resolved outside of the gateway".to_owned());
    };
    let patience = limit::remaining().mul_f64(0.8).min(MAX_LOOKUP);
    let answer =
        runtime.block_on(async { tokio::time::timeout(patience, resolver.lookup(name)).await });
    let mut found = Vec::new();
    for ip in answer
        .map_err(|_| "timed out".to_owned())?
        .map_err(|error| error.to_string())?
    {
        let ip = ip.to_string();
        if !found.contains(&ip) {
            found.push(ip);
        }
    }
    Ok(found)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    let mut out = String::with_capacity(2 * bytes.len());
    for byte in bytes {
        write!(out, "{byte:02x}").expect("writing to a string does not fail");
    }
    out
}
