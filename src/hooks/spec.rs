//! What a script or a plugin is loaded from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;

use super::roster::Roster;
use super::shared::Shared;
use crate::files::Files;
use crate::hosts::Host;
use crate::resolver::Resolver;

/// What a hook runs. Paths are absolute, or in the file relative to the file's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Program {
    /// A Lua script.
    Lua { lua: PathBuf },
    /// A WebAssembly plugin.
    Wasm {
        wasm: PathBuf,
        /// How long an instance of it lives. Default `fresh`.
        instance: Instance,
    },
}

/// How long an instance of a plugin lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instance {
    /// For one call: nothing that a call leaves behind is there for the next one.
    #[default]
    Fresh,
    /// For many calls, one at a time, until one of them fails.
    Pooled,
}

/// What a failed hook call counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// The session is denied.
    #[default]
    Deny,
    /// The hook had no opinion.
    Skip,
}

impl Program {
    /// The file of the script or plugin.
    pub fn path(&self) -> &Path {
        match self {
            Self::Lua { lua } => lua,
            Self::Wasm { wasm, .. } => wasm,
        }
    }
}

/// What one call, and loading the hook, may use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processor time of a call.
    pub timeout: Duration,
    /// Time that a call may take by the clock from when it begins to run.
    pub wall_timeout: Duration,
    /// Processor time of loading.
    pub load_timeout: Duration,
    /// Bytes that one interpreter, or one instance of a plugin, may hold, what it keeps between
    /// calls included. An empty interpreter takes some 50 KiB.
    pub memory: usize,
}

/// The limit by the clock that goes with a limit in processor time, where nothing else is said; at
/// most 365 days.
pub(crate) fn wall_timeout(timeout: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    (timeout * 20).min(YEAR)
}

/// What hooks see of the gateway.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The store that all hooks share.
    pub shared: Arc<Shared>,
    /// What looks names up for them.
    pub resolver: Arc<Resolver>,
    /// The hosts of the configuration.
    pub hosts: Vec<Arc<Host>>,
    /// The fastway endpoints that are connected.
    pub fastway: Roster,
    /// Told when a hook is made of more files than before.
    pub grown: Arc<Notify>,
}

/// A hook as the configuration describes it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Its name.
    pub name: String,
    /// The file of the script or plugin.
    pub path: PathBuf,
    pub limits: Limits,
    /// What it sees as its configuration.
    pub config: serde_json::Map<String, serde_json::Value>,
    pub environment: Environment,
    /// Modules that it has asked for before and not while it was loaded: where they are, they are
    /// loaded with it, so that what is wrong with them shows.
    pub modules: Vec<String>,
}

/// Why a hook cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("hook {hook}: {message}")]
pub struct LoadError {
    /// Name of the hook.
    pub hook: Arc<str>,
    /// Its file, absolute.
    pub path: PathBuf,
    /// Begins with the file, relative to the hook's directory, and the line where one is known.
    pub message: String,
    /// The files that may hold the mistake: a change in any of them is reason to try again.
    pub files: Files,
}
