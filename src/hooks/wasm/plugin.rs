//! Plugin of one configuration generation, with its instances.

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::Bytes;
use bytesize::ByteSize;
use wasmtime::component::{
    Component, ComponentExportIndex, ComponentNamedList, InstancePre, Lift, Linker, Lower,
    TypedFunc,
};
use wasmtime::{PoolConcurrencyLimitError, Store, Trap, WasmBacktrace};

use super::bindings::{
    Access, Accessed, Announce, Announced, Closed, Decision, EndedRef, PACKAGE, SelectTarget,
    Session, Target as ChosenTarget, TargetSelected, Told, VERSION, interface,
};
use super::compile::compile;
use super::engine::Engine;
use super::guest::{Crowded, Guest, OutOfMemory, PluginContext};
use super::idle::LiveInstance;
use super::slow::{Limits, Pace, Running, Unfinished};
use super::{imports, wasi};
use crate::files::{Files, MAX_FILE};
use crate::hooks::contract::{Function, MAX_ERROR, MAX_MESSAGE, MAX_REASON, clip, is_addr};
use crate::hooks::spec::Instance;
use crate::hooks::spec::Spec;
use crate::hooks::{Answer, Call, HookError, HookErrorKind, Question, Reply, SessionInfo, Target};
use crate::processor::Clock;

/// Most bytes that a plugin passes to the gateway at once: the longest message, and some more.
const MAX_PASSED: usize = MAX_MESSAGE + 64 * 1024;

/// Beginning of the engine's error for passing more than that.
const PASSED_TOO_MUCH: &str = "too much data is being copied";

/// Memory that all instances of a plugin may have together, as a multiple of one instance's limit;
/// more where more instances can run at once.
const INSTANCES: usize = 16;

/// Plugin as it was when it was loaded.
pub(super) struct Plugin {
    files: Files,
    /// Name of the file, for messages.
    file: String,
    timeout: Duration,
    wall_timeout: Duration,
    pace: Arc<Pace>,
    around: Arc<PluginContext>,
    instance: Instance,
    /// Exported functions, by [`Function`].
    exports: [Option<ComponentExportIndex>; 4],
    component: InstancePre<Guest>,
    engine: Arc<Engine>,
}

/// Returns the interface and the function of the contract for a question.
fn names(function: Function) -> (&'static str, &'static str) {
    match function {
        Function::Access => ("access-control", "access"),
        Function::SelectTarget => ("target-selection", "select-target"),
        Function::Announce => ("announcement", "announce"),
        Function::Closed => ("lifecycle", "closed"),
    }
}

impl Plugin {
    /// Loads a plugin: reads and compiles it, and starts it once. Blocks.
    pub(super) fn load(
        engine: &Arc<Engine>,
        path: &Path,
        spec: Spec,
        instance: Instance,
        files: &mut Files,
    ) -> Result<Self, String> {
        let content = files
            .read(path, MAX_FILE)
            .map_err(|error| error.to_string())?;
        let file = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let limits = spec.limits;
        let component = compile(engine, content, &file, limits.load_timeout)?;
        let exports = exports(&component)?;
        let linker = linker(&component)?;
        let component = linker
            .instantiate_pre(&component)
            .map_err(|error| format!("{error:#}"))?;
        let plugin = Self {
            file,
            files: files.clone(),
            timeout: limits.timeout,
            wall_timeout: limits.wall_timeout,
            pace: Pace::new(),
            around: Arc::new(PluginContext {
                hook: spec.name.into(),
                config: spec.config,
                environment: spec.environment,
                memory: limits.memory,
                all_memory: AtomicUsize::new(0),
                most_memory: limits.memory * INSTANCES.max(2 * engine.processors),
            }),
            instance,
            exports,
            component,
            engine: engine.clone(),
        };
        plugin.probe(limits.load_timeout)?;
        Ok(plugin)
    }

    /// Starts an instance and compares the types of its exports with those of the contract.
    fn probe(&self, limit: Duration) -> Result<(), String> {
        let started = block_on(&self.engine, limit, self.start())
            .ok_or_else(|| format!("does not start within {limit:?}"))?;
        let mut live = started.map_err(|error| self.describe(&error).message)?;
        for function in Function::ALL {
            let checked = match function {
                Function::Access => self.checked::<Access<'_>, Accessed>(&mut live, function),
                Function::SelectTarget => {
                    self.checked::<SelectTarget<'_>, TargetSelected>(&mut live, function)
                }
                Function::Announce => self.checked::<Announce<'_>, Announced>(&mut live, function),
                Function::Closed => self.checked::<Closed<'_>, Told>(&mut live, function),
            };
            checked.map_err(|error| {
                let (interface, name) = names(function);
                format!("{interface}.{name} has not the type of the contract: {error:#}")
            })?;
        }
        self.park(live);
        Ok(())
    }

