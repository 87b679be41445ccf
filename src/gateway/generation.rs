//! One configuration, checked and loaded whole: what a session is decided by.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use sha2::{Digest, Sha256};
use tokio::sync::Notify;

use super::Switchboard;
use super::gate::Gate;
use super::hosts::Hosts;
use crate::admin::Token;
use crate::config::diff::BindKey;
use crate::config::{self, Config};
use crate::hooks::builtin::Builtin;
use crate::hooks::chain::{Chain, Link};
use crate::hooks::host::Roster;
use crate::hooks::shared::Shared;
use crate::hooks::spec::{self, Limits, LoadError, Spec};
use crate::hooks::stats::{Book, HookStats};
use crate::hooks::{Hook, Runners};
use crate::metrics::Family;

/// What outlives generations and is there for all of them.
#[derive(Clone)]
pub struct Environment {
    /// Where hooks run.
    pub runners: Runners,
    /// What they remember.
    pub shared: Arc<Shared>,
    /// What calls of hooks cost and how they end.
    pub stats: Arc<Book>,
    /// The fastway endpoints that are connected.
    pub fastway: Arc<Switchboard>,
    /// Told when hooks are made of more files than before.
    pub grown: Arc<Notify>,
    /// The counts of listeners by their names.
    gates: Arc<Family<1, Gate>>,
}

impl Environment {
    /// Nothing remembered, nothing running.
    pub fn new() -> Self {
        Self {
            runners: Runners::new(),
            shared: Arc::default(),
            stats: Arc::default(),
            fastway: Arc::default(),
            grown: Arc::default(),
            gates: Arc::new(Family::new(["listener"])),
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
    /// By hook, in the order of the configuration.
    pub(super) loaded: Vec<Loaded>,
    /// What requests to the admin interface must show.
    pub(crate) admin_token: Option<Token>,
    path: PathBuf,
}

/// What a hook was made of, and when.
pub(super) struct Loaded {
    pub at: SystemTime,
    /// SHA-256 of its file in hexadecimal; empty if that has vanished since.
    pub sha256: String,
}

/// Why no generation could be built, and the files to watch for a change of that.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    pub message: String,
    pub place: Place,
    pub files: Vec<PathBuf>,
}

/// Where something is wrong, as far as that is known.
#[derive(Debug, Clone, Default)]
pub struct Place {
    pub file: Option<PathBuf>,
    /// From 1.
    pub line: Option<u64>,
    /// The key of the configuration, such as `hosts[0].addr`.
    pub key: Option<String>,
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
            place: Place {
                file: Some(error.file.clone()),
                line: error.line,
                key: error.key.clone(),
            },
            files: files.clone(),
        })?;
        files.extend(config.admin.token_file.clone());
        let admin_token = token(&config, path).map_err(|(message, place)| BuildError {
            message,
            place,
            files: files.clone(),
        })?;
        let known = previous.map(|previous| &previous.hosts);
        let hosts = Hosts::new(&config.hosts, &config.upstream, known, Instant::now());
        files.extend(
            config
                .hooks
                .iter()
                .map(|hook| hook.program.path().to_owned()),
        );
        let mut hooks: Vec<Arc<dyn Hook>> = Vec::new();
        let mut loaded = Vec::new();
        for hook in &config.hooks {
            let modules = previous.map_or_else(Vec::new, |previous| previous.modules(&hook.name));
            match load(hook, environment, &hosts, modules).await {
                Ok((good, made_of)) => {
                    hooks.push(good);
                    loaded.push(made_of);
                }
                Err(error) => {
                    files.extend(hooks.iter().flat_map(|hook| hook.files()));
                    files.extend(error.files.iter().cloned());
                    return Err(BuildError {
                        message: error.to_string(),
                        place: place(&error),
                        files,
                    });
                }
            }
        }
        let chains = config
            .listeners
            .iter()
            .map(|listener| Arc::new(chain(listener, &config, &hooks, &environment.stats)));
        let names = config.listeners.iter().map(|listener| &listener.name);
        let gates = names.map(|name| environment.gates.with([name])).collect();
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
            loaded,
            admin_token,
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

    /// The listeners with their counts.
    pub(super) fn gates(&self) -> impl Iterator<Item = (&config::Listener, &Arc<Gate>)> {
        self.config.listeners.iter().zip(&self.gates)
    }

    /// The modules that a hook has asked for.
    fn modules(&self, hook: &str) -> Vec<String> {
        let found = self.hooks.iter().find(|it| it.name() == hook);
        found.map_or_else(Vec::new, |hook| hook.modules())
    }

    /// Whether files that its hooks asked for have changed since. Blocks for a few file reads.
    pub(super) fn is_stale(&self) -> bool {
        self.hooks.iter().any(|hook| hook.is_stale())
    }

    /// The files it was made of.
    pub fn files(&self) -> Vec<PathBuf> {
        let hooks = self.hooks.iter().flat_map(|hook| hook.files());
        hooks
            .chain([self.path.clone()])
            .chain(self.config.admin.token_file.clone())
            .collect()
    }
}

