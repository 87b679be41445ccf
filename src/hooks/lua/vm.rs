//! Interpreter with one script in it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock};

use bytesize::ByteSize;
use mlua::{Function, Lua, LuaOptions, LuaString, StdLib, Table, Value};

use super::answer;
use super::api;
use super::limit::{self, Guard};
use super::native;
use super::program::Program;
use super::source::Source;
use super::value::{scalar_to_lua, type_of};
use crate::hooks::contract::{Function as Hooked, Log, MAX_ERROR, clip};
use crate::hooks::{Answer, Attrs, Call, HookErrorKind, Question};

/// Prelude: the Lua code that runs before every script.
static PRELUDE: LazyLock<Source> =
    LazyLock::new(|| Source::new("=gateway", include_str!("prelude.lua").into()));

/// Lua's message for running out of memory.
const NO_MEMORY: &str = "not enough memory";

/// Failure of a script.
///
/// The message begins with `file:line:` or, where no line is known, with the file.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    pub(super) kind: HookErrorKind,
    pub(super) message: String,
}

/// Interpreter that has run the script's main file.
pub(super) struct Vm {
    /// Function of the prelude, as the next two are.
    run: Function,
    call: Function,
    require: Function,
    /// Functions of the script with the lines at which they begin, by [`Hooked`].
    functions: [Option<(Function, usize)>; 4],
    log: Rc<RefCell<Log>>,
    /// Listener last seen, so that its name is not made a Lua string each time.
    listener: RefCell<Option<(Arc<str>, LuaString)>>,
    // After all fields that refer to the interpreter: fields are dropped in order.
    lua: Lua,
    _live: Live,
}

/// Count of an interpreter as alive, until dropped.
struct Live(Arc<AtomicUsize>);

impl Drop for Live {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Vm {
    /// Creates an interpreter and runs the script in it, within the limits of `guard`.
    pub(super) fn new(program: &Program, guard: &Guard) -> Result<Self, Failure> {
        let live = program.vms.clone();
        live.fetch_add(1, Ordering::Relaxed);
        let live = Live(live);
        let reporter = ErrorReporter {
            program,
            guard,
            line: None,
        };
        let built = Self::build(program, live, &reporter);
        match built {
            Ok(built) => built,
            Err(error) => Err(reporter.raised(&error)),
        }
    }

    /// Runs a module of the script, unless the module is missing or has run.
    pub(super) fn require(
        &self,
        program: &Program,
        module: &str,
        guard: &Guard,
    ) -> Result<(), Failure> {
        if program.sources.module(module).is_err() {
            return Ok(());
        }
        let reporter = ErrorReporter {
            program,
            guard,
            line: None,
        };
        let ran = self.run.call((self.require.clone(), module));
        self.log.borrow_mut().end();
        match ran {
            Ok((true, Value::Nil, Value::Nil)) => Ok(()),
            Ok((_, message, object)) => Err(reporter.failed(&message, &object)),
            Err(error) => Err(reporter.raised(&error)),
        }
    }

    /// Returns the lines at which the script's functions begin; `None` for those it does not
    /// define.
    pub(super) fn lines(&self) -> [Option<usize>; 4] {
        self.functions
            .each_ref()
            .map(|function| function.as_ref().map(|(_, line)| *line))
    }

    /// Asks the script, within the limits of `guard`. Returns the answer, and the attributes as the
    /// script left them.
    pub(super) fn call(
        &self,
        program: &Program,
        call: &Call,
        guard: &Guard,
    ) -> Result<(Answer, Attrs), Failure> {
        let hooked = Hooked::of(&call.question);
        // invariant: there is a place for each function.
        let Some((function, line)) = &self.functions[hooked as usize] else {
            return Ok((Answer::Pass, call.attrs.clone()));
        };
        let reporter = ErrorReporter {
            program,
            guard,
            line: Some(*line),
        };
        let asked = self.ask(function, call);
        self.log.borrow_mut().end();
        match asked {
            Ok((true, a, b, attrs)) => {
                reporter.in_time()?;
                let answer = answer::answer(hooked, a, b, call.info.is_dial());
                answer
                    .and_then(|answer| Ok((answer, answer::attrs(&attrs)?)))
                    .map_err(|message| reporter.answered(&message))
            }
            Ok((false, message, object, _)) => Err(reporter.failed(&message, &object)),
            Err(error) => Err(reporter.raised(&error)),
        }
    }

