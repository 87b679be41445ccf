//! `stablegate run`

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::timeout;

use crate::gateway::Gateway;

#[derive(clap::Parser)]
pub(super) struct Run {
    /// The configuration file.
    #[arg(short, long, default_value = "config.yaml")]
    config: PathBuf,
    /// How long sessions may go on after SIGTERM or SIGINT. A second signal ends them at once.
    #[arg(long, default_value = "30s", value_parser = super::duration)]
    grace: Duration,
}

pub(super) async fn run(arguments: Run) -> anyhow::Result<()> {
    forbid_core_files()?;
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let started = tokio::select! {
        started = Gateway::start(arguments.config) => Some(started?),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let Some(gateway) = started else {
        tracing::info!("told to stop while starting");
        return Ok(());
    };
    notify(NotifyState::Ready);
    // Signals that come meanwhile are one.
    let reloading = async {
        loop {
            hangup.recv().await;
            // Logged there, and nothing to stop for.
            let _ = gateway.reload().await;
        }
    };
    tokio::select! {
        () = reloading => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let grace = arguments.grace;
    notify(NotifyState::Stopping);
    gateway.drain().await;
    tracing::info!(sessions = gateway.sessions(), ?grace, "draining");
    let outcome = tokio::select! {
        drained = timeout(grace, gateway.drained()) => match drained {
            Ok(()) => "drained",
            Err(_) => "grace period over",
        },
        _ = terminate.recv() => "second signal",
        _ = interrupt.recv() => "second signal",
        never = refuse(&mut hangup) => never,
    };
    tracing::info!(sessions = gateway.sessions(), outcome, "stopping");
    gateway.shutdown().await;
    Ok(())
}

/// A gateway that stops takes no new configuration.
async fn refuse(hangup: &mut Signal) -> ! {
    loop {
        hangup.recv().await;
        tracing::warn!("SIGHUP ignored: the gateway stops");
    }
}

/// Tells systemd, if that waits to be told.
fn notify(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::warn!(%error, "cannot notify the service manager");
    }
}

/// Memory holds the keys of sessions and of the configuration: none of it may end up in a file.
/// This also keeps other processes of the same user from reading it.
fn forbid_core_files() -> io::Result<()> {
    // SAFETY: it takes numbers and changes nothing but an attribute of the process.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
