//! The limits of a listener by name.

/// What limits connections.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// Sessions of the listener, and handshakes besides.
    Connections,
    /// The same of one source.
    PerSource,
    /// Connections of one source in a second.
    NewPerSecond,
    /// Connections in their handshakes.
    Handshakes,
    /// The process has no descriptor left: connections wait. What is counted are the pauses.
    Descriptors,
}

impl Limit {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::Connections,
        Self::PerSource,
        Self::NewPerSecond,
        Self::Handshakes,
        Self::Descriptors,
    ];

    /// A stable label for logs and metrics.
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
