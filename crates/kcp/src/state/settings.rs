//! What a session is set to.

use std::time::Duration;

/// Sets the state machine of one session. The defaults are those of goscon, a gateway on kcp-go.
///
/// Each end of a session has settings of its own. [`Kcp::new`](crate::Kcp::new) lifts values no
/// session could work with to the least that can, and cuts others to the most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Limits the bytes of a datagram sent, not counting the headers of IP and UDP: 128 to 1,500,
    /// as no kcp-go peer takes more. What layers below add, such as the header of error
    /// correction, is theirs to leave out; a [`Config`](crate::Config) does.
    pub mtu: u16,
    /// Lowers the least retransmission timeout from 100 ms to 30 ms, and has it grow by half
    /// instead of the whole with each repeat.
    pub nodelay: bool,
    /// Limits the delay of an acknowledgement, and of data under `write_delay`: 1 ms to a minute.
    pub interval: Duration,
    /// Counts the later segments that have to be acknowledged for one to be sent again, at most 8;
    /// 0 turns that off.
    pub resend: u8,
    /// Sends as fast as the windows allow, whatever is lost (kcp-go's `nc`).
    pub no_congestion: bool,
    /// Limits the segments written and not yet acknowledged; at least 1.
    pub send_window: u16,
    /// Limits the segments received and not yet read; at least 1. Peers are told what is left of
    /// it.
    pub receive_window: u16,
    /// Fills segments across writes; otherwise each write is a message of its own.
    pub stream: bool,
    /// Holds data back for up to `interval` to fill segments, instead of sending at once.
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
