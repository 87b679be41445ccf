//! What stops a script that does not end.
//!
//! Each worker thread runs one call at a time, so the call's deadline is kept per thread and the
//! interpreter looks at it every so often. Once the time is up it raises at every instruction:
//! whatever catches the error (`pcall`, a coroutine, a `__close` method) raises again at once,
//! until nothing is left.
//!
//! On Lua 5.4 this is a count hook, which coroutines inherit from the thread that creates them.
//! It is set here and not by [`mlua::Lua::set_global_hook`], because an error raised through
//! mlua clears the interrupted function's stack frame first and so runs its `__close` methods
//! with hooks turned off, where a loop would never end. What else Lua runs with hooks turned off
//! is kept from scripts by the prelude: `__gc` methods, `xpcall` handlers, and closing a
//! coroutine that a hook ended.

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::marker::PhantomData;
use std::mem;
use std::os::raw::c_int;
use std::time::{Duration, Instant};

use mlua::{Lua, ffi, lua_State};

/// What a script sees that catches the error of its time limit.
const TIME_IS_UP: &str = "time limit exceeded";

/// How many stack levels are searched for a line of the script.
const DEPTH: c_int = 32;

thread_local! {
    static CLOCK: Clock = const {
        Clock {
            deadline: Cell::new(None),
            expired: Cell::new(false),
            watermark: Cell::new(c_int::MAX),
            place: RefCell::new(None),
            #[cfg(feature = "luau")]
            ticks: Cell::new(0),
        }
    };
}

struct Clock {
    deadline: Cell<Option<Instant>>,
    expired: Cell<bool>,
    /// From this many KiB on, note where the script is: a memory error cannot say.
    watermark: Cell<c_int>,
    /// Where the script was when its time was up, when it failed, or lately.
    place: RefCell<Option<String>>,
    #[cfg(feature = "luau")]
    ticks: Cell<u32>,
}

/// A call's limits, in force on this thread until dropped.
pub(super) struct Guard {
    deadline: Instant,
    /// Belongs to the thread that made it.
    _here: PhantomData<*const ()>,
}

impl Guard {
    /// Starts the clock of a call.
    pub(super) fn start(timeout: Duration, memory: usize) -> Self {
        let deadline = Instant::now() + timeout;
        CLOCK.with(|clock| {
            clock.deadline.set(Some(deadline));
            clock.expired.set(false);
            let half = c_int::try_from(memory / 2048).unwrap_or(c_int::MAX);
            clock.watermark.set(half);
            clock.place.replace(None);
        });
        Self {
            deadline,
            _here: PhantomData,
        }
    }

    /// Whether the call ran past its time, noticed by the script's interpreter or not.
    pub(super) fn expired(&self) -> bool {
        expired() || Instant::now() >= self.deadline
    }

    /// Where the script was when something went wrong, `file:line`.
    pub(super) fn place(&self) -> Option<String> {
        CLOCK.with(|clock| clock.place.borrow().clone())
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        CLOCK.with(|clock| {
            clock.deadline.set(None);
            clock.expired.set(false);
            clock.watermark.set(c_int::MAX);
        });
    }
}

/// Whether the interpreter has noticed that the time of the call on this thread is up.
fn expired() -> bool {
    CLOCK.with(|clock| clock.expired.get())
}

/// What is left of the time of the call on this thread.
pub(super) fn remaining() -> Duration {
    CLOCK.with(|clock| match clock.deadline.get() {
        Some(deadline) => deadline.saturating_duration_since(Instant::now()),
        None => Duration::ZERO,
    })
}

/// Notes where the script is, for the message of an error that is being raised.
pub(super) fn note_place(lua: &Lua) {
    if expired() {
        return;
    }
    // SAFETY: `state` is the running state of a VM that `lua` keeps alive.
    let place = unsafe { place(lua.state()) };
    CLOCK.with(|clock| clock.place.replace(place));
}

/// Puts the VM under the limits of whatever [`Guard`] is in force while it runs.
#[cfg(not(feature = "luau"))]
pub(super) fn arm(lua: &Lua) {
    /// About 10 µs of work between two looks at the clock.
    const EVERY: c_int = 1000;
    // SAFETY: the VM is alive and not running.
    unsafe { ffi::lua_sethook(lua.state(), Some(hook), ffi::LUA_MASKCOUNT, EVERY) }
}

/// A function that raises in whatever coroutine calls it once the time is up.
#[cfg(not(feature = "luau"))]
pub(super) fn check_time(lua: &Lua) -> mlua::Result<mlua::Function> {
    unsafe extern "C-unwind" fn check(state: *mut lua_State) -> c_int {
        if expired() {
            // SAFETY: Lua calls its functions with a running state.
            unsafe { stop(state) }
        }
        0
    }
    // SAFETY: the function takes nothing, returns nothing, and has nothing to drop when `stop`
    // unwinds its frame.
    unsafe { lua.create_c_function(check) }
}

