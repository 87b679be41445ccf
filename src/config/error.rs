//! Errors of a configuration file, for whoever wrote it.

use std::fmt;
use std::path::{Path, PathBuf};

use serde_yaml::{self as yaml, MessageFormatter as _};

use super::locate::{line_of, path_at};

/// Error of a configuration file: what is wrong, and where.
///
/// Shown on one line: `config.yaml:12: listeners[0].bind[1]: …`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// File, as the caller named it.
    pub file: PathBuf,
    /// The line, from 1, where there is one.
    pub line: Option<u64>,
    /// The path of the key, such as `listeners[0].bind[1]`, where there is one.
    pub key: Option<String>,
    /// Message that says what is wrong, on one line.
    pub message: String,
}

impl std::error::Error for Error {}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, "{line}:")?;
        }
        if let Some(key) = &self.key {
            write!(f, " {key}:")?;
        }
        write!(f, " {}", self.message)
    }
}

impl Error {
    pub(super) fn new(file: &Path, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line: None,
            key: None,
            // The message may contain names from the file.
            message: message.replace(char::is_control, " "),
        }
    }

    /// Creates an error from the reader's error and the path of the value that was being read.
    pub(super) fn of_yaml(
        error: &yaml::Error,
        key: Option<String>,
        text: &str,
        file: &Path,
    ) -> Self {
        let mut line = error.location().map(|location| location.line());
        let mut key = key.filter(|key| key != ".");
        let message = match error {
            yaml::Error::AliasError { error, .. } => {
                return Self {
                    line,
                    ..Self::of_yaml(error, key, text, file)
                };
            }
            yaml::Error::Eof { .. } => {
                line = None;
                "the file is empty"
            }
            // The reader notices this only at the end of the block.
            yaml::Error::SerdeMissingField { field, .. } => {
                line = line_of(text, key.as_deref().unwrap_or_default()).or(line);
                key = Some(key.map_or_else(|| (*field).to_owned(), |key| format!("{key}.{field}")));
                "is missing"
            }
            // The path ends with `?` because the key was never taken.
            yaml::Error::DuplicateMappingKey { key: name, .. } => {
                let name = name.as_deref().unwrap_or("?");
                key = key.map(|key| format!("{}{name}", key.trim_end_matches('?')));
                "is set twice"
            }
            // The reader finds tags by looking ahead, while the path is still that of the block.
            yaml::Error::UnsupportedTag { tag, location, .. } => {
                key = path_at(text, location.line(), location.column()).or(key);
                &format!("unknown tag `{tag}`")
            }
            yaml::Error::SerdeUnknownField { expected, .. } => {
                &format!("unknown key, expected one of {}", expected.join(", "))
            }
            yaml::Error::SerdeUnknownVariant {
                variant, expected, ..
            } => &format!(
                "unknown value `{variant}`, expected {}",
                expected.join(" or ")
            ),
            yaml::Error::Unexpected {
                expected: "sequence start",
                ..
            } => "expected a list",
            yaml::Error::Unexpected {
                expected: "mapping start",
                ..
            } => "expected keys with values",
            yaml::Error::Unexpected {
                expected: "string scalar",
                ..
            } => "expected a single value",
            yaml::Error::InvalidScalar { ty: "i64", .. } => "expected a whole number",
            yaml::Error::InvalidScalar { ty: "boolean", .. } => "expected true or false",
            error => &*yaml::UserMessageFormatter.format_message(error),
        };
        Self {
            line,
            key: key.map(|key| key.replace(char::is_control, " ")),
            ..Self::new(file, message.to_owned())
        }
    }
}
