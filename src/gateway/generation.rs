//! A configuration, checked and loaded as a whole, which decides sessions.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::time::timeout;

use super::environment::Environment;
use super::gate::Admission;
use crate::config::diff::BindKey;
use crate::config::{self, Config, Token};
use crate::files::Files;
use crate::hooks::builtin::Builtin;
use crate::hooks::chain::{Chain, ChainEntry};
use crate::hooks::spec::{self, Limits, LoadError, OnError, Spec};
use crate::hooks::stats::HookStats;
use crate::hooks::{FileHook, Hook, Roster};
use crate::hosts::{self, Hosts, Server};

/// Time limit for reading the configuration and the token.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

/// Configuration key that names the file of the admin interface's token.
const TOKEN_FILE: &str = "admin.token_file";

/// Multiple of a hook's `load_timeout` after which loading is given up.
///
/// The loader itself stops at 20 times the timeout, with a better message.
const LOAD_PATIENCE: u32 = 21;

/// Immutable configuration with its hooks loaded.
pub struct Generation {
    /// Number of the generation, from 1; it counts up with each reload that succeeded.
    pub number: u64,
    /// The configuration.
    pub config: Config,
    pub(crate) hosts: Hosts,
    /// Hook chains by listener, in the order of the configuration.
    chains: Vec<Arc<Chain>>,
    /// Admission counters by listener, in the order of the configuration.
    admissions: Vec<Arc<Admission>>,
    listeners: HashMap<BindKey, usize>,
    hooks: Vec<Arc<dyn FileHook>>,
    /// Origins of the hooks, in the order of the configuration.
    pub(crate) loaded: Vec<Loaded>,
    /// Token that requests to the admin interface must carry, if one is set.
    pub(crate) admin_token: Option<Token>,
    /// Files that were read to build the generation.
    files: Files,
}

/// Origin of a loaded hook: its file's hash and the time.
pub(crate) struct Loaded {
    pub at: SystemTime,
    /// SHA-256 of the hook's file in hexadecimal; empty if there is none.
    pub sha256: String,
}

/// Error of building a generation, with the files to watch for its correction.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct BuildError {
    /// Description of the error.
    pub message: String,
    /// Location of the error.
    pub location: Location,
    /// Files that may hold the mistake.
    pub files: Files,
}

/// Location of an error, as far as it is known.
#[derive(Debug, Clone, Default)]
pub struct Location {
    /// The file.
    pub file: Option<PathBuf>,
    /// Line of the file, from 1.
    pub line: Option<u64>,
    /// Key of the configuration, such as `hosts[0].addr`.
    pub key: Option<String>,
}

impl Generation {
    /// Reads the configuration at `path` and loads all that it names, on threads of its own.
    ///
    /// Nothing is resolved, bound or connected. Live counts are carried over from `previous`.
    ///
    /// # Errors
    /// When the configuration, or something that it names, is wrong.
    ///
    /// Cancel safe: a generation that nobody waits for is dropped.
    pub async fn read(
        path: &Path,
        environment: &Environment,
        previous: Option<Arc<Self>>,
    ) -> Result<Self, BuildError> {
        let reading = {
            let path = path.to_owned();
            move || read(&path)
        };
        let read = apart(READ_TIMEOUT, reading).await.map_err(|message| {
            let mut files = Files::default();
            files.name(path.to_owned());
            BuildError {
                message: format!("{}: cannot be read: {message}", path.display()),
                location: Location {
                    file: Some(path.to_owned()),
                    ..Location::default()
                },
                files,
            }
        });
        let (config, admin_token, files) = read??;
        Self::build(config, admin_token, files, environment, previous).await
    }

    /// Loads all that a configuration names, as [`Self::read`] does.
    ///
    /// # Errors
    /// When something that the configuration names is wrong.
    ///
    /// Cancel safe: a generation that nobody waits for is dropped.
    pub async fn of(
        config: Config,
        environment: &Environment,
        previous: Option<Arc<Self>>,
    ) -> Result<Self, BuildError> {
        let admin = config.admin.clone();
        let reading = move || {
            let mut files = Files::default();
            read_token(&admin, &mut files).map(|token| (token, files))
        };
        let read = apart(READ_TIMEOUT, reading).await;
        match read.unwrap_or_else(Err) {
            Ok((token, files)) => Self::build(config, token, files, environment, previous).await,
            Err(message) => Err(BuildError {
                message,
                location: Location {
                    key: Some(TOKEN_FILE.to_owned()),
                    ..Location::default()
                },
                files: Files::default(),
            }),
        }
    }

