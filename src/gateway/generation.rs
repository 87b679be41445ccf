//! One configuration, checked and loaded whole: what a session is decided by.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

use super::Switchboard;
use super::gate::Gate;
use super::hosts::Hosts;
use crate::config::diff::BindKey;
use crate::config::{self, Config};
use crate::hooks::builtin::Builtin;
use crate::hooks::chain::{Chain, Link};
use crate::hooks::host::Roster;
use crate::hooks::shared::Shared;
use crate::hooks::spec::{self, Limits, LoadError, Spec};
use crate::hooks::{Hook, Runners};

/// What outlives generations and is there for all of them.
#[derive(Clone)]
pub struct Environment {
    /// Where hooks run.
    pub runners: Runners,
    /// What they remember.
    pub shared: Arc<Shared>,
    /// The fastway endpoints that are connected.
    pub fastway: Arc<Switchboard>,
}

impl Environment {
    /// Nothing remembered, nothing running.
    pub fn new() -> Self {
        Self {
            runners: Runners::new(),
            shared: Arc::default(),
            fastway: Arc::default(),
        }
    }
}

impl Default for Environment {
    fn default() -> Self {
        Self::new()
    }
}

/// An immutable configuration with its hooks loaded.
pub struct Generation {
    /// Counts up from 1 with each reload that succeeded.
    pub number: u64,
    pub config: Config,
    pub(super) hosts: Hosts,
    /// By listener, in the order of the configuration.
    chains: Vec<Arc<Chain>>,
    /// The same.
    gates: Vec<Arc<Gate>>,
    listeners: HashMap<BindKey, usize>,
    hooks: Vec<Arc<dyn Hook>>,
    path: PathBuf,
}

/// Why no generation could be built, and the files to watch for a change of that.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    pub message: String,
    pub files: Vec<PathBuf>,
}

impl Generation {
    /// Reads the configuration at `path` and loads all it names. Nothing is resolved, bound or
    /// connected. Live counts are carried over from `previous`.
    ///
    /// Cancel safe: a generation that nobody waits for is dropped.
    pub async fn build(
        path: &Path,
        environment: &Environment,
        previous: Option<&Self>,
    ) -> Result<Self, BuildError> {
        let mut files = vec![path.to_owned()];
        let config = Config::load(path).map_err(|error| BuildError {
            message: error.to_string(),
            files: files.clone(),
        })?;
        let known = previous.map(|previous| &previous.hosts);
        let hosts = Hosts::new(&config.hosts, &config.upstream, known, Instant::now());
        let programs = config.hooks.iter().map(|hook| hook.program.path());
        files.extend(programs.map(Path::to_owned));
        let mut hooks = Vec::new();
        for hook in &config.hooks {
            match load(hook, environment, &hosts).await {
                Ok(loaded) => hooks.push(loaded),
                Err(error) => {
                    files.extend(hooks.iter().flat_map(|hook| hook.files()));
                    files.extend(error.files.iter().cloned());
                    return Err(BuildError {
                        message: error.to_string(),
                        files,
                    });
                }
            }
        }
        let chains = config
            .listeners
            .iter()
            .map(|listener| Arc::new(chain(listener, &config, &hooks)));
        let gates = config.listeners.iter().map(|listener| {
            let known = previous.and_then(|previous| previous.gate_of(&listener.name));
            known.cloned().unwrap_or_default()
        });
        let gates = gates.collect();
        let listeners = config.listeners.iter().enumerate();
        let listeners = listeners
            .flat_map(|(at, listener)| BindKey::of(listener).into_iter().map(move |key| (key, at)))
            .collect();
        Ok(Self {
            number: previous.map_or(1, |previous| previous.number + 1),
            chains: chains.collect(),
            gates,
            listeners,
            hosts,
            hooks,
            path: path.to_owned(),
            config,
        })
    }

    /// The listener that has this bind, and its hooks.
    pub(super) fn listener(&self, key: &BindKey) -> Option<(&config::Listener, &Arc<Chain>)> {
        let at = *self.listeners.get(key)?;
        Some((&self.config.listeners[at], &self.chains[at]))
    }

    /// The counts of the listener that has this bind.
    pub(super) fn gate(&self, key: &BindKey) -> Option<&Arc<Gate>> {
        self.gates.get(*self.listeners.get(key)?)
    }

    fn gate_of(&self, name: &str) -> Option<&Arc<Gate>> {
        let mut listeners = self.config.listeners.iter();
        self.gates
            .get(listeners.position(|listener| listener.name == name)?)
    }

    /// The listeners with their counts.
    pub(super) fn gates(&self) -> impl Iterator<Item = (&config::Listener, &Arc<Gate>)> {
        self.config.listeners.iter().zip(&self.gates)
    }

    /// The files it was made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let hooks = self.hooks.iter().flat_map(|hook| hook.files());
        hooks.chain([self.path.clone()]).collect()
    }
}

/// The hooks that `listener` names, the built-in rule behind them.
fn chain(listener: &config::Listener, config: &Config, hooks: &[Arc<dyn Hook>]) -> Chain {
    let named = listener.hooks.iter().filter_map(|name| {
        let at = config.hooks.iter().position(|hook| hook.name == *name)?;
        Some(Link {
            hook: hooks[at].clone(),
            on_error: config.hooks[at].on_error,
        })
    });
    let builtin: Arc<dyn Hook> = Arc::new(Builtin::new(config.announce.clone()));
    Chain::new(
        named
            .chain([Link {
                hook: builtin,
                on_error: config::OnError::Deny,
            }])
            .collect(),
    )
}

/// Loads a hook off the threads that carry sessions.
async fn load(
    hook: &config::Hook,
    environment: &Environment,
    hosts: &Hosts,
) -> Result<Arc<dyn Hook>, LoadError> {
    let spec = Spec {
        name: hook.name.clone(),
        path: hook.program.path().to_owned(),
        limits: Limits {
            timeout: hook.timeout,
            memory: hook.memory,
        },
        config: hook.config.clone(),
        environment: spec::Environment {
            shared: environment.shared.clone(),
            hosts: hosts.seen(),
            fastway: Roster::new({
                let switchboard = environment.fastway.clone();
                move |role| switchboard.endpoints(role)
            }),
        },
    };
    let runners = environment.runners.clone();
    let program = hook.program.clone();
    // invariant: loading does not panic, and the runtime is not shutting down while we run on it.
    tokio::task::spawn_blocking(move || runners.load(&program, spec))
        .await
        .expect("it returns")
}
