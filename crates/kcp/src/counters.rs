//! What the sessions of a bind count together.

use std::ops::AddAssign;

use crate::fec;
use crate::state::Stats;

/// Totals of the sessions of one or more sockets, ended ones included, as kcp-go's snmp has them.
/// (Its checksum errors belong to its encryption.)
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counters {
    /// Sessions there are, those that only deliver their last bytes included.
    pub established: u64,
    /// The most sessions there were at once. Over several sockets: the sum of what each had.
    pub max_established: u64,
    /// Sessions opened from here, and by peers.
    pub active_opens: u64,
    pub passive_opens: u64,
    /// Peers that have not shown yet that they receive what is sent to them, as far as something
    /// is kept of them.
    pub half_open: u64,
    /// Peers given up for newer ones before they had shown it, and those that had when there was
    /// no room for their session. They come in with what they send next.
    pub refused_opens: u64,
    /// Datagrams of no session that open none, dropped. Those refused by a session are in
    /// [`Stats::in_errs`].
    pub strangers: u64,
    /// Sums over the sessions.
    pub stats: Stats,
    /// Forward error correction: payloads recovered, datagrams it refused, parity received, and
    /// shards of groups that lacked too many.
    pub fec_recovered: u64,
    pub fec_errors: u64,
    pub fec_parity_shards: u64,
    pub fec_short_shards: u64,
}

impl Counters {
    pub(super) fn add_session(&mut self, stats: &Stats, fec: Option<&fec::Counters>) {
        self.stats += *stats;
        if let Some(fec) = fec {
            self.fec_recovered += fec.recovered;
            self.fec_errors += fec.errors;
            self.fec_parity_shards += fec.parity_shards;
            self.fec_short_shards += fec.short_shards;
        }
    }
}

/// Adds field by field.
macro_rules! sums {
    ($type:ident: $($field:ident),* $(,)?) => {
        impl AddAssign for $type {
            fn add_assign(&mut self, other: Self) {
                let $type { $($field),* } = other;
                $(self.$field += $field;)*
            }
        }
    };
}

sums! {
    Counters: established, max_established, active_opens, passive_opens, half_open, refused_opens,
    strangers, stats, fec_recovered, fec_errors, fec_parity_shards, fec_short_shards,
}

sums! {
    Stats: bytes_sent, bytes_received, in_pkts, out_pkts, in_bytes, out_bytes, in_segs, out_segs,
    retrans_segs, fast_retrans_segs, early_retrans_segs, lost_segs, repeat_segs, in_errs,
}
