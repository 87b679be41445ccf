//! Command line, with one file per command.

mod check;
mod connect;
mod echo;
mod hook;
mod log;
mod migrate;
mod notify;
mod panics;
mod run;

use std::process::ExitCode;
use std::time::Duration;

use clap::{Parser, Subcommand};

/// A gateway that keeps game connections alive.
#[derive(Parser)]
#[command(version, after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// How log lines look. What is logged is set by RUST_LOG, such as `info` or `stablegate=debug`.
    #[arg(long, global = true, value_enum, default_value_t = log::Format::Human)]
    log_format: log::Format,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway (also without a command).
    Run(run::Run),
    /// Load a configuration with all its hooks, and say what is wrong with it.
    Check(check::Check),
    /// Connect standard input and output with a gateway.
    Connect(connect::Connect),
    /// Run a TCP server that sends back what it gets.
    Echo(echo::Echo),
    /// Work with hooks.
    #[command(subcommand)]
    Hook(hook::Command),
    /// Print the equivalent of a configuration of goscon or fastway.
    Migrate(migrate::Migrate),
    /// Print what every key of a configuration means, as Markdown.
    Reference,
}

const EXAMPLES: &str = "Examples:
  stablegate                                    run on ./config.yaml
  stablegate run -c staging.yaml --grace 60s    run, drain for a minute when told to stop
  stablegate check --dump                       show the configuration in effect
  stablegate connect 127.0.0.1:1248             type a line, get it back
  stablegate connect 127.0.0.1:1248 --cut-every 2s
  stablegate connect 127.0.0.1:1248 --session snet,v1
  stablegate echo 127.0.0.1:9000                a server to point `hosts` at
  stablegate hook new guard --lang rust         a plugin to start from
  stablegate hook call scripts/route.lua access --client 1.2.3.4:5 --target lobby
  stablegate migrate --from goscon goscon.yaml > config.yaml
  stablegate migrate --from fastway '-ClientAddr=:1248 -ServerAddr=:1249'";

impl Default for Command {
    /// Returns the command `run` without arguments.
    fn default() -> Self {
        // invariant: none of its arguments is required.
        run::Run::try_parse_from([""])
            .map(Self::Run)
            .expect("no arguments will do")
    }
}

/// Parses the command line and runs the command.
///
/// Exit code 1: the command failed; 2: the command line was wrong.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let command = arguments.command.unwrap_or_default();
    if let Command::Check(_) | Command::Hook(_) | Command::Migrate(_) | Command::Reference = command
    {
        // Whoever reads no more of what is printed, such as `head`, ends the command.
        // SAFETY: sets how a signal is taken, before there are threads.
        unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    }
    let log = log::start(arguments.log_format);
    panics::log();
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("stablegate: cannot start: {error}");
            return ExitCode::FAILURE;
        }
    };
    let result = runtime.block_on(async {
        match command {
            Command::Run(arguments) => run::run(arguments).await,
            Command::Check(arguments) => check::run(arguments).await,
            Command::Connect(arguments) => connect::run(arguments).await,
            Command::Echo(arguments) => echo::run(arguments).await,
            Command::Hook(command) => hook::run(command).await,
            Command::Migrate(arguments) => migrate::run(&arguments),
            Command::Reference => {
                print!("{}", crate::config::reference());
                Ok(())
            }
        }
    });
    // A thread that reads from a terminal cannot be stopped otherwise.
    runtime.shutdown_background();
    // The last lines of the log come before the error below.
    drop(log);
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("stablegate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn duration(text: &str) -> Result<Duration, humantime::DurationError> {
    humantime::parse_duration(text)
}
