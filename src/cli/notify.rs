//! Notifications for the service manager.
//!
//! Source: sd_notify(3) and sd_watchdog_enabled(3).

use std::env;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use tokio::time::interval;

/// Longest time for the manager to read a message.
const PATIENCE: Duration = Duration::from_secs(1);

/// Tells that all listeners are open, or that a reload is over.
pub(super) fn ready() {
    tell("READY=1\n");
}

/// Tells that a reload begins. `READY=1` is to follow.
pub(super) fn reloading() {
    tell(&format!(
        "RELOADING=1\nMONOTONIC_USEC={}\n",
        monotonic_usec()
    ));
}

/// Tells that the gateway drains.
pub(super) fn stopping() {
    tell("STOPPING=1\n");
}

/// Tells that the runtime runs, twice as often as the manager asks for; never if it does not ask.
pub(super) async fn watchdog() {
    let Some(limit) = watchdog_limit() else {
        return;
    };
    let mut ticks = interval(limit / 2);
    loop {
        ticks.tick().await;
        tell("WATCHDOG=1\n");
    }
}

/// Returns the longest time for which the manager may hear nothing of this process.
fn watchdog_limit() -> Option<Duration> {
    let own = env::var("WATCHDOG_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    if !own && env::var_os("WATCHDOG_PID").is_some() {
        return None;
    }
    let limit = env::var("WATCHDOG_USEC").ok()?.parse().ok()?;
    // A shorter limit cannot be kept.
    (limit > 1).then(|| Duration::from_micros(limit))
}

/// Sends a message, if there is a service manager.
fn tell(message: &str) {
    let Some(path) = env::var_os("NOTIFY_SOCKET") else {
        return;
    };
    let sent = || -> io::Result<()> {
        let address = match path.as_bytes().strip_prefix(b"@") {
            Some(name) => SocketAddr::from_abstract_name(name)?,
            None => SocketAddr::from_pathname(&path)?,
        };
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(PATIENCE))?;
        socket.send_to_addr(message.as_bytes(), &address)?;
        Ok(())
    };
    if let Err(error) = sent() {
        let message = message.trim_end();
        tracing::warn!(%error, message, "cannot notify the service manager");
    }
}

/// Returns the time of CLOCK_MONOTONIC, microseconds.
fn monotonic_usec() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: it writes one timespec. It cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut now) };
    now.tv_sec * 1_000_000 + now.tv_nsec / 1000
}