    /// Builds an interpreter. The outer error is the interpreter's, the inner one the script's.
    fn build(
        program: &Program,
        live: Live,
        reporter: &ErrorReporter<'_>,
    ) -> mlua::Result<Result<Self, Failure>> {
        let libraries = StdLib::COROUTINE
            | StdLib::TABLE
            | StdLib::STRING
            | StdLib::UTF8
            | StdLib::MATH
            | StdLib::OS;
        let lua = Lua::new_with(libraries, LuaOptions::new())?;
        lua.set_memory_limit(program.limits.memory)?;
        limit::arm(&lua);

        let log = Rc::new(RefCell::new(Log::new(program.name.clone())));
        let guarded = lua.create_table()?;
        native::install(&lua, &guarded)?;
        let host = api::table(&lua, program, &log)?;
        host.raw_set("guarded", guarded)?;
        let (run, call, require): (Function, Function, Function) =
            PRELUDE.load(&lua)?.call(host)?;

        let chunk = match program.sources.main().load(&lua) {
            Ok(chunk) => chunk,
            Err(mlua::Error::SyntaxError { message, .. }) => {
                return Ok(Err(reporter.message(HookErrorKind::Script, &message)));
            }
            Err(error) => return Err(error),
        };
        let (ok, message, object): (bool, Value, Value) = run.call(chunk)?;
        if let Err(failure) = reporter.in_time() {
            return Ok(Err(failure));
        }
        if !ok {
            return Ok(Err(reporter.failed(&message, &object)));
        }

        let globals = lua.globals();
        let mut functions = [const { None }; 4];
        for hooked in Hooked::ALL {
            // invariant: there is a place for each function.
            functions[hooked as usize] = match globals.raw_get(hooked.name())? {
                Value::Nil => None,
                Value::Function(function) => {
                    let line = function.info().line_defined.unwrap_or(0);
                    Some((function, line))
                }
                other => {
                    let message = format!(
                        "global '{}' is a {}, expected a function",
                        hooked.name(),
                        type_of(&other)
                    );
                    return Ok(Err(reporter.message(HookErrorKind::Script, &message)));
                }
            };
        }
        if functions.iter().all(Option::is_none) {
            let message = "defines none of the functions access, select_target, announce, closed";
            return Ok(Err(reporter.message(HookErrorKind::Script, message)));
        }
        log.borrow_mut().end();
        Ok(Ok(Self {
            run,
            call,
            require,
            functions,
            log,
            listener: RefCell::new(None),
            lua,
            _live: live,
        }))
    }

    fn ask(&self, function: &Function, call: &Call) -> mlua::Result<(bool, Value, Value, Value)> {
        let lua = &self.lua;
        let info = &call.info;
        let target = match &call.question {
            Question::Announce { target } => Some(target.as_str()),
            _ => None,
        };
        let ended = match &call.question {
            Question::Closed(ended) => {
                let table = lua.create_table_with_capacity(0, 5)?;
                table.raw_set("received", ended.received)?;
                table.raw_set("sent", ended.sent)?;
                table.raw_set("resumes", ended.resumes)?;
                table.raw_set("duration", ended.duration.as_secs_f64())?;
                table.raw_set("reason", ended.reason)?;
                Some(table)
            }
            _ => None,
        };
        let mut extra = info.extra.lines().peekable();
        let extra = match extra.peek() {
            None => None,
            Some(_) => Some(lua.create_sequence_from(extra)?),
        };
        let fastway = info.fastway.unwrap_or_default();
        let dial = match fastway.dial {
            Some(ids) => {
                let table = lua.create_table_with_capacity(0, 2)?;
                table.raw_set("from", ids.from)?;
                table.raw_set("to", ids.to)?;
                Some(table)
            }
            None => None,
        };
        let first_data = match &info.first_data {
            Some(bytes) => Some(lua.create_string(bytes)?),
            None => None,
        };
        self.call.call((
            function,
            target,
            ended,
            info.id,
            self.listener(&info.listener)?,
            info.session,
            info.transport,
            info.client_addr.to_string(),
            info.gateway_addr.to_string(),
            info.target.as_deref(),
            info.flags,
            extra,
            first_data,
            self.attrs(&call.attrs)?,
            (fastway.server_id, dial),
        ))
    }

    fn attrs(&self, attrs: &Attrs) -> mlua::Result<Option<Table>> {
        if attrs.is_empty() {
            return Ok(None);
        }
        let table = self.lua.create_table_with_capacity(0, attrs.len())?;
        for (key, value) in attrs {
            table.raw_set(key.as_str(), scalar_to_lua(&self.lua, value)?)?;
        }
        Ok(Some(table))
    }

