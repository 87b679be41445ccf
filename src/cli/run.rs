//! Command `stablegate run`.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{Instant, timeout, timeout_at};

use super::notify;
use crate::admin;
use crate::gateway::Gateway;

/// Longest time for sessions to end once they must.
const LAST_WORDS: Duration = Duration::from_secs(5);
/// Longest time for clients over KCP to receive what was sent, after the grace period.
const LAST_BYTES: Duration = Duration::from_secs(1);

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
    let starting = Gateway::from_file(arguments.config).admin(admin::open);
    let started = tokio::select! {
        started = starting.start() => Some(started?),
        _ = terminate.recv() => None,
        _ = interrupt.recv() => None,
    };
    let Some(gateway) = started else {
        tracing::info!("told to stop while starting");
        return Ok(());
    };
    notify::ready();
    tokio::spawn(notify::watchdog());
    // Signals that come during a reload count as one.
    let reloading = async {
        loop {
            hangup.recv().await;
            notify::reloading();
            // An error is logged by the reload, and no reason to stop.
            let _ = gateway.reload().await;
            notify::ready();
        }
    };
    tokio::select! {
        () = reloading => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    let grace = arguments.grace;
    // A century counts as for ever.
    let over = Instant::now() + grace.min(Duration::from_secs(u32::MAX.into()));
    notify::stopping();
    gateway.drain().await;
    tracing::info!(sessions = gateway.sessions(), ?grace, "draining");
    let (outcome, over) = tokio::select! {
        drained = timeout_at(over, gateway.drained()) => match drained {
            Ok(()) => ("drained", over),
            Err(_) => ("grace period over", over),
        },
        _ = terminate.recv() => ("second signal", Instant::now()),
        _ = interrupt.recv() => ("second signal", Instant::now()),
        never = refuse(&mut hangup) => never,
    };
    tracing::info!(sessions = gateway.sessions(), outcome, "stopping");
    if timeout(LAST_WORDS, gateway.end()).await.is_err() {
        tracing::warn!("not all sessions have ended in {LAST_WORDS:?}");
    }
    // Clients over KCP that are gone no longer acknowledge anything.
    let delivering = timeout_at(over.max(Instant::now() + LAST_BYTES), gateway.shutdown());
    tokio::select! {
        delivered = delivering => if delivered.is_err() {
            tracing::warn!("not all clients have got everything over KCP");
        },
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}

/// Ignores reloads, because a gateway that stops takes no new configuration.
async fn refuse(hangup: &mut Signal) -> ! {
    loop {
        hangup.recv().await;
        tracing::warn!("SIGHUP ignored: the gateway stops");
    }
}

/// Forbids core files, as memory holds the keys of sessions and of the configuration.
///
/// This also keeps other processes of the same user from reading the memory.
fn forbid_core_files() -> io::Result<()> {
    // SAFETY: it takes numbers and changes nothing but an attribute of the process.
    match unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
