//! The same, written down as a script and as a plugin.

use std::fmt::Write as _;

use super::Step::{
    Add, Config, Delete, Draining, Get, Healthy, Incr, Log, Put, Remove, Sessions, Set,
};
use super::{Step, Verdict};
use crate::wat::{Field, Value, Wat, field};

/// The source of a script that does this.
pub fn script(function: &str, steps: &[Step], verdict: Verdict) -> String {
    let mut lua = format!("function {function}(session)\n");
    let value = |value: Value| match value {
        Value::Boolean(value) => value.to_string(),
        // The least integer is no literal.
        Value::Integer(i64::MIN) => "math.mininteger".to_owned(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => format!("{value:?}"),
        Value::Bytes(bytes) => string(bytes),
    };
    let put = |to: &str, got: &str| {
        let to = string(to.as_bytes());
        format!("do local v = {got} if v == nil then v = false end session.attrs[{to}] = v end\n")
    };
    for step in steps {
        lua += &match *step {
            Log(level, message) => {
                format!("gateway.log.{level}({})\n", string(message.as_bytes()))
            }
            Set(key, new) => {
                format!(
                    "session.attrs[{}] = {}\n",
                    string(key.as_bytes()),
                    value(new)
                )
            }
            Remove(key) => format!("session.attrs[{}] = nil\n", string(key.as_bytes())),
            Step::Field { to, name } => put(to, &format!("session.{name}")),
            Get { to, key } => put(to, &format!("gateway.shared.get('{key}')")),
            Put(key, new, ttl) => {
                let ttl = ttl.map_or("nil".to_owned(), |ttl| format!("{ttl:?}"));
                format!("gateway.shared.set('{key}', {}, {ttl})\n", value(new))
            }
            Add {
                to,
                key,
                value: new,
            } => put(to, &format!("gateway.shared.add('{key}', {})", value(new))),
            Incr { to, key, by } => put(
                to,
                &format!(
                    "(function() local ok, sum = pcall(gateway.shared.incr, '{key}', {})
                       return ok and sum end)()",
                    value(by)
                ),
            ),
            Delete { to, key } => put(to, &format!("gateway.shared.delete('{key}')")),
            Config { to, key } => put(
                to,
                &format!(
                    "(function() local v = gateway.config.{key}
                       return type(v) ~= 'table' and v end)()"
                ),
            ),
            Sessions { to } => put(to, "gateway.hosts()[1].sessions"),
            Healthy { to } => put(to, "gateway.hosts()[1].healthy"),
            Draining { to } => put(to, "gateway.hosts()[1].draining"),
        };
    }
    lua += &match verdict {
        Verdict::Pass => "return nil".to_owned(),
        Verdict::Allow => "return true".to_owned(),
        Verdict::Deny(reason) => format!("return false, {}", string(reason.as_bytes())),
        Verdict::Name(name) => format!("return {}", string(name.as_bytes())),
        Verdict::Addr(addr) => format!("return {{addr = {}}}", string(addr.as_bytes())),
        Verdict::Endpoint(id) => format!("return {id}"),
        Verdict::Message(b"") => "return false".to_owned(),
        Verdict::Message(bytes) => format!("return {}", string(bytes)),
        Verdict::Error(message) => format!("error({})", string(message.as_bytes())),
    };
    lua + "\nend"
}

fn string(bytes: &[u8]) -> String {
    let mut out = "'".to_owned();
    for byte in bytes {
        write!(out, "\\{byte:03}").unwrap();
    }
    out + "'"
}

/// The body of a plugin's function that does the same.
pub fn plugin(wat: &mut Wat, steps: &[Step], verdict: Verdict) -> String {
    let mut body = String::new();
    for step in steps {
        body += &match *step {
            Log(level, message) => {
                let levels = ["debug", "info", "warn", "error"];
                let level = levels.iter().position(|known| *known == level).unwrap();
                let message = wat.bytes(message.as_bytes());
                format!("i32.const {level}\n{message}{}", wat.call("log.write"))
            }
            Set(key, value) => [
                wat.bytes(key.as_bytes()),
                wat.value(value),
                wat.call("attrs.set"),
            ]
            .concat(),
            Remove(key) => [wat.bytes(key.as_bytes()), wat.call("attrs.remove")].concat(),
            Step::Field { to, name } => read(wat, to, field(name)),
            Get { to, key } => {
                let got = [wat.bytes(key.as_bytes()), "i32.const 16\n".into()].concat();
                let got = got + &wat.call("shared.get");
                got + &optional(wat, to, "(i32.load8_u (i32.const 16))", 8)
            }
            Config { to, key } => {
                let got = [wat.bytes(key.as_bytes()), "i32.const 16\n".into()].concat();
                let got = got + &wat.call("config.get");
                got + &optional(wat, to, "(i32.load8_u (i32.const 16))", 8)
            }
            Put(key, value, ttl) => store(wat, "shared.set", key, value, ttl),
            Add { to, key, value } => {
                let done = store(wat, "shared.add", key, value, None);
                // An error counts as false; its number is where the boolean would be.
                done + &set_boolean(
                    wat,
                    to,
                    "(i32.and (i32.eqz (i32.load8_u (i32.const 16)))
                              (i32.load8_u (i32.const 17)))",
                )
            }
            Incr { to, key, by } => {
                let done = store(wat, "shared.incr", key, by, None);
                done + &optional(wat, to, "(i32.eqz (i32.load8_u (i32.const 16)))", 8)
            }
            Delete { to, key } => {
                let deleted = [wat.bytes(key.as_bytes()), wat.call("shared.delete")].concat();
                deleted + "local.set $i\n" + &set_boolean(wat, to, "(local.get $i)")
            }
            Sessions { to } => {
                let got = "i32.const 16\n".to_owned() + &wat.call("hosts.list");
                let sessions = "i32.const 1 (i64.load offset=24 (i32.load (i32.const 16)))\n";
                [
                    got,
                    wat.bytes(to.as_bytes()),
                    sessions.into(),
                    "i32.const 0\n".into(),
                    wat.call("attrs.set"),
                ]
                .concat()
            }
            Healthy { to } => {
                let got = "i32.const 16\n".to_owned() + &wat.call("hosts.list");
                let healthy = "(i32.load8_u offset=32 (i32.load (i32.const 16)))";
                got + &set_boolean(wat, to, healthy)
            }
            Draining { to } => {
                let got = "i32.const 16\n".to_owned() + &wat.call("hosts.list");
                let draining = "(i32.load8_u offset=33 (i32.load (i32.const 16)))";
                got + &set_boolean(wat, to, draining)
            }
        };
    }
    body + &answer(wat, verdict)
}

