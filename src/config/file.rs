//! Configuration file as it is written, and its translation to a [`Config`].

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::Duration;

use documented::{Documented, DocumentedFields};
use serde::Deserialize;
use serde_yaml as yaml;

use super::locate;
use super::parser::options;
use super::settings::{Name, NodeNumber, Spelling, Timeout, read};
use super::types::{
    FastwayPatch, HookMemory, KcpPatch, ReplayMemory, ScpPatch, SnetPatch, TcpPatch,
    default_replay_memory,
};
use super::{
    Admin, Announce, Bind, Config, Error, Fastway, Hook, Host, Instance, Kcp, LOAD_TIMEOUT, Limits,
    Listener, OnError, Peek, Program, ProxyHeader, Resolve, Scp, Service, Session, Snet, Tcp,
    Transport, Unknown, Upstream, UpstreamSession, wall_timeout,
};

/// Keys of a configuration file. Listeners have only the settings that they set themselves.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct File {
    admin: Option<Admin>,
    #[serde(default, deserialize_with = "read::<NodeNumber, _, _>")]
    node: u8,
    listeners: Vec<ListenerFile>,
    scp: Option<ScpPatch>,
    snet: Option<SnetPatch>,
    tcp: Option<TcpPatch>,
    kcp: Option<KcpPatch>,
    fastway: Option<FastwayPatch>,
    upstream: Option<Upstream>,
    hosts: Option<Vec<Host>>,
    hooks: Option<Vec<HookFile>>,
    announce: Option<Announce>,
    #[serde(
        default = "default_replay_memory",
        deserialize_with = "read::<ReplayMemory, _, _>"
    )]
    replay_memory: Option<usize>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenerFile {
    #[serde(deserialize_with = "read::<Name, _, _>")]
    name: String,
    bind: Vec<Bind>,
    session: Session,
    #[serde(default)]
    service: Service,
    hooks: Option<Vec<String>>,
    peek: Option<Peek>,
    limits: Option<Limits>,
    proxy_header: Option<ProxyHeader>,
    scp: Option<ScpPatch>,
    snet: Option<SnetPatch>,
    tcp: Option<TcpPatch>,
    kcp: Option<KcpPatch>,
    fastway: Option<FastwayPatch>,
}

/// A script or plugin that decides about sessions.
#[derive(Deserialize, Documented, DocumentedFields)]
#[serde(deny_unknown_fields)]
pub(super) struct HookFile {
    /// The name listeners use; unique, not empty.
    #[serde(deserialize_with = "read::<Name, _, _>")]
    name: String,
    /// The Lua script: absolute, or relative to the directory of the file. A hook has this or
    /// `wasm`.
    lua: Option<PathBuf>,
    /// The WebAssembly plugin, a component or a core module, binary or text: absolute, or relative
    /// to the directory of the file.
    wasm: Option<PathBuf>,
    /// How long an instance of a plugin lives: `fresh`, for one call, or `pooled`, for many calls,
    /// one at a time. Default `fresh`.
    instance: Option<Instance>,
    /// What becomes of a session when a call fails or breaks a limit: `deny`, or `skip`, which goes
    /// on with the next hook. Default `deny`.
    #[serde(default)]
    on_error: OnError,
    /// The most processor time a call may take; more than 0s. Default 100ms.
    #[serde(
        default = "default_hook_timeout",
        deserialize_with = "read::<Timeout, _, _>"
    )]
    timeout: Duration,
    /// The most time a call may take by the clock, its waiting for a processor and for others
    /// included; more than 0s. Default 20 times `timeout`.
    wall_timeout: Option<Timeout>,
    /// The most processor time that loading it may take, and by the clock 20 times that; more than
    /// 0s. Default 5s.
    #[serde(
        default = "default_load_timeout",
        deserialize_with = "read::<Timeout, _, _>"
    )]
    load_timeout: Duration,
    /// The most memory, in bytes, that each interpreter or instance may hold; 1MiB to 1GiB.
    /// Default 32MiB.
    #[serde(
        default = "default_hook_memory",
        deserialize_with = "read::<HookMemory, _, _>"
    )]
    memory: usize,
    /// What it reads as its configuration. Default empty.
    #[serde(default)]
    config: serde_json::Map<String, serde_json::Value>,
}

