//! Plugins in a directory of their own, and sessions to ask them about.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use bytes::Bytes;
use stablegate::config::Instance;
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Environment, Limits, LoadError, Spec};
use stablegate::hooks::wasm::{self, WasmHook};
use stablegate::hooks::{Attrs, Call, Ended, HookErrorKind, Question, Reply, SessionInfo};
use stablegate::hooks::{Host, Roster};
use tempfile::TempDir;

use crate::wat::Wat;

/// One engine for all tests: it reserves much address space.
static HOST: LazyLock<Arc<wasm::Host>> = LazyLock::new(|| wasm::Host::new(None));

pub struct Rig {
    pub dir: TempDir,
    pub host: Arc<wasm::Host>,
    pub shared: Arc<Shared>,
    pub hosts: Vec<Arc<Host>>,
    pub limits: Limits,
    pub instances: Instance,
    pub config: serde_json::Value,
}

impl Rig {
    /// Limits that no well-behaved plugin comes near, however busy the machine.
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            host: HOST.clone(),
            shared: Arc::default(),
            hosts: Vec::new(),
            limits: Limits {
                timeout: Duration::from_secs(10),
                wall_timeout: Duration::from_secs(200),
                load_timeout: Duration::from_secs(60),
                memory: 32 * 1024 * 1024,
            },
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
            environment: Environment {
                shared: self.shared.clone(),
                resolver: Arc::default(),
                hosts: self.hosts.clone(),
                fastway: Roster::default(),
                grown: Arc::default(),
            },
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

pub fn info() -> SessionInfo {
    SessionInfo {
        id: 7,
        listener: "game".into(),
        session: "scp",
        transport: "tcp",
        client_addr: "192.0.2.1:5000".parse().unwrap(),
        gateway_addr: "[2001:db8::1]:1248".parse().unwrap(),
        target: Some("lobby".into()),
        flags: 3,
        extra: (&["one".to_owned(), "two".to_owned()][..]).into(),
        first_data: Some(Bytes::from_static(b"\x00hello\xff")),
        fastway: None,
    }
}

pub fn question(question: Question) -> Call {
    Call {
        question,
        info: Arc::new(info()),
        attrs: Attrs::new(),
    }
}

pub fn announce() -> Question {
    Question::Announce {
        target: "10.0.0.9:80".into(),
    }
}

pub fn closed() -> Question {
    Question::Closed(Ended {
        received: 10,
        sent: 20,
        resumes: 2,
        duration: Duration::from_millis(1500),
        reason: "upstream_closed",
    })
}

/// The error of a reply that must have one of this kind.
#[track_caller]
pub fn error(reply: &Reply, kind: HookErrorKind) -> &str {
    match &reply.answer {
        Err(error) if error.kind == kind => &error.message,
        other => panic!("expected {kind:?}, got {other:?}"),
    }
}
