//! Addresses of hosts.

use std::fmt;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Address of a host, written `builtin:echo`, `host:port` or `[v6]:port`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum HostAddr {
    /// Echo server inside the process, which sends back the bytes it receives.
    BuiltinEcho,
    /// Host to dial by name or IP address (IPv6 without brackets); the port is not 0.
    Dial {
        /// Name or IP address.
        host: String,
        /// Port, 1 to 65535.
        port: u16,
    },
}

impl FromStr for HostAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if let Some(builtin) = text.strip_prefix("builtin:") {
            return match builtin {
                "echo" => Ok(Self::BuiltinEcho),
                _ => Err(format!("unknown host `{text}`, the only builtin is echo")),
            };
        }
        let (host, port) = text
            .rsplit_once(':')
            .ok_or_else(|| format!("`{text}` lacks a port: write host:port"))?;
        let port = match port.parse() {
            Ok(number) if port.starts_with(|c: char| matches!(c, '1'..='9')) => number,
            _ => return Err(format!("`{port}` is no port: write 1 to 65535")),
        };
        let host = match host.strip_prefix('[').and_then(|h| h.strip_suffix(']')) {
            Some(v6) if v6.parse::<Ipv6Addr>().is_ok() => v6,
            None if host.parse::<Ipv4Addr>().is_ok() || is_host_name(host) => host,
            _ => {
                return Err(format!(
                    "`{text}` is no address: write host:port, or [v6]:port for IPv6"
                ));
            }
        };
        Ok(Self::Dial {
            host: host.to_owned(),
            port,
        })
    }
}

/// Returns whether `host` can be looked up in DNS.
///
/// Names are those of RFC 1123, and may have underscores, as names of containers do. The many ways
/// to write an IPv4 address are not names.
fn is_host_name(host: &str) -> bool {
    let name = host.strip_suffix('.').unwrap_or(host);
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_');
    let is_label = |label: &str| {
        (1..=63).contains(&label.len())
            && label.bytes().all(fits)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let last = name.rsplit('.').next().unwrap_or_default();
    let hex = last.strip_prefix("0x").or(last.strip_prefix("0X"));
    let is_number = last.bytes().all(|byte| byte.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit()));
    name.len() <= 253 && name.split('.').all(is_label) && !is_number
}

impl fmt::Display for HostAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltinEcho => f.write_str("builtin:echo"),
            Self::Dial { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Dial { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl TryFrom<String> for HostAddr {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<HostAddr> for String {
    fn from(value: HostAddr) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_read_back_as_written() {
        for text in [
            "builtin:echo",
            "game-1.internal:80",
            "game_1.svc-2.example.com.:1",
            "10.example:1",
            "10.0.0.1:65535",
            "[::1]:1",
        ] {
            assert_eq!(text.parse::<HostAddr>().unwrap().to_string(), text);
        }
        assert_eq!(
            "[::1]:1".parse(),
            Ok(HostAddr::Dial {
                host: "::1".to_owned(),
                port: 1
            })
        );
    }

    #[test]
    fn wrong_addresses_are_refused() {
        for text in [
            "",
            "host",
            "host:0",
            "host:65536",
            ":1",
            "::1:1",
            "[::1]",
            "[x]:1",
            "a b:1",
            "10.0.0.256:1",
            "10.0.0:1",
            "010.0.0.1:1",
            "2130706433:1",
            "0x7f000001:1",
            "game.1:1",
            "a,b:1",
            "a..b:1",
            ".a:1",
            "*.example:1",
            "-x:1",
            "x-:1",
            "spiel\u{e4}:1",
            "host:09000",
            "host:+1",
            "builtin:x",
            "http://h:1",
        ] {
            assert!(text.parse::<HostAddr>().is_err(), "{text}");
        }
    }
}
