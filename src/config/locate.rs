//! Lines of the configuration file by key path.
//!
//! The types that a file is read into carry no positions. When something is wrong with what they
//! say together, the file is read once more, for the positions alone.

use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_yaml::Spanned;

/// The line (from 1) of the value at a path such as `listeners[0].bind[1]`, where there is one;
/// the empty path is the whole file.
pub(super) fn line_of(text: &str, path: &str) -> Option<u64> {
    let mut node: Spanned<Node> = serde_yaml::from_str(text).ok()?;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let children = node.value.0;
        let step = step.strip_suffix(']').unwrap_or(step);
        (_, node) = children.into_iter().find(|(key, _)| key == step)?;
    }
    Some(node.referenced.line())
}

/// The children of a value: by key in a map, by index in a list, none in a scalar.
struct Node(Vec<(String, Spanned<Node>)>);

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Takes any scalar as a value without children.
macro_rules! leaves {
    ($($visit:ident($type:ty))*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Node, E> {
            Ok(Node(Vec::new()))
        })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    leaves!(visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64) visit_str(&str));

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node(Vec::new()))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut children = Vec::new();
        while let Some(child) = map.next_entry()? {
            children.push(child);
        }
        Ok(Node(children))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut children = Vec::new();
        while let Some(child) = seq.next_element()? {
            children.push((children.len().to_string(), child));
        }
        Ok(Node(children))
    }
}
