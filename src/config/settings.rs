//! Notation of values in the file: durations and sizes with their units, numbers within a range,
//! and blocks of settings whose keys may be left out.

use std::fmt;
use std::time::Duration;

use bytesize::ByteSize;
use regex::Regex;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::machine;

/// Default of the most processor time that loading a hook may take.
pub(crate) const LOAD_TIMEOUT: Duration = Duration::from_secs(5);

/// Spelling of a `T` in the file. Reading checks the spelling, so that a `T` from a file is valid.
pub(super) trait Spelling<T> {
    fn value(self) -> T;
    fn of(value: &T) -> Self;
}

impl<T, S: Spelling<T>> Spelling<Option<T>> for Option<S> {
    fn value(self) -> Option<T> {
        self.map(S::value)
    }

    fn of(value: &Option<T>) -> Self {
        value.as_ref().map(S::of)
    }
}

/// Implements types as their own spelling.
macro_rules! spelled_as_is {
    ($($type:ty),* $(,)?) => {$(
        impl $crate::config::settings::Spelling<$type> for $type {
            fn value(self) -> $type {
                self
            }

            fn of(value: &$type) -> Self {
                value.clone()
            }
        }
    )*};
}
pub(super) use spelled_as_is;

spelled_as_is!(bool, String);

/// Defines a block of settings from one list of `field: Type as Spelling = default`.
///
/// The block is two structs: the valid values, and a patch with the keys that a file sets, to be
/// laid over a base.
macro_rules! settings {
    ($(
        $(#[$meta:meta])*
        pub struct $name:ident / $patch:ident {$(
            $(#[$doc:meta])*
            $field:ident: $type:ty as $spelling:ty = $default:expr,
        )*}
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, documented::Documented, documented::DocumentedFields)]
        pub struct $name {
            $($(#[$doc])* pub $field: $type,)*
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $($field: $default,)* }
            }
        }

        #[derive(Default, serde::Serialize, serde::Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub(super) struct $patch {
            $($field: Option<$spelling>,)*
        }

        impl $patch {
            pub(super) fn over(self, base: $name) -> $name {
                $name { $($field: self.$field.map_or(base.$field, Spelling::value),)* }
            }
        }

        impl<'de> serde::Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                $patch::deserialize(deserializer).map(|patch| patch.over(Self::default()))
            }
        }

        impl serde::Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                $patch { $($field: Some(Spelling::of(&self.$field)),)* }.serialize(serializer)
            }
        }
    )*};
}
pub(super) use settings;

/// Reads a single field by its spelling, for `deserialize_with`.
pub(super) fn read<'de, S, T, D>(deserializer: D) -> Result<T, D::Error>
where
    S: Spelling<T> + Deserialize<'de>,
    D: Deserializer<'de>,
{
    S::deserialize(deserializer).map(S::value)
}

/// Writes a single field by its spelling, for `serialize_with`.
pub(super) fn write<S, T, O>(value: &T, serializer: O) -> Result<O::Ok, O::Error>
where
    S: Spelling<T> + Serialize,
    O: Serializer,
{
    S::of(value).serialize(serializer)
}

/// Longest duration, in seconds; far beyond it, adding to an instant would overflow.
pub(super) const YEAR: u64 = 365 * 86_400;

/// A duration above zero, such as `30s` or `1m 30s`; at most 365 days.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Timeout(Duration);

impl TryFrom<String> for Timeout {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let duration = parse_duration(&text)?;
        if duration.is_zero() || duration > Duration::from_secs(YEAR) {
            return Err(format!("`{text}` must be more than 0s, at most 365days"));
        }
        Ok(Self(duration))
    }
}

impl From<Timeout> for String {
    fn from(timeout: Timeout) -> Self {
        humantime::format_duration(timeout.0).to_string()
    }
}

impl Spelling<Duration> for Timeout {
    fn value(self) -> Duration {
        self.0
    }

    fn of(value: &Duration) -> Self {
        Self(*value)
    }
}

/// `0s` for "off", or a duration from `MIN` milliseconds to `MAX` seconds.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct OffOr<const MIN: u64, const MAX: u64>(Option<Duration>);