fn store(wat: &mut Wat, function: &str, key: &str, value: Value, ttl: Option<f64>) -> String {
    let ttl = match ttl {
        Some(ttl) => format!("i32.const 1 f64.const {ttl:?} i32.const 16\n"),
        None => "i32.const 0 f64.const 0 i32.const 16\n".to_owned(),
    };
    [
        wat.bytes(key.as_bytes()),
        wat.value(value),
        ttl,
        wat.call(function),
    ]
    .concat()
}

fn set_boolean(wat: &mut Wat, to: &str, value: &str) -> String {
    let key = wat.bytes(to.as_bytes());
    let set = wat.call("attrs.set");
    format!("{key} i32.const 0 (i64.extend_i32_u {value}) i32.const 0\n{set}")
}

/// Sets `to` to the value that lies `at` bytes behind the result, or to false.
fn optional(wat: &mut Wat, to: &str, some: &str, at: u32) -> String {
    let key = wat.bytes(to.as_bytes());
    let (set, value) = (wat.call("attrs.set"), Wat::result_value(at));
    let none = set_boolean(wat, to, "(i32.const 0)");
    format!("(if {some} (then {key}{value}{set}) (else {none}))\n")
}

/// Sets `to` to a field of the session.
fn read(wat: &mut Wat, to: &str, from: Field) -> String {
    let key = wat.bytes(to.as_bytes());
    let set = wat.call("attrs.set");
    let load = |what: &str, at: u32| format!("({what} offset={at} (local.get $session))");
    let integer = |value: String| format!("{key} i32.const 1 {value} i32.const 0\n{set}");
    let string = |at: u32| {
        let (address, length) = (load("i64.load32_u", at), load("i32.load", at + 4));
        format!("{key} i32.const 3 {address} {length}\n{set}")
    };
    let (some, then) = match from {
        Field::Unsigned64(at) => return integer(load("i64.load", at)),
        Field::Unsigned32(at) => return integer(load("i64.load32_u", at)),
        Field::String(at) => return string(at),
        Field::OptionalString(at) => (load("i32.load8_u", at), string(at + 4)),
        Field::OptionalUnsigned32(at) => (
            load("i32.load8_u", at),
            integer(load("i64.load32_u", at + 4)),
        ),
    };
    let none = set_boolean(wat, to, "(i32.const 0)");
    format!("(if {some} (then {then}) (else {none}))\n")
}

/// Puts an answer where it is read.
fn answer(wat: &mut Wat, verdict: Verdict) -> String {
    let byte = |at: u32, value: u32| format!("(i32.store8 (i32.const {at}) (i32.const {value}))\n");
    let word = |at: u32, value: u32| format!("(i32.store (i32.const {at}) (i32.const {value}))\n");
    let mut pair = |at: u32, bytes: &[u8]| {
        let pushed = wat.bytes(bytes);
        let address: u32 = pushed.split_whitespace().nth(1).unwrap().parse().unwrap();
        word(at, address) + &word(at + 4, bytes.len() as u32)
    };
    let zero = "(memory.fill (i32.const 16) (i32.const 0) (i32.const 32))\n".to_owned();
    zero + &match verdict {
        Verdict::Pass => String::new(),
        Verdict::Allow => byte(20, 1),
        Verdict::Deny(reason) => byte(20, 2) + &pair(24, reason.as_bytes()),
        Verdict::Name(name) => byte(20, 1) + &pair(28, name.as_bytes()),
        Verdict::Addr(addr) => byte(20, 1) + &byte(24, 1) + &pair(28, addr.as_bytes()),
        Verdict::Endpoint(id) => {
            let id = word(28, id);
            byte(20, 1) + &byte(24, 2) + &id
        }
        Verdict::Message(bytes) => byte(20, 1) + &pair(24, bytes),
        Verdict::Error(message) => byte(16, 1) + &pair(20, message.as_bytes()),
    }
}
