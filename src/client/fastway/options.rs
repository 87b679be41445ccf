//! How an endpoint speaks, and how much it holds.

use std::time::Duration;

use crate::proto::fastway::Version;

/// How an endpoint speaks, and how much it holds.
#[derive(Debug, Clone)]
pub struct Options {
    /// What the gateway speaks on this listener.
    pub version: Version,
    /// The gateway's limit of a frame's length, bytes. A message has 4 bytes less.
    pub max_packet: u32,
    /// Frames that wait to be written, those of more than 1 KiB counted twice; sending waits once
    /// there are as many, or 4 MiB, until there are half.
    pub send_queue: usize,
    /// Messages that wait to be received, for each connection. One more closes the connection: it
    /// does not hold up the others.
    pub receive_queue: usize,
    /// Connections that wait to be accepted. One more is closed.
    pub accept_queue: usize,
    /// How often to ping in v3; less than the gateway's idle time. In v1 and v2 it is the gateway
    /// that pings.
    pub ping: Duration,
    /// How long the gateway may be silent. More than twice `ping`, and in v1 and v2 more than the
    /// gateway's idle time; over a stream that resumes, more than that takes too.
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
