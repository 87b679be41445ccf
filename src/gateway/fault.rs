//! Errors of a configuration, as the admin interface shows them.

use serde::Serialize;

use super::error::Error;
use super::generation::Location;

/// Error, with its location if it is in a file.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Fault {
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// Line of the file, from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// Key of the configuration.
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
