//! Idle instances of all plugins, which wait for their next call.
//!
//! Sessions hold the plugins that decided about them, so that one hook has as many plugins as there
//! were reloads. The number of idle instances is bounded for all plugins together, and plugins that
//! are no longer asked lose theirs first.

use std::collections::VecDeque;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Instance;

use super::guest::{Guest, PluginContext};

use crate::sync::Mutex;

/// Instance with its memory.
pub(super) struct LiveInstance {
    pub(super) store: Store<Guest>,
    pub(super) instance: Instance,
}

impl LiveInstance {
    fn is_of(&self, plugin: &Arc<PluginContext>) -> bool {
        Arc::ptr_eq(&self.store.data().around, plugin)
    }
}

/// Bounded list of idle instances, the last used last.
pub(super) struct Idle {
    instances: Mutex<VecDeque<LiveInstance>>,
    most: usize,
}

impl Idle {
    pub(super) fn new(most: usize) -> Self {
        Self {
            instances: Mutex::default(),
            most,
        }
    }

    /// Takes the instance of a plugin that was kept last.
    pub(super) fn take(&self, plugin: &Arc<PluginContext>) -> Option<LiveInstance> {
        let mut instances = self.instances.lock();
        let at = instances.iter().rposition(|live| live.is_of(plugin))?;
        instances.remove(at)
    }

    /// Keeps an instance. If there are too many, drops the one that has waited longest.
    pub(super) fn keep(&self, live: LiveInstance) {
        let mut instances = self.instances.lock();
        instances.push_back(live);
        let surplus = (instances.len() > self.most).then(|| instances.pop_front());
        // Dropped without the lock, because giving memory back takes time.
        drop(instances);
        drop(surplus);
    }

    /// Drops all instances of a plugin.
    pub(super) fn forget(&self, plugin: &Arc<PluginContext>) {
        let mut instances = self.instances.lock();
        let (gone, kept) = instances.drain(..).partition(|live| live.is_of(plugin));
        *instances = kept;
        drop(instances);
        drop::<VecDeque<_>>(gone);
    }
}
