//! Scripts in a directory of their own, and sessions to ask them about.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Environment, Limits, LoadError, Spec};
use stablegate::hooks::{
    Answer, Attrs, Call, Ended, Hook, HookError, HookErrorKind, Question, Reply, SessionInfo,
    Target,
};
use stablegate::hooks::{Host, Roster};
use tempfile::TempDir;

pub struct Rig {
    pub dir: TempDir,
    pub pool: Arc<Pool>,
    pub shared: Arc<Shared>,
    pub hosts: Vec<Arc<Host>>,
    pub fastway: Roster,
    pub limits: Limits,
    pub config: serde_json::Value,
    pub modules: Vec<String>,
}

impl Rig {
    /// Limits that no well-behaved script comes near, however busy the machine.
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            pool: Pool::per_processor(),
            shared: Arc::default(),
            hosts: Vec::new(),
            fastway: Roster::default(),
            limits: Limits {
                timeout: Duration::from_secs(10),
                wall_timeout: Duration::from_secs(200),
                load_timeout: Duration::from_secs(60),
                memory: 32 * 1024 * 1024,
            },
            config: serde_json::json!({}),
            modules: Vec::new(),
        }
    }

    pub fn write(&self, file: &str, text: &str) -> PathBuf {
        let path = self.dir.path().join(file);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Loads what was written as `route.lua`.
    pub fn load(&self) -> Result<LuaHook, LoadError> {
        LuaHook::load(
            &self.pool,
            Spec {
                name: "route".into(),
                path: self.dir.path().join("route.lua"),
                limits: self.limits,
                config: self.config.as_object().unwrap().clone(),
                environment: Environment {
                    shared: self.shared.clone(),
                    resolver: Arc::default(),
                    hosts: self.hosts.clone(),
                    fastway: self.fastway.clone(),
                    grown: Arc::default(),
                },
                modules: self.modules.clone(),
            },
        )
    }

    pub fn script(&self, text: &str) -> LuaHook {
        self.write("route.lua", text);
        self.load().unwrap()
    }

    /// The message with which a script does not load.
    pub fn load_error(&self, text: &str) -> String {
        self.write("route.lua", text);
        self.load().unwrap_err().message
    }

    /// Runs the body of a `select_target` and returns the string it returns.
    pub async fn eval(&self, body: &str) -> String {
        let text = format!("function select_target(session) {body}\nend");
        match target(&self.script(&text)).await.answer {
            Ok(Answer::Target(Target::Name(name))) => name,
            other => panic!("{body}: {other:?}"),
        }
    }

    /// Runs the body of a `select_target` that fails.
    pub async fn fail(&self, body: &str) -> HookError {
        let text = format!("function select_target(session) {body}\nend");
        match target(&self.script(&text)).await.answer {
            Err(error) => error,
            Ok(answer) => panic!("{body}: {answer:?}"),
        }
    }

    /// Asserts that each expression is true.
    pub async fn check(&self, expressions: &[&str]) {
        for expression in expressions {
            let body = format!("return tostring({expression})");
            assert_eq!(self.eval(&body).await, "true", "{expression}");
        }
    }

    /// Asserts that an expression raises a plain string with the line, and this in it.
    pub async fn check_error(&self, expression: &str, message: &str) {
        let body = format!(
            "local ok, e = pcall(function()\n local v = {expression} return v end)\n\
             return tostring(ok) .. type(e) .. ' ' .. tostring(e)"
        );
        let got = self.eval(&body).await;
        assert!(
            got.starts_with("falsestring route.lua:2: "),
            "{expression}: {got}"
        );
        assert!(got.contains(message), "{expression}: {got}");
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

pub async fn ask(hook: &LuaHook, asked: Question) -> Reply {
    hook.call(question(asked)).await
}

pub async fn target(hook: &LuaHook) -> Reply {
    ask(hook, Question::SelectTarget).await
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
