//! Errors of starting and reloading a gateway.

use std::io;
use std::net::SocketAddr;

use super::generation::BuildError;
use crate::config::Bind;

/// Error of a start or a reload. A reload that fails changes nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The configuration, or something that it names, is wrong.
    #[error(transparent)]
    Build(#[from] BuildError),
    /// The address of a listener cannot be opened.
    #[error("cannot listen on {bind}: {error}")]
    Bind {
        /// Address of the listener.
        bind: Bind,
        /// Error of the system.
        error: io::Error,
    },
    /// The address of the admin interface cannot be opened.
    #[error("cannot open the admin interface on {addr}: {error}; the key `admin` moves it")]
    Admin {
        /// Address of the admin interface.
        addr: SocketAddr,
        /// Error of the system.
        error: io::Error,
    },
    /// Files cannot be watched.
    #[error("cannot watch files: {0}")]
    Watch(io::Error),
    /// There is no file to reload: the configuration was given as a value.
    #[error("the configuration comes from no file that could be read again")]
    NoFile,
}
