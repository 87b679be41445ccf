//! The configuration file.
//!
//! A [`Config`] holds valid values only: units, ranges, names and the references between blocks
//! are checked while it is read, and an [`Error`] names the file, the line and the key. Unknown
//! and duplicate keys are errors.
//!
//! The top-level blocks `scp`, `snet`, `tcp`, `kcp` and `fastway` give the settings of all
//! listeners; the same block inside a listener overrides them key by key. Durations and sizes are
//! written with their units (`30s`,
//! `100ms`, `64KiB`), relative paths are relative to the directory of the file.
//!
//! A reload compares binds with [`diff`], and is told by [`watch`] when to happen.

mod admin;
pub mod diff;
mod error;
mod file;
mod hosts;
mod kcp;
mod locate;
mod machine;
mod network;
mod parser;
mod read;
mod redact;
mod reference;
mod settings;
#[cfg(test)]
mod tests;
mod token;
mod translate;
mod types;
pub mod watch;

pub use admin::Admin;
pub use error::Error;
pub use hosts::{Eject, Health};
pub use network::Network;
pub(crate) use network::masked;
pub(crate) use parser::options as yaml_options;
pub(crate) use read::{hook_memory, hook_timeout};
pub use reference::reference;
pub use settings::NamePattern;
pub(crate) use settings::{Bytes, LOAD_TIMEOUT};
pub(crate) use token::Token;
pub use types::*;

pub(crate) use crate::hooks::spec::wall_timeout;
pub use crate::hooks::spec::{Instance, OnError, Program};
pub use crate::hosts::{Choose, HostAddr};
pub use crate::proto::proxy_header::Version as ProxyVersion;
pub use crate::transport::{Bind, Transport};
