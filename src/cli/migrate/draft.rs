//! A configuration that is being written.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, bail};

use super::source::Source;
use crate::config::{Bind, Bytes};

/// The text of a configuration: what is set, in the order it is set, and what could not be.
#[derive(Default)]
pub(super) struct Draft {
    settings: Block,
    remarks: Vec<String>,
}

/// A mapping of keys.
#[derive(Default)]
pub(super) struct Block(Vec<(String, Node)>);

enum Node {
    /// YAML on one line.
    Value(String),
    Block(Block),
    List(Vec<Block>),
}

/// A setting of an original, and where it goes.
pub(super) struct Rule {
    pub theirs: &'static str,
    /// The path of the key, with dots.
    pub ours: &'static str,
    pub kind: Kind,
}

impl Rule {
    pub const fn new(theirs: &'static str, ours: &'static str, kind: Kind) -> Self {
        Self { theirs, ours, kind }
    }
}

/// How an original writes a value, and what it takes it for.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// A whole number of seconds.
    Seconds,
    /// The same; the original's default where it is not more than 0, which is also ours.
    PositiveSeconds,
    /// A whole number of milliseconds, raised to the 10 that KCP waits at the least.
    Interval,
    /// A duration as Go writes it.
    GoDuration,
    /// A whole number of bytes.
    Bytes,
    /// The same; the original's default where it is not more than 0, which is also ours.
    PositiveBytes,
    /// A whole number, taken for this one where it is not more than 0.
    Number {
        otherwise: u32,
    },
    /// A whole number; whatever is less than 0 or not there changes nothing.
    Count,
    /// A truth value, or a number that is 0 or not.
    Truth,
    Text,
}

impl Draft {
    /// Says at the top of the configuration what its reader must know.
    pub fn remark(&mut self, remark: impl Into<String>) {
        self.remarks.push(remark.into());
    }

    /// The key of an original is left out, for that reason.
    pub fn leave_out(&mut self, key: &str, why: &str) {
        self.remark(format!("{key}: left out: {why}"));
    }

    /// Leaves out what the source still has: what is in `without` for the reason given there, all
    /// else because it is `unknown`.
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

    /// Takes what the rules name out of the source.
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

    /// As [`Draft::apply`].
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
    /// The value as our configuration has it; `None` if it is to be left at its default.
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
            Self::Bytes => size(number()?.max(0)),
            Self::PositiveBytes => match number()? {
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

fn size(bytes: i64) -> String {
    Bytes(usize::try_from(bytes).unwrap_or(0)).to_string()
}

/// A string as YAML, in quotes where it might be taken for something else.
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

/// A list of the binds that Go listens on when told these addresses, each for a transport: of both
/// families where one names no host.
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

/// Numbers with units, such as `1m30s` or `1.5s`; what is less than nothing is nothing.
fn go_duration(value: &str) -> anyhow::Result<Duration> {
    let wrong = || format!("`{value}` is no duration");
    if value == "0" || value.starts_with('-') {
        return Ok(Duration::ZERO);
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
