//! Draft of a configuration.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};

use super::source::Source;
use crate::config::{Bind, Bytes};

/// Draft of a configuration: settings in the order they are set, and remarks on what is left out.
#[derive(Default)]
pub(super) struct Draft {
    settings: Block,
    remarks: Vec<String>,
    /// Keys that have no equivalent and without which the gateway behaves otherwise.
    missing: Vec<String>,
}

/// Mapping of keys.
#[derive(Default)]
pub(super) struct Block(Vec<(String, Node)>);

enum Node {
    /// Value, as YAML on one line.
    Value(String),
    Block(Block),
    List(Vec<Block>),
}

/// Rule for a setting: its key in the original, and ours.
pub(super) struct Rule {
    pub theirs: &'static str,
    /// Path of our key, with dots.
    pub ours: &'static str,
    pub kind: Kind,
}

impl Rule {
    pub const fn new(theirs: &'static str, ours: &'static str, kind: Kind) -> Self {
        Self { theirs, ours, kind }
    }
}

/// Kind of a value: how the original writes and takes it.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Whole number of seconds.
    Seconds,
    /// Whole number of seconds; our default, which is also the original's, where it is not more
    /// than 0.
    PositiveSeconds,
    /// Whole number of milliseconds, raised to the 10 that KCP waits at the least.
    Interval,
    /// Duration, as Go writes it, or a whole number of seconds.
    GoDuration,
    /// Number of bytes, such as `65536` or `64K`.
    Bytes,
    /// Number of bytes; our default, which is also the original's, where it is not more than
    /// 0.
    PositiveBytes,
    /// Whole number; `otherwise` where it is not more than 0.
    Number {
        otherwise: u32,
    },
    /// Whole number; a negative or missing one changes nothing.
    Count,
    /// Truth value, or a number that is 0 or not.
    Truth,
    Text,
}

impl Draft {
    /// Adds a remark for the reader at the top of the configuration.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// Leaves out a key of the original, with the reason.
    pub fn leave_out(&mut self, key: &str, why: &str) {
        self.remark(format!("{key}: left out: {why}"));
    }

    /// Leaves out a key of the original without which the gateway behaves otherwise.
    pub fn miss(&mut self, key: &str, why: &str) {
        self.remark(format!("{key}: MISSING: {why}"));
        self.missing.push(key.to_owned());
    }

    /// Checks that nothing is missing.
    ///
    /// # Errors
    /// Names the keys that have no equivalent and without which the gateway behaves otherwise.
    pub fn complete(&self) -> anyhow::Result<()> {
        if !self.missing.is_empty() {
            let keys = self.missing.join(", ");
            bail!("{keys}: has no equivalent; the first lines above say what to do");
        }
        Ok(())
    }

    /// Leaves out the rest of the source.
    ///
    /// Keys in `without` have their reasons there; `unknown` is the reason for all others.
    pub fn leave_out_rest(&mut self, mut source: Source, without: &[(&str, &str)], unknown: &str) {
        for (key, why) in without {
            if source.take(key).is_some() {
                self.leave_out(key, why);
            }
        }
        for key in source.rest() {
            self.leave_out(key, unknown);
        }
    }

    pub fn set(&mut self, path: &str, value: impl Into<String>) {
        self.settings.set(path, value);
    }

    pub fn list(&mut self, key: &str, items: Vec<Block>) {
        self.settings.0.push((key.to_owned(), Node::List(items)));
    }

    /// Moves the values that the rules name from the source to the draft.
    ///
    /// # Errors
    /// When a value is not of its kind.
    pub fn apply(&mut self, rules: &[Rule], source: &mut Source) -> anyhow::Result<()> {
        self.settings.apply(rules, source)
    }
}

impl Block {
    pub fn set(&mut self, path: &str, value: impl Into<String>) {
        let (first, rest) = match path.split_once('.') {
            Some((first, rest)) => (first, Some(rest)),
            None => (path, None),
        };
        let Some(rest) = rest else {
            return self.0.push((first.to_owned(), Node::Value(value.into())));
        };
        let at = self.0.iter().position(|(key, _)| key == first);
        let at = at.unwrap_or_else(|| {
            self.0
                .push((first.to_owned(), Node::Block(Self::default())));
            self.0.len() - 1
        });
        if let Node::Block(block) = &mut self.0[at].1 {
            block.set(rest, value);
        }
    }

    /// Moves the values that the rules name from the source to the block. See [`Draft::apply`].
    pub fn apply(&mut self, rules: &[Rule], source: &mut Source) -> anyhow::Result<()> {
        for rule in rules {
            let Some(value) = source.take(rule.theirs) else {
                continue;
            };
            let written = rule.kind.write(&value);
            if let Some(value) = written.with_context(|| rule.theirs.to_owned())? {
                self.set(rule.ours, value);
            }
        }
        Ok(())
    }
}

