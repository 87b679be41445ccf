//! The gateway as a process of its own.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;
use stablegate::config::Config;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::soon;

/// The binary under test.
const BINARY: &str = env!("CARGO_BIN_EXE_stablegate");

/// A running gateway; killed when dropped.
pub struct Gateway {
    child: Child,
    log: Log,
    addrs: HashMap<String, Vec<SocketAddr>>,
    directory: TempDir,
}

/// What a gateway has logged so far, and what it will.
#[derive(Clone)]
pub struct Log {
    lines: Arc<Mutex<Vec<Value>>>,
    count: watch::Receiver<usize>,
}

/// What a command said.
pub struct Output {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs a command to its end, without input.
pub async fn run(directory: &Path, arguments: &[&str]) -> Output {
    let output = command(directory, arguments).output();
    let output = soon("the end of a command", output).await.unwrap();
    Output {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
    }
}

/// A command of the binary under test, with nothing of the environment that it is in.
pub fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BINARY);
    command
        .args(arguments)
        .current_dir(directory)
        .env_remove("RUST_LOG")
        // What it keeps goes with the directory.
        .env("XDG_CACHE_HOME", directory)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Resident memory of a process, bytes.
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kibibytes = line.unwrap().trim().strip_suffix(" kB").unwrap();
    kibibytes.parse::<u64>().unwrap() * 1024
}

/// A configuration that says nothing of an admin interface gets none: its port would be that of
/// every other gateway on the machine. At the end, where it changes no line numbers.
pub fn without_admin(config: &str) -> String {
    let said = config.lines().any(|line| line.starts_with("admin:"));
    if said {
        config.to_owned()
    } else {
        format!("{config}\nadmin: \"\"\n")
    }
}

impl Gateway {
    /// Starts a gateway and waits until it listens.
    pub async fn start(config: &str) -> Self {
        Self::start_with(config, &[]).await
    }

    pub async fn start_with(config: &str, arguments: &[&str]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, arguments, &[]).await
    }

    /// Starts a gateway with these variables in its environment.
    pub async fn start_under(config: &str, environment: &[(&str, &OsStr)]) -> Self {
        Self::start_in(tempfile::tempdir().unwrap(), config, &[], environment).await
    }

    /// Starts a gateway that finds `files` beside its configuration.
    pub async fn start_among(files: &[(&str, &str)], config: &str) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Self::start_in(directory, config, &[], &[]).await
    }

    async fn start_in(
        directory: TempDir,
        config: &str,
        arguments: &[&str],
        environment: &[(&str, &OsStr)],
    ) -> Self {
        let mut gateway = Self::begin_in(directory, config, |command| {
            command.args(arguments).envs(environment.iter().copied());
        });
        gateway.listens().await;
        gateway
    }

    /// Starts a gateway that finds `files` beside its configuration, and does not wait for it.
    pub fn begin_among(
        files: &[(&str, &str)],
        config: &str,
        prepare: impl FnOnce(&mut Command),
    ) -> Self {
        let directory = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(directory.path().join(name), text).unwrap();
        }
        Self::begin_in(directory, config, prepare)
    }

    fn begin_in(directory: TempDir, config: &str, prepare: impl FnOnce(&mut Command)) -> Self {
        let path = directory.path().join("config.yaml");
        std::fs::write(&path, without_admin(config)).unwrap();
        let mut command = command(directory.path(), &["run", "--log-format", "json"]);
        command.stdout(Stdio::null()).stderr(Stdio::piped());
        prepare(&mut command);
        let mut child = command.spawn().unwrap();
        Self {
            log: Log::read(child.stderr.take().unwrap()),
            child,
            addrs: HashMap::new(),
            directory,
        }
    }

    /// Waits until a gateway that was begun listens.
    pub async fn listens(&mut self) {
        let config = Config::load(self.directory().join("config.yaml")).unwrap();
        let binds = config.listeners.iter().map(|listener| listener.bind.len());
        for n in 0..binds.sum() {
            let line = self.log.nth("listening", n).await;
            let listener = line["listener"].as_str().unwrap().to_owned();
            let addr = line["addr"].as_str().unwrap().parse().unwrap();
            self.addrs.entry(listener).or_default().push(addr);
        }
    }

    /// Where its configuration is, `config.yaml`.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Saves a file as an editor does: beside it, then by renaming.
    pub fn save(&self, name: &str, text: &str) {
        let path = self.directory().join(name);
        let beside = path.with_extension("new");
        match name {
            "config.yaml" => std::fs::write(&beside, without_admin(text)).unwrap(),
            _ => std::fs::write(&beside, text).unwrap(),
        }
        std::fs::rename(beside, path).unwrap();
    }

    /// Where a listener is, by its name.
    pub fn addrs(&self, listener: &str) -> &[SocketAddr] {
        &self.addrs[listener]
    }

    /// Where the listener called `game` is.
    pub fn addr(&self) -> SocketAddr {
        self.addrs("game")[0]
    }

    /// Where its admin interface is, if its configuration has one.
    pub async fn admin(&self) -> SocketAddr {
        let line = self.log.nth("admin interface open", 0).await;
        line["addr"].as_str().unwrap().parse().unwrap()
    }

    pub fn log(&self) -> &Log {
        &self.log
    }

    pub fn pid(&self) -> libc::pid_t {
        self.child.id().expect("it has not been waited for") as libc::pid_t
    }

    pub fn signal(&self, signal: libc::c_int) {
        let pid = self.pid();
        // SAFETY: the child has not been reaped, so the id is still its own.
        let result = unsafe { libc::kill(pid, signal) };
        assert_eq!(result, 0, "{}", io::Error::last_os_error());
    }

    /// Its resident memory, bytes.
    pub fn resident(&self) -> u64 {
        resident(self.pid() as u32)
    }

    pub async fn exited(&mut self) -> ExitStatus {
        soon("the gateway's exit", self.child.wait()).await.unwrap()
    }
}

