//! Why a gateway did not start, or a reload changed nothing.

use std::io;
use std::net::SocketAddr;

use super::generation::BuildError;
use crate::config::Bind;

/// Why a gateway did not start, or a reload changed nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration is wrong, or something that it names.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// An address of a listener cannot be opened.
    #[error("cannot listen on {bind}: {error}")]
    Bind {
        /// The address.
        bind: Bind,
        /// What the system says.
        error: io::Error,
    },
    /// The address of the admin interface cannot be opened.
    #[error("cannot open the admin interface on {addr}: {error}; the key `admin` moves it")]
    Admin {
        /// The address.
        addr: SocketAddr,
        /// What the system says.
        error: io::Error,
    },
    /// Files cannot be watched.
    #[error("cannot watch files: {0}")]
    Watch(io::Error),
    /// The configuration was given as a value.
    #[error("the configuration comes from no file that could be read again")]
    NoFile,
}
