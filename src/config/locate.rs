//! Lines of the configuration file by key path.
//!
//! The types that a file is read into carry no positions. When their values contradict each other,
//! the file is read once more, for the positions alone.

use std::fmt;
use std::mem;

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Value};
use serde_yaml::Spanned;
use serde_yaml::options::NonFiniteFloatPolicy;

use super::parser::options;

/// Returns the line (from 1) of the value at a path such as `listeners[0].bind[1]`, or of the block
/// where that value is missing.
///
/// The empty path is the whole file.
pub(super) fn line_of(text: &str, path: &str) -> Option<u64> {
    let mut node = parse(text)?;
    for step in path.split(['.', '[']).filter(|step| !step.is_empty()) {
        let step = step.strip_suffix(']').unwrap_or(step);
        let mut children = mem::take(&mut node.value.children).into_iter();
        match children.find(|(key, _)| key == step) {
            Some((_, child)) => node = child,
            None => break,
        }
    }
    Some(node.referenced.line())
}

/// Returns the path and the line of the first value that has a variable such as `${NAME}` in it.
pub(super) fn variable(text: &str) -> Option<(String, u64)> {
    let has_variable = |node: &Spanned<Node>| node.value.has_variable;
    let (path, node) = first(parse(text)?, has_variable)?;
    Some((path, node.referenced.line()))
}

/// Returns the path of the value that begins at a position, whatever its tag is.
pub(super) fn path_at(text: &str, line: u64, column: u64) -> Option<String> {
    let is_there =
        |node: &Spanned<Node>| (node.defined.line(), node.defined.column()) == (line, column);
    let (path, _) = first(parse(text)?, is_there)?;
    Some(path)
}

/// Returns the first value that fits, with its path.
fn first(
    tree: Spanned<Node>,
    fits: impl Fn(&Spanned<Node>) -> bool,
) -> Option<(String, Spanned<Node>)> {
    let mut left = vec![(String::new(), tree)];
    while let Some((path, node)) = left.pop() {
        if fits(&node) {
            return Some((path, node));
        }
        let is_list = node.value.is_list;
        let children = node.value.children.into_iter().map(|(key, child)| {
            let path = match (path.as_str(), is_list) {
                (path, true) => format!("{path}[{key}]"),
                ("", false) => key,
                (path, false) => format!("{path}.{key}"),
            };
            (path, child)
        });
        left.extend(children.rev());
    }
    None
}

/// Restores strings of digits behind a 0, such as 007, in the `config` of hooks.
///
/// The reader takes such strings for numbers.
pub(super) fn restore_digits<'a>(
    text: &str,
    configs: impl Iterator<Item = &'a mut Map<String, Value>>,
) {
    let mut tree = None;
    for (at, config) in configs.enumerate() {
        if !config.values().any(has_round_number) {
            continue;
        }
        let tree = tree.get_or_insert_with(|| parse(text));
        let hooks = tree.as_ref().and_then(|tree| tree.value.child("hooks"));
        let hook = hooks.and_then(|hooks| hooks.value.child(&at.to_string()));
        if let Some(node) = hook.and_then(|hook| hook.value.child("config")) {
            restore_in(text, config, &node.value);
        }
    }
}

fn restore_in(text: &str, map: &mut Map<String, Value>, node: &Node) {
    for (key, child) in &node.children {
        if let Some(value) = map.get_mut(key) {
            restore(text, value, child);
        }
    }
}

fn restore(text: &str, value: &mut Value, node: &Spanned<Node>) {
    match value {
        Value::Array(items) => {
            for (item, (_, child)) in items.iter_mut().zip(&node.value.children) {
                restore(text, item, child);
            }
        }
        Value::Object(map) => restore_in(text, map, &node.value),
        value if has_round_number(value) => {
            if let Some(digits) = source(text, node).filter(|source| is_no_number(source)) {
                *value = digits.into();
            }
        }
        _ => {}
    }
}

/// Returns the text of a scalar in the file.
fn source<'a>(text: &'a str, node: &Spanned<Node>) -> Option<&'a str> {
    let span = node.defined.span();
    let begin = usize::try_from(span.byte_offset()?).ok()?;
    let len = usize::try_from(span.byte_len()?).ok()?;
    text.get(begin..begin.checked_add(len)?).map(str::trim_end)
}

/// Returns whether a scalar is several digits of which the first is 0, with or without a sign.
fn is_no_number(scalar: &str) -> bool {
    let digits = scalar.strip_prefix(['-', '+']).unwrap_or(scalar);
    digits.len() > 1 && digits.starts_with('0') && digits.bytes().all(|b| b.is_ascii_digit())
}

fn has_round_number(value: &Value) -> bool {
    match value {
        Value::Array(items) => items.iter().any(has_round_number),
        Value::Object(map) => map.values().any(has_round_number),
        Value::Number(number) if number.is_f64() => {
            number.as_f64().is_some_and(|number| number.fract() == 0.0)
        }
        _ => false,
    }
}

/// Parses a file with its positions. Accepts more than the reader does, to locate the reader's
/// errors.
fn parse(text: &str) -> Option<Spanned<Node>> {
    let mut options = options(text.len());
    options.non_finite_float_policy = NonFiniteFloatPolicy::AsString;
    options.reject_unsupported_tags = false;
    serde_yaml::from_str_with_options(text, options).ok()
}

/// Value with its children: by key in a map, by index in a list, none in a scalar.
#[derive(Default)]
struct Node {
    children: Vec<(String, Spanned<Node>)>,
    is_list: bool,
    has_variable: bool,
}

impl Node {
    fn child(&self, key: &str) -> Option<&Spanned<Node>> {
        let mut children = self.children.iter();
        let child = children.find(|(name, _)| name == key);
        child.map(|(_, child)| child)
    }
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(NodeVisitor)
    }
}

struct NodeVisitor;

/// Implements visitor methods that take any scalar as a value without children.
macro_rules! leaves {
    ($($visit:ident($type:ty))*) => {
        $(fn $visit<E>(self, _: $type) -> Result<Node, E> {
            Ok(Node::default())
        })*
    };
}

impl<'de> Visitor<'de> for NodeVisitor {
    type Value = Node;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    leaves!(visit_bool(bool) visit_i64(i64) visit_u64(u64) visit_f64(f64));

    fn visit_str<E>(self, text: &str) -> Result<Node, E> {
        // In a regular expression, `$` may be an end and the braces a repetition.
        let is_name = |rest: &str| !rest.starts_with(|c: char| c.is_ascii_digit() || c == ',');
        Ok(Node {
            has_variable: text.split("${").skip(1).any(is_name),
            ..Node::default()
        })
    }

    fn visit_unit<E>(self) -> Result<Node, E> {
        Ok(Node::default())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Node, A::Error> {
        let mut node = Node::default();
        while let Some(child) = map.next_entry()? {
            node.children.push(child);
        }
        Ok(node)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Node, A::Error> {
        let mut node = Node {
            is_list: true,
            ..Node::default()
        };
        while let Some(child) = seq.next_element()? {
            node.children.push((node.children.len().to_string(), child));
        }
        Ok(node)
    }
}
