//! What measures time or memory, or takes a whole machine for a while. Cargo runs this binary beside
//! no other; what measures time runs beside nothing here, either.

#[allow(
    dead_code,
    unused_imports,
    reason = "shared with the tests of the gateway"
)]
#[path = "../common/mod.rs"]
mod common;

mod kcp_flood;
mod lua_bombs;
mod memory;
mod strangers;
#[cfg(feature = "wasm")]
mod wasm_bombs;

#[allow(
    dead_code,
    reason = "shared with the tests of what scripts and plugins may do"
)]
#[path = "../asking/mod.rs"]
mod asking;
#[cfg(feature = "wasm")]
#[path = "../wasm/harm.rs"]
mod harm;
#[allow(dead_code, reason = "shared with the tests of what scripts may do")]
#[path = "../lua/rig.rs"]
mod lua;
#[path = "../soak/time.rs"]
mod time;
#[allow(dead_code, reason = "shared with the tests of what plugins may do")]
#[cfg(feature = "wasm")]
#[path = "../wasm/rig.rs"]
mod wasm;
#[allow(dead_code, reason = "shared with the tests of what plugins may do")]
#[cfg(feature = "wasm")]
#[path = "../wasm/wat.rs"]
mod wat;

use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};

static TURN: RwLock<()> = RwLock::const_new(());

/// Waits until no other test runs, and lets none run until what is returned is dropped.
async fn alone() -> RwLockWriteGuard<'static, ()> {
    TURN.write().await
}

/// Waits until no test runs that must be alone, and lets none of those run until what is returned is
/// dropped.
async fn beside_others() -> RwLockReadGuard<'static, ()> {
    TURN.read().await
}
