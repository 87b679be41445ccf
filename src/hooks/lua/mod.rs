//! Lua scripts as hooks.
