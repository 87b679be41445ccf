//! JSON to and from Lua values.
//!
//! The conversion has no form in between, so that what a script decodes counts against its memory
//! limit. A decoded array stays an array when it is empty; any other empty table is an object.

use std::fmt;

use mlua::{Lua, LuaSerdeExt, Table, Value};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};

use super::limit;
use super::value::{Fail, type_of};

/// Longest text in either direction, bytes.
pub(super) const MAX_TEXT: usize = 4 * 1024 * 1024;

/// Deepest nesting in either direction. serde_json stops a decoder at the same depth.
const MAX_DEPTH: usize = 127;

/// Returns the Lua value of a JSON text.
pub(super) fn decode(lua: &Lua, text: &[u8]) -> Result<Value, Fail> {
    if text.len() > MAX_TEXT {
        return Err(Fail::from("JSON text is longer than 4 MiB"));
    }
    let mut parser = serde_json::Deserializer::from_slice(text);
    let value = Seed(lua)
        .deserialize(&mut parser)
        .and_then(|value| parser.end().map(|()| value));
    value.map_err(|error| Fail::Script(format!("invalid JSON: {error}")))
}

/// Returns a configuration as a Lua table. Keys that are null are not set.
pub(super) fn table(
    lua: &Lua,
    map: &serde_json::Map<String, serde_json::Value>,
) -> mlua::Result<Table> {
    let table = lua.create_table_with_capacity(0, map.len())?;
    for (key, value) in map {
        if !value.is_null() {
            table.raw_set(key.as_str(), from_json(lua, value)?)?;
        }
    }
    Ok(table)
}

/// Returns the JSON text of a Lua value.
pub(super) fn encode(lua: &Lua, value: &Value) -> Result<String, Fail> {
    let mut out = String::new();
    write(lua, value, 0, &mut out)?;
    Ok(out)
}

fn from_json(lua: &Lua, value: &serde_json::Value) -> mlua::Result<Value> {
    Ok(match value {
        serde_json::Value::Null => lua.null(),
        serde_json::Value::Bool(value) => Value::Boolean(*value),
        serde_json::Value::Number(number) => match number.as_i64() {
            Some(integer) => Value::Integer(integer),
            None => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        serde_json::Value::String(text) => Value::String(lua.create_string(text)?),
        serde_json::Value::Array(items) => {
            let list = lua.create_table_with_capacity(items.len(), 0)?;
            for item in items {
                list.raw_push(from_json(lua, item)?)?;
            }
            list.set_metatable(Some(lua.array_metatable()))?;
            Value::Table(list)
        }
        serde_json::Value::Object(map) => Value::Table(table(lua, map)?),
    })
}

/// Builder of Lua values while serde_json parses.
struct Seed<'a>(&'a Lua);

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(self.0.null())
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Boolean(value))
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(Value::Integer(value))
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => Value::Integer(value),
            Err(_) => Value::Number(value as f64),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(Value::Number(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        let string = self.0.create_string(value).map_err(E::custom)?;
        Ok(Value::String(string))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let lua = self.0;
        let list = lua.create_table().map_err(A::Error::custom)?;
        let mut index = 0;
        while let Some(item) = items.next_element_seed(Seed(lua))? {
            index += 1;
            list.raw_set(index, item).map_err(A::Error::custom)?;
        }
        list.set_metatable(Some(lua.array_metatable()))
            .map_err(A::Error::custom)?;
        Ok(Value::Table(list))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let lua = self.0;
        let table = lua.create_table().map_err(A::Error::custom)?;
        while let Some(key) = entries.next_key::<String>()? {
            let value = entries.next_value_seed(Seed(lua))?;
            table.raw_set(key, value).map_err(A::Error::custom)?;
        }
        Ok(Value::Table(table))
    }
}

fn write(lua: &Lua, value: &Value, depth: usize, out: &mut String) -> Result<(), Fail> {
    if out.len() > MAX_TEXT {
        return Err(Fail::from("JSON text is longer than 4 MiB"));
    }
    match value {
        Value::Nil => out.push_str("null"),
        Value::Boolean(value) => out.push_str(if *value { "true" } else { "false" }),
        Value::Integer(value) => out.push_str(&value.to_string()),
        Value::Number(value) => match serde_json::Number::from_f64(*value) {
            Some(number) => out.push_str(&number.to_string()),
            None => return Err(Fail::Script(format!("{value} has no JSON form"))),
        },
        Value::String(string) => write_str(&string.to_str().map_err(|_| not_utf8())?, out)?,
        Value::Table(table) => {
            if depth >= MAX_DEPTH {
                return Err(Fail::from("tables are nested too deeply for JSON"));
            }
            // Nested tables that are used more than once take long without using memory.
            if limit::is_over() {
                return Err(Fail::from("time limit exceeded"));
            }
            write_table(lua, table, depth + 1, out)?;
        }
        other if *other == lua.null() => out.push_str("null"),
        other => {
            return Err(Fail::Script(format!(
                "a {} has no JSON form",
                type_of(other)
            )));
        }
    }
    Ok(())
}

fn write_table(lua: &Lua, table: &Table, depth: usize, out: &mut String) -> Result<(), Fail> {
    let length = table.raw_len();
    let mut named = Vec::new();
    let mut listed = 0;
    for entry in table.pairs::<Value, Value>() {
        let (key, value) = entry?;
        match key {
            Value::String(key) => {
                named.push((key.to_str().map_err(|_| not_utf8())?.to_owned(), value))
            }
            Value::Integer(key) if key >= 1 && key as usize <= length => listed += 1,
            _ => return Err(Fail::from("JSON keys must be strings or 1, 2, 3, …")),
        }
        // An entry takes at least two bytes of text: stop when there are too many to be written.
        if named.len() > MAX_TEXT / 2 {
            return Err(Fail::from("JSON text is longer than 4 MiB"));
        }
    }
    if listed > 0 && !named.is_empty() {
        return Err(Fail::from(
            "a table with both a list and named keys has no JSON form",
        ));
    }
    let array = listed > 0
        || named.is_empty()
            && table
                .metatable()
                .is_some_and(|mt| mt == lua.array_metatable());
    if array {
        out.push('[');
        for index in 1..=length {
            if index > 1 {
                out.push(',');
            }
            write(lua, &table.raw_get(index)?, depth, out)?;
        }
        out.push(']');
    } else {
        // In order, so that equal tables give equal text.
        named.sort_unstable_by(|(a, _), (b, _)| a.cmp(b));
        out.push('{');
        for (at, (key, value)) in named.iter().enumerate() {
            if at > 0 {
                out.push(',');
            }
            write_str(key, out)?;
            out.push(':');
            write(lua, value, depth, out)?;
        }
        out.push('}');
    }
    Ok(())
}

fn write_str(text: &str, out: &mut String) -> Result<(), Fail> {
    if text.len() > MAX_TEXT {
        return Err(Fail::from("JSON text is longer than 4 MiB"));
    }
    let quoted = serde_json::to_string(text).map_err(|error| Fail::Script(error.to_string()))?;
    out.push_str(&quoted);
    Ok(())
}

fn not_utf8() -> Fail {
    Fail::from("a string that is not UTF-8 has no JSON form")
}
