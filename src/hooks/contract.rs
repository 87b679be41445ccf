//! Limits and checks that scripts and plugins have in common.

use std::mem;
use std::sync::Arc;

use tracing::Level;

use super::{AttrValue, Question};

/// Longest reason of a refusal, bytes.
pub(super) const MAX_REASON: usize = 512;

/// Longest first message to an upstream, bytes.
pub(super) const MAX_MESSAGE: usize = 1024 * 1024;

/// Most bytes of a session's attributes, which the gateway keeps as long as the session.
pub(super) const MAX_ATTRS: usize = 64 * 1024;

/// Longest message that goes to the log, bytes.
const MAX_LOG: usize = 8 * 1024;

/// Most lines that a call can log, because others log to the same disk.
const MAX_LINES: u64 = 100;

/// Longest message of an error, bytes.
pub(super) const MAX_ERROR: usize = 1024;

/// Longest expiry that can be asked for, seconds; a longer one counts as none.
pub(super) const MAX_TTL: f64 = 100.0 * 365.0 * 86400.0;

/// Function of a script or plugin that answers a question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Function {
    Access,
    SelectTarget,
    Announce,
    Closed,
}

impl Function {
    pub(super) const ALL: [Self; 4] = [
        Self::Access,
        Self::SelectTarget,
        Self::Announce,
        Self::Closed,
    ];

    pub(super) fn of(question: &Question) -> Self {
        match question {
            Question::Access => Self::Access,
            Question::SelectTarget => Self::SelectTarget,
            Question::Announce { .. } => Self::Announce,
            Question::Closed(_) => Self::Closed,
        }
    }

    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Access => "access",
            Self::SelectTarget => "select_target",
            Self::Announce => "announce",
            Self::Closed => "closed",
        }
    }
}

/// Log of a hook's calls, with a limit of lines for each.
pub(super) struct Log {
    hook: Arc<str>,
    lines: u64,
}

impl Log {
    pub(super) fn new(hook: Arc<str>) -> Self {
        Self { hook, lines: 0 }
    }

    /// Writes a line, unless the call has written too many.
    pub(super) fn write(&mut self, level: Level, message: &[u8]) {
        self.lines += 1;
        if self.lines > MAX_LINES {
            return;
        }
        let (hook, message) = (&self.hook, clip(message, MAX_LOG));
        macro_rules! write {
            ($level:ident) => {
                tracing::$level!(target: "stablegate::script", %hook, "{message}")
            };
        }
        match level {
            Level::ERROR => write!(error),
            Level::WARN => write!(warn),
            Level::INFO => write!(info),
            _ => write!(debug),
        }
    }

    /// Ends a call, and logs how many lines were dropped.
    pub(super) fn end(&mut self) {
        let dropped = mem::take(&mut self.lines).saturating_sub(MAX_LINES);
        if dropped > 0 {
            let hook = &self.hook;
            tracing::warn!(target: "stablegate::script", %hook, "{dropped} lines dropped");
        }
    }
}

/// Ends a call that is stopped, too.
impl Drop for Log {
    fn drop(&mut self) {
        self.end();
    }
}

/// Returns the bytes of [`MAX_ATTRS`] that an attribute takes.
pub(super) fn attr_size(key: &str, value: &AttrValue) -> usize {
    key.len()
        + match value {
            AttrValue::String(bytes) => bytes.len(),
            _ => 8,
        }
}

/// Returns whether a text is `host:port` with a host that can be one; IPv6 addresses in brackets.
pub(super) fn is_addr(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else {
        return false;
    };
    let port_ok = port.bytes().all(|byte| byte.is_ascii_digit())
        && port.parse::<u16>().is_ok_and(|port| port > 0);
    let host_ok = match host.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().is_ok(),
        None => {
            let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._".contains(&byte);
            !host.is_empty() && host.len() <= 253 && host.bytes().all(plain)
        }
    };
    port_ok && host_ok
}

/// Returns at most `max` bytes of a text that may not be UTF-8; marks a cut with `…`.
pub(super) fn clip(bytes: &[u8], max: usize) -> String {
    if bytes.len() <= max {
        return String::from_utf8_lossy(bytes).into_owned();
    }
    // invariant: there are more than `max`.
    let mut text = String::from_utf8_lossy(&bytes[..max]).into_owned();
    text.push('…');
    text
}

#[cfg(test)]
mod tests {
    use super::is_addr;

    #[test]
    fn addresses_are_checked() {
        for good in [
            "a:1",
            "game-1.example.com:65535",
            "10.0.0.1:80",
            "[::1]:80",
            "x_y:1",
        ] {
            assert!(is_addr(good), "{good}");
        }
        for bad in [
            "",
            "a",
            ":1",
            "a:",
            "a:0",
            "a:65536",
            "a:+1",
            "::1:80",
            "[::1]",
            "[a]:80",
            "a b:1",
            "a\n:1",
            "builtin:echo",
            "[]:1",
            "é:1",
        ] {
            assert!(!is_addr(bad), "{bad}");
        }
    }
}
