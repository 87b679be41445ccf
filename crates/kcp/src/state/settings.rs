//! What a session is set to, and what it counts.

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

/// Counters of one session since it began, named after kcp-go's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Stats {
    /// Payload bytes taken by `write`.
    pub bytes_sent: u64,
    /// Payload bytes given to the reader.
    pub bytes_received: u64,
    /// Datagrams in and out, and their bytes.
    pub in_pkts: u64,
    pub out_pkts: u64,
    pub in_bytes: u64,
    pub out_bytes: u64,
    /// Segments in and out, of every command.
    pub in_segs: u64,
    pub out_segs: u64,
    /// Segments sent again for any of the next three reasons.
    pub retrans_segs: u64,
    /// Sent again because enough later segments were acknowledged.
    pub fast_retrans_segs: u64,
    /// Sent again because one later segment was acknowledged and nothing new could be sent.
    pub early_retrans_segs: u64,
    /// Sent again because their timeout passed.
    pub lost_segs: u64,
    /// Received more than once, or beyond the window.
    pub repeat_segs: u64,
    /// Datagrams refused, wholly or from some segment on.
    pub in_errs: u64,
}
