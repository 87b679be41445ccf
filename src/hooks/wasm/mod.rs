//! Host of WebAssembly plugins.
//!
//! A plugin is a component that speaks the contract in `plugins/wit`, where each question and each
//! function is described; it is the contract of Lua scripts in another notation. A core module
//! whose exports follow the canonical ABI, and the text format of either, are turned into a
//! component when they are loaded.
//!
//! # How it runs
//!
//! All plugins of a gateway share one engine, which a [`PluginHost`] starts with the first of them.
//! A call begins on the thread that asks. Most calls end within microseconds. A call that does not
//! is taken off that thread after a millisecond or two and goes on, a slice at a time, on threads
//! of lower priority, until it answers or its time is over. The calls of a plugin that was slow
//! lately begin on those threads. A plugin that traps or exceeds its [`Limits`] loses its instance
//! and nothing else.
//!
//! Plugins reach nothing but what the contract offers. Of the system interfaces that compilers link
//! in, clocks and randomness work, standard output goes to the log, and there are no arguments, no
//! variables and no files; all else traps.
//!
//! [`Limits`]: super::spec::Limits

mod bindings;
mod cache;
mod clock;
mod compile;
mod engine;
mod guest;
mod idle;
mod imports;
mod late;
mod plugin;
mod slow;
mod wasi;

use std::future::{self, Future};
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use self::engine::Engine;
use self::plugin::Plugin;
use super::contract::{Function, MAX_ERROR, clip};
use super::spec::{LoadError, Spec};
use super::{Answer, Call, FileHook, Hook, Reply};
use crate::files::Files;
use crate::hooks::spec::Instance;

pub use self::cache::default_directory;

/// Host of all plugins of a gateway: their shared engine.
pub struct PluginHost {
    cache: Option<PathBuf>,
    engine: OnceLock<Result<Arc<Engine>, String>>,
}

impl PluginHost {
    /// Creates a host that keeps compiled code in the directory `cache`, or only in memory.
    ///
    /// Threads are started and address space is reserved for the first plugin.
    pub fn new(cache: Option<PathBuf>) -> Arc<Self> {
        Arc::new(Self {
            cache,
            engine: OnceLock::new(),
        })
    }

    fn engine(&self) -> Result<&Arc<Engine>, String> {
        let started = self
            .engine
            .get_or_init(|| Engine::start(self.cache.as_deref()));
        started.as_ref().map_err(Clone::clone)
    }
}

/// Plugin of one configuration generation. Clones are the same plugin.
#[derive(Clone)]
pub struct WasmHook {
    plugin: Arc<Plugin>,
}

impl WasmHook {
    /// Loads a plugin: reads it, compiles it if it is not in the cache, and starts it once.
    ///
    /// Blocks, for seconds if the plugin is large: not for async threads.
    ///
    /// # Errors
    /// When the plugin cannot be read, is no plugin, wants what the gateway does not have, or does
    /// not start within its limits. The message says what is missing.
    pub fn load(host: &PluginHost, spec: Spec, instance: Instance) -> Result<Self, LoadError> {
        let path = std::path::absolute(&spec.path).unwrap_or_else(|_| spec.path.clone());
        let name: Arc<str> = spec.name.as_str().into();
        let mut files = Files::default();
        let loaded = host
            .engine()
            .and_then(|engine| Plugin::load(engine, &path, spec, instance, &mut files));
        loaded
            .map(|plugin| Self {
                plugin: Arc::new(plugin),
            })
            .map_err(|message| {
                // The message may quote the file.
                let message = clip(message.as_bytes(), MAX_ERROR);
                LoadError {
                    hook: name,
                    message: match path.file_name() {
                        Some(file) => format!("{}: {message}", file.display()),
                        None => message,
                    },
                    files: {
                        files.name(path.clone());
                        files
                    },
                    path,
                }
            })
    }
}

impl Hook for WasmHook {
    fn name(&self) -> &str {
        self.plugin.name()
    }

    /// Asks the plugin. A function that the plugin does not export passes at once.
    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        if !self.plugin.exports(Function::of(&call.question)) {
            return Box::pin(future::ready(Reply {
                answer: Ok(Answer::Pass),
                attrs: call.attrs,
                cost: Duration::ZERO,
            }));
        }
        Box::pin(self.plugin.clone().ask(call))
    }
}

impl FileHook for WasmHook {
    fn files(&self) -> Files {
        self.plugin.files().clone()
    }

    /// Returns no modules: a plugin is one file.
    fn modules(&self) -> Vec<String> {
        Vec::new()
    }
}
