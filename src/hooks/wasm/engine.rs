//! The engine that runs all plugins of a gateway.

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

/// Instances that may live at once: calls under way, and those that wait for their next one.
const INSTANCES: u32 = 512;

/// Most instances that wait, for each processor: enough for a chain of eight hooks.
const IDLE: usize = 8;

/// Most instances that wait in all: the other places are for calls.
const MAX_IDLE: usize = INSTANCES as usize / 2;

/// Core modules of all of them: a compiler makes several for one component.
const CORE_INSTANCES: u32 = 4 * INSTANCES;

/// Places of instances that are gone which are kept as they are for the next one of the same
/// plugin. They hold memory and the plugin's code: more of them would keep those of old ones.
const WARM: u32 = 16;

/// The largest memory that a hook can be allowed.
const MAX_MEMORY: usize = 1024 * 1024 * 1024;

/// The stack of WebAssembly code, bytes.
const STACK: usize = 512 * 1024;

/// The stack of a call: that, and what host functions need on top of it.
const CALL_STACK: usize = STACK + 256 * 1024;

/// What of an instance's memory stays resident for the next one, bytes: clearing so much costs
/// less than giving it back to the system.
const KEEP: usize = 256 * 1024;

/// What runs plugins. Its threads end with it.
pub(super) struct Engine {
    pub(super) wasm: wasmtime::Engine,
    pub(super) clock: Clock,
    pub(super) slow: Slow,
    pub(super) idle: Idle,
    pub(super) cache: Option<Cache>,
    /// What is compiled although nobody waits for it any more.
    pub(super) late: Late,
    /// Threads that can run plugins at once.
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
