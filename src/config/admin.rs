//! Key `admin`: an address, or a block with more keys.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use documented::{Documented, DocumentedFields};
use serde::de::value::MapAccessDeserializer;
use serde::de::{Error, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

const PORT: u16 = 6620;

/// Where the admin interface is and who may use it. Written as an address, or as a block with the
/// keys `bind`, `token_file` and `names`.
#[derive(Debug, Clone, PartialEq, Eq, Documented, DocumentedFields)]
pub struct Admin {
    /// Where it listens; `""` (`None`) is nowhere. Default 127.0.0.1:6620.
    pub bind: Option<SocketAddr>,
    /// A file with the token that requests must show. An address that other machines can reach
    /// demands one. Default none.
    pub token_file: Option<PathBuf>,
    /// The names, in lower case and without a port, by which requests may address it beside IP
    /// addresses and `localhost`. Default none.
    pub names: Vec<String>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Block {
    #[serde(default = "default_bind")]
    bind: String,
    token_file: Option<PathBuf>,
    #[serde(default)]
    names: Vec<String>,
}

fn default_bind() -> String {
    Admin::default().bind_text()
}

impl Default for Admin {
    fn default() -> Self {
        Self {
            bind: Some((Ipv4Addr::LOCALHOST, PORT).into()),
            token_file: None,
            names: Vec::new(),
        }
    }
}

impl Admin {
    fn bind_text(&self) -> String {
        self.bind.map_or_else(String::new, |addr| addr.to_string())
    }
}

impl TryFrom<Block> for Admin {
    type Error = String;

    fn try_from(block: Block) -> Result<Self, String> {
        let Block {
            bind,
            token_file,
            names,
        } = block;
        let addr = match bind.as_str() {
            "" => None,
            text => Some(text.parse::<SocketAddr>().map_err(|_| {
                format!("`{text}` is no IP address with a port: write 127.0.0.1:{PORT}")
            })?),
        };
        if let Some(addr) = addr
            && !addr.ip().is_loopback()
            && token_file.is_none()
        {
            return Err(format!(
                "others can reach {addr}: write {{bind: \"{addr}\", token_file: …}}"
            ));
        }
        let is_name = |name: &String| {
            let fits = |c: char| matches!(c, 'a'..='z' | '0'..='9' | '-' | '.' | '_');
            !name.is_empty() && name.chars().all(fits)
        };
        if let Some(name) = names.iter().find(|name| !is_name(name)) {
            return Err(format!("`{name}` is no name in lower case, without a port"));
        }
        Ok(Self {
            bind: addr,
            token_file,
            names,
        })
    }
}

impl<'de> Deserialize<'de> for Admin {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Either;

        impl<'de> Visitor<'de> for Either {
            type Value = Admin;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an address, or keys with values")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Admin, E> {
                let block = Block {
                    bind: text.to_owned(),
                    token_file: None,
                    names: Vec::new(),
                };
                block.try_into().map_err(E::custom)
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Admin, A::Error> {
                let block = Block::deserialize(MapAccessDeserializer::new(map))?;
                block.try_into().map_err(A::Error::custom)
            }
        }

        deserializer.deserialize_any(Either)
    }
}

impl Serialize for Admin {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if self.token_file.is_none() && self.names.is_empty() {
            return serializer.serialize_str(&self.bind_text());
        }
        let block = Block {
            bind: self.bind_text(),
            token_file: self.token_file.clone(),
            names: self.names.clone(),
        };
        block.serialize(serializer)
    }
}
