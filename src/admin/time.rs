//! Times as they are written.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::Serializer;

/// Last second of the year 9999.
const LAST_SECOND: Duration = Duration::from_secs(253_402_300_799);

/// Writes a time by RFC 3339, with milliseconds.
pub(super) fn rfc3339<S: Serializer>(at: &SystemTime, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&humantime::format_rfc3339_millis(writable(*at)))
}

/// Returns the nearest time that formats of dates can write, from 1970 to 9999: a machine's clock
/// may be wrong.
pub(super) fn writable(at: SystemTime) -> SystemTime {
    at.clamp(UNIX_EPOCH, UNIX_EPOCH + LAST_SECOND)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_time_can_be_written() {
        let day = Duration::from_secs(86_400);
        for (at, written) in [
            (UNIX_EPOCH - 400 * day, "1970-01-01T00:00:00.000Z"),
            (UNIX_EPOCH + day, "1970-01-02T00:00:00.000Z"),
            (UNIX_EPOCH + 3_000_000 * day, "9999-12-31T23:59:59.000Z"),
        ] {
            let text = rfc3339(&at, serde_json::value::Serializer).unwrap();
            assert_eq!(text, written);
        }
    }
}
