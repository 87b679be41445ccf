//! Engine that runs all plugins of a gateway.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use wasmtime::{Config, Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

use super::cache::Cache;
use super::clock::Clock;
use super::guest::MAX_TABLE;
use super::idle::Idle;
use super::late::Late;
use super::slow::Slow;

/// Most instances that live at once: those with a call under way, and idle ones.
const INSTANCES: u32 = 512;

/// Most idle instances for each processor: enough for a chain of eight hooks.
const IDLE: usize = 8;

/// Most idle instances in all: the other places are for calls.
const MAX_IDLE: usize = INSTANCES as usize / 2;

/// Most instances of core modules: a compiler makes several modules for one component.
const CORE_INSTANCES: u32 = 4 * INSTANCES;

/// Most warm slots: places of dropped instances that are kept for the next instance of the same
/// plugin.
///
/// A warm slot holds memory and the plugin's code: more slots would keep those of old plugins.
const WARM: u32 = 16;

/// Most memory that a hook can be allowed, bytes.
const MAX_MEMORY: usize = 1024 * 1024 * 1024;

/// Stack of WebAssembly code, bytes.
const STACK: usize = 512 * 1024;

/// Stack of a call, bytes: the code's, and what host functions need on top of it.
const CALL_STACK: usize = STACK + 256 * 1024;

/// Bytes of an instance's memory that stay resident for the next instance: clearing so much costs
/// less than giving it back to the system.
const KEEP: usize = 256 * 1024;

/// Engine of a gateway's plugins. Its threads end with it.
pub(super) struct Engine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) clock: Clock,
    pub(super) slow: Slow,
    pub(super) idle: Idle,
    pub(super) cache: Option<Cache>,
    /// Compilations that go on although nobody waits for them any more.
    pub(super) late: Late,
    /// Number of threads that can run plugins at once.
    pub(super) processors: usize,
}

impl Engine {
    /// Starts the threads and opens the cache.
    pub(super) fn start(cache: Option<&Path>) -> Result<Arc<Self>, String> {
        let failed = |error: String| format!("plugins cannot be run: {error}");
        let wasm =
            wasmtime::Engine::new(&config()).map_err(|error| failed(format!("{error:#}")))?;
        let weak = wasm.weak();
        let tick = move || {
            if let Some(engine) = weak.upgrade() {
                engine.increment_epoch();
            }
        };
        if cache.is_none() {
            tracing::info!("no directory for compiled plugins: they are not kept");
        }
        let processors = thread::available_parallelism().map_or(1, usize::from);
        Ok(Arc::new(Self {
            clock: Clock::start(tick).map_err(|error| failed(error.to_string()))?,
            slow: Slow::start(processors).map_err(|error| failed(error.to_string()))?,
            idle: Idle::new((IDLE * processors).min(MAX_IDLE)),
            cache: cache.and_then(|directory| Cache::open(directory, &wasm)),
            late: Late::default(),
            wasm,
            processors,
        }))
    }
}

fn config() -> Config {
    let mut pool = PoolingAllocationConfig::new();
    pool.total_component_instances(INSTANCES)
        .total_stacks(INSTANCES)
        .total_memories(INSTANCES)
        .total_core_instances(CORE_INSTANCES)
        .total_tables(CORE_INSTANCES)
        .max_memory_size(MAX_MEMORY)
        .table_elements(MAX_TABLE)
        .max_unused_warm_slots(WARM)
        .linear_memory_keep_resident(KEEP)
        .table_keep_resident(KEEP)
        .pagemap_scan(Enabled::Auto);
    let mut config = Config::new();
    config
        .allocation_strategy(InstanceAllocationStrategy::Pooling(pool))
        .epoch_interruption(true)
        .max_wasm_stack(STACK)
        .async_stack_size(CALL_STACK);
    config
}
