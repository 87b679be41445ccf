//! Builder of a gateway.

use std::path::PathBuf;
use std::sync::Arc;

use super::engine::{Gateway, OpenAdmin, Source};
use super::environment::Environment;
use super::error::Error;
use crate::config::Config;
use crate::hooks::Hook;

/// Builder of a gateway. [`start`](Self::start) runs the gateway.
#[must_use]
pub struct Builder {
    source: Source,
    environment: Environment,
    admin: Option<OpenAdmin>,
}

impl Gateway {
    /// Returns a builder for a gateway with this configuration.
    ///
    /// ```
    /// use stablegate::{Config, Gateway};
    ///
    /// # #[tokio::main(flavor = "multi_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// let config: Config = "listeners: [{name: game, bind: ['kcp://127.0.0.1:0'], session: scp}]
    /// hosts: [{name: echo, addr: 'builtin:echo'}]"
    ///     .parse()?;
    /// let gateway = Gateway::builder(config.clone()).start().await?;
    ///
    /// // Another configuration takes its place as a whole, or not at all.
    /// let next = Config { node: 1, ..config };
    /// gateway.apply(next).await?;
    /// assert_eq!(gateway.generation().config.node, 1);
    /// gateway.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn builder(config: Config) -> Builder {
        Builder::new(Source::Value(Box::new(config)))
    }

    /// Returns a builder for a gateway whose configuration is a file, which is watched.
    ///
    /// ```
    /// use stablegate::{Gateway, admin};
    ///
    /// # #[tokio::main(flavor = "multi_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// # let path = std::env::temp_dir().join(format!("stablegate.{}.yaml", std::process::id()));
    /// # std::fs::write(&path, "admin: 127.0.0.1:0
    /// # listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: snet}]
    /// # hosts: [{name: echo, addr: 'builtin:echo'}]")?;
    /// // As the command does, with the admin interface.
    /// let gateway = Gateway::from_file(&path).admin(admin::open).start().await?;
    /// # std::fs::remove_file(&path)?;
    /// gateway.shutdown().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn from_file(path: impl Into<PathBuf>) -> Builder {
        Builder::new(Source::File(path.into()))
    }
}

impl Builder {
    fn new(source: Source) -> Self {
        Self {
            source,
            environment: Environment::new(),
            admin: None,
        }
    }

    /// Adds a hook written in Rust.
    ///
    /// It is asked about the sessions of all listeners, before the hooks that the configuration
    /// names for them and in the order of these calls. A call that fails denies the session.
    pub fn hook(mut self, hook: Arc<dyn Hook>) -> Self {
        self.environment.hooks.push(hook);
        self
    }

    /// Adds the admin interface, at the address that the configuration has for it. Without this
    /// call there is none.
    pub fn admin(mut self, open: OpenAdmin) -> Self {
        self.admin = Some(open);
        self
    }

    /// Opens the listeners and starts to accept.
    ///
    /// A configuration from a file is watched from then on, with all that it names, and reloaded
    /// when something changes.
    ///
    /// # Errors
    /// When the configuration, or something that it names, is wrong, or an address cannot be
    /// opened.
    ///
    /// Cancel safe. Must be called within a multi-thread runtime.
    pub async fn start(self) -> Result<Arc<Gateway>, Error> {
        Gateway::run(self.source, self.environment, self.admin).await
    }
}
