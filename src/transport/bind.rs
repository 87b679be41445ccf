//! Transports and bind addresses.

use std::fmt;
use std::net::SocketAddr;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Transport and address of a listener, written `tcp://0.0.0.0:1248` or `kcp://[::]:1248`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Bind {
    /// Transport of the accepted connections.
    pub transport: Transport,
    /// IP address and port; with port 0 the system chooses one.
    pub addr: SocketAddr,
}

/// Transport protocol of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Transport {
    /// TCP, written `tcp`.
    Tcp,
    /// KCP over UDP, written `kcp`.
    Kcp,
}

impl FromStr for Bind {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (scheme, addr) = text
            .split_once("://")
            .ok_or_else(|| format!("`{text}` lacks a transport: write tcp://0.0.0.0:1248"))?;
        let transport = match scheme {
            "tcp" => Transport::Tcp,
            "kcp" => Transport::Kcp,
            _ => return Err(format!("unknown transport `{scheme}`, expected tcp or kcp")),
        };
        let addr = addr.parse().map_err(|_| {
            format!("`{addr}` is no IP address with a port: write 0.0.0.0:1248 or [::]:1248")
        })?;
        Ok(Self { transport, addr })
    }
}

impl fmt::Display for Bind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.transport, self.addr)
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Kcp => "kcp",
        })
    }
}

impl TryFrom<String> for Bind {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

impl From<Bind> for String {
    fn from(value: Bind) -> Self {
        value.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn binds_read_back_as_written() {
        for text in [
            "tcp://0.0.0.0:1248",
            "kcp://[::]:0",
            "tcp://[fe80::1]:65535",
        ] {
            assert_eq!(text.parse::<Bind>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn wrong_binds_are_refused() {
        for text in [
            "",
            "0.0.0.0:1",
            "tcp:0.0.0.0:1",
            "udp://0.0.0.0:1",
            "tcp://localhost:1",
            "tcp://:1",
            "tcp://[::]",
        ] {
            assert!(text.parse::<Bind>().is_err(), "{text}");
        }
    }
}