impl<const MIN: u64, const MAX: u64> TryFrom<String> for OffOr<MIN, MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let duration = parse_duration(&text)?;
        if duration.is_zero() {
            return Ok(Self(None));
        }
        let min = Duration::from_millis(MIN);
        if duration < min || duration > Duration::from_secs(MAX) {
            let min = humantime::format_duration(min);
            return Err(format!("`{text}` must be {min} to {MAX}s, or 0s for off"));
        }
        Ok(Self(Some(duration)))
    }
}

impl<const MIN: u64, const MAX: u64> From<OffOr<MIN, MAX>> for String {
    fn from(value: OffOr<MIN, MAX>) -> Self {
        humantime::format_duration(value.0.unwrap_or_default()).to_string()
    }
}

impl<const MIN: u64, const MAX: u64> Spelling<Option<Duration>> for OffOr<MIN, MAX> {
    fn value(self) -> Option<Duration> {
        self.0
    }

    fn of(value: &Option<Duration>) -> Self {
        Self(*value)
    }
}

/// A duration from `MIN` to `MAX` milliseconds.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Span<const MIN: u64, const MAX: u64>(Duration);

impl<const MIN: u64, const MAX: u64> TryFrom<String> for Span<MIN, MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let duration = parse_duration(&text)?;
        let bounds = [MIN, MAX].map(Duration::from_millis);
        if !(bounds[0]..=bounds[1]).contains(&duration) {
            let [min, max] = bounds.map(humantime::format_duration);
            return Err(format!("`{text}` must be {min} to {max}"));
        }
        Ok(Self(duration))
    }
}

impl<const MIN: u64, const MAX: u64> From<Span<MIN, MAX>> for String {
    fn from(span: Span<MIN, MAX>) -> Self {
        humantime::format_duration(span.0).to_string()
    }
}

impl<const MIN: u64, const MAX: u64> Spelling<Duration> for Span<MIN, MAX> {
    fn value(self) -> Duration {
        self.0
    }

    fn of(value: &Duration) -> Self {
        Self(*value)
    }
}

/// A size such as `64KiB`, from `MIN` to `MAX` bytes.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Size<const MIN: usize, const MAX: usize>(usize);

impl<const MIN: usize, const MAX: usize> TryFrom<String> for Size<MIN, MAX> {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if let Ok(bytes) = text.parse() {
            return Err(format!("`{text}` lacks a unit: write {}", Bytes(bytes)));
        }
        let size = text
            .parse::<ByteSize>()
            .map_err(|_| format!("`{text}` is no size: write it like 64KiB"))?;
        match usize::try_from(size.as_u64()) {
            Ok(bytes) if (MIN..=MAX).contains(&bytes) => Ok(Self(bytes)),
            _ => Err(format!("`{text}` must be {} to {}", Bytes(MIN), Bytes(MAX))),
        }
    }
}

impl<const MIN: usize, const MAX: usize> From<Size<MIN, MAX>> for String {
    fn from(size: Size<MIN, MAX>) -> Self {
        Bytes(size.0).to_string()
    }
}

impl<const MIN: usize, const MAX: usize> Spelling<usize> for Size<MIN, MAX> {
    fn value(self) -> usize {
        self.0
    }

    fn of(value: &usize) -> Self {
        Self(*value)
    }
}

/// A size from `MIN` to `MAX` bytes, or a plain number of bytes.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub(super) struct PlainSize<const MIN: usize, const MAX: usize>(Size<MIN, MAX>);

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for PlainSize<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = match serde_json::Value::deserialize(deserializer)? {
            serde_json::Value::Number(number) => format!("{number}B"),
            serde_json::Value::String(text) => text,
            _ => return Err(serde::de::Error::custom("write a size like 4KiB")),
        };
        let size = Size::try_from(text).map_err(serde::de::Error::custom)?;
        Ok(Self(size))
    }
}

impl<const MIN: usize, const MAX: usize> Spelling<usize> for PlainSize<MIN, MAX> {
    fn value(self) -> usize {
        self.0.value()
    }

    fn of(value: &usize) -> Self {
        Self(Size::of(value))
    }
}

