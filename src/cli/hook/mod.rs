//! Command `stablegate hook`.

mod new;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use clap::ValueEnum;

use crate::config::{self, Instance, Program};
use crate::gateway::Environment;
use crate::hooks::Roster;
use crate::hooks::spec::{self, Limits, Spec};
use crate::hooks::{Answer, AttrValue, Attrs, Call, Dial, Fastway, Question, SessionInfo, Target};

#[derive(clap::Subcommand)]
pub(super) enum Command {
    /// Ask a script or plugin for one decision, and say what it cost.
    Call(Box<Decision>),
    /// Write a hook to start from into the working directory.
    New(new::New),
}

#[derive(clap::Args)]
pub(super) struct Decision {
    /// A Lua script, or a plugin: a file whose name ends in `.wasm` or `.wat`.
    hook: PathBuf,
    /// What to ask it.
    #[arg(value_enum)]
    question: Asked,
    /// The client's address.
    #[arg(long, default_value = "127.0.0.1:50000")]
    client: SocketAddr,
    /// The address of the gateway that it connected to.
    #[arg(long, default_value = "127.0.0.1:1248")]
    gateway: SocketAddr,
    #[arg(long, default_value = "game")]
    listener: String,
    /// What the client asks to be connected with.
    #[arg(long)]
    target: Option<String>,
    #[arg(long, default_value_t = 0)]
    flags: u32,
    /// The id of the fastway server that connects.
    #[arg(long)]
    server_id: Option<u32>,
    /// The dial of a fastway endpoint: its id and the one that it dials.
    #[arg(long, value_names = ["FROM", "TO"], num_args = 2)]
    dial: Option<Vec<u32>>,
    /// A further handshake line; may be repeated.
    #[arg(long)]
    extra: Vec<String>,
    /// The first bytes of the client.
    #[arg(long)]
    first_data: Option<String>,
    /// For `announce`: the server that was connected.
    #[arg(long, default_value = "127.0.0.1:9000")]
    server: String,
    /// An attribute that an earlier hook has set; may be repeated.
    #[arg(long, value_name = "KEY=VALUE")]
    attr: Vec<String>,
    /// What it sees as its configuration, in JSON.
    #[arg(long, default_value = "{}")]
    config: String,
    #[arg(long, default_value = "100ms", value_parser = config::hook_timeout)]
    timeout: Duration,
    /// The memory limit.
    #[arg(long, default_value = "32MiB", value_parser = config::hook_memory)]
    memory: usize,
}

#[derive(Clone, Copy, ValueEnum)]
#[value(rename_all = "snake_case")]
enum Asked {
    Access,
    SelectTarget,
    Announce,
}

pub(super) async fn run(command: Command) -> anyhow::Result<()> {
    let arguments = match command {
        Command::Call(arguments) => arguments,
        Command::New(arguments) => return new::run(&arguments),
    };
    let question = match arguments.question {
        Asked::Access => Question::Access,
        Asked::SelectTarget => Question::SelectTarget,
        Asked::Announce => Question::Announce {
            target: arguments.server.clone(),
        },
    };
    let call = Call {
        question,
        attrs: arguments.attrs()?,
        info: Arc::new(arguments.info()),
    };
    let environment = Environment::new();
    let program = program(&arguments.hook);
    let spec = Spec {
        name: "call".to_owned(),
        path: arguments.hook,
        limits: Limits {
            timeout: arguments.timeout,
            wall_timeout: config::wall_timeout(arguments.timeout),
            load_timeout: config::LOAD_TIMEOUT,
            memory: arguments.memory,
        },
        config: serde_json::from_str(&arguments.config).context("--config is no JSON object")?,
        environment: spec::Environment {
            shared: environment.shared,
            resolver: Arc::default(),
            hosts: Vec::new(),
            fastway: Roster::default(),
            grown: environment.grown,
        },
        modules: Vec::new(),
    };
    let hook =
        tokio::task::spawn_blocking(move || environment.runners.load(&program, spec)).await??;
    let reply = hook.call(call).await;
    match reply.answer? {
        Answer::Pass => println!("no opinion: the next hook decides, then the built-in rule"),
        Answer::Allow => println!("allow"),
        Answer::Deny { reason } => println!("deny: {reason}"),
        Answer::Target(Target::Name(name)) => println!("target: host {name}"),
        Answer::Target(Target::Addr(addr)) => println!("target: address {addr}"),
        Answer::Target(Target::Id(id)) => println!("target: endpoint {id}"),
        Answer::Message(bytes) if bytes.is_empty() => println!("no message"),
        Answer::Message(bytes) => {
            println!("message of {} bytes: {}", bytes.len(), bytes.escape_ascii());
        }
    }
    for (key, value) in &reply.attrs {
        match value {
            AttrValue::Boolean(value) => println!("attrs.{key} = {value}"),
            AttrValue::Integer(value) => println!("attrs.{key} = {value}"),
            AttrValue::Number(value) => println!("attrs.{key} = {value}"),
            AttrValue::String(bytes) => println!("attrs.{key} = \"{}\"", bytes.escape_ascii()),
        }
    }
    println!("cost: {:?}", reply.cost);
    Ok(())
}

/// Returns the program of a hook by the name of its file.
fn program(path: &Path) -> Program {
    let plugin = path
        .extension()
        .is_some_and(|extension| extension == "wasm" || extension == "wat");
    if plugin {
        Program::Wasm {
            wasm: path.to_owned(),
            instance: Instance::default(),
        }
    } else {
        Program::Lua {
            lua: path.to_owned(),
        }
    }
}

impl Decision {
    fn info(&self) -> SessionInfo {
        SessionInfo {
            id: 1,
            session: "scp",
            target: self.target.clone(),
            flags: self.flags,
            extra: self.extra.as_slice().into(),
            first_data: self.first_data.clone().map(Bytes::from),
            fastway: self.fastway(),
            ..SessionInfo::new(self.listener.as_str(), self.client, self.gateway)
        }
    }

    fn fastway(&self) -> Option<Fastway> {
        let dial = self.dial.as_deref().and_then(|ids| ids.first_chunk());
        let fastway = Fastway {
            server_id: self.server_id,
            dial: dial.map(|&[from, to]| Dial { from, to }),
        };
        (fastway != Fastway::default()).then_some(fastway)
    }

    fn attrs(&self) -> anyhow::Result<Attrs> {
        self.attr
            .iter()
            .map(|attr| match attr.split_once('=') {
                Some((key, value)) => {
                    let value = AttrValue::String(Bytes::from(value.to_owned()));
                    Ok((key.to_owned(), value))
                }
                None => bail!("--attr {attr}: expected KEY=VALUE"),
            })
            .collect()
    }
}
