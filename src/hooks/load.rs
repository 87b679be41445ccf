//! Loading of hooks: the one place that knows which kinds of hooks there are.

use std::sync::Arc;

use super::FileHook;
use super::lua::{self, LuaHook};
use super::spec::{LoadError, Program, Spec};
#[cfg(feature = "wasm")]
use super::wasm::{self, WasmHook};
#[cfg(not(feature = "wasm"))]
use crate::files::Files;

/// Runners of hooks: threads, engines and caches.
///
/// Runners outlive the hooks that they run. Clones share everything.
#[derive(Clone)]
pub struct Runners {
    scripts: Arc<lua::Pool>,
    #[cfg(feature = "wasm")]
    plugins: Arc<wasm::PluginHost>,
}

impl Runners {
    /// Creates runners with nothing running.
    ///
    /// Compiled plugins are kept in the user's cache directory.
    pub fn new() -> Self {
        Self {
            scripts: lua::Pool::per_processor(),
            #[cfg(feature = "wasm")]
            plugins: wasm::PluginHost::new(wasm::default_directory()),
        }
    }

    /// Returns statistics of the threads that run scripts.
    pub fn scripts(&self) -> lua::Stats {
        self.scripts.stats()
    }

    /// Loads a script or plugin from the path in `spec`.
    ///
    /// Blocks: not for async threads.
    ///
    /// # Errors
    /// When the hook cannot be used; the message says why, and where in which file.
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
