//! Source of a migration: the original's values by the paths of their keys.

use std::collections::BTreeMap;

use anyhow::{Context, bail};
use serde_json::Value;
use serde_yaml as yaml;

use crate::config::yaml_options;

/// Settings of an original, taken one by one; what is left at the end has no equivalent.
#[derive(Default)]
pub(super) struct Source(BTreeMap<String, Value>);

impl Source {
    /// Parses a YAML or JSON file. Keys become lower case, as the originals do not tell cases
    /// apart.
    ///
    /// # Errors
    /// When it is no mapping.
    pub fn of_yaml(text: &str) -> anyhow::Result<Self> {
        let value: Value = yaml::from_str_with_options(text, yaml_options(text.len()))?;
        let mut source = Self::default();
        match value {
            Value::Object(_) => source.add("", value),
            Value::Null => {}
            _ => bail!("has no keys"),
        }
        Ok(source)
    }

    /// Adds a value. Mappings become paths with dots, lists stay.
    fn add(&mut self, path: &str, value: Value) {
        let Value::Object(map) = value else {
            self.0.insert(path.to_owned(), value);
            return;
        };
        for (key, value) in map {
            let key = key.to_ascii_lowercase();
            let path = match path {
                "" => key,
                path => format!("{path}.{key}"),
            };
            self.add(&path, value);
        }
    }

    /// Parses the command line of a program in Go: `-key=value`, `-key value`, or `-key` alone.
    ///
    /// `switches` are the flags that may stand alone; they are true then.
    ///
    /// # Errors
    /// When quotes are not closed, a value is missing, or something is no flag.
    pub fn of_flags(line: &str, switches: &[&str]) -> anyhow::Result<Self> {
        let words = shlex::split(line).context("a quote is not closed")?;
        let mut words = words.into_iter();
        let mut source = Self::default();
        while let Some(word) = words.next() {
            let flag = word.strip_prefix("--").or(word.strip_prefix('-'));
            let flag = flag.with_context(|| format!("`{word}` is no flag"))?;
            let (key, value) = match flag.split_once('=') {
                Some((key, value)) => (key, value.to_owned()),
                None if switches.contains(&flag) => (flag, "true".to_owned()),
                None => {
                    let value = words.next();
                    (flag, value.with_context(|| format!("{word} has no value"))?)
                }
            };
            source.0.insert(key.to_owned(), value.into());
        }
        Ok(source)
    }

    /// Adds `key:value` pairs, separated by commas, under a path.
    pub fn add_pairs(&mut self, path: &str, pairs: &str) {
        for pair in pairs.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once(':').unwrap_or((pair, ""));
            self.0.insert(format!("{path}.{key}"), value.into());
        }
    }

    /// Gives a value another name, that of the first of `names` which is set.
    pub fn rename(&mut self, names: &[&str], name: &str) {
        if let Some(value) = names.iter().find_map(|name| self.0.remove(*name)) {
            self.0.insert(name.to_owned(), value);
        }
    }

    /// Sets a value that is not set.
    pub fn add_missing(&mut self, path: &str, value: &str) {
        self.0.entry(path.to_owned()).or_insert(value.into());
    }

    /// Takes a value, as it would be typed; an empty string for a key without a value.
    pub fn take(&mut self, path: &str) -> Option<String> {
        Some(match self.0.remove(path)? {
            Value::String(text) => text,
            Value::Null => String::new(),
            value => value.to_string(),
        })
    }

    /// Takes a key with all that is below it. Returns whether there was anything.
    pub fn take_block(&mut self, block: &str) -> bool {
        let before = self.0.len();
        self.0
            .retain(|path, _| path.split('.').next() != Some(block));
        self.0.len() < before
    }

    /// Takes the mappings of a list. Any other item counts as a mapping without keys.
    pub fn take_list(&mut self, path: &str) -> Vec<Self> {
        let Some(Value::Array(items)) = self.0.remove(path) else {
            return Vec::new();
        };
        let mapping = |item| {
            let mut source = Self::default();
            source.add("", item);
            source
        };
        items.into_iter().map(mapping).collect()
    }

    /// Returns the paths of the values that were not taken.
    pub fn rest(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }
}