impl Log {
    /// Collects the lines of a JSON log.
    pub fn read(from: impl AsyncRead + Unpin + Send + 'static) -> Self {
        let lines = Arc::<Mutex<Vec<Value>>>::default();
        let (counter, count) = watch::channel(0);
        let log = Self {
            lines: lines.clone(),
            count,
        };
        tokio::spawn(async move {
            let mut from = BufReader::new(from).lines();
            while let Ok(Some(line)) = from.next_line().await {
                let line = serde_json::from_str(&line).unwrap_or(Value::String(line));
                lines.lock().unwrap().push(line);
                counter.send_modify(|count| *count += 1);
            }
        });
        log
    }

    /// All lines so far with this message.
    pub fn all(&self, message: &str) -> Vec<Value> {
        let lines = self.lines.lock().unwrap();
        let fit = lines.iter().filter(|line| line["message"] == message);
        fit.cloned().collect()
    }

    /// Drops all lines so far.
    pub fn forget(&self) {
        self.lines.lock().unwrap().clear();
    }

    /// The first line that fits, past or future.
    pub async fn wait(&self, what: &str, fits: impl Fn(&Value) -> bool) -> Value {
        self.wait_nth(what, 0, fits).await
    }

    /// The line with number `n`, from 0, of those with this message.
    pub async fn nth(&self, message: &str, n: usize) -> Value {
        let fits = |line: &Value| line["message"] == message;
        self.wait_nth(message, n, fits).await
    }

    async fn wait_nth(&self, what: &str, n: usize, fits: impl Fn(&Value) -> bool) -> Value {
        let mut count = self.count.clone();
        let looking = async {
            loop {
                count.borrow_and_update();
                let found = {
                    let lines = self.lines.lock().unwrap();
                    lines.iter().filter(|line| fits(line)).nth(n).cloned()
                };
                match found {
                    Some(line) => return Some(line),
                    // The end of the log comes after its last line.
                    None => count.changed().await.ok()?,
                }
            }
        };
        let found = tokio::time::timeout(super::PATIENCE, looking).await;
        found.ok().flatten().unwrap_or_else(|| {
            let lines = self.lines.lock().unwrap();
            let lines: Vec<_> = lines.iter().map(Value::to_string).collect();
            panic!("not in the log: {what}\n{}", lines.join("\n"))
        })
    }

    /// The line of a session with this message.
    pub async fn of(&self, id: impl Into<u64>, message: &str) -> Value {
        let id = id.into();
        let fits = |line: &Value| line["message"] == message && line["id"] == id;
        self.wait(&format!("{message} {id}"), fits).await
    }
}
