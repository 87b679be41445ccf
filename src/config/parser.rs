//! Options of the YAML parser.

use serde_yaml as yaml;

/// Returns the parser's options for a text of `len` bytes.
///
/// A file may contain as much as its size allows. Limits are for what exceeds that: the depth of
/// the stack, and what aliases make of a text of this length.
pub(crate) fn options(len: usize) -> yaml::Options {
    yaml::options! {
        with_snippet: false,
        emit_comments: false,
        reject_unsupported_tags: true,
        alias_limits: yaml::alias_limits! {
            // Events: scalars, and beginnings and ends of lists and blocks.
            max_total_replayed_events: 1_000_000 + 100 * len,
        },
        budget: yaml::budget! {
            max_events: usize::MAX,
            max_aliases: usize::MAX,
            max_anchors: usize::MAX,
            max_recorded_anchor_events: usize::MAX,
            max_recorded_anchor_bytes: usize::MAX,
            max_nodes: usize::MAX,
            max_total_scalar_bytes: usize::MAX,
            max_merge_keys: usize::MAX,
            enforce_alias_anchor_ratio: false,
        },
    }
}
