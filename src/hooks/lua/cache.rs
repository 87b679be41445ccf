//! The interpreters of a worker.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use super::program::Program;
use super::vm::{Failure, Vm};

/// The interpreters of one worker, one for each script it has been asked for.
#[derive(Default)]
pub(super) struct Cache {
    vms: HashMap<u64, (Weak<Program>, Vm)>,
    /// One that the last call gave up.
    discarded: Option<Vm>,
}

impl Cache {
    /// Frees what no call will use again.
    pub(super) fn sweep(&mut self) {
        self.vms
            .retain(|_, (program, _)| program.strong_count() > 0);
    }

    /// The interpreter of a script, loaded within the limits of loading if it is not there.
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

    /// Puts a new interpreter in the place of one that was given up, once the answer is on its
    /// way: the next call shall not wait for that.
    pub(super) fn renew(&mut self, program: &Arc<Program>) {
        if self.discarded.take().is_some() {
            // If it cannot be loaded, that is the next call's error.
            let _ = self.vm(program);
        }
    }
}
