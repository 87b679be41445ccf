//! Cache of a worker's interpreters.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::program::Program;
use super::vm::{Failure, Vm};

/// Interpreters of one worker, one for each script that the worker has run.
#[derive(Default)]
pub(super) struct Cache {
    vms: HashMap<u64, (Weak<Program>, Vm)>,
    /// Interpreter that the last call gave up.
    discarded: Option<Vm>,
}

impl Cache {
    /// Frees the interpreters of scripts that are gone.
    pub(super) fn sweep(&mut self) {
        self.vms
            .retain(|_, (program, _)| program.strong_count() > 0);
    }

    /// Returns the interpreter of a script. Loads it first, within the limits of loading, if it is
    /// missing.
    pub(super) fn vm(&mut self, program: &Arc<Program>) -> Result<&Vm, Failure> {
        use std::collections::hash_map::Entry;
        match self.vms.entry(program.id) {
            Entry::Occupied(entry) => Ok(&entry.into_mut().1),
            Entry::Vacant(entry) => {
                let vm = Vm::new(program, &program.load_guard())?;
                Ok(&entry.insert((Arc::downgrade(program), vm)).1)
            }
        }
    }

    pub(super) fn discard(&mut self, program: &Program) {
        self.discarded = self.vms.remove(&program.id).map(|(_, vm)| vm);
    }

    /// Replaces an interpreter that was given up.
    ///
    /// Called when the answer is on its way, so that the next call does not wait for the loading.
    pub(super) fn renew(&mut self, program: &Arc<Program>) {
        if self.discarded.take().is_some() {
            // If it cannot be loaded, that is the next call's error.
            let _ = self.vm(program);
        }
    }
}
