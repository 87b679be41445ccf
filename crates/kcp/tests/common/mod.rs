//! What the tests over real sockets share.

pub mod network;
mod pattern;

use std::time::Duration;

pub use pattern::Pattern;

/// How long anything may take that should come at once: a failure, not a pause.
const PATIENCE: Duration = Duration::from_secs(30);

/// Awaits `future`; panics with `what` when it does not come.
#[track_caller]
pub fn soon<F: Future>(what: &str, future: F) -> impl Future<Output = F::Output> {
    let caller = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        match tokio::time::timeout(PATIENCE, future).await {
            Ok(output) => output,
            Err(_) => panic!("{caller}: waited in vain: {what}"),
        }
    }
}

/// How long what runs for a set time does so: `STABLEGATE_SOAK`, in seconds, or 3 s.
pub fn soak() -> Duration {
    let seconds = std::env::var("STABLEGATE_SOAK")
        .ok()
        .and_then(|said| said.parse().ok());
    Duration::from_secs(seconds.unwrap_or(3))
}
