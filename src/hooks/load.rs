//! The one place that knows which kinds of hooks there are.

use std::sync::Arc;

use super::FileHook;
use super::lua::{self, LuaHook};
use super::spec::{LoadError, Program, Spec};
#[cfg(feature = "wasm")]
use super::wasm::{self, WasmHook};
#[cfg(not(feature = "wasm"))]
use crate::files::Files;

/// What runs hooks: threads, engines, caches. Outlives them; clones are the same.
#[derive(Clone)]
pub struct Runners {
    scripts: Arc<lua::Pool>,
    #[cfg(feature = "wasm")]
    plugins: Arc<wasm::PluginHost>,
}

impl Runners {
    /// Nothing running. Compiled plugins are kept in the user's cache directory.
    pub fn new() -> Self {
        Self {
            scripts: lua::Pool::per_processor(),
            #[cfg(feature = "wasm")]
            plugins: wasm::PluginHost::new(wasm::default_directory()),
        }
    }

    /// How the threads are doing that run scripts.
    pub fn scripts(&self) -> lua::Stats {
        self.scripts.stats()
    }

    /// Loads a script or plugin; the path is that of `spec`. Blocks: not for async threads.
    ///
    /// # Errors
    /// When it cannot be used; the message says why, and where in which file.
    pub fn load(&self, program: &Program, spec: Spec) -> Result<Arc<dyn FileHook>, LoadError> {
        match program {
            Program::Lua { .. } => Ok(Arc::new(LuaHook::load(&self.scripts, spec)?)),
            #[cfg(feature = "wasm")]
            Program::Wasm { instance, .. } => {
                Ok(Arc::new(WasmHook::load(&self.plugins, spec, *instance)?))
            }
            #[cfg(not(feature = "wasm"))]
            Program::Wasm { .. } => Err(LoadError {
                hook: spec.name.into(),
                message: "this gateway was built without plugins".to_owned(),
                files: Files::default(),
                path: spec.path,
            }),
        }
    }
}

impl Default for Runners {
    fn default() -> Self {
        Self::new()
    }
}