    fn checked<P, R>(&self, live: &mut LiveInstance, function: Function) -> wasmtime::Result<()>
    where
        P: ComponentNamedList + Lower + Send + Sync,
        R: ComponentNamedList + Lift + Send + Sync,
    {
        // invariant: there is a place for each function.
        if let Some(index) = &self.exports[function as usize] {
            live.instance
                .get_typed_func::<P, R>(&mut live.store, index)?;
        }
        Ok(())
    }

    pub(super) fn name(&self) -> &str {
        &self.around.hook
    }

    pub(super) fn files(&self) -> &Files {
        &self.files
    }

    /// Returns whether the plugin exports a function.
    pub(super) fn exports(&self, function: Function) -> bool {
        // invariant: there is a place for each function.
        self.exports[function as usize].is_some()
    }

    /// Asks the plugin. Ends within the limits of a call and the time of a few turns.
    pub(super) async fn ask(self: Arc<Self>, call: Call) -> Reply {
        let started = Instant::now();
        let limits = Limits {
            timeout: self.timeout,
            end: started + self.wall_timeout,
        };
        let (function, attrs) = (Function::of(&call.question), call.attrs.clone());
        let mut running: Running = Box::pin(self.clone().answer(call, started));
        let engine = &self.engine;
        let ticking = engine.clock.ticking();
        // The first poll runs on the thread that asks: most calls end there. A call that does not
        // end, or probably will not, goes on at once on the threads for slow calls.
        let first = match self.pace.is_overloaded() || self.pace.is_slow() {
            true => Poll::Pending,
            false => running
                .as_mut()
                .poll(&mut Context::from_waker(Waker::noop())),
        };
        let finished = match first {
            Poll::Ready(reply) => Ok(reply),
            Poll::Pending => engine.slow.finish(&self.pace, running, limits).await,
        };
        drop(ticking);
        finished.unwrap_or_else(|unfinished| {
            let (kind, message) = match unfinished {
                Unfinished::Timeout => (
                    HookErrorKind::Timeout,
                    format!("time limit of {:?} exceeded", self.timeout),
                ),
                Unfinished::WallTimeout(computed) => (
                    HookErrorKind::WallTimeout,
                    format!(
                        "wall-clock limit of {:?} exceeded (computed for {}ms)",
                        self.wall_timeout,
                        computed.as_millis()
                    ),
                ),
                Unfinished::Overloaded => (
                    HookErrorKind::Overloaded,
                    "too many calls are slow".to_owned(),
                ),
            };
            Reply {
                answer: Err(HookError {
                    kind,
                    message: format!("{}: {}: {message}", self.file, function.name()),
                }),
                attrs,
                cost: started.elapsed(),
            }
        })
    }

    /// Runs a whole call. Gives way at each tick of the clock.
    async fn answer(self: Arc<Self>, mut call: Call, started: Instant) -> Reply {
        let answer = self.run(&mut call).await.map_err(|mut error| {
            let function = Function::of(&call.question).name();
            error.message = format!("{}: {function}: {}", self.file, error.message);
            error
        });
        Reply {
            answer,
            attrs: call.attrs,
            cost: started.elapsed(),
        }
    }

    /// Runs a call in an instance. Changes the attributes of the call only if the call succeeds.
    async fn run(&self, call: &mut Call) -> Result<Answer, HookError> {
        let failed = |error| self.describe(&error);
        let parked = match self.instance {
            Instance::Fresh => None,
            Instance::Pooled => self.engine.idle.take(&self.around),
        };
        let mut live = match parked {
            Some(live) => live,
            None => self.start().await.map_err(failed)?,
        };
        live.store.set_epoch_deadline(1);
        let answer = self.put(&mut live, call).await.map_err(failed)?;
        let guest = live.store.data_mut();
        wasi::flush(guest);
        let notes = guest.take_notes();
        self.park(live);
        let own = |message: String| HookError {
            kind: HookErrorKind::Script,
            message: clip(message.as_bytes(), MAX_ERROR),
        };
        let answer = answer.map_err(own)?;
        notes
            .apply(&mut call.attrs)
            .map_err(|full| own(full.to_string()))?;
        Ok(answer)
    }