    fn listener(&self, name: &Arc<str>) -> mlua::Result<LuaString> {
        let mut cached = self.listener.borrow_mut();
        if let Some((known, string)) = &*cached
            && known == name
        {
            return Ok(string.clone());
        }
        let string = self.lua.create_string(&**name)?;
        *cached = Some((name.clone(), string.clone()));
        Ok(string)
    }
}

/// Reporter of what went wrong: finds the message, with file and line.
struct ErrorReporter<'a> {
    program: &'a Program,
    guard: &'a Guard,
    /// Line at which the called function begins.
    line: Option<usize>,
}

impl ErrorReporter<'_> {
    /// Reports an error of the interpreter, or an interrupted prelude.
    fn raised(&self, error: &mlua::Error) -> Failure {
        if let Err(failure) = self.in_time() {
            return failure;
        }
        let mut cause = error;
        while let mlua::Error::CallbackError { cause: inner, .. } = cause {
            cause = inner;
        }
        if let mlua::Error::MemoryError(_) = cause {
            return self.no_memory();
        }
        let message = match cause {
            mlua::Error::RuntimeError(message) => message.clone(),
            other => other.to_string(),
        };
        self.raised_message(&message)
    }

    /// Reports an error that the script raised. `object` is true when the error was not a string.
    fn failed(&self, message: &Value, object: &Value) -> Failure {
        if let Err(failure) = self.in_time() {
            return failure;
        }
        let message = match message {
            Value::String(message) => clip_message(&message.as_bytes()),
            other => format!("error object is a {}", type_of(other)),
        };
        if *object == Value::Boolean(true) && !message.contains(NO_MEMORY) {
            return self.placed(HookErrorKind::Script, &message);
        }
        self.raised_message(&message)
    }

    /// Reports a return value that is no answer.
    fn answered(&self, message: &str) -> Failure {
        let place = self.entry();
        Failure {
            kind: HookErrorKind::Script,
            message: format!("{place}: {message}"),
        }
    }

    /// Returns an error if the time is up.
    fn in_time(&self) -> Result<(), Failure> {
        match self.guard.expired() {
            Some((kind, message)) => Err(self.placed(kind, &message)),
            None => Ok(()),
        }
    }

    fn no_memory(&self) -> Failure {
        self.placed(HookErrorKind::Memory, &self.memory_exceeded())
    }

    fn memory_exceeded(&self) -> String {
        let limit = ByteSize::b(self.program.limits.memory as u64);
        format!("memory limit of {limit} exceeded")
    }

    fn raised_message(&self, message: &str) -> Failure {
        // mlua adds a traceback to the errors that it raises itself.
        let message = match message.find("\nstack traceback:") {
            // invariant: it was found there.
            Some(end) => &message[..end],
            None => message,
        };
        match message.strip_suffix(NO_MEMORY) {
            Some("") => self.no_memory(),
            Some(place) => Failure {
                kind: HookErrorKind::Memory,
                message: format!("{place}{}", self.memory_exceeded()),
            },
            None => self.message(HookErrorKind::Script, message),
        }
    }

    /// Returns a failure with a message that may begin with a line already.
    fn message(&self, kind: HookErrorKind, message: &str) -> Failure {
        if has_place(message) {
            return Failure {
                kind,
                message: clip_message(message.as_bytes()),
            };
        }
        self.placed(kind, message)
    }

    /// Returns a failure with a message and the line where it happened, as far as it is known.
    fn placed(&self, kind: HookErrorKind, message: &str) -> Failure {
        let place = self.guard.place().unwrap_or_else(|| self.entry());
        Failure {
            kind,
            message: clip_message(format!("{place}: {message}").as_bytes()),
        }
    }

    /// Returns where the script, or the called function of it, begins.
    fn entry(&self) -> String {
        let file = self.program.sources.main().name();
        match self.line {
            Some(line) => format!("{file}:{line}"),
            None => file.to_owned(),
        }
    }
}

fn clip_message(bytes: &[u8]) -> String {
    clip(bytes, MAX_ERROR)
}

/// Returns whether a message begins with `file:line:`.
fn has_place(message: &str) -> bool {
    let mut parts = message.splitn(3, ':');
    let _file = parts.next();
    match (parts.next(), parts.next()) {
        (Some(line), Some(_)) => !line.is_empty() && line.bytes().all(|byte| byte.is_ascii_digit()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::has_place;

    #[test]
    fn places_are_recognised() {
        assert!(has_place("route.lua:3: boom"));
        assert!(has_place("lib/a.lua:12:"));
        assert!(!has_place("boom"));
        assert!(!has_place("boom: 3: 4"));
        assert!(!has_place("a:b:c"));
        assert!(!has_place(""));
    }
}
