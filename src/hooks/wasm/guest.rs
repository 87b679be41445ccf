//! State of the host for an instance of a plugin.

use std::collections::BTreeMap;
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::ResourceLimiter;

use crate::hooks::contract::{Log, MAX_ATTRS, attr_size};
use crate::hooks::spec::Environment;
use crate::hooks::{AttrValue, Attrs};

/// Most elements of one table; a large interpreter has some ten thousand functions in one.
pub(super) const MAX_TABLE: usize = 65_536;

/// Context that all instances of a plugin share: what they see of the gateway.
#[derive(Debug)]
pub(super) struct PluginContext {
    /// Name of the hook.
    pub(super) hook: Arc<str>,
    pub(super) config: serde_json::Map<String, serde_json::Value>,
    pub(super) environment: Environment,
    /// Most memory of an instance, bytes.
    pub(super) memory: usize,
    /// Memory of all instances together, bytes, and the most that it may be.
    pub(super) all_memory: AtomicUsize,
    pub(super) most_memory: usize,
}

/// State of the host for one instance.
pub(super) struct Guest {
    pub(super) around: Arc<PluginContext>,
    pub(super) log: Log,
    /// Standard output and error since the last end of a line.
    pub(super) line: Vec<u8>,
    notes: Notes,
    memory: usize,
    elements: usize,
}

/// Changes of attributes that a call has noted: values to set or, with `None`, keys to remove.
#[derive(Default)]
pub(super) struct Notes {
    values: BTreeMap<String, Option<AttrValue>>,
    /// Bytes that the notes take.
    size: usize,
}

/// Bytes that a note takes besides its key and its value.
const ENTRY: usize = 128;

/// Error of a call whose attributes are too large.
#[derive(Debug, thiserror::Error)]
#[error("session.attrs is larger than {MAX_ATTRS} bytes")]
pub(super) struct AttrsFull;

/// Error of an instance that needs more memory than its hook has.
#[derive(Debug, thiserror::Error)]
#[error("out of memory")]
pub(super) struct OutOfMemory;

/// Error of an instance that would exceed the memory of all instances of its plugin.
#[derive(Debug, thiserror::Error)]
#[error("too many instances")]
pub(super) struct Crowded;

impl Guest {
    pub(super) fn new(around: Arc<PluginContext>) -> Self {
        Self {
            log: Log::new(around.hook.clone()),
            around,
            line: Vec::new(),
            notes: Notes::default(),
            memory: 0,
            elements: 0,
        }
    }

    /// Notes that the call under way sets an attribute or, with `None`, removes it.
    ///
    /// Until the end of the call, its notes may take as much as the memory limit of an instance.
    pub(super) fn note(
        &mut self,
        key: String,
        value: Option<AttrValue>,
    ) -> Result<(), OutOfMemory> {
        let size = |key: &str, value: &Option<AttrValue>| {
            ENTRY + attr_size(key, value.as_ref().unwrap_or(&AttrValue::Boolean(false)))
        };
        let notes = &mut self.notes;
        let before = notes.values.get(&key).map_or(0, |value| size(&key, value));
        notes.size = notes.size - before + size(&key, &value);
        if notes.size > self.around.memory {
            return Err(OutOfMemory);
        }
        notes.values.insert(key, value);
        Ok(())
    }

    /// Takes the call's notes and leaves none.
    pub(super) fn take_notes(&mut self) -> Notes {
        mem::take(&mut self.notes)
    }
}

impl Drop for Guest {
    fn drop(&mut self) {
        let all = &self.around.all_memory;
        all.fetch_sub(self.memory, Ordering::Relaxed);
    }
}

impl Notes {
    /// Changes the attributes as noted; on an error, they stay as they are.
    pub(super) fn apply(self, attrs: &mut Attrs) -> Result<(), AttrsFull> {
        if self.values.is_empty() {
            return Ok(());
        }
        let mut after = attrs.clone();
        for (key, value) in self.values {
            match value {
                Some(value) => after.insert(key, value),
                None => after.remove(&key),
            };
        }
        let sizes = after.iter().map(|(key, value)| attr_size(key, value));
        if sizes.sum::<usize>() > MAX_ATTRS {
            return Err(AttrsFull);
        }
        *attrs = after;
        Ok(())
    }
}

impl ResourceLimiter for Guest {
    fn memory_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        let before = self.memory;
        let limit = self.around.memory;
        let grows = grow(&mut self.memory, limit, current, desired, maximum)?;
        let more = self.memory - before;
        let all = self.around.all_memory.fetch_add(more, Ordering::Relaxed) + more;
        if all > self.around.most_memory {
            return Err(Crowded.into());
        }
        Ok(grows)
    }

    fn table_growing(
        &mut self,
        current: usize,
        desired: usize,
        maximum: Option<usize>,
    ) -> wasmtime::Result<bool> {
        grow(&mut self.elements, MAX_TABLE, current, desired, maximum)
    }
}

/// Adds the growth of one memory or table to what is used of a limit, if the limit allows.
fn grow(
    used: &mut usize,
    limit: usize,
    current: usize,
    desired: usize,
    maximum: Option<usize>,
) -> wasmtime::Result<bool> {
    // Nothing is added: the engine refuses the growth, and the plugin sees that.
    if maximum.is_some_and(|maximum| desired > maximum) {
        return Ok(false);
    }
    let after = *used + desired.saturating_sub(current);
    if after > limit {
        return Err(OutOfMemory.into());
    }
    *used = after;
    Ok(true)
}
