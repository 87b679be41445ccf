//! One hook of one configuration generation, and the interpreters that run it.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::limit::Guard;
use super::pool::Pool;
use super::source::Sources;
use super::vm::{Failure, Vm};
use super::workers::{Lost, Order, PATIENCE};
use crate::hooks::contract::Function;
use crate::hooks::spec::{Environment, Limits, LoadError, Spec};
use crate::hooks::{Call, HookError, HookErrorKind, Reply};

/// The least time for a worker to come free and load a script, whose own time is limited besides.
const LOAD_PATIENCE: Duration = Duration::from_secs(2);

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
    /// Reads the script and runs it once. Blocks for at most twice its time limit.
    pub(super) fn load(pool: &Arc<Pool>, spec: Spec) -> Result<Arc<Self>, LoadError> {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let name: Arc<str> = spec.name.into();
        let path = std::path::absolute(&spec.path).unwrap_or(spec.path);
        let sources = Sources::open(&path).map_err(|message| LoadError {
            hook: name.clone(),
            path: path.clone(),
            message,
            files: vec![path.clone()],
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
        let probe = script.clone();
        let runtime = Handle::try_current().ok();
        let order = Order {
            // Nobody waits for a script to be loaded but who wants it loaded, and a busy machine
            // is no reason to do without it.
            limit: script.limits.timeout.max(LOAD_PATIENCE),
            priority: script.limits.timeout,
            ..script.order("load")
        };
        let outcome = pool.run_blocking(order, move |_| {
            let _context = runtime.as_ref().map(Handle::enter);
            let guard = Guard::start(probe.limits.timeout, probe.limits.memory);
            Vm::new(&probe, &guard).map(|vm| vm.lines())
        });
        match outcome {
            Ok(Ok(lines)) => script
                .lines
                .set(lines)
                .expect("a script is loaded by this function only"),
            Ok(Err(failure)) => return Err(failed(failure.message)),
            Err(lost) => {
                let message = script.lost(lost, "loading").message;
                let file = script.sources.main().name();
                return Err(failed(format!("{file}: {message}")));
            }
        }
        Ok(script)
    }

    /// Asks the script. Ends within twice its time limit.
    pub(super) async fn ask(self: Arc<Self>, call: Call) -> Reply {
        let function = Function::of(&call.question);
        let attrs = call.attrs.clone();
        let order = self.order(function.name());
        let runtime = Handle::current();
        let asked = Instant::now();
        let script = self.clone();
        let outcome = self
            .pool
            .run(order, move |cache| {
                let _context = runtime.enter();
                script.run(cache, call)
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

    pub(super) fn files(&self) -> Vec<PathBuf> {
        self.sources.files()
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

    fn run(self: Arc<Self>, cache: &mut Cache, call: Call) -> Reply {
        let started = Instant::now();
        let guard = Guard::start(self.limits.timeout, self.limits.memory);
        let outcome = cache
            .vm(&self, &guard)
            .and_then(|vm| vm.call(&self, &call, &guard));
        drop(guard);
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
                    cache.discard(&self);
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

    fn order(&self, what: &'static str) -> Order {
        Order {
            hook: self.name.clone(),
            what,
            limit: self.limits.timeout,
            priority: PATIENCE,
        }
    }

    fn line(&self, function: Function) -> Option<usize> {
        // invariant: there is one for each function.
        self.lines.get()?[function as usize]
    }

    fn lost(&self, lost: Lost, what: &str) -> HookError {
        let (kind, message) = match lost {
            Lost::Stuck => (
                HookErrorKind::Stuck,
                format!("{what} could not be stopped in time; its worker was given up"),
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
    /// Interpreters to free once the answer is on its way: that may take a while.
    discarded: Vec<Vm>,
}

impl Cache {
    /// Frees what no call will use again.
    pub(super) fn sweep(&mut self) {
        self.discarded.clear();
        self.vms.retain(|_, (script, _)| script.strong_count() > 0);
    }

    /// Frees what the last call gave up.
    pub(super) fn tidy(&mut self) {
        self.discarded.clear();
    }

    fn vm(&mut self, script: &Arc<Script>, guard: &Guard) -> Result<&Vm, Failure> {
        use std::collections::hash_map::Entry;
        match self.vms.entry(script.id) {
            Entry::Occupied(entry) => Ok(&entry.into_mut().1),
            Entry::Vacant(entry) => {
                let vm = Vm::new(script, guard)?;
                Ok(&entry.insert((Arc::downgrade(script), vm)).1)
            }
        }
    }

    fn discard(&mut self, script: &Script) {
        self.discarded
            .extend(self.vms.remove(&script.id).map(|(_, vm)| vm));
    }
}
