//! Settings of an endpoint.

use std::time::Duration;

use crate::proto::fastway::Version;

/// Settings of an endpoint: wire format, limits of queues, timeouts.
#[derive(Debug, Clone)]
pub struct Options {
    /// Version of the wire format that the gateway speaks on this listener.
    pub version: Version,
    /// The gateway's limit of the length of a frame, bytes.
    ///
    /// A message has 4 bytes less.
    pub max_packet: u32,
    /// Limit of frames that wait to be written, those of more than 1 KiB counted twice.
    ///
    /// Senders wait once the limit, or 4 MiB, is reached, until half is written.
    pub send_queue: usize,
    /// Limit of messages that wait to be received, for each connection.
    ///
    /// One more message closes the connection, so that it does not block the others.
    pub receive_queue: usize,
    /// Limit of connections that wait to be accepted; one more is closed.
    pub accept_queue: usize,
    /// Interval of pings in v3, less than the gateway's idle time.
    ///
    /// In v1 and v2 the gateway pings.
    pub ping: Duration,
    /// Silence after which the gateway counts as lost.
    ///
    /// More than twice `ping`; in v1 and v2 more than the gateway's idle time; over a resumable
    /// stream more than a resume takes.
    pub timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            version: Version::V3,
            max_packet: 512 * 1024,
            send_queue: 256,
            receive_queue: 1024,
            accept_queue: 1024,
            ping: Duration::from_secs(10),
            timeout: Duration::from_secs(75),
        }
    }
}