fn default_hook_timeout() -> Duration {
    Duration::from_millis(100)
}

fn default_load_timeout() -> Duration {
    LOAD_TIMEOUT
}

fn default_hook_memory() -> usize {
    32 << 20
}

impl File {
    pub(super) fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        let mut key = None;
        let parsed =
            yaml::with_deserializer_from_str_with_options(text, options(text.len()), |yaml| {
                serde_path_to_error::deserialize(yaml).map_err(|error| {
                    key = Some(error.path().to_string());
                    error.into_inner()
                })
            });
        // A variable is the mistake to report, whatever else is wrong at its place.
        if text.contains("${")
            && let Some((key, line)) = locate::variable(text)
        {
            return Err(Error {
                line: Some(line),
                key: Some(key),
                ..Error::new(
                    path,
                    "variables such as ${NAME} are not supported".to_owned(),
                )
            });
        }
        let mut file: Self = parsed.map_err(|error| Error::of_yaml(&error, key, text, path))?;
        let hooks = file.hooks.iter_mut().flatten();
        locate::restore_digits(text, hooks.map(|hook| &mut hook.config));
        Ok(file)
    }

    /// Checks what the blocks say about each other. Returns the key at fault and what is wrong.
    pub(super) fn check(&self) -> Result<(), (String, String)> {
        let mut hooks = HashSet::new();
        for (i, hook) in self.hooks.iter().flatten().enumerate() {
            if !hooks.insert(&hook.name) {
                let message = format!("another hook has the name `{}`", hook.name);
                return Err((format!("hooks[{i}].name"), message));
            }
            hook.check()
                .map_err(|(key, message)| (format!("hooks[{i}]{key}"), message.to_owned()))?;
        }
        let routed = self.hosts.as_ref().is_some_and(|hosts| !hosts.is_empty())
            || self.upstream.as_ref().is_some_and(|u| u.resolve.is_some());
        let mut names = HashSet::new();
        let mut binds = HashSet::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            let key = format!("listeners[{i}]");
            if !names.insert(&listener.name) {
                let message = format!("another listener has the name `{}`", listener.name);
                return Err((format!("{key}.name"), message));
            }
            if listener.bind.is_empty() {
                let message = "needs an address: write [tcp://0.0.0.0:1248]".to_owned();
                return Err((format!("{key}.bind"), message));
            }
            for (j, bind) in listener.bind.iter().enumerate() {
                if bind.addr.port() != 0 && !binds.insert(bind) {
                    return Err((format!("{key}.bind[{j}]"), format!("{bind} is bound twice")));
                }
            }
            for (j, name) in listener.hooks.iter().flatten().enumerate() {
                if !hooks.contains(name) {
                    return Err((
                        format!("{key}.hooks[{j}]"),
                        format!("no hook is named `{name}`"),
                    ));
                }
            }
            let headers = listener.proxy_header.as_ref();
            if headers.is_some_and(|headers| !headers.from.is_empty())
                && listener
                    .bind
                    .iter()
                    .all(|bind| bind.transport != Transport::Tcp)
            {
                let message = "is for tcp binds, of which there is none".to_owned();
                return Err((format!("{key}.proxy_header.from"), message));
            }
            if listener.service == Service::Proxy && !routed {
                let message = "has nowhere to send sessions: add hosts or upstream.resolve";
                return Err((key, message.to_owned()));
            }
            if listener.service != Service::Proxy && listener.peek.is_some() {
                let message = "is only for `service: proxy`: fastway endpoints send frames";
                return Err((format!("{key}.peek"), message.to_owned()));
            }
        }
        let resolve = self
            .upstream
            .as_ref()
            .and_then(|upstream| upstream.resolve.as_ref());
        if let Some(Err((key, message))) = resolve.map(Resolve::check) {
            return Err((format!("upstream.resolve{key}"), message.to_owned()));
        }
        if let Some(upstream) = &self.upstream
            && upstream.proxy_header.is_some()
            && upstream.session == UpstreamSession::Plain
        {
            let message = "is for session: scp; plain servers get announce.proxy_header";
            return Err(("upstream.proxy_header".to_owned(), message.to_owned()));
        }
        if let Some(Unknown::Host(name)) = self.upstream.as_ref().map(|u| &u.unknown)
            && !self.hosts.iter().flatten().any(|host| host.name == *name)
        {
            let message = format!("no host is named `{name}`: write any, deny or a host's name");
            return Err(("upstream.unknown".to_owned(), message));
        }
        Ok(())
    }

    /// Returns the configuration: lays the listeners' settings over the common ones, and resolves
    /// paths from `directory`.
    pub(super) fn resolve(self, directory: &Path) -> Config {
        let scp = self.scp.unwrap_or_default().over(Scp::default());
        let snet = self.snet.unwrap_or_default().over(Snet::default());
        let tcp = self.tcp.unwrap_or_default().over(Tcp::default());
        let kcp = self.kcp.unwrap_or_default().over(Kcp::default());
        let fastway = self.fastway.unwrap_or_default().over(Fastway::default());
        let listener = |listener: ListenerFile| Listener {
            name: listener.name,
            bind: listener.bind,
            session: listener.session,
            service: listener.service,
            hooks: listener.hooks.unwrap_or_default(),
            peek: listener.peek,
            limits: listener.limits.unwrap_or_default(),
            proxy_header: listener.proxy_header.unwrap_or_default(),
            scp: listener.scp.unwrap_or_default().over(scp.clone()),
            snet: listener.snet.unwrap_or_default().over(snet.clone()),
            tcp: listener.tcp.unwrap_or_default().over(tcp.clone()),
            kcp: listener.kcp.unwrap_or_default().over(kcp.clone()),
            fastway: listener.fastway.unwrap_or_default().over(fastway.clone()),
        };
        let admin = self.admin.unwrap_or_default();
        let admin = Admin {
            token_file: admin.token_file.map(|file| directory.join(file)),
            ..admin
        };
        Config {
            admin,
            node: self.node,
            listeners: self.listeners.into_iter().map(listener).collect(),
            upstream: self.upstream.unwrap_or_default(),
            hosts: self.hosts.unwrap_or_default(),
            hooks: self
                .hooks
                .into_iter()
                .flatten()
                .filter_map(|hook| hook.resolve(directory))
                .collect(),
            announce: self.announce.unwrap_or_default(),
            replay_memory: self.replay_memory,
        }
    }
}