impl Kind {
    /// Returns the value as our configuration has it; `None` to leave it at its default.
    fn write(self, value: &str) -> anyhow::Result<Option<String>> {
        let number = || whole(value);
        Ok(Some(match self {
            Self::Seconds => format!("{}s", number()?.max(0)),
            Self::PositiveSeconds => match number()? {
                ..=0 => return Ok(None),
                seconds => format!("{seconds}s"),
            },
            Self::Interval => format!("{}ms", number()?.max(10)),
            Self::GoDuration => humantime::format_duration(go_duration(value)?).to_string(),
            Self::Bytes => size(bytes(value)?.max(0)),
            Self::PositiveBytes => match bytes(value)? {
                ..=0 => return Ok(None),
                bytes => size(bytes),
            },
            Self::Number { otherwise } => match number()? {
                ..=0 => otherwise.to_string(),
                number => number.to_string(),
            },
            Self::Count => match number()? {
                ..0 => return Ok(None),
                number => number.to_string(),
            },
            Self::Truth => match value {
                "true" | "True" | "TRUE" | "t" | "T" => "true".to_owned(),
                "false" | "False" | "FALSE" | "f" | "F" => "false".to_owned(),
                _ => (number()? != 0).to_string(),
            },
            Self::Text => text(value),
        }))
    }
}

fn whole(value: &str) -> anyhow::Result<i64> {
    value
        .parse()
        .with_context(|| format!("`{value}` is no whole number"))
}

/// Parses a number of bytes, with a binary unit or none.
fn bytes(value: &str) -> anyhow::Result<i64> {
    let digits = value.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let unit: i64 = match value[digits.len()..].to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "k" | "kb" | "kib" => 1 << 10,
        "m" | "mb" | "mib" => 1 << 20,
        "g" | "gb" | "gib" => 1 << 30,
        _ => bail!("`{value}` is no size"),
    };
    let number = whole(digits.trim_end())?;
    number
        .checked_mul(unit)
        .with_context(|| format!("`{value}` is too large"))
}

fn size(bytes: i64) -> String {
    Bytes(usize::try_from(bytes).unwrap_or(0)).to_string()
}

/// Returns a string as YAML, in quotes where it might be taken for something else.
pub(super) fn text(value: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_./".contains(c);
    let is_word = value.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
    let has_meaning = ["true", "false", "null", "yes", "no", "on", "off", "y", "n"];
    if is_word
        && value.chars().all(is_plain)
        && !has_meaning.contains(&value.to_ascii_lowercase().as_str())
    {
        return value.to_owned();
    }
    serde_json::Value::from(value).to_string()
}

/// Returns a list of the binds that Go listens on for these addresses, each with its transport.
///
/// An address without a host is a bind of both families.
///
/// # Errors
/// When one is no address, or has to be looked up.
pub(super) fn binds(addrs: &[(&str, &str)]) -> anyhow::Result<String> {
    let mut all = Vec::new();
    for (transport, addr) in addrs {
        let binds = binds_of(transport, addr);
        all.extend(binds.with_context(|| (*transport).to_owned())?);
    }
    Ok(format!("[{}]", all.join(", ")))
}

fn binds_of(transport: &str, addr: &str) -> anyhow::Result<Vec<String>> {
    let Some((host, port)) = addr.rsplit_once(':') else {
        bail!("`{addr}` is no address with a port");
    };
    let hosts: &[&str] = match host {
        "" => &["0.0.0.0", "[::]"],
        "localhost" => &["127.0.0.1"],
        host => &[host],
    };
    hosts
        .iter()
        .map(|host| {
            let bind = format!("{transport}://{host}:{port}");
            let bind: Bind = bind.parse().map_err(anyhow::Error::msg)?;
            Ok(format!("\"{bind}\""))
        })
        .collect()
}

/// Parses numbers with units, such as `1m30s` or `1.5s`, or a whole number of seconds; a negative
/// duration counts as zero.
fn go_duration(value: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("`{value}` is no duration");
    if value.starts_with('-') {
        return Ok(Duration::ZERO);
    }
    if let Ok(seconds) = value.parse() {
        return Ok(Duration::from_secs(seconds));
    }
    let mut total = 0.0;
    let mut rest = value.strip_prefix('+').unwrap_or(value);
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .with_context(wrong)?;
        let (number, behind) = rest.split_at(digits);
        let unit_len = behind
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(behind.len());
        let (unit, behind) = behind.split_at(unit_len);
        let seconds = match unit {
            "ns" => 1e-9,
            "us" | "µs" => 1e-6,
            "ms" => 1e-3,
            "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => bail!(wrong()),
        };
        total += number.parse::<f64>().with_context(wrong)? * seconds;
        rest = behind;
    }
    Duration::try_from_secs_f64(total).with_context(wrong)
}

impl fmt::Display for Draft {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for remark in &self.remarks {
            for line in remark.lines() {
                writeln!(f, "# {line}")?;
            }
        }
        for (key, node) in &self.settings.0 {
            let Node::List(items) = node else {
                writeln!(f, "{key}: {node}")?;
                continue;
            };
            writeln!(f, "{key}:")?;
            for item in items {
                writeln!(f, "  - {item}")?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Node {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Value(value) => f.write_str(value),
            Self::Block(block) => block.fmt(f),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Block::to_string).collect();
                write!(f, "[{}]", items.join(", "))
            }
        }
    }
}

impl fmt::Display for Block {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pairs: Vec<_> = self
            .0
            .iter()
            .map(|(key, node)| format!("{key}: {node}"))
            .collect();
        write!(f, "{{{}}}", pairs.join(", "))
    }
}
