//! Instances that wait for their next call, of all plugins.
//!
//! Sessions hold the plugins that decided about them, so of one hook there are as many plugins as
//! there were reloads. What they keep is bounded for all of them together, and those that nobody
//! asks any more lose it first.

use std::collections::VecDeque;
use std::sync::Arc;

use wasmtime::Store;
use wasmtime::component::Instance;

use super::guest::{Guest, PluginContext};

use crate::sync::Mutex;

/// An instance with its memory.
pub(super) struct LiveInstance {
    pub(super) store: Store<Guest>,
    pub(super) instance: Instance,
}

impl LiveInstance {
    fn is_of(&self, plugin: &Arc<PluginContext>) -> bool {
        Arc::ptr_eq(&self.store.data().around, plugin)
    }
}

/// A bounded list, the last used last.
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

    /// An instance of a plugin, the last that was kept.
    pub(super) fn take(&self, plugin: &Arc<PluginContext>) -> Option<LiveInstance> {
        let mut instances = self.instances.lock();
        let at = instances.iter().rposition(|live| live.is_of(plugin))?;
        instances.remove(at)
    }

    /// Keeps an instance, instead of the one that has waited longest if there are too many.
    pub(super) fn keep(&self, live: LiveInstance) {
        let mut instances = self.instances.lock();
        instances.push_back(live);
        let surplus = (instances.len() > self.most).then(|| instances.pop_front());
        // Giving memory back takes its time.
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
