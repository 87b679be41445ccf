//! One hook of one configuration generation, and the interpreters that run it.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::limit::Guard;
use super::pool::{Lost, Order, Pool};
use super::source::Sources;
use super::vm::{Failure, Vm};
use crate::files::Files;
use crate::hooks::contract::Function;
use crate::hooks::spec::{Environment, Limits, LoadError, Spec, wall_timeout};
use crate::hooks::{Call, HookError, HookErrorKind, Reply};

/// A script as it was when it was loaded.
#[derive(Debug)]
pub(super) struct Script {
    id: u64,
    name: Arc<str>,
    sources: Arc<Sources>,
    limits: Limits,
    config: serde_json::Map<String, serde_json::Value>,
    environment: Environment,
    pool: Arc<Pool>,
    /// Where its functions begin, of those it defines; set when it has been run once.
    lines: OnceLock<[Option<usize>; 4]>,
}

impl Script {
    /// Reads the script and runs it once, on a thread of its own. Blocks until it has ended.
    pub(super) fn load(pool: &Arc<Pool>, spec: Spec) -> Result<Arc<Self>, LoadError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name: Arc<str> = spec.name.into();
        let path = std::path::absolute(&spec.path).unwrap_or(spec.path);
        let sources = Sources::open(&path).map_err(|(message, files)| LoadError {
            hook: name.clone(),
            path: path.clone(),
            message,
            files,
        })?;
        let script = Arc::new(Self {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name,
            sources: Arc::new(sources),
            limits: spec.limits,
            config: spec.config,
            environment: spec.environment,
            pool: pool.clone(),
            lines: OnceLock::new(),
        });
        let failed = |message| LoadError {
            hook: script.name.clone(),
            path,
            message,
            files: script.sources.files(),
        };
        let runtime = Handle::try_current().ok();
        let outcome = Pool::run_apart(|| {
            let _context = runtime.as_ref().map(Handle::enter);
            let guard = script.load_guard();
            let vm = Vm::new(&script, &guard)?;
            for module in &spec.modules {
                vm.require(&script, module, &guard)?;
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
                let file = script.sources.main().name();
                return Err(failed(format!("{file}: {message}")));
            }
        }
        script.sources.tell(script.environment.grown.clone());
        Ok(script)
    }

    /// Asks the script. Ends when its turn has come and twice its limit by the wall clock is over.
    pub(super) async fn ask(self: Arc<Self>, call: Call) -> Reply {
        let function = Function::of(&call.question);
        let attrs = call.attrs.clone();
        let order = Order {
            script: self.id,
            limit: self.limits.wall_timeout,
        };
        let runtime = Handle::current();
        let asked = Instant::now();
        let script = self.clone();
        let outcome = self
            .pool
            .run(order, move |cache, reply| {
                let _context = runtime.enter();
                // Nobody waits any more if this fails.
                let _ = reply.send(script.run(cache, call));
                cache.renew(&script);
            })
            .await;
        let reply = outcome.unwrap_or_else(|lost| {
            let mut error = self.lost(lost, function.name());
            if let Some(line) = self.line(function) {
                let file = self.sources.main().name();
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
        self.pool.count(reply.answer.is_err());
        reply
    }

    /// Whether it has anything to say.
    pub(super) fn defines(&self, function: Function) -> bool {
        self.line(function).is_some()
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn name_shared(&self) -> Arc<str> {
        self.name.clone()
    }

    pub(super) fn files(&self) -> Files {
        self.sources.files()
    }

    pub(super) fn modules(&self) -> Vec<String> {
        self.sources.modules()
    }

    pub(super) fn sources(&self) -> &Arc<Sources> {
        &self.sources
    }

    pub(super) fn limits(&self) -> Limits {
        self.limits
    }

    pub(super) fn config(&self) -> &serde_json::Map<String, serde_json::Value> {
        &self.config
    }

    pub(super) fn environment(&self) -> &Environment {
        &self.environment
    }

    pub(super) fn pool(&self) -> &Pool {
        &self.pool
    }

    fn run(self: &Arc<Self>, cache: &mut Cache, call: Call) -> Reply {
        let mut started = Instant::now();
        let outcome = cache.vm(self).and_then(|vm| {
            started = Instant::now();
            let limits = &self.limits;
            let guard = Guard::start(limits.timeout, limits.wall_timeout, limits.memory);
            vm.call(self, &call, &guard)
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
                    // Its state is whatever it was in the middle of.
                    cache.discard(self);
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

    /// Starts the clocks of loading.
    fn load_guard(&self) -> Guard {
        let timeout = self.limits.load_timeout;
        Guard::start(timeout, wall_timeout(timeout), self.limits.memory)
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

impl Drop for Script {
    fn drop(&mut self) {
        self.pool.sweep();
    }
}

/// The interpreters of one worker, one for each script it has been asked for.
#[derive(Default)]
pub(super) struct Cache {
    vms: HashMap<u64, (Weak<Script>, Vm)>,
    /// One that the last call gave up.
    discarded: Option<Vm>,
}

impl Cache {
    /// Frees what no call will use again.
    pub(super) fn sweep(&mut self) {
        self.vms.retain(|_, (script, _)| script.strong_count() > 0);
    }

    /// The interpreter of a script, loaded within the limits of loading if it is not there.
    fn vm(&mut self, script: &Arc<Script>) -> Result<&Vm, Failure> {
        use std::collections::hash_map::Entry;
        match self.vms.entry(script.id) {
            Entry::Occupied(entry) => Ok(&entry.into_mut().1),
            Entry::Vacant(entry) => {
                let vm = Vm::new(script, &script.load_guard())?;
                Ok(&entry.insert((Arc::downgrade(script), vm)).1)
            }
        }
    }

    fn discard(&mut self, script: &Script) {
        self.discarded = self.vms.remove(&script.id).map(|(_, vm)| vm);
    }

    /// Puts a new interpreter in the place of one that was given up, once the answer is on its
    /// way: the next call shall not wait for that.
    fn renew(&mut self, script: &Arc<Script>) {
        if self.discarded.take().is_some() {
            // If it cannot be loaded, that is the next call's error.
            let _ = self.vm(script);
        }
    }
}