impl Loaded {
    fn now(file: &Path) -> Self {
        let text = std::fs::read(file).ok();
        let hex = |text: Vec<u8>| {
            let digest = Sha256::digest(text);
            digest.iter().map(|byte| format!("{byte:02x}")).collect()
        };
        Self {
            at: SystemTime::now(),
            sha256: text.map_or_else(String::new, hex),
        }
    }
}

fn token(config: &Config, path: &Path) -> Result<Option<Token>, (String, Place)> {
    let Some(file) = &config.admin.token_file else {
        return Ok(None);
    };
    let place = || Place {
        file: Some(path.to_owned()),
        key: Some("admin.token_file".to_owned()),
        ..Place::default()
    };
    Token::read(file).map(Some).map_err(|error| {
        let message = format!(
            "{}: admin.token_file: {} {error}",
            path.display(),
            file.display()
        );
        (message, place())
    })
}

/// Where a script is wrong: what is said of it begins with `file:line:` if that is known.
fn place(error: &LoadError) -> Place {
    let mut parts = error.message.splitn(3, ':');
    let (file, line) = (parts.next(), parts.next());
    let line = line.and_then(|line| line.parse().ok());
    let named = || Some(error.path.parent()?.join(file?));
    Place {
        file: line.and_then(|_| named()).or(Some(error.path.clone())),
        line,
        key: None,
    }
}

/// The hooks that `listener` names, the built-in rule behind them.
fn chain(
    listener: &config::Listener,
    config: &Config,
    hooks: &[Arc<dyn Hook>],
    stats: &Book,
) -> Chain {
    let named = listener.hooks.iter().filter_map(|name| {
        let at = config.hooks.iter().position(|hook| hook.name == *name)?;
        Some(Link {
            hook: hooks[at].clone(),
            on_error: config.hooks[at].on_error,
            stats: stats.of(name),
        })
    });
    let builtin: Arc<dyn Hook> = Arc::new(Builtin::new(config.announce.clone()));
    // Of its own, as a hook may have the same name. Nobody asks for it: it costs nothing.
    let own = Arc::new(HookStats::new(builtin.name()));
    Chain::new(
        named
            .chain([Link {
                hook: builtin,
                on_error: config::OnError::Deny,
                stats: own,
            }])
            .collect(),
    )
}

/// Loads a hook off the threads that carry sessions.
async fn load(
    hook: &config::Hook,
    environment: &Environment,
    hosts: &Hosts,
    modules: Vec<String>,
) -> Result<(Arc<dyn Hook>, Loaded), LoadError> {
    let spec = Spec {
        name: hook.name.clone(),
        path: hook.program.path().to_owned(),
        limits: Limits {
            timeout: hook.timeout,
            wall_timeout: hook.wall_timeout,
            load_timeout: hook.load_timeout,
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
            grown: environment.grown.clone(),
        },
        modules,
    };
    let runners = environment.runners.clone();
    let program = hook.program.clone();
    let loading = move || {
        let hook = runners.load(&program, spec)?;
        // If the file has changed meanwhile, that is reason to load it again.
        Ok((hook, Loaded::now(program.path())))
    };
    // invariant: loading does not panic, and the runtime is not shutting down while we run on it.
    let loaded = tokio::task::spawn_blocking(loading).await;
    loaded.expect("it returns")
}
