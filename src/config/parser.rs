//! How YAML is read.

use serde_yaml as yaml;

/// The parser's options for a text of `len` bytes. Whoever wrote the file may write as much as it holds; limits are for what is
/// more than that, the depth of the stack and what aliases make of a text of this length.
pub(crate) fn options(len: usize) -> yaml::Options {
    yaml::options! {
        with_snippet: false,
        emit_comments: false,
        reject_unsupported_tags: true,
        alias_limits: yaml::alias_limits! {
            // Scalars, and beginnings and ends of lists and blocks.
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