    async fn build(
        config: Config,
        admin_token: Option<Token>,
        mut files: Files,
        environment: &Environment,
        previous: Option<Arc<Self>>,
    ) -> Result<Self, BuildError> {
        for hook in &config.hooks {
            files.name(hook.program.path().to_owned());
        }
        let known = previous.as_ref().map(|previous| &previous.hosts);
        let servers: Vec<_> = config.hosts.iter().map(Server::from).collect();
        let settings = hosts::Settings::from(&config.upstream);
        let hosts = Hosts::new(&servers, &settings, known, Instant::now());
        let mut hooks: Vec<Arc<dyn FileHook>> = Vec::new();
        let mut loaded = Vec::new();
        for hook in &config.hooks {
            let previous = previous.as_ref();
            let modules = previous.map_or_else(Vec::new, |it| it.modules(&hook.name));
            let at = SystemTime::now();
            match load(hook, environment, &hosts, modules).await {
                Ok(good) => {
                    let made_of = good.files();
                    let path = std::path::absolute(hook.program.path()).unwrap_or_default();
                    let sha256 = made_of.sha256(&path).unwrap_or_default();
                    files.extend(made_of);
                    hooks.push(good);
                    loaded.push(Loaded { at, sha256 });
                }
                Err(error) => {
                    files.extend(error.files.clone());
                    return Err(BuildError {
                        message: error.to_string(),
                        location: location(&error),
                        files,
                    });
                }
            }
        }
        let chains = config
            .listeners
            .iter()
            .map(|listener| Arc::new(chain(listener, &config, &hooks, environment)));
        let names = config.listeners.iter().map(|listener| &listener.name);
        let admissions = names
            .map(|name| environment.admissions.with([name]))
            .collect();
        let listeners = config.listeners.iter().enumerate();
        let listeners = listeners
            .flat_map(|(at, listener)| BindKey::of(listener).into_iter().map(move |key| (key, at)))
            .collect();
        Ok(Self {
            number: previous.map_or(1, |previous| previous.number + 1),
            chains: chains.collect(),
            admissions,
            listeners,
            hosts,
            hooks,
            loaded,
            admin_token,
            files,
            config,
        })
    }

    /// Returns the listener that has this bind, and its hook chain.
    pub(super) fn listener(&self, key: &BindKey) -> Option<(&config::Listener, &Arc<Chain>)> {
        let at = *self.listeners.get(key)?;
        // invariant: `listeners` counts those of `config`, and there is a chain for each.
        Some((&self.config.listeners[at], &self.chains[at]))
    }

    /// Returns the admission counters of the listener that has this bind.
    pub(super) fn admission(&self, key: &BindKey) -> Option<&Arc<Admission>> {
        self.admissions.get(*self.listeners.get(key)?)
    }

    /// Returns the listeners with their admission counters.
    pub(super) fn admissions(&self) -> impl Iterator<Item = (&config::Listener, &Arc<Admission>)> {
        self.config.listeners.iter().zip(&self.admissions)
    }

    /// Returns the modules that a hook has asked for.
    fn modules(&self, hook: &str) -> Vec<String> {
        let found = self.hooks.iter().find(|it| it.name() == hook);
        found.map_or_else(Vec::new, |hook| hook.modules())
    }

    /// Returns the files that the generation was made of, in the state they were read in.
    pub fn files(&self) -> Files {
        let mut files = self.files.clone();
        for hook in &self.hooks {
            files.extend(hook.files());
        }
        files
    }
}

