//! Reading of a file to a [`Config`].

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use serde_yaml as yaml;

use super::error::Error;
use super::file::File;
use super::locate;
use super::settings::{Spelling, Timeout};
use super::types::{Config, HookMemory, Service};
use crate::files::{self, Files};
use crate::transport::Bind;

/// Largest file that is taken for a configuration, bytes.
const MAX_FILE: u64 = 16 << 20;

/// Reads a hook's `timeout` as the file has it.
pub(crate) fn hook_timeout(text: &str) -> Result<Duration, String> {
    Timeout::try_from(text.to_owned()).map(Spelling::value)
}

/// Reads a hook's `memory` as the file has it.
pub(crate) fn hook_memory(text: &str) -> Result<usize, String> {
    HookMemory::try_from(text.to_owned()).map(Spelling::value)
}

impl Config {
    /// Reads a configuration file.
    ///
    /// # Errors
    /// When the file cannot be read, a hook's file is not there, and as [`Config::parse`].
    pub fn load(path: impl AsRef<Path>) -> Result<Self, Error> {
        Self::read(path.as_ref(), &mut Files::default()).map(|(config, _)| config)
    }

    /// Reads a configuration file as one of `files`. Returns warnings with the configuration.
    pub(crate) fn read(path: &Path, files: &mut Files) -> Result<(Self, Vec<Error>), Error> {
        let text = files
            .read(&files::absolute(path), MAX_FILE)
            .and_then(files::text);
        let text = text.map_err(|error| Error::new(path, format!("cannot be read: {error}")))?;
        let (config, doubts) = Self::parse_all(&text, path)?;
        let absolute = files::absolute(path);
        let directory = absolute.parent().unwrap_or(&absolute);
        for (i, hook) in config.hooks.iter().enumerate() {
            let program = hook.program.path();
            if let Err(error) = program.metadata()
                && error.kind() == io::ErrorKind::NotFound
            {
                // Its coming is reason to try again.
                files.name(program.to_owned());
                let key = format!("hooks[{i}].{}", hook.program.key());
                let shown = program.strip_prefix(directory).unwrap_or(program);
                let message = format!("{}: {error}", shown.display());
                return Err(at(&text, path, (key, message)));
            }
        }
        Ok((config, doubts))
    }

    /// Parses the text of a configuration file.
    ///
    /// The path is not opened: errors name it, and relative paths in the text start from its
    /// directory.
    ///
    /// # Errors
    /// The first thing that is wrong with the text: syntax, an unknown or duplicate key, a value of
    /// the wrong kind or out of its range, a name that is not defined or defined twice.
    pub fn parse(text: &str, path: &Path) -> Result<Self, Error> {
        Self::parse_all(text, path).map(|(config, _)| config)
    }

    /// Parses the text of a configuration file. Returns warnings with the configuration.
    pub(super) fn parse_all(text: &str, path: &Path) -> Result<(Self, Vec<Error>), Error> {
        let file = File::parse(text, path)?;
        let at = |wrong| at(text, path, wrong);
        file.check().map_err(at)?;
        let directory = files::absolute(path);
        let config = file.resolve(directory.parent().unwrap_or(&directory));
        let mut doubts = Vec::new();
        for (key, bind) in config.without_auth_key() {
            if !bind.addr.ip().is_loopback() {
                let message = format!("is empty: others can reach {bind} and be any server");
                return Err(at((key, message)));
            }
            let message = format!("is empty: whoever reaches {bind} can be any server");
            doubts.push(at((key, message)));
        }
        Ok((config, doubts))
    }

    /// Returns the binds of servers that need no key, with the path of the key that is missing.
    fn without_auth_key(&self) -> impl Iterator<Item = (String, &Bind)> {
        let listeners = self.listeners.iter().enumerate();
        let open = listeners.filter(|(_, listener)| {
            listener.service == Service::FastwayServer && listener.fastway.auth_key.is_empty()
        });
        open.flat_map(|(i, listener)| {
            let key = move |bind| (format!("listeners[{i}].fastway.auth_key"), bind);
            listener.bind.iter().map(key)
        })
    }

    /// Returns the configuration in effect as YAML, every default and override spelled out.
    ///
    /// The text, parsed again, gives the same configuration.
    ///
    /// # Errors
    /// When the path of a script is not UTF-8.
    pub fn dump(&self) -> Result<String, yaml::SerializeError> {
        yaml::to_string(self)
    }
}

impl FromStr for Config {
    type Err = Error;

    /// Parses the text of a configuration file.
    ///
    /// Errors name the file `configuration`, and relative paths start from the working directory.
    fn from_str(text: &str) -> Result<Self, Error> {
        Self::parse(text, Path::new("configuration"))
    }
}

/// Returns the error that a key of the text has, with its line.
fn at(text: &str, path: &Path, (key, message): (String, String)) -> Error {
    Error {
        line: locate::line_of(text, &key),
        key: Some(key),
        ..Error::new(path, message)
    }
}
