//! Scripts in a directory of their own, and sessions to ask them about.

use std::path::PathBuf;
use std::sync::Arc;

use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Limits, LoadError, Spec};
use stablegate::hooks::{Answer, Hook, HookError, Question, Reply, Target};
use stablegate::hooks::{Host, Roster};
use tempfile::TempDir;

pub use crate::asking::*;

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
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
            pool: Pool::per_processor(),
            shared: Arc::default(),
            hosts: Vec::new(),
            fastway: Roster::default(),
            limits: limits(),
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
                environment: environment(&self.shared, &self.hosts, &self.fastway),
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

pub async fn ask(hook: &LuaHook, asked: Question) -> Reply {
    hook.call(question(asked)).await
}

pub async fn target(hook: &LuaHook) -> Reply {
    ask(hook, Question::SelectTarget).await
}
