//! What a session is set to.

use std::time::Duration;

/// Settings of one session. The defaults are goscon's.
///
/// [`Kcp::new`](super::Kcp::new) lifts values no session could work with to the least that can.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Bytes of a whole datagram, not counting IP and UDP headers. kcp-go peers take at most 1,500.
    pub mtu: u16,
    /// Least retransmission timeout 30 ms instead of 100 ms, and slower back-off.
    pub nodelay: bool,
    /// Longest delay of an acknowledgement, and of data under `write_delay`, in milliseconds.
    pub interval: Duration,
    /// A segment is sent again once this many later ones were acknowledged; 0 turns it off, at most 8.
    pub resend: u8,
    /// Send as fast as the windows allow, whatever is lost.
    pub no_congestion: bool,
    /// Segments written and not yet acknowledged.
    pub send_window: u16,
    /// Segments received and not yet read.
    pub receive_window: u16,
    /// Fill segments across writes; otherwise each write is a message of its own.
    pub stream: bool,
    /// Hold data back for up to `interval` to fill segments, instead of sending at once.
    pub write_delay: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            mtu: 1400,
            nodelay: true,
            interval: Duration::from_millis(10),
            resend: 2,
            no_congestion: true,
            send_window: 2048,
            receive_window: 2048,
            stream: true,
            write_delay: false,
        }
    }
}
