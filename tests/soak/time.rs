//! How long what runs for a set time does so.

use std::time::Duration;

/// `STABLEGATE_SOAK`, seconds or with a unit, such as `1h`.
pub fn time() -> Duration {
    let said = std::env::var("STABLEGATE_SOAK").unwrap_or("3".to_owned());
    let seconds = said.parse().map(Duration::from_secs);
    seconds
        .or_else(|_| humantime::parse_duration(&said))
        .expect("STABLEGATE_SOAK is a number of seconds, or has a unit")
}