impl HookFile {
    /// Checks what the keys of the hook say about each other. Returns the key at fault and what is
    /// wrong.
    fn check(&self) -> Result<(), (&'static str, &'static str)> {
        match (&self.lua, &self.wasm) {
            (Some(_), Some(_)) => Err((".wasm", "a hook is either a script or a plugin")),
            (None, None) => Err(("", "runs nothing: add `lua`, a script, or `wasm`, a plugin")),
            (Some(_), None) if self.instance.is_some() => {
                Err((".instance", "only plugins have instances"))
            }
            (None, Some(_)) if cfg!(not(feature = "wasm")) => {
                Err((".wasm", "this gateway was built without plugins"))
            }
            _ => Ok(()),
        }
    }

    /// Returns the hook of a configuration. `None` if the hook runs nothing, which [`Self::check`]
    /// refuses.
    fn resolve(self, directory: &Path) -> Option<Hook> {
        let program = match (self.lua, self.wasm) {
            (Some(lua), _) => Program::Lua {
                lua: directory.join(lua),
            },
            (None, wasm) => Program::Wasm {
                wasm: directory.join(wasm?),
                instance: self.instance.unwrap_or_default(),
            },
        };
        Some(Hook {
            name: self.name,
            program,
            on_error: self.on_error,
            timeout: self.timeout,
            wall_timeout: self
                .wall_timeout
                .map_or_else(|| wall_timeout(self.timeout), Spelling::value),
            load_timeout: self.load_timeout,
            memory: self.memory,
            config: self.config,
        })
    }
}