/// Reads the configuration and the token that it names.
fn read(path: &Path) -> Result<(Config, Option<Token>, Files), BuildError> {
    let mut files = Files::default();
    let config = match Config::read(path, &mut files) {
        Ok((config, warnings)) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
            config
        }
        Err(error) => {
            return Err(BuildError {
                message: error.to_string(),
                location: Location {
                    file: Some(error.file),
                    line: error.line,
                    key: error.key,
                },
                files,
            });
        }
    };
    match read_token(&config.admin, &mut files) {
        Ok(token) => Ok((config, token, files)),
        Err(message) => Err(BuildError {
            message: format!("{}: {message}", path.display()),
            location: Location {
                file: Some(path.to_owned()),
                key: Some(TOKEN_FILE.to_owned()),
                ..Location::default()
            },
            files,
        }),
    }
}

/// Reads the token of the admin interface, if there is one.
fn read_token(admin: &config::Admin, files: &mut Files) -> Result<Option<Token>, String> {
    let Some(file) = &admin.token_file else {
        return Ok(None);
    };
    let token = Token::read(files, file);
    token
        .map(Some)
        .map_err(|error| format!("{TOKEN_FILE}: {} {error}", file.display()))
}

/// Runs blocking work on a thread of its own, so that it never queues behind other work.
///
/// Returns the result, or why there is none: no thread, a panic, or no end within `limit`, after
/// which the thread is left to itself.
pub(super) async fn apart<T: Send + 'static>(
    limit: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, String> {
    let (done, outcome) = oneshot::channel();
    let runtime = Handle::current();
    let started = thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            let _entered = runtime.enter();
            let _ = done.send(work());
        });
    started.map_err(|error| format!("no thread: {error}"))?;
    match timeout(limit, outcome).await {
        Ok(outcome) => outcome.map_err(|_| "it panicked".to_owned()),
        Err(_) => Err(format!("took longer than {limit:?}")),
    }
}

/// Returns where a script is wrong: its message begins with `file:line:` if that is known.
fn location(error: &LoadError) -> Location {
    let mut parts = error.message.splitn(3, ':');
    let (file, line) = (parts.next(), parts.next());
    let line = line.and_then(|line| line.parse().ok());
    let named = || Some(error.path.parent()?.join(file?));
    Location {
        file: line.and_then(|_| named()).or(Some(error.path.clone())),
        line,
        key: None,
    }
}

/// Returns a listener's hook chain: the hooks of the program, those that `listener` names, and the
/// built-in rule.
fn chain(
    listener: &config::Listener,
    config: &Config,
    hooks: &[Arc<dyn FileHook>],
    environment: &Environment,
) -> Chain {
    let own = environment.hooks.iter().map(|hook| ChainEntry {
        hook: hook.clone(),
        on_error: OnError::Deny,
        stats: environment.stats.of(hook.name()),
    });
    let named = listener.hooks.iter().filter_map(|name| {
        let at = config.hooks.iter().position(|hook| hook.name == *name)?;
        Some(ChainEntry {
            // invariant: a hook was loaded for each of `config`, where it was just found.
            hook: hooks[at].clone(),
            on_error: config.hooks[at].on_error,
            stats: environment.stats.of(name),
        })
    });
    let builtin: Arc<dyn Hook> = Arc::new(Builtin::new((&config.announce).into()));
    let last = ChainEntry {
        // Stats of its own, as a hook may have the same name. Nothing reads them.
        stats: Arc::new(HookStats::new(builtin.name())),
        hook: builtin,
        on_error: OnError::Deny,
    };
    Chain::new(own.chain(named).chain([last]).collect())
}

/// Loads a hook off the threads that carry sessions.
async fn load(
    hook: &config::Hook,
    environment: &Environment,
    hosts: &Hosts,
    modules: Vec<String>,
) -> Result<Arc<dyn FileHook>, LoadError> {
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
            resolver: environment.resolver.clone(),
            hosts: hosts.seen(),
            fastway: Roster::new({
                let switchboard = environment.fastway.clone();
                move |role| switchboard.endpoints(role)
            }),
            grown: environment.grown.clone(),
        },
        modules,
    };
    let failed = LoadError {
        hook: hook.name.as_str().into(),
        path: hook.program.path().to_owned(),
        message: String::new(),
        files: Files::default(),
    };
    let runners = environment.runners.clone();
    let program = hook.program.clone();
    let loading = move || runners.load(&program, spec);
    let outcome = apart(hook.load_timeout * LOAD_PATIENCE, loading).await;
    outcome.map_err(|why| LoadError {
        message: format!("loading: {why}"),
        ..failed
    })?
}