    /// Puts a question to an instance. The inner error is the plugin's own.
    async fn put(
        &self,
        live: &mut LiveInstance,
        call: &Call,
    ) -> wasmtime::Result<Result<Answer, String>> {
        let session = Session::of(call);
        Ok(match &call.question {
            Question::Access => {
                let function = self.function::<Access<'_>, Accessed>(live, Function::Access)?;
                let (decision,) = function.call_async(&mut live.store, (session,)).await?;
                decision.map(access)
            }
            Question::SelectTarget => {
                let function = self
                    .function::<SelectTarget<'_>, TargetSelected>(live, Function::SelectTarget)?;
                let (target,) = function.call_async(&mut live.store, (session,)).await?;
                target.and_then(|target| select_target(target, &call.info))
            }
            Question::Announce { target } => {
                let function =
                    self.function::<Announce<'_>, Announced>(live, Function::Announce)?;
                let (message,) = function
                    .call_async(&mut live.store, (session, target))
                    .await?;
                message.and_then(announce)
            }
            Question::Closed(ended) => {
                let function = self.function::<Closed<'_>, Told>(live, Function::Closed)?;
                let (told,) = function
                    .call_async(&mut live.store, (session, EndedRef::of(ended)))
                    .await?;
                told.map(|()| Answer::Pass)
            }
        })
    }

    /// Returns an exported function of an instance, with the types that [`Self::probe`] compared.
    fn function<P, R>(
        &self,
        live: &mut LiveInstance,
        function: Function,
    ) -> wasmtime::Result<TypedFunc<P, R>>
    where
        P: ComponentNamedList + Lower,
        R: ComponentNamedList + Lift,
    {
        // invariant: there is a place for each function.
        let exported = self.exports[function as usize]
            .as_ref()
            .and_then(|index| live.instance.get_func(&mut live.store, index));
        let exported = exported.ok_or_else(|| wasmtime::format_err!("is not exported"))?;
        // SAFETY: each function is asked for with the types that `probe` compared with those of
        // the component, which are the same in all its instances.
        Ok(unsafe { TypedFunc::new_unchecked(exported) })
    }

    /// Starts a new instance.
    async fn start(&self) -> wasmtime::Result<LiveInstance> {
        let mut store = Store::new(&self.engine.wasm, Guest::new(self.around.clone()));
        store.limiter(|guest| guest);
        store.set_hostcall_fuel(MAX_PASSED);
        store.epoch_deadline_async_yield_and_update(1);
        store.set_epoch_deadline(1);
        let instance = self.component.instantiate_async(&mut store).await?;
        Ok(LiveInstance { store, instance })
    }

    /// Keeps an instance for the next call, if the plugin's instances are pooled.
    fn park(&self, mut live: LiveInstance) {
        if self.instance == Instance::Pooled {
            live.store.data_mut().log.end();
            self.engine.idle.keep(live);
        }
    }

    /// Returns the error of a call that the engine ended.
    fn describe(&self, error: &wasmtime::Error) -> HookError {
        let (kind, mut message) = if error.is::<OutOfMemory>() {
            let limit = ByteSize::b(self.around.memory as u64);
            (
                HookErrorKind::Memory,
                format!("memory limit of {limit} exceeded"),
            )
        } else if error.is::<Crowded>() {
            let limit = ByteSize::b(self.around.most_memory as u64);
            (
                HookErrorKind::Overloaded,
                format!("all calls together take more than {limit}"),
            )
        } else if error.is::<PoolConcurrencyLimitError>() {
            (
                HookErrorKind::Overloaded,
                "too many instances are alive".to_owned(),
            )
        } else if let Some(trap) = error.downcast_ref::<Trap>() {
            (HookErrorKind::Trap, trap.to_string())
        } else {
            let cause = error.root_cause().to_string();
            match cause.starts_with(PASSED_TOO_MUCH) {
                true => (
                    HookErrorKind::Trap,
                    "passes strings or lists of more than 1 MiB at once".to_owned(),
                ),
                false => (HookErrorKind::Trap, cause),
            }
        };
        let frame = error
            .downcast_ref::<WasmBacktrace>()
            .and_then(|trace| trace.frames().first()?.func_name());
        if let Some(function) = frame {
            message += &format!(", in {function}");
        }
        HookError {
            kind,
            message: clip(message.as_bytes(), MAX_ERROR),
        }
    }
}

