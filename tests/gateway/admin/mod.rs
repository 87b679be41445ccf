//! The admin interface of a running gateway.

use std::io::Write;

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

/// Says that a test did not run for want of a program: past the capture of what tests print.
fn skipped(program: &str) {
    let mut stderr = std::io::stderr();
    writeln!(stderr, "SKIPPED: {program} is not installed").unwrap();
}
