//! Lua values on their way into and out of an interpreter.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use mlua::{Lua, LuaString, MultiValue, Value};

use crate::hooks::AttrValue;
use crate::hooks::contract::MAX_TTL;
use crate::hooks::shared::SharedError;
use crate::proto::sproto::SprotoError;

/// Reason why a host function gave no value.
pub(super) enum Fail {
    /// Mistake of the script: raised with the script's line.
    Script(String),
    /// Failure of the interpreter: out of memory.
    Lua(mlua::Error),
}

impl From<&str> for Fail {
    fn from(message: &str) -> Self {
        Self::Script(message.to_owned())
    }
}

impl From<mlua::Error> for Fail {
    fn from(error: mlua::Error) -> Self {
        Self::Lua(error)
    }
}

impl From<SharedError> for Fail {
    fn from(error: SharedError) -> Self {
        Self::Script(error.to_string())
    }
}

impl From<SprotoError> for Fail {
    fn from(error: SprotoError) -> Self {
        Self::Script(error.to_string())
    }
}

/// Arguments of a call, with messages like those of Lua's own functions.
pub(super) struct Args {
    pub(super) name: &'static str,
    pub(super) values: MultiValue,
}

impl Args {
    pub(super) fn get(&self, at: usize) -> &Value {
        self.values.get(at).unwrap_or(&Value::Nil)
    }

    pub(super) fn bad(&self, at: usize, expected: &str) -> Fail {
        let got = match self.values.get(at) {
            Some(value) => type_of(value),
            None => "no value",
        };
        Fail::Script(format!(
            "bad argument #{} to '{}' ({expected} expected, got {got})",
            at + 1,
            self.name.replacen('_', ".", 1)
        ))
    }

    pub(super) fn bytes(&self, lua: &Lua, at: usize) -> Result<LuaString, Fail> {
        match self.get(at) {
            Value::String(string) => Ok(string.clone()),
            number @ (Value::Integer(_) | Value::Number(_)) => lua
                .coerce_string(number.clone())?
                .ok_or_else(|| self.bad(at, "string")),
            _ => Err(self.bad(at, "string")),
        }
    }

    pub(super) fn text(&self, lua: &Lua, at: usize) -> Result<String, Fail> {
        let string = self.bytes(lua, at)?;
        let text = string.to_str().map_err(|_| self.bad(at, "UTF-8 string"))?;
        Ok(text.to_owned())
    }

    pub(super) fn scalar(&self, at: usize) -> Result<AttrValue, Fail> {
        scalar(self.get(at)).ok_or_else(|| self.bad(at, "string, number or boolean"))
    }

    pub(super) fn ttl(&self, at: usize) -> Result<Option<Duration>, Fail> {
        let seconds = match *self.get(at) {
            Value::Nil => return Ok(None),
            Value::Integer(seconds) => seconds as f64,
            Value::Number(seconds) => seconds,
            _ => return Err(self.bad(at, "number of seconds")),
        };
        if seconds > 0.0 {
            Ok((seconds < MAX_TTL).then(|| Duration::from_secs_f64(seconds)))
        } else {
            Err(self.bad(at, "positive number of seconds"))
        }
    }

    pub(super) fn address(&self, lua: &Lua, at: usize) -> Result<SocketAddr, Fail> {
        let text = self.text(lua, at)?;
        text.parse().map_err(|_| self.bad(at, "address ip:port"))
    }
}

/// Returns the type of a value, as scripts know it.
pub(super) fn type_of(value: &Value) -> &'static str {
    match value {
        Value::Integer(_) => "number",
        Value::LightUserData(_) | Value::Error(_) => "userdata",
        other => other.type_name(),
    }
}

/// Returns a Lua value as a value that can leave its interpreter, if its type allows that.
pub(super) fn scalar(value: &Value) -> Option<AttrValue> {
    match value {
        Value::Boolean(value) => Some(AttrValue::Boolean(*value)),
        Value::Integer(value) => Some(AttrValue::Integer(*value)),
        Value::Number(value) => Some(AttrValue::Number(*value)),
        Value::String(value) => Some(AttrValue::String(Bytes::copy_from_slice(&value.as_bytes()))),
        _ => None,
    }
}

/// Returns the Lua value of an attribute's value.
pub(super) fn scalar_to_lua(lua: &Lua, value: &AttrValue) -> mlua::Result<Value> {
    Ok(match value {
        AttrValue::Boolean(value) => Value::Boolean(*value),
        AttrValue::Integer(value) => Value::Integer(*value),
        AttrValue::Number(value) => Value::Number(*value),
        AttrValue::String(value) => Value::String(lua.create_string(value)?),
    })
}