impl Drop for Plugin {
    fn drop(&mut self) {
        self.engine.idle.forget(&self.around);
    }
}

fn access(decision: Decision) -> Answer {
    match decision {
        Decision::Pass => Answer::Pass,
        Decision::Allow => Answer::Allow,
        Decision::Deny(reason) => Answer::Deny {
            reason: clip(reason.as_bytes(), MAX_REASON),
        },
    }
}

fn select_target(target: Option<ChosenTarget>, info: &SessionInfo) -> Result<Answer, String> {
    let shown = |text: &str| clip(text.as_bytes(), 64);
    let target = match target {
        None => return Ok(Answer::Pass),
        Some(ChosenTarget::Endpoint(id)) if info.is_dial() => Target::Id(id),
        Some(ChosenTarget::Endpoint(id)) => {
            return Err(format!(
                "answered the endpoint {id}, expected a host or an address: this is no dial"
            ));
        }
        Some(_) if info.is_dial() => {
            return Err("answered a host, expected an endpoint: this is a dial".to_owned());
        }
        Some(ChosenTarget::Name(name)) if name.is_empty() => {
            return Err("answered a host without a name".to_owned());
        }
        Some(ChosenTarget::Name(name)) => Target::Name(name),
        Some(ChosenTarget::Addr(addr)) if is_addr(&addr) => Target::Addr(addr),
        Some(ChosenTarget::Addr(addr)) => {
            let addr = shown(&addr);
            return Err(format!("answered the address {addr:?}, expected host:port"));
        }
    };
    Ok(Answer::Target(target))
}

fn announce(message: Option<Vec<u8>>) -> Result<Answer, String> {
    match message {
        None => Ok(Answer::Pass),
        Some(message) if message.len() > MAX_MESSAGE => Err(format!(
            "answered {} bytes, expected at most {MAX_MESSAGE}",
            message.len()
        )),
        Some(message) => Ok(Answer::Message(Bytes::from(message))),
    }
}

/// Runs a future to its end. `None` if it computes for longer than `limit`.
///
/// The future gives way at each tick of the clock.
fn block_on<F: Future>(engine: &Engine, limit: Duration, running: F) -> Option<F::Output> {
    let _ticking = engine.clock.ticking();
    let end = Clock::OWN.computed() + limit;
    let mut running = pin!(running);
    let mut context = Context::from_waker(Waker::noop());
    loop {
        match running.as_mut().poll(&mut context) {
            Poll::Ready(output) => return Some(output),
            Poll::Pending if Clock::OWN.computed() >= end => return None,
            Poll::Pending => {}
        }
    }
}

/// Returns the functions of the contract that a component exports.
fn exports(component: &Component) -> Result<[Option<ComponentExportIndex>; 4], String> {
    let mut exports = [None; 4];
    for function in Function::ALL {
        let (interface_name, name) = names(function);
        let full = interface(interface_name);
        if let Some(instance) = component.get_export_index(None, &full) {
            let index = component
                .get_export_index(Some(&instance), name)
                .ok_or_else(|| format!("exports {full} without its function {name}"))?;
            // invariant: there is a place for each function.
            exports[function as usize] = Some(index);
        }
    }
    let ty = component.component_type();
    for (name, _) in ty.exports(component.engine()) {
        let known = Function::ALL.map(|function| interface(names(function).0));
        if name.starts_with(&format!("{PACKAGE}/")) && !known.iter().any(|known| known == name) {
            return Err(format!(
                "exports {name}, which is no interface of version {VERSION} that plugins export"
            ));
        }
    }
    if exports.iter().all(Option::is_none) {
        return Err(format!(
            "exports none of access-control, target-selection, announcement and lifecycle of {PACKAGE}@{VERSION}"
        ));
    }
    Ok(exports)
}

/// Creates a linker with all that a component may import.
fn linker(component: &Component) -> Result<Linker<Guest>, String> {
    let failed = |error: wasmtime::Error| format!("{error:#}");
    let mut linker = Linker::new(component.engine());
    imports::define(&mut linker).map_err(failed)?;
    let ty = component.component_type();
    for (name, _) in ty.imports(component.engine()) {
        let known = name.starts_with("wasi:") || name.starts_with(&format!("{PACKAGE}/"));
        if !known {
            return Err(format!("imports `{name}`, which the gateway does not have"));
        }
    }
    wasi::define(&mut linker, component).map_err(failed)?;
    Ok(linker)
}
