//! Host of Lua scripts.
//!
//! A script is a file that defines any of four global functions. Each is called with a table
//! `session`: `id`, `listener`, `session` (`"scp"`…), `transport`, `client_addr` and `gateway_addr`
//! (`ip:port`, IPv6 in brackets), `target` (what the client asked for, or nil), `flags`, `extra`
//! (list of further handshake lines), `first_data` (when the listener peeks) and `attrs`, a table
//! of strings, numbers and booleans that later calls and later hooks see.
//!
//! On a fastway listener `session` has `server_id` when a server connects, and `dial`, a table with
//! the ids `from` and `to`, when an endpoint dials. For the access of a physical connection there
//! is no `dial`.
//!
//! | function | returns |
//! |---|---|
//! | `access(session)` | nil or true: the next hook decides; `false, "reason"`: refused |
//! | `select_target(session)` | nil: the next hook decides; `"name"` of a host; `{addr = "host:port"}` |
//! | `select_target(session)` of a dial | nil, or the integer id of the endpoint to be reached |
//! | `announce(session, target)` | nil: the next hook decides; false: no message; a string: the message |
//! | `closed(session)` | nothing; the session has `received`, `sent`, `resumes`, `duration` (seconds) and `reason` |
//!
//! The first refusal of access ends the asking. Everything else that a function may use is in the
//! global table `gateway` and in the parts of the standard library that reach nothing outside the
//! script; `require "a.b"` loads `a/b.lua` or `a/b/init.lua` beside the script. Globals live as
//! long as their interpreter, and a script has several interpreters: what calls are to share goes
//! into `gateway.shared`.
//!
//! # How it runs
//!
//! Calls run on the worker threads of a [`Pool`], each with its own interpreters of Lua 5.4. A
//! script that loops, grows or recurses without end is stopped at its [`Limits`], wherever it is:
//! library functions that could take long are replaced by the host's own.
//!
//! [`Limits`]: super::spec::Limits

mod answer;
mod api;
mod cache;
mod json;
mod limit;
mod native;
#[cfg(test)]
mod native_tests;
mod pattern;
mod pool;
mod program;
mod script;
mod source;
mod value;
mod vm;

use std::future::{self, Future};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

pub use self::pool::{Pool, Stats};
use self::script::Script;
use super::contract::Function;
use super::spec::{LoadError, Spec};
use super::{Answer, Call, FileHook, Hook, Reply};
use crate::files::Files;

/// Script of one configuration generation.
///
/// A script stays as it was when it was loaded: its files are read once, for all its interpreters.
/// Clones are the same script.
#[derive(Debug, Clone)]
pub struct LuaHook {
    script: Arc<Script>,
}

impl LuaHook {
    /// Loads a script: reads it and runs it once, on a thread of its own. Its calls run on `pool`.
    ///
    /// Blocks until the script is loaded, within its limits for that: not for async threads.
    pub fn load(pool: &Arc<Pool>, spec: Spec) -> Result<Self, LoadError> {
        Script::load(pool, spec).map(|script| Self { script })
    }
}

impl Hook for LuaHook {
    fn name(&self) -> &str {
        self.script.name()
    }

    /// Asks the script. A function that the script does not define passes at once.
    ///
    /// Needs a tokio runtime with its timer enabled.
    fn call(&self, call: Call) -> Pin<Box<dyn Future<Output = Reply> + Send>> {
        if !self.script.defines(Function::of(&call.question)) {
            return Box::pin(future::ready(Reply {
                answer: Ok(Answer::Pass),
                attrs: call.attrs,
                cost: Duration::ZERO,
            }));
        }
        Box::pin(self.script.clone().ask(call))
    }
}

impl FileHook for LuaHook {
    /// Returns the files that were read, and those that `require` looked for in vain.
    ///
    /// The files become more when a call is the first to require a module.
    fn files(&self) -> Files {
        self.script.files()
    }

    fn modules(&self) -> Vec<String> {
        self.script.modules()
    }
}
