//! Names of a listener's limits.

/// Limit that refuses connections or makes them wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Sessions of the listener, and separately as many handshakes.
    Connections,
    /// Sessions of one source (an IPv4 address or an IPv6 /64), and separately as many handshakes.
    PerSource,
    /// New connections of one source in a second.
    NewPerSecond,
    /// Connections in their handshakes.
    Handshakes,
    /// Descriptors of the process. Without a free one accepting pauses; the pauses are counted, not
    /// the connections.
    Descriptors,
}

impl Limit {
    /// All limits.
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::PerSource,
        Self::NewPerSecond,
        Self::Handshakes,
        Self::Descriptors,
    ];

    /// Returns a stable label for logs and metrics.
    pub fn label(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::PerSource => "per_source",
            Self::NewPerSecond => "new_per_second",
            Self::Handshakes => "handshakes",
            Self::Descriptors => "descriptors",
        }
    }
}