#[cfg(not(feature = "luau"))]
unsafe extern "C-unwind" fn hook(state: *mut lua_State, _: *mut ffi::lua_Debug) {
    // SAFETY: Lua calls its hook with a running state.
    unsafe {
        if over(state) {
            stop(state)
        }
    }
}

/// Raises the error of the time limit, now and at each further instruction of this coroutine.
#[cfg(not(feature = "luau"))]
unsafe fn stop(state: *mut lua_State) -> ! {
    // SAFETY: the caller made sure of a running state and has nothing to drop.
    unsafe {
        ffi::lua_sethook(state, Some(hook), ffi::LUA_MASKCOUNT, 1);
        raise(state)
    }
}

/// Puts the VM under the limits of whatever [`Guard`] is in force while it runs.
#[cfg(feature = "luau")]
pub(super) fn arm(lua: &Lua) {
    /// Luau asks at each call and each turn of a loop.
    const EVERY: u32 = 64;
    unsafe extern "C-unwind" fn interrupt(state: *mut lua_State, gc: c_int) {
        // The collector asks too, where no error can be raised.
        if gc >= 0 {
            return;
        }
        let look = CLOCK.with(|clock| {
            let ticks = clock.ticks.get().wrapping_add(1);
            clock.ticks.set(ticks);
            ticks.is_multiple_of(EVERY) || clock.expired.get()
        });
        // SAFETY: Luau calls its interrupt with a running state. Nothing here has a destructor
        // when `raise` unwinds the frame.
        unsafe {
            if look && over(state) {
                ffi::lua_rawcheckstack(state, 1);
                raise(state)
            }
        }
    }
    // SAFETY: the VM is alive and not running; its callbacks live as long as it does.
    unsafe { (*ffi::lua_callbacks(lua.state())).interrupt = Some(interrupt) }
}

/// Whether the call on this thread is over its time. Raises nothing.
unsafe fn over(state: *mut lua_State) -> bool {
    CLOCK.with(|clock| {
        if clock.expired.get() {
            return true;
        }
        let Some(deadline) = clock.deadline.get() else {
            return false;
        };
        if Instant::now() >= deadline {
            clock.expired.set(true);
            // SAFETY: as for this function.
            clock.place.replace(unsafe { place(state) });
            return true;
        }
        // SAFETY: as for this function; counting changes nothing.
        let used = unsafe { ffi::lua_gc(state, ffi::LUA_GCCOUNT, 0) };
        if used >= clock.watermark.get() {
            // SAFETY: as for this function.
            clock.place.replace(unsafe { place(state) });
        }
        false
    })
}

/// Raises the error of the time limit.
unsafe fn raise(state: *mut lua_State) -> ! {
    // SAFETY: the caller made sure of a running state with a free slot, and the frames up to the
    // interpreter hold nothing that must be dropped.
    unsafe {
        ffi::lua_pushlstring(state, TIME_IS_UP.as_ptr().cast(), TIME_IS_UP.len());
        ffi::lua_error(state)
    }
}

/// The innermost line that is being run of a file, `file:line`. Raises nothing.
unsafe fn place(state: *mut lua_State) -> Option<String> {
    for level in 0..DEPTH {
        // SAFETY: plain data for C, for which zeros are valid.
        let mut at: ffi::lua_Debug = unsafe { mem::zeroed() };
        // SAFETY: `state` is a live state; neither call raises with these selectors.
        #[cfg(not(feature = "luau"))]
        unsafe {
            if ffi::lua_getstack(state, level, &mut at) == 0 {
                return None;
            }
            ffi::lua_getinfo(state, c"Sl".as_ptr(), &mut at);
        }
        // SAFETY: `state` is a live state; the call does not raise with these selectors.
        #[cfg(feature = "luau")]
        unsafe {
            if ffi::lua_getinfo(state, level, c"sl".as_ptr(), &mut at) == 0 {
                return None;
            }
        }
        if at.currentline <= 0 || at.source.is_null() {
            continue;
        }
        // SAFETY: both were filled in with strings that live as long as the function on the
        // stack, respectively as long as `at`.
        let (source, short) = unsafe {
            #[cfg(not(feature = "luau"))]
            let short = CStr::from_ptr(at.short_src.as_ptr());
            #[cfg(feature = "luau")]
            let short = CStr::from_ptr(at.short_src);
            (CStr::from_ptr(at.source), short)
        };
        // `@` marks a chunk that came from a file; the prelude has another mark.
        if source.to_bytes().starts_with(b"@") {
            return Some(format!("{}:{}", short.to_string_lossy(), at.currentline));
        }
    }
    None
}
