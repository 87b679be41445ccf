//! What listeners and streams are set to.

use std::time::Duration;

use crate::fec::{self, Shape};
use crate::state::Settings;
use crate::state::segment::PEER_DATAGRAM_LIMIT;

/// Longer read timeouts are cut to this.
const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Configures a [`Listener`](crate::Listener) and its sessions, or a connected
/// [`Stream`](crate::Stream). The defaults are those of goscon, a gateway on kcp-go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Config {
    /// Sets the state machine of each session.
    pub session: Settings,
    /// Limits the time without data after which a session counts as broken; `None` is forever, and
    /// the most is a year. KCP has no other sign of a dead peer.
    pub read_timeout: Option<Duration>,
    /// Turns on forward error correction of that shape. A peer that connects must have the same; a
    /// listener takes peers without any, too.
    pub fec: Option<Shape>,
    /// Sizes the receive buffer of each socket, in bytes, as far as the system grants it.
    pub read_buffer: usize,
    /// Sizes the send buffer of each socket, in bytes, as far as the system grants it.
    pub write_buffer: usize,
    /// Counts the sockets that share a listener's port; 0 is one for each processor.
    pub reuseport: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            session: Settings::default(),
            read_timeout: Some(Duration::from_secs(60)),
            fec: None,
            read_buffer: 4 * 1024 * 1024,
            write_buffer: 4 * 1024 * 1024,
            reuseport: 0,
        }
    }
}

impl Config {
    /// The settings of a session's state machine, to which the header of error correction leaves
    /// so much less of each datagram.
    pub(crate) fn settings(&self) -> Settings {
        let header = self.fec.map_or(0, |_| fec::HEADER as u16);
        let mtu = self.session.mtu.min(PEER_DATAGRAM_LIMIT as u16);
        Settings {
            mtu: mtu.saturating_sub(header),
            ..self.session.clone()
        }
    }

    /// Milliseconds without data that break a session.
    pub(crate) fn silence(&self) -> Option<u64> {
        let limit = self.read_timeout?.min(YEAR);
        Some(limit.as_millis() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_datagram_is_longer_than_peers_take() {
        let mtu = |mtu, fec| {
            let config = Config {
                session: Settings {
                    mtu,
                    ..Settings::default()
                },
                fec,
                ..Config::default()
            };
            config.settings().mtu
        };
        let fec = Shape::new(10, 3).ok();
        assert_eq!((mtu(1_400, None), mtu(1_400, fec)), (1_400, 1_392));
        assert_eq!((mtu(9_000, None), mtu(9_000, fec)), (1_500, 1_492));
        assert_eq!(mtu(0, fec), 0);
    }

    #[test]
    fn read_timeouts_have_an_end() {
        let silence = |read_timeout| {
            let config = Config {
                read_timeout,
                ..Config::default()
            };
            config.silence()
        };
        assert_eq!(silence(None), None);
        assert_eq!(silence(Some(Duration::from_secs(3))), Some(3_000));
        let year = 365 * 24 * 60 * 60 * 1_000;
        assert_eq!(silence(Some(Duration::MAX)), Some(year));
    }
}
