//! Script of one configuration generation, and the calls to it.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::cache::Cache;
use super::pool::{Lost, Order, Pool};
use super::program::Program;
use super::source::Sources;
use super::vm::{Failure, Vm};
use crate::files::Files;
use crate::hooks::contract::Function;
use crate::hooks::spec::{LoadError, Spec};
use crate::hooks::{Call, HookError, HookErrorKind, Reply};

/// Script that has been loaded.
#[derive(Debug)]
pub(super) struct Script {
    program: Arc<Program>,
    /// Lines at which the defined functions begin; set when the script has run once.
    lines: OnceLock<[Option<usize>; 4]>,
    // After the program: fields are dropped in order.
    pool: Swept,
}

/// Pool of a script. Frees the script's interpreters when dropped.
#[derive(Debug)]
struct Swept(Arc<Pool>);

impl Drop for Swept {
    fn drop(&mut self) {
        self.0.sweep();
    }
}

impl Script {
    /// Loads a script: reads it and runs it once, on a thread of its own. Blocks until that has
    /// ended.
    pub(super) fn load(pool: &Arc<Pool>, spec: Spec) -> Result<Arc<Self>, LoadError> {
        let name: Arc<str> = spec.name.into();
        let path = std::path::absolute(&spec.path).unwrap_or(spec.path);
        let sources = Sources::open(&path).map_err(|(message, files)| LoadError {
            hook: name.clone(),
            path: path.clone(),
            message,
            files,
        })?;
        let program = Arc::new(Program {
            id: Program::next_id(),
            name,
            sources: Arc::new(sources),
            limits: spec.limits,
            config: spec.config,
            environment: spec.environment,
            vms: pool.live_vms().clone(),
        });
        let script = Arc::new(Self {
            program: program.clone(),
            lines: OnceLock::new(),
            pool: Swept(pool.clone()),
        });
        let failed = |message| LoadError {
            hook: program.name.clone(),
            path,
            message,
            files: program.sources.files(),
        };
        let runtime = Handle::try_current().ok();
        let outcome = Pool::run_apart(|| {
            let _context = runtime.as_ref().map(Handle::enter);
            let guard = program.load_guard();
            let vm = Vm::new(&program, &guard)?;
            for module in &spec.modules {
                vm.require(&program, module, &guard)?;
            }
            Ok(vm.lines())
        });
        match outcome {
            Ok(Ok(lines)) => script
                .lines
                .set(lines)
                .expect("a script is loaded by this function only"),
            Ok(Err(Failure { message, .. })) => return Err(failed(message)),
            Err(lost) => {
                let message = script.lost(lost, "loading").message;
                let file = program.sources.main().name();
                return Err(failed(format!("{file}: {message}")));
            }
        }
        program.sources.tell(program.environment.grown.clone());
        Ok(script)
    }

    /// Asks the script.
    ///
    /// Ends, at the latest, when the call's turn has come and then twice its limit in wall-clock
    /// time is over.
    pub(super) async fn ask(self: Arc<Self>, call: Call) -> Reply {
        let function = Function::of(&call.question);
        let attrs = call.attrs.clone();
        let order = Order {
            script: self.program.id,
            limit: self.program.limits.wall_timeout,
        };
        let runtime = Handle::current();
        let asked = Instant::now();
        let program = self.program.clone();
        let outcome = self
            .pool
            .0
            .run(order, move |cache, reply| {
                let _context = runtime.enter();
                // Fails if nobody waits for the answer any more.
                let _ = reply.send(run(&program, cache, call));
                cache.renew(&program);
            })
            .await;
        let reply = outcome.unwrap_or_else(|lost| {
            let mut error = self.lost(lost, function.name());
            if let Some(line) = self.line(function) {
                let file = self.program.sources.main().name();
                error.message = format!("{file}:{line}: {}", error.message);
            }
            Reply {
                answer: Err(error),
                attrs,
                cost: match lost {
                    Lost::Stuck => asked.elapsed(),
                    Lost::Overloaded | Lost::Died => Duration::ZERO,
                },
            }
        });
        self.pool.0.count(reply.answer.is_err());
        reply
    }

    /// Returns whether the script defines a function.
    pub(super) fn defines(&self, function: Function) -> bool {
        self.line(function).is_some()
    }

    pub(super) fn name(&self) -> &str {
        &self.program.name
    }

    pub(super) fn files(&self) -> Files {
        self.program.sources.files()
    }

    pub(super) fn modules(&self) -> Vec<String> {
        self.program.sources.modules()
    }

    fn line(&self, function: Function) -> Option<usize> {
        // invariant: there is one for each function.
        self.lines.get()?[function as usize]
    }

    fn lost(&self, lost: Lost, what: &str) -> HookError {
        let (kind, message) = match lost {
            Lost::Stuck => (
                HookErrorKind::Stuck,
                format!("{what} has not ended within twice its wall-clock limit"),
            ),
            Lost::Overloaded => (
                HookErrorKind::Overloaded,
                format!("{what}: no worker is free, too many calls are slow"),
            ),
            Lost::Died => (
                HookErrorKind::Script,
                format!("{what} ended with a fault of the script host"),
            ),
        };
        HookError { kind, message }
    }
}

/// Asks a script in an interpreter of `cache`.
fn run(program: &Arc<Program>, cache: &mut Cache, call: Call) -> Reply {
    let mut started = Instant::now();
    let outcome = cache.vm(program).and_then(|vm| {
        started = Instant::now();
        vm.call(program, &call, &program.call_guard())
    });
    let cost = started.elapsed();
    match outcome {
        Ok((answer, attrs)) => Reply {
            answer: Ok(answer),
            attrs,
            cost,
        },
        Err(failure) => {
            if failure.kind != HookErrorKind::Script {
                // The interpreter was interrupted in an unknown state.
                cache.discard(program);
            }
            Reply {
                answer: Err(HookError {
                    kind: failure.kind,
                    message: failure.message,
                }),
                attrs: call.attrs,
                cost,
            }
        }
    }
}
