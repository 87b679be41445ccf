//! The admin interface of a running gateway.

mod browser;
mod clock;
mod metrics;
mod openapi;
mod orders;
mod page;
mod sessions;
mod strangers;

/// One scp listener called `game` to `builtin:echo`, and an admin interface.
const CONFIG: &str = "admin: 127.0.0.1:0
listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp}]
hosts: [{name: echo, addr: 'builtin:echo'}]
";

/// The same with a hook.
const SCRIPTED: &str = "admin: 127.0.0.1:0
listeners: [{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [route]}]
hosts: [{name: echo, addr: 'builtin:echo'}]
hooks: [{name: route, lua: route.lua, timeout: 5s, config: {key: sesame}}]
";
