//! Limits of a running script: they stop a script that does not end.
//!
//! Each thread runs one call at a time, so the call's limits are kept per thread. The interpreter
//! compares them with the time every so often, and so do the functions of the library that could
//! take long ([`native`](super::native)). Once the time is up, the interpreter raises an error at
//! every instruction: whatever catches the error (`pcall`, a coroutine, a `__close` method) raises
//! again at once, until nothing of the call is left.
//!
//! What counts is the processor time of the call, which never exceeds its wall-clock time. So the
//! clock of the processor, which costs a system call, is read only when the wall-clock time could
//! be too much. A call has a limit in wall-clock time, too.
//!
//! The check is a count hook, which coroutines inherit from the thread that creates them. The hook
//! is set here and not by [`mlua::Lua::set_global_hook`], because an error raised through mlua
//! clears the interrupted function's stack frame first and so runs its `__close` methods with hooks
//! turned off, where a loop would never end. What else Lua runs with hooks turned off, the prelude
//! keeps from scripts: `__gc` methods, `xpcall` handlers, and closing a coroutine that a hook
//! ended.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem;
use std::os::raw::c_int;
use std::time::{Duration, Instant};

use mlua::{Lua, ffi, lua_State};

use crate::hooks::HookErrorKind;
use crate::processor;

/// Error message that a script sees when it catches the error of its time limit.
const TIME_IS_UP: &str = "time limit exceeded";

/// Stack levels that are searched for a line of the script.
const DEPTH: c_int = 32;

/// Instructions of the interpreter between two looks at the clock.
const EVERY: c_int = 100;

/// Steps of the library's functions between two looks at the clock; a step takes some nanoseconds.
const STEPS: u32 = 1000;

thread_local! {
    static CLOCK: Clock = const {
        Clock {
            limit: Cell::new(None),
            next: Cell::new(None),
            expired: Cell::new(None),
            memory: Cell::new(usize::MAX),
            place: RefCell::new(None),
        }
    };
    static LEFT: Cell<u32> = const { Cell::new(STEPS) };
}

struct Clock {
    limit: Cell<Option<Limit>>,
    /// Next time to read the processor's clock; before, there is time left for sure.
    next: Cell<Option<Instant>>,
    expired: Cell<Option<Expired>>,
    /// Bytes that the interpreter may hold.
    ///
    /// From half of it on, the script's place is noted, because a memory error cannot tell it.
    memory: Cell<usize>,
    /// Place where the script was when its time was up, when it failed, or lately.
    place: RefCell<Option<String>>,
}

/// Limits of a call.
#[derive(Clone, Copy)]
struct Limit {
    /// Limit in processor time, and the processor time of this thread when the call began.
    timeout: Duration,
    computed: Duration,
    /// Deadline in wall-clock time.
    end: Instant,
}

/// Limit that a call has come to.
#[derive(Clone, Copy)]
enum Expired {
    Computed,
    Wall(Duration),
}

/// Guard of a call's limits, which are in force on this thread until the guard is dropped.
pub(super) struct Guard {
    timeout: Duration,
    wall: Duration,
    /// Binds the guard to the thread that made it.
    _here: PhantomData<*const ()>,
}

impl Guard {
    /// Starts the clocks of a call.
    pub(super) fn start(timeout: Duration, wall: Duration, memory: usize) -> Self {
        let now = Instant::now();
        let limit = Limit {
            timeout,
            computed: processor::Clock::OWN.computed(),
            end: now + wall,
        };
        CLOCK.with(|clock| {
            clock.limit.set(Some(limit));
            clock.next.set(Some(now + timeout.min(wall)));
            clock.expired.set(None);
            clock.memory.set(memory);
            clock.place.replace(None);
        });
        Self {
            timeout,
            wall,
            _here: PhantomData,
        }
    }

    /// Returns which time limit the call ran past, whether or not the interpreter noticed.
    pub(super) fn expired(&self) -> Option<(HookErrorKind, String)> {
        CLOCK.with(Clock::look);
        let expired = CLOCK.with(|clock| clock.expired.get())?;
        Some(match expired {
            Expired::Computed => (
                HookErrorKind::Timeout,
                format!("time limit of {:?} exceeded", self.timeout),
            ),
            Expired::Wall(computed) => (
                HookErrorKind::WallTimeout,
                format!(
                    "wall-clock limit of {:?} exceeded (computed for {}ms)",
                    self.wall,
                    computed.as_millis()
                ),
            ),
        })
    }

