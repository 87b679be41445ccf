//! Specification of a hook: its program, its limits and its environment.

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

/// Program of a hook. Paths are absolute, or in the file relative to the file's directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Program {
    /// A Lua script.
    Lua { lua: PathBuf },
    /// A WebAssembly plugin.
    Wasm {
        wasm: PathBuf,
        /// Lifetime of an instance of the plugin. Default `fresh`.
        instance: Instance,
    },
}

/// Lifetime of an instance of a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instance {
    /// One call: nothing that a call leaves behind is there for the next one.
    #[default]
    Fresh,
    /// Many calls, one at a time, until one of them fails.
    Pooled,
}

/// Effect of a failed hook call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnError {
    /// Denial of the session.
    #[default]
    Deny,
    /// No opinion: the next hook decides.
    Skip,
}

impl Program {
    /// Returns the file of the script or plugin.
    pub fn path(&self) -> &Path {
        match self {
            Self::Lua { lua } => lua,
            Self::Wasm { wasm, .. } => wasm,
        }
    }

    /// Returns the key of the configuration that names the file.
    pub(crate) fn key(&self) -> &'static str {
        match self {
            Self::Lua { .. } => "lua",
            Self::Wasm { .. } => "wasm",
        }
    }
}

/// Limits of one call, and of loading the hook.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Processor time of a call.
    pub timeout: Duration,
    /// Wall-clock time of a call, from when it begins to run.
    pub wall_timeout: Duration,
    /// Processor time of loading.
    pub load_timeout: Duration,
    /// Bytes that one interpreter, or one instance of a plugin, may hold, with what it keeps
    /// between calls.
    ///
    /// An empty interpreter takes some 50 KiB.
    pub memory: usize,
}

/// Returns the default limit in wall-clock time for a limit in processor time; at most 365 days.
pub(crate) fn wall_timeout(timeout: Duration) -> Duration {
    const YEAR: Duration = Duration::from_secs(365 * 86_400);
    (timeout * 20).min(YEAR)
}

/// Environment of hooks: the parts of the gateway that they see.
#[derive(Debug, Clone)]
pub struct Environment {
    /// The store that all hooks share.
    pub shared: Arc<Shared>,
    /// Resolver that looks names up for hooks.
    pub resolver: Arc<Resolver>,
    /// The hosts of the configuration.
    pub hosts: Vec<Arc<Host>>,
    /// The fastway endpoints that are connected.
    pub fastway: Roster,
    /// Notified when a hook is made of more files than before.
    pub grown: Arc<Notify>,
}

/// A hook as the configuration describes it.
#[derive(Debug, Clone)]
pub struct Spec {
    /// Name of the hook.
    pub name: String,
    /// The file of the script or plugin.
    pub path: PathBuf,
    pub limits: Limits,
    /// Configuration that the hook sees.
    pub config: serde_json::Map<String, serde_json::Value>,
    pub environment: Environment,
    /// Modules that the hook asked for in earlier calls, not while it was loaded.
    ///
    /// Those that exist are loaded with the hook, so that errors in them show at once.
    pub modules: Vec<String>,
}

/// Error of a hook that cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
#[error("hook {hook}: {message}")]
pub struct LoadError {
    /// Name of the hook.
    pub hook: Arc<str>,
    /// File of the hook, absolute.
    pub path: PathBuf,
    /// Message; begins with the file, relative to the hook's directory, and the line where one is
    /// known.
    pub message: String,
    /// Files that may hold the mistake: a change in any of them is reason to try again.
    pub files: Files,
}