/// A whole number from `MIN` to `MAX`.
#[derive(Clone, Serialize)]
#[serde(transparent)]
pub(super) struct Int<T, const MIN: i64, const MAX: i64>(T);

impl<'de, T, const MIN: i64, const MAX: i64> Deserialize<'de> for Int<T, MIN, MAX>
where
    T: TryFrom<i64>,
{
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let number = i64::deserialize(deserializer)?;
        match T::try_from(number) {
            Ok(value) if (MIN..=MAX).contains(&number) => Ok(Self(value)),
            _ => Err(serde::de::Error::custom(format!(
                "{number} must be {MIN} to {MAX}"
            ))),
        }
    }
}

impl<T: Copy, const MIN: i64, const MAX: i64> Spelling<T> for Int<T, MIN, MAX> {
    fn value(self) -> T {
        self.0
    }

    fn of(value: &T) -> Self {
        Self(*value)
    }
}

/// Number of a gateway: 0 to 255, or `ordinal` for the one at the end of the host name.
pub(super) struct NodeNumber(u8);

impl<'de> Deserialize<'de> for NodeNumber {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        if value == "ordinal" {
            return machine::ordinal()
                .map(Self)
                .map_err(serde::de::Error::custom);
        }
        let number = value.as_u64().and_then(|number| number.try_into().ok());
        number.map(Self).ok_or_else(|| {
            serde::de::Error::custom(format!("{value} must be 0 to 255, or ordinal"))
        })
    }
}

impl Spelling<u8> for NodeNumber {
    fn value(self) -> u8 {
        self.0
    }

    fn of(value: &u8) -> Self {
        Self(*value)
    }
}

/// A string that is not empty.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Name(String);

impl TryFrom<String> for Name {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        if text.is_empty() {
            return Err("must not be empty");
        }
        Ok(Self(text))
    }
}

impl From<Name> for String {
    fn from(name: Name) -> Self {
        name.0
    }
}

impl Spelling<String> for Name {
    fn value(self) -> String {
        self.0
    }

    fn of(value: &String) -> Self {
        Self(value.clone())
    }
}

/// A regular expression for whole names.
#[derive(Debug, Clone)]
pub struct NamePattern {
    text: String,
    whole: Regex,
}

impl NamePattern {
    /// Returns the expression as it is written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Returns whether the expression matches all of a name.
    pub fn matches(&self, name: &str) -> bool {
        self.whole.is_match(name)
    }
}

impl PartialEq for NamePattern {
    fn eq(&self, other: &Self) -> bool {
        self.text == other.text
    }
}

/// Spelling of a [`NamePattern`]; the empty string stands for none.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(super) struct Pattern(Option<NamePattern>);

impl TryFrom<String> for Pattern {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        if text.is_empty() {
            return Ok(Self(None));
        }
        // The expression is compiled alone first, so that an error shows it as it is written.
        let whole = Regex::new(&text).and_then(|_| Regex::new(&format!(r"\A(?:{text})\z")));
        match whole {
            Ok(whole) => Ok(Self(Some(NamePattern { text, whole }))),
            Err(error) => {
                // All lines but the last draw where in the expression the error is.
                let error = error.to_string();
                let error = error.lines().last().unwrap_or_default();
                Err(format!("`{text}` is no regular expression: {error}"))
            }
        }
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.0.map_or_else(String::new, |pattern| pattern.text)
    }
}

impl Spelling<Option<NamePattern>> for Pattern {
    fn value(self) -> Option<NamePattern> {
        self.0
    }

    fn of(value: &Option<NamePattern>) -> Self {
        Self(value.clone())
    }
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    if text.parse::<f64>().is_ok() {
        return Err(format!("`{text}` lacks a unit: write {text}s or {text}ms"));
    }
    humantime::parse_duration(text)
        .map_err(|_| format!("`{text}` is no duration: write it like 30s or 100ms"))
}

/// Size that shows itself exactly, in the largest binary unit that divides it.
pub(crate) struct Bytes(pub usize);

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
        for (factor, unit) in units {
            if self.0 >= factor && self.0.is_multiple_of(factor) {
                return write!(f, "{}{unit}", self.0 / factor);
            }
        }
        write!(f, "{}B", self.0)
    }
}