    /// Returns where the script was when something went wrong, `file:line`.
    pub(super) fn place(&self) -> Option<String> {
        CLOCK.with(|clock| clock.place.borrow().clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CLOCK.with(|clock| {
            clock.limit.set(None);
            clock.next.set(None);
            clock.expired.set(None);
            clock.memory.set(usize::MAX);
        });
    }
}

impl Clock {
    /// Returns whether the time of the call on this thread is up.
    fn look(&self) -> bool {
        if self.expired.get().is_some() {
            return true;
        }
        let (Some(limit), Some(next)) = (self.limit.get(), self.next.get()) else {
            return false;
        };
        let now = Instant::now();
        if now < next {
            return false;
        }
        let computed = processor::Clock::OWN
            .computed()
            .saturating_sub(limit.computed);
        let expired = if computed >= limit.timeout {
            Expired::Computed
        } else if now >= limit.end {
            Expired::Wall(computed)
        } else {
            let next = now + (limit.timeout - computed);
            self.next.set(Some(next.min(limit.end)));
            return false;
        };
        self.expired.set(Some(expired));
        true
    }
}

/// Returns the wall-clock time that is left for the call on this thread.
pub(super) fn remaining() -> Duration {
    CLOCK.with(|clock| match clock.limit.get() {
        Some(limit) => limit.end.saturating_duration_since(Instant::now()),
        None => Duration::ZERO,
    })
}

/// Returns whether the time of the call on this thread is up.
///
/// For host functions that take long: the script is stopped when they return.
pub(super) fn is_over() -> bool {
    CLOCK.with(Clock::look)
}

/// Returns the bytes that the interpreter on this thread may hold.
pub(super) fn memory() -> usize {
    CLOCK.with(|clock| clock.memory.get())
}

/// Notes where the script is, for the message of an error that is being raised.
pub(super) fn note_place(lua: &Lua) {
    CLOCK.with(|clock| {
        if clock.expired.get().is_none() {
            // SAFETY: `state` is the running state of a VM that `lua` keeps alive.
            clock.place.replace(unsafe { place(lua.state()) });
        }
    });
}

/// Puts an interpreter under the limits of whatever [`Guard`] is in force while it runs.
pub(super) fn arm(lua: &Lua) {
    // SAFETY: the VM is alive and not running.
    unsafe { ffi::lua_sethook(lua.state(), Some(hook), ffi::LUA_MASKCOUNT, EVERY) }
}

/// Returns a function that raises an error, in the coroutine that calls it, once the time is up.
pub(super) fn check_time(lua: &Lua) -> mlua::Result<mlua::Function> {
    unsafe extern "C-unwind" fn check(state: *mut lua_State) -> c_int {
        // SAFETY: Lua calls its functions with a running state.
        unsafe {
            if over(state) {
                stop(state)
            }
        }
        0
    }
    // SAFETY: the function takes nothing, returns nothing, and has nothing to drop when `stop`
    // unwinds its frame.
    unsafe { lua.create_c_function(check) }
}

/// Counts steps of a library function, and raises an error when the time is up.
///
/// # Safety
/// The state is running, and no frame up to the interpreter has anything to drop.
#[inline]
pub(super) unsafe fn charge(state: *mut lua_State, steps: usize) {
    let left = left();
    if (left as usize) > steps {
        return set_left(left - steps as u32);
    }
    // SAFETY: as for this function.
    unsafe {
        if more(state) == 0 {
            stop(state)
        }
    }
}

/// Returns the steps left before the next look at the clock.
pub(super) fn left() -> u32 {
    LEFT.with(Cell::get)
}

pub(super) fn set_left(left: u32) {
    LEFT.with(|steps| steps.set(left));
}

/// Returns further steps, 0 if the time is up. Raises nothing.
///
/// # Safety
/// The state is running.
pub(super) unsafe fn more(state: *mut lua_State) -> u32 {
    set_left(STEPS);
    // SAFETY: as for this function.
    if unsafe { over(state) } { 0 } else { STEPS }
}

unsafe extern "C-unwind" fn hook(state: *mut lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: Lua calls its hook with a running state.
    unsafe {
        if over(state) {
            stop(state)
        }
    }
}

/// Raises the error of the time limit, now and at each further instruction of this coroutine.
///
/// # Safety
/// The state is running with a free slot, and no frame up to the interpreter has anything to drop.
pub(super) unsafe fn stop(state: *mut lua_State) -> ! {
    // SAFETY: as for this function.
    unsafe {
        ffi::lua_sethook(state, Some(hook), ffi::LUA_MASKCOUNT, 1);
        ffi::lua_pushlstring(state, TIME_IS_UP.as_ptr().cast(), TIME_IS_UP.len());
        ffi::lua_error(state)
    }
}

/// Returns whether the time of the call on this thread is up. Raises nothing.
unsafe fn over(state: *mut lua_State) -> bool {
    CLOCK.with(|clock| {
        if clock.expired.get().is_some() {
            return true;
        }
        let over = clock.look();
        // SAFETY: as for this function; counting changes nothing.
        let used = unsafe { ffi::lua_gc(state, ffi::LUA_GCCOUNT, 0) };
        let noted = over || usize::try_from(used).unwrap_or(0) >= clock.memory.get() / 2048;
        // SAFETY: as for this function.
        if noted && let Some(place) = unsafe { place(state) } {
            clock.place.replace(Some(place));
        }
        over
    })
}

/// Returns the innermost running line of a script's file, `file:line`. Raises nothing.
unsafe fn place(state: *mut lua_State) -> Option<String> {
    for level in 0..DEPTH {
        // SAFETY: plain data for C, for which zeros are valid.
        let mut at: ffi::lua_Debug = unsafe { mem::zeroed() };
        // SAFETY: `state` is a live state; neither call raises with these selectors.
        unsafe {
            if ffi::lua_getstack(state, level, &mut at) == 0 {
                return None;
            }
            ffi::lua_getinfo(state, c"Sl".as_ptr(), &mut at);
        }
        if at.currentline <= 0 || at.source.is_null() {
            continue;
        }
        // SAFETY: both were filled in with strings that live as long as the function on the
        // stack, respectively as long as `at`.
        let (source, short) = unsafe {
            (
                CStr::from_ptr(at.source),
                CStr::from_ptr(at.short_src.as_ptr()),
            )
        };
        // `@` marks a chunk that came from a file; the prelude has another mark.
        if source.to_bytes().starts_with(b"@") {
            return Some(format!("{}:{}", short.to_string_lossy(), at.currentline));
        }
    }
    None
}
