//! What is wrong with a configuration, as it is told to others.

use serde::Serialize;

use super::error::Error;
use super::generation::Location;

/// What is wrong, and where in which file if it is in one.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fault {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// From 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// The key of the configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
}

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let location = match error {
            Error::Build(error) => error.location.clone(),
            Error::Bind { .. } | Error::Admin { .. } | Error::Watch(_) | Error::NoFile => {
                Location::default()
            }
        };
        Self {
            message: error.to_string(),
            file: location.file.map(|file| file.display().to_string()),
            line: location.line,
            key: location.key,
        }
    }
}
