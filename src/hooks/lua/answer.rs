//! Answers from a script's return values.

use bytes::Bytes;
use mlua::Value;

use super::value::{scalar, type_of};
use crate::hooks::contract::{
    Function, MAX_ATTRS, MAX_MESSAGE, MAX_REASON, attr_size, clip, is_addr,
};
use crate::hooks::{Answer, Attrs, Target};

/// Returns the answer in a function's first two return values, or what is wrong with them.
///
/// With `dial`, the target is the id of an endpoint.
pub(super) fn answer(function: Function, a: Value, b: Value, dial: bool) -> Result<Answer, String> {
    match function {
        Function::Access => access(a, b),
        Function::SelectTarget if dial => select_id(&a),
        Function::SelectTarget => select_target(a),
        Function::Announce => announce(a),
        Function::Closed => Ok(Answer::Pass),
    }
}

/// Returns the attributes as the script left them, or what is wrong with them.
pub(super) fn attrs(value: &Value) -> Result<Attrs, String> {
    let Value::Table(table) = value else {
        return Err(format!(
            "session.attrs is {}, expected a table",
            shown(value)
        ));
    };
    let mut attrs = Attrs::new();
    let mut size = 0;
    for entry in table.pairs::<Value, Value>() {
        let (key, value) = entry.map_err(|error| format!("session.attrs: {error}"))?;
        let Value::String(key) = key else {
            return Err(format!(
                "session.attrs has the key {}, expected only strings",
                shown(&key)
            ));
        };
        let key = key
            .to_str()
            .map_err(|_| "session.attrs has a key that is not UTF-8".to_owned())?
            .to_owned();
        let value = scalar(&value).ok_or_else(|| {
            format!(
                "session.attrs.{} is {}, expected a string, number or boolean",
                clip(key.as_bytes(), 64),
                shown(&value)
            )
        })?;
        size += attr_size(&key, &value);
        if size > MAX_ATTRS {
            return Err(format!("session.attrs is larger than {MAX_ATTRS} bytes"));
        }
        attrs.insert(key, value);
    }
    Ok(attrs)
}

fn access(verdict: Value, reason: Value) -> Result<Answer, String> {
    match (verdict, reason) {
        (Value::Nil, _) => Ok(Answer::Pass),
        (Value::Boolean(true), _) => Ok(Answer::Allow),
        (Value::Boolean(false), Value::Nil) => Ok(Answer::Deny {
            reason: String::new(),
        }),
        (Value::Boolean(false), Value::String(reason)) => Ok(Answer::Deny {
            reason: clip(&reason.as_bytes(), MAX_REASON),
        }),
        (Value::Boolean(false), reason) => Err(format!(
            "access returned false and {}, expected the reason as a string",
            shown(&reason)
        )),
        (verdict, _) => Err(format!(
            "access returned {}, expected true, nil, or false and a reason",
            shown(&verdict)
        )),
    }
}

fn select_target(target: Value) -> Result<Answer, String> {
    const EXPECTED: &str = "expected nil, the name of a host, or {addr = \"host:port\"}";
    match target {
        Value::Nil => Ok(Answer::Pass),
        Value::String(name) => match name.to_str() {
            Ok(name) if !name.is_empty() => Ok(Answer::Target(Target::Name(name.to_owned()))),
            _ => Err(format!(
                "select_target returned {}, {EXPECTED}",
                shown(&Value::String(name))
            )),
        },
        Value::Table(table) => {
            let addr: Value = table
                .raw_get("addr")
                .map_err(|error| format!("select_target: {error}"))?;
            let text = match &addr {
                Value::String(text) => text.to_str().ok().map(|text| text.to_owned()),
                _ => None,
            };
            match text.filter(|text| is_addr(text)) {
                Some(text) => Ok(Answer::Target(Target::Addr(text))),
                None => Err(format!(
                    "select_target returned a table with addr = {}, {EXPECTED}",
                    shown(&addr)
                )),
            }
        }
        other => Err(format!(
            "select_target returned {}, {EXPECTED}",
            shown(&other)
        )),
    }
}

fn select_id(target: &Value) -> Result<Answer, String> {
    let id = match *target {
        Value::Nil => return Ok(Answer::Pass),
        Value::Integer(id) => u32::try_from(id).ok(),
        // A computed id may be a float.
        Value::Number(id) if id.fract() == 0.0 && (0.0..4_294_967_296.0).contains(&id) => {
            Some(id as u32)
        }
        _ => None,
    };
    id.map(|id| Answer::Target(Target::Id(id))).ok_or_else(|| {
        format!(
            "select_target returned {} for a dial, expected nil or the id of an endpoint",
            shown(target)
        )
    })
}

fn announce(message: Value) -> Result<Answer, String> {
    match message {
        Value::Nil => Ok(Answer::Pass),
        Value::Boolean(false) => Ok(Answer::Message(Bytes::new())),
        Value::String(message) => {
            let message = message.as_bytes();
            if message.len() > MAX_MESSAGE {
                return Err(format!(
                    "announce returned {} bytes, expected at most {MAX_MESSAGE}",
                    message.len()
                ));
            }
            Ok(Answer::Message(Bytes::copy_from_slice(&message)))
        }
        other => Err(format!(
            "announce returned {}, expected nil, false or a string",
            shown(&other)
        )),
    }
}

/// Returns a value as messages show it.
fn shown(value: &Value) -> String {
    match value {
        Value::Nil => "nil".to_owned(),
        Value::Boolean(value) => value.to_string(),
        Value::Integer(value) => value.to_string(),
        Value::Number(value) => value.to_string(),
        Value::String(value) => format!("{:?}", clip(&value.as_bytes(), 64)),
        other => format!("a {}", type_of(other)),
    }
}
