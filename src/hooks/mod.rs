//! Hooks: scripts and plugins that decide about sessions.
//!
//! Everything outside this module sees one trait, [`Hook`], and asks through a
//! [`Chain`](chain::Chain): the hooks of a listener in order, the built-in rule last.
//!
//! | question | when | answers |
//! |---|---|---|
//! | [`Question::Access`] | after the handshake, before the upstream is dialled | [`Answer::Allow`], [`Answer::Deny`] |
//! | [`Question::SelectTarget`] | after access | [`Answer::Pass`], [`Answer::Target`] |
//! | [`Question::Announce`] | once the upstream is connected | [`Answer::Pass`], [`Answer::Message`] |
//! | [`Question::Closed`] | after the session has ended | ignored |
//!
//! On a fastway listener a physical connection is a session: hooks are asked whether it has access
//! and told when it is closed. So they are for each dial: the hooks of the listener that the
//! dialling endpoint is on, in the configuration of that moment; [`SessionInfo::fastway`] tells
//! connections and dials apart. Only for a dial a target is asked for, and only there
//! [`Target::Id`] is an answer: the endpoint to be connected instead of the one that was dialled.
//! Nothing is announced.

#[doc(hidden)]
pub mod builtin;
#[doc(hidden)]
pub mod chain;
mod contract;
mod hook;
mod load;
#[doc(hidden)]
pub mod lua;
#[doc(hidden)]
pub mod roster;
#[doc(hidden)]
pub mod shared;
#[doc(hidden)]
pub mod spec;
#[doc(hidden)]
pub mod stats;
#[doc(hidden)]
pub mod trace;
#[cfg(feature = "wasm")]
#[doc(hidden)]
pub mod wasm;

#[doc(hidden)]
pub use crate::hosts::Host;
pub use crate::proto::scp::message::Extra;
#[doc(hidden)]
pub use hook::FileHook;
pub use hook::{
    Answer, AttrValue, Attrs, Call, Dial, Ended, Fastway, Hook, HookError, HookErrorKind, Question,
    Reply, SessionInfo, Target,
};
#[doc(hidden)]
pub use load::Runners;
#[doc(hidden)]
pub use roster::Roster;
