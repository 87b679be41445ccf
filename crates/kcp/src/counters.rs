//! What is counted: each counter is declared once, here.

use std::ops::AddAssign;

/// One counter: its value, and what it is called and shown as.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Metric {
    /// Names it in snake case, without a unit of time or a suffix for its kind.
    pub name: &'static str,
    /// Says what is counted, in one line.
    pub help: &'static str,
    /// Tells whether it only grows.
    pub kind: MetricKind,
    /// Names it in the manner of kcp-go's `Snmp`; `None` for what is told nowhere there.
    pub snmp: Option<&'static str>,
    /// Holds the count.
    pub value: u64,
}

/// Whether a [`Metric`] only grows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down, or is no sum.
    Gauge,
}

/// Declares structs of counts. Of each field: its documentation, which is also the help of its
/// [`Metric`], its kind, and kcp-go's name for it in brackets. Fields after `with` are structs of
/// counts themselves, which are summed and shown as well.
macro_rules! counts {
    ($(
        $(#[$meta:meta])*
        pub struct $type:ident, named $prefix:literal {
            $( $(#[doc = $help:literal])+ $field:ident: $kind:ident [$($snmp:literal)?], )*
        }
        $( with { $( $(#[doc = $more_help:literal])+ $more:ident: $more_type:ident, )+ } )?
    )+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct $type {
            $( $(#[doc = $help])+ pub $field: u64, )*
            $($( $(#[doc = $more_help])+ pub $more: $more_type, )+)?
        }

        impl $type {
            /// Gives all counts by their names, in the order of their declaration.
            pub fn metrics(&self) -> impl Iterator<Item = Metric> + use<> {
                let metrics = [$( Metric {
                    name: concat!($prefix, stringify!($field)),
                    help: concat!($($help),+).trim_ascii(),
                    kind: MetricKind::$kind,
                    snmp: None$(.or(Some($snmp)))?,
                    value: self.$field,
                } ),*];
                metrics.into_iter()$($( .chain(self.$more.metrics()) )+)?
            }
        }

        impl AddAssign for $type {
            fn add_assign(&mut self, other: Self) {
                $( self.$field += other.$field; )*
                $($( self.$more += other.$more; )+)?
            }
        }
    )+};
}

counts! {
    /// Counts what one session, or several together, sent and received.
    pub struct Stats, named "" {
        /// Payload bytes taken to be sent over KCP.
        sent_bytes: Counter ["BytesSent"],
        /// Payload bytes received over KCP and read.
        received_bytes: Counter ["BytesReceived"],
        /// Datagrams received.
        in_datagrams: Counter ["InPkts"],
        /// Datagrams sent.
        out_datagrams: Counter ["OutPkts"],
        /// Bytes of datagrams received.
        in_datagram_bytes: Counter ["InBytes"],
        /// Bytes of datagrams sent.
        out_datagram_bytes: Counter ["OutBytes"],
        /// KCP segments received, of every command.
        in_segments: Counter ["InSegs"],
        /// KCP segments sent, of every command.
        out_segments: Counter ["OutSegs"],
        /// KCP segments sent again, for any of the next three reasons.
        retransmitted_segments: Counter ["RetransSegs"],
        /// KCP segments sent again because enough later ones were acknowledged.
        fast_retransmitted_segments: Counter ["FastRetransSegs"],
        /// KCP segments sent again because one later one was acknowledged and nothing new could be
        /// sent.
        early_retransmitted_segments: Counter ["EarlyRetransSegs"],
        /// KCP segments sent again because they were not acknowledged in time.
        lost_segments: Counter ["LostSegs"],
        /// KCP segments received more than once, or beyond the window.
        repeated_segments: Counter ["RepeatSegs"],
        /// Datagrams that a KCP connection refused, wholly or from some segment on.
        in_errors: Counter ["KCPInErrors"],
    }

    /// Counts what forward error correction did on the receiving side.
    pub struct FecStats, named "fec_" {
        /// Payloads recovered by forward error correction.
        recovered: Counter ["FECRecovered"],
        /// Shards refused by forward error correction, and recovered ones that cannot be.
        errors: Counter ["FECErrs"],
        /// Parity shards received, useless ones included.
        parity_shards: Counter ["FECParityShards"],
        /// Shards of groups that lacked too many to recover anything.
        short_shards: Counter ["FECShortShards"],
    }

    /// Sums up the sessions of one or more sockets, ended ones included, as kcp-go's `Snmp` does.
    /// (Its checksum errors belong to its encryption.)
    pub struct Counters, named "" {
        /// KCP connections, those that only deliver their last bytes included.
        connections: Gauge ["CurrEstab"],
        /// The most KCP connections there were at once; over several sockets, the sum of what each
        /// had.
        connections_max: Gauge ["MaxConn"],
        /// KCP peers that have been challenged and have not answered yet, as far as something is
        /// kept of them.
        half_open: Gauge [],
        /// KCP connections opened from here.
        active_opens: Counter ["ActiveOpens"],
        /// KCP connections opened by peers.
        passive_opens: Counter ["PassiveOpens"],
        /// KCP peers given up for newer ones before they had answered, or that answered when there
        /// was no room; they come in with what they send next.
        refused_opens: Counter [],
        /// Datagrams of no KCP connection that open none, dropped.
        stranger_datagrams: Counter ["Strangers"],
    }
    with {
        /// The sums of what the sessions sent and received.
        stats: Stats,
        /// The sums of what their forward error correction did.
        fec: FecStats,
    }
}

impl Counters {
    /// Adds what a session has counted.
    pub(crate) fn add_session(&mut self, stats: &Stats, fec: Option<&FecStats>) {
        self.stats += *stats;
        self.fec += fec.copied().unwrap_or_default();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_count_is_shown_under_a_name_of_its_own() {
        let mut counters = Counters {
            half_open: 3,
            ..Counters::default()
        };
        counters.stats.lost_segments = 5;
        counters.fec.errors = 7;
        counters += counters;
        let metrics: Vec<_> = counters.metrics().collect();
        let value = |name| {
            let metric = metrics.iter().find(|metric| metric.name == name);
            metric.map(|metric| (metric.value, metric.kind, metric.snmp))
        };
        assert_eq!(value("half_open"), Some((6, MetricKind::Gauge, None)));
        let lost = (10, MetricKind::Counter, Some("LostSegs"));
        assert_eq!(value("lost_segments"), Some(lost));
        let errors = (14, MetricKind::Counter, Some("FECErrs"));
        assert_eq!(value("fec_errors"), Some(errors));
        let names: BTreeSet<_> = metrics.iter().map(|metric| metric.name).collect();
        let snmp: BTreeSet<_> = metrics.iter().filter_map(|metric| metric.snmp).collect();
        assert_eq!((metrics.len(), names.len(), snmp.len()), (25, 25, 23));
        assert_eq!(size_of::<Counters>(), 25 * size_of::<u64>());
        for metric in metrics {
            assert!(metric.help.ends_with('.') && !metric.help.contains(['\n', '`', '[']));
        }
    }
}
