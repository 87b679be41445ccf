//! Plugins in a directory of their own, and sessions to ask them about.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use stablegate::config::Instance;
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Limits, LoadError, Spec};
use stablegate::hooks::wasm::{self, WasmHook};
use stablegate::hooks::{Host, Roster};
use tempfile::TempDir;

pub use crate::asking::*;
use crate::wat::Wat;

/// One engine for all tests: it reserves much address space.
static HOST: LazyLock<Arc<wasm::PluginHost>> = LazyLock::new(|| wasm::PluginHost::new(None));

pub struct Rig {
    pub dir: TempDir,
    pub host: Arc<wasm::PluginHost>,
    pub shared: Arc<Shared>,
    pub hosts: Vec<Arc<Host>>,
    pub limits: Limits,
    pub instances: Instance,
    pub config: serde_json::Value,
}

impl Rig {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            host: HOST.clone(),
            shared: Arc::default(),
            hosts: Vec::new(),
            limits: limits(),
            instances: Instance::Fresh,
            config: serde_json::json!({}),
        }
    }

    pub fn write(&self, file: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::write(&path, content).unwrap();
        path
    }

    pub fn spec(&self, name: &str, path: PathBuf) -> Spec {
        Spec {
            name: name.into(),
            path,
            limits: self.limits,
            config: self.config.as_object().unwrap().clone(),
            environment: environment(&self.shared, &self.hosts, &Roster::default()),
            modules: Vec::new(),
        }
    }

    /// Loads a file of the directory.
    pub fn load(&self, file: &str) -> Result<WasmHook, LoadError> {
        let path = self.dir.path().join(file);
        WasmHook::load(&self.host, self.spec("plugin", path), self.instances)
    }

    pub fn plugin(&self, wat: &Wat) -> WasmHook {
        self.write("plugin.wat", wat.text());
        self.load("plugin.wat").unwrap()
    }

    /// The message with which a text does not load.
    pub fn load_error(&self, text: &str) -> String {
        self.write("plugin.wat", text);
        match self.load("plugin.wat") {
            Ok(_) => panic!("it loads: {text}"),
            Err(error) => error.message,
        }
    }
}
