//! Configuration without its secrets.

use serde_json::Value;

use super::Config;

/// Text in the place of a secret.
const HIDDEN: &str = "(hidden)";

impl Config {
    /// Returns the configuration in effect, as [`dump`](Self::dump) does, with secrets hidden.
    ///
    /// Secrets are fastway's keys and the values in the `config` of hooks.
    ///
    /// # Errors
    /// When a path is not UTF-8.
    pub fn redacted(&self) -> Result<Value, serde_json::Error> {
        let mut config = self.clone();
        for listener in &mut config.listeners {
            if !listener.fastway.auth_key.is_empty() {
                listener.fastway.auth_key = HIDDEN.to_owned();
            }
        }
        for hook in &mut config.hooks {
            hook.config
                .values_mut()
                .for_each(|value| *value = HIDDEN.into());
        }
        serde_json::to_value(config)
    }
}
