//! How a gateway is put together.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use tokio_util::sync::CancellationToken;

use super::Gateway;
use super::environment::Environment;
use super::error::Error;
use crate::config::Config;
use crate::hooks::Hook;

/// Puts a gateway together. [`start`](Self::start) runs it.
#[must_use]
pub struct Builder {
    pub(super) source: Source,
    pub(super) environment: Environment,
    pub(super) admin: Option<OpenAdmin>,
}

/// Where a configuration comes from.
pub(super) enum Source {
    /// A file, which is watched with all that it names.
    File(PathBuf),
    Value(Box<Config>),
}

/// Opens an address for an admin interface. That is served by what is returned, until the token is
/// cancelled.
pub type OpenAdmin = fn(SocketAddr) -> io::Result<ServeAdmin>;

/// Serves an admin interface whose address is open.
pub type ServeAdmin = Box<dyn FnOnce(Weak<Gateway>, CancellationToken) + Send>;

impl Builder {
    pub(super) fn new(source: Source) -> Self {
        Self {
            source,
            environment: Environment::new(),
            admin: None,
        }
    }

    /// Adds a hook in Rust. It is asked about the sessions of all listeners, before the hooks that
    /// the configuration names for them and in the order of these calls. A call that fails denies
    /// the session.
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.environment.hooks.push(hook);
        self
    }

    /// Adds the admin interface, at the address that the configuration has for it. There is none
    /// otherwise.
    pub fn admin(mut self, open: OpenAdmin) -> Self {
        self.admin = Some(open);
        self
    }

    /// Opens the listeners and accepts. A configuration from a file is watched from then on, with
    /// all that it names, and reloaded when something changes.
    ///
    /// # Errors
    /// When the configuration is wrong, or something that it names, or an address cannot be
    /// opened.
    ///
    /// Cancel safe. Must be called within a multi-thread runtime.
    pub async fn start(self) -> Result<Arc<Gateway>, Error> {
        Gateway::run(self).await
    }
}
