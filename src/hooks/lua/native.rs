//! Functions of Lua's standard library that could take long, replaced by ones that can be stopped.
//!
//! The replacements do what the functions of Lua 5.4 do, with the same errors, and count their
//! steps. Every so often they compare the time of the call with its limits, as the interpreter does
//! between instructions ([`limit::charge`]). A function whose time is only proportional to the size
//! of its arguments stays the library's, behind a wrapper that counts that size.
//!
//! All of this is C's side of the interpreter: an error leaves these functions without running
//! destructors, so nothing in them may have one.
#![allow(
    unsafe_op_in_unsafe_fn,
    reason = "every function is called by Lua with a running state and does little else than \
              call back into it; what needs more has a comment"
)]

use std::ffi::{CStr, c_char, c_int};
use std::mem::MaybeUninit;
use std::slice;

use memchr::memmem;
use mlua::{Function, Lua, Table, Value, ffi, lua_State};

use super::limit;
use super::pattern::{Capture, Error, MAX_CAPTURES, Matcher, is_plain};

/// Steps that count for calling a function, which may take a while.
const CALL: usize = 32;

/// Longest format that `os.date` takes, because each byte of a format costs time.
const MAX_DATE: usize = 1000;

type Native = unsafe extern "C-unwind" fn(*mut lua_State) -> c_int;

unsafe extern "C-unwind" {
    fn luaL_typeerror(state: *mut lua_State, arg: c_int, name: *const c_char) -> c_int;
}

/// Replaces the library's functions. `rawset` refuses the keys of `guarded`.
pub(super) fn install(lua: &Lua, guarded: &Table) -> mlua::Result<()> {
    let globals = lua.globals();
    let own: [(&str, &[(&str, Native)]); 2] = [
        (
            "string",
            &[
                ("find", find),
                ("match", r#match),
                ("gmatch", gmatch),
                ("gsub", gsub),
                ("rep", rep),
            ],
        ),
        (
            "table",
            &[
                ("concat", concat),
                ("insert", insert),
                ("move", r#move),
                ("remove", remove),
                ("sort", sort),
                ("unpack", unpack),
            ],
        ),
    ];
    for (library, functions) in own {
        let library: Table = globals.raw_get(library)?;
        for &(name, function) in functions {
            // SAFETY: see the module.
            library.raw_set(name, unsafe { lua.create_c_function(function) }?)?;
        }
    }
    for (library, names) in [
        (
            "string",
            // invariant: a whole range has no bounds.
            &[
                "byte", "char", "format", "lower", "pack", "packsize", "reverse", "sub", "unpack",
                "upper",
            ][..],
        ),
        ("utf8", &["char", "codepoint", "len", "offset"]),
    ] {
        let library: Table = globals.raw_get(library)?;
        for &name in names {
            let original: Function = library.raw_get(name)?;
            library.raw_set(name, closure(lua, counted, original)?)?;
        }
    }
    let os: Table = globals.raw_get("os")?;
    let original: Function = os.raw_get("date")?;
    os.raw_set("date", closure(lua, date, original)?)?;
    let original: Function = globals.raw_get("tonumber")?;
    globals.raw_set("tonumber", closure(lua, counted, original)?)?;
    // SAFETY: see the module.
    let next = unsafe { lua.create_c_function(next) }?;
    globals.raw_set("pairs", closure(lua, pairs, next.clone())?)?;
    globals.raw_set("next", next)?;
    globals.raw_set("rawset", closure(lua, rawset, guarded.clone())?)
}

/// Creates a C function with a value that only the function sees.
fn closure(lua: &Lua, function: Native, value: impl mlua::IntoLua) -> mlua::Result<Value> {
    // SAFETY: the value is on the stack, and the function takes its place.
    unsafe { lua.exec_raw(value, |state| ffi::lua_pushcclosure(state, function, 1)) }
}

unsafe extern "C-unwind" fn counted(state: *mut lua_State) -> c_int {
    let mut cost = 0;
    for arg in 1..=ffi::lua_gettop(state) {
        cost += 1;
        if ffi::lua_type(state, arg) == ffi::LUA_TSTRING {
            cost += ffi::lua_rawlen(state, arg) / 64;
        }
    }
    limit::charge(state, cost);
    original(state)
}

/// Calls the library's function as if the script had called that one itself.
unsafe fn original(state: *mut lua_State) -> c_int {
    match ffi::lua_tocfunction(state, ffi::lua_upvalueindex(1)) {
        Some(function) => function(state),
        None => 0,
    }
}

unsafe extern "C-unwind" fn date(state: *mut lua_State) -> c_int {
    if ffi::lua_type(state, 1) == ffi::LUA_TSTRING && ffi::lua_rawlen(state, 1) > MAX_DATE {
        ffi::luaL_argerror(state, 1, c"format is too long".as_ptr());
    }
    limit::charge(state, CALL);
    original(state)
}

unsafe extern "C-unwind" fn next(state: *mut lua_State) -> c_int {
    // `next` walks over emptied slots in search of the next entry.
    limit::charge(state, CALL / 2);
    ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
    ffi::lua_settop(state, 2);
    if ffi::lua_next(state, 1) != 0 {
        return 2;
    }
    ffi::lua_pushnil(state);
    1
}

unsafe extern "C-unwind" fn pairs(state: *mut lua_State) -> c_int {
    unsafe extern "C-unwind" fn done(_: *mut lua_State, _: c_int, _: ffi::lua_KContext) -> c_int {
        3
    }
    ffi::luaL_checkany(state, 1);
    if ffi::luaL_getmetafield(state, 1, c"__pairs".as_ptr()) == ffi::LUA_TNIL {
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushnil(state);
    } else {
        ffi::lua_pushvalue(state, 1);
        ffi::lua_callk(state, 1, 3, 0, Some(done));
    }
    3
}

unsafe extern "C-unwind" fn rawset(state: *mut lua_State) -> c_int {
    ffi::luaL_checktype(state, 1, ffi::LUA_TTABLE);
    ffi::lua_pushvalue(state, 1);
    if ffi::lua_rawget(state, ffi::lua_upvalueindex(1)) == ffi::LUA_TSTRING {
        let name = ffi::lua_tostring(state, -1);
        ffi::luaL_error(state, c"%s is read-only".as_ptr(), name);
    }
    ffi::lua_pop(state, 1);
    ffi::luaL_checkany(state, 2);
    ffi::luaL_checkany(state, 3);
    ffi::lua_settop(state, 3);
    ffi::lua_rawset(state, 1);
    1
}

// Strings ----------------------------------------------------------------------------------------

/// Returns a string or number as bytes, which live as long as the argument is on the stack.
unsafe fn bytes<'a>(state: *mut lua_State, arg: c_int) -> &'a [u8] {
    let mut length = 0;
    let start = ffi::luaL_checklstring(state, arg, &mut length);
    // SAFETY: Lua's strings do not move or change; the caller leaves it on the stack.
    slice::from_raw_parts(start.cast(), length)
}

/// Returns a position, which may count from the end, as an index from 0; may be behind the end.
fn position(at: ffi::lua_Integer, length: usize) -> usize {
    match usize::try_from(at) {
        Ok(at) => at.saturating_sub(1),
        Err(_) => length.saturating_sub(usize::try_from(at.unsigned_abs()).unwrap_or(usize::MAX)),
    }
}

/// Returns the pattern behind its anchor, and whether there was an anchor.
fn unanchored(pattern: &[u8]) -> (&[u8], bool) {
    match pattern.strip_prefix(b"^") {
        Some(rest) => (rest, true),
        None => (pattern, false),
    }
}

unsafe extern "C-unwind" fn find(state: *mut lua_State) -> c_int {
    search(state, true)
}

unsafe extern "C-unwind" fn r#match(state: *mut lua_State) -> c_int {
    search(state, false)
}

unsafe fn search(state: *mut lua_State, find: bool) -> c_int {
    let subject = bytes(state, 1);
    let pattern = bytes(state, 2);
    let mut at = position(ffi::luaL_optinteger(state, 3, 1), subject.len());
    if at > subject.len() {
        ffi::lua_pushnil(state);
        return 1;
    }
    if find && (ffi::lua_toboolean(state, 4) != 0 || is_plain(pattern)) {
        limit::charge(state, 1 + (subject.len() - at + pattern.len()) / 64);
        // invariant: `at` is the subject's length at most, as was looked at above.
        if let Some(found) = memmem::find(&subject[at..], pattern) {
            ffi::lua_pushinteger(state, (at + found + 1) as _);
            ffi::lua_pushinteger(state, (at + found + pattern.len()) as _);
            return 2;
        }
        ffi::lua_pushnil(state);
        return 1;
    }
    let (pattern, anchored) = unanchored(pattern);
    let mut matcher = Matcher::new(subject, pattern, limit::left());
    loop {
        if let Some(end) = run(state, &mut matcher, at) {
            if !find {
                return push_captures(state, &matcher, at, end);
            }
            ffi::lua_pushinteger(state, (at + 1) as _);
            ffi::lua_pushinteger(state, end as _);
            return match matcher.captures() {
                [] => 2,
                _ => push_captures(state, &matcher, at, end) + 2,
            };
        }
        at += 1;
        if anchored || at > subject.len() {
            ffi::lua_pushnil(state);
            return 1;
        }
    }
}

/// Returns the end of a match at `at`. Raises the matcher's errors.
unsafe fn run(state: *mut lua_State, matcher: &mut Matcher<'_>, at: usize) -> Option<usize> {
    // SAFETY: looking at the time raises nothing.
    let found = matcher.at(at, &mut || unsafe { limit::more(state) });
    limit::set_left(matcher.left);
    match found {
        Ok(end) => end,
        Err(error) => raise(state, error),
    }
}

unsafe fn raise(state: *mut lua_State, error: Error) -> ! {
    match error {
        Error::EndsWithEscape => fail(state, c"malformed pattern (ends with '%%')"),
        Error::MissingBracket => fail(state, c"malformed pattern (missing ']')"),
        Error::MissingBalanced => fail(state, c"malformed pattern (missing arguments to '%%b')"),
        Error::MissingFrontier => fail(state, c"missing '[' after '%%f' in pattern"),
        Error::PatternCapture => fail(state, c"invalid pattern capture"),
        Error::TooManyCaptures => fail(state, c"too many captures"),
        Error::TooComplex => fail(state, c"pattern too complex"),
        Error::CaptureIndex(number) => bad_index(state, number),
        Error::Stopped => limit::stop(state),
    }
}

/// Raises an error with the line that made the call.
unsafe fn fail(state: *mut lua_State, format: &CStr) -> ! {
    ffi::luaL_error(state, format.as_ptr());
    unreachable!("it has raised")
}

unsafe fn bad_index(state: *mut lua_State, number: c_int) -> ! {
    ffi::luaL_error(state, c"invalid capture index %%%d".as_ptr(), number);
    unreachable!("it has raised")
}

/// Returns what a capture has matched; without captures, the first is the whole match.
unsafe fn capture(
    state: *mut lua_State,
    matcher: &Matcher<'_>,
    at: usize,
    start: usize,
    end: usize,
) -> Capture {
    match matcher.captures().get(at) {
        Some(Capture::Open(_)) => fail(state, c"unfinished capture"),
        Some(&capture) => capture,
        None if at == 0 => Capture::Text(start, end),
        None => bad_index(state, at as c_int + 1),
    }
}

unsafe fn push_capture(
    state: *mut lua_State,
    matcher: &Matcher<'_>,
    at: usize,
    start: usize,
    end: usize,
) {
    match capture(state, matcher, at, start, end) {
        Capture::Text(start, end) => {
            // invariant: captures lie within the subject.
            let text = &matcher.subject()[start..end];
            ffi::lua_pushlstring(state, text.as_ptr().cast(), text.len());
        }
        Capture::Position(at) | Capture::Open(at) => ffi::lua_pushinteger(state, (at + 1) as _),
    }
}

/// Pushes all captures, or the whole match where there are none; returns how many.
unsafe fn push_captures(
    state: *mut lua_State,
    matcher: &Matcher<'_>,
    start: usize,
    end: usize,
) -> c_int {
    let count = matcher.captures().len().max(1);
    debug_assert!(count <= MAX_CAPTURES);
    ffi::luaL_checkstack(state, count as c_int, c"too many captures".as_ptr());
    for at in 0..count {
        push_capture(state, matcher, at, start, end);
    }
    count as c_int
}

/// Returns the iterator of `string.gmatch`.
///
/// Its values: the subject, the pattern, where to go on (behind the end: nowhere), and where the
/// last match ended.
unsafe extern "C-unwind" fn gmatch(state: *mut lua_State) -> c_int {
    let length = bytes(state, 1).len();
    bytes(state, 2);
    let at = position(ffi::luaL_optinteger(state, 3, 1), length);
    ffi::lua_settop(state, 2);
    ffi::lua_pushinteger(state, at.min(length + 1) as _);
    ffi::lua_pushinteger(state, -1);
    ffi::lua_pushcclosure(state, gmatch_next, 4);
    1
}

unsafe extern "C-unwind" fn gmatch_next(state: *mut lua_State) -> c_int {
    let subject = bytes(state, ffi::lua_upvalueindex(1));
    let pattern = bytes(state, ffi::lua_upvalueindex(2));
    let start = ffi::lua_tointeger(state, ffi::lua_upvalueindex(3)) as usize;
    let last = ffi::lua_tointeger(state, ffi::lua_upvalueindex(4));
    let last = usize::try_from(last).ok();
    let mut matcher = Matcher::new(subject, pattern, limit::left());
    for at in start..=subject.len() {
        let found = run(state, &mut matcher, at);
        if let Some(end) = found
            && found != last
        {
            for index in [3, 4] {
                ffi::lua_pushinteger(state, end as _);
                ffi::lua_replace(state, ffi::lua_upvalueindex(index));
            }
            return push_captures(state, &matcher, at, end);
        }
    }
    0
}

unsafe extern "C-unwind" fn gsub(state: *mut lua_State) -> c_int {
    let subject = bytes(state, 1);
    let pattern = bytes(state, 2);
    let kind = ffi::lua_type(state, 3);
    let most = ffi::luaL_optinteger(state, 4, subject.len() as ffi::lua_Integer + 1);
    if !matches!(
        kind,
        ffi::LUA_TNUMBER | ffi::LUA_TSTRING | ffi::LUA_TFUNCTION | ffi::LUA_TTABLE
    ) {
        luaL_typeerror(state, 3, c"string/function/table".as_ptr());
    }
    let (pattern, anchored) = unanchored(pattern);
    let mut buffer = MaybeUninit::<ffi::luaL_Buffer>::uninit();
    let buffer = buffer.as_mut_ptr();
    ffi::luaL_buffinit(state, buffer);
    let mut matcher = Matcher::new(subject, pattern, limit::left());
    let (mut at, mut last, mut count, mut changed) = (0, None, 0, false);
    while count < most {
        matcher.left = limit::left();
        let found = run(state, &mut matcher, at);
        if let Some(end) = found
            && found != last
        {
            count += 1;
            changed |= match kind {
                ffi::LUA_TFUNCTION | ffi::LUA_TTABLE => {
                    limit::charge(state, CALL);
                    replace(state, buffer, &matcher, at, end, kind)
                }
                _ => {
                    expand(state, buffer, &matcher, at, end);
                    true
                }
            };
            at = end;
            last = found;
        } else if let Some(&byte) = subject.get(at) {
            ffi::luaL_addchar(buffer, byte as c_char);
            at += 1;
        } else {
            break;
        }
        if anchored {
            break;
        }
    }
    if changed {
        // invariant: `at` is where a match ended, or one behind a byte that was there.
        add(buffer, &subject[at..]);
        ffi::luaL_pushresult(buffer);
    } else {
        ffi::lua_pushvalue(state, 1);
    }
    ffi::lua_pushinteger(state, count);
    2
}

unsafe fn add(buffer: *mut ffi::luaL_Buffer, bytes: &[u8]) {
    ffi::luaL_addlstring(buffer, bytes.as_ptr().cast(), bytes.len());
}

/// Adds the replacement string with its references to captures.
unsafe fn expand(
    state: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &Matcher<'_>,
    start: usize,
    end: usize,
) {
    let subject = matcher.subject();
    let mut rest = bytes(state, 3);
    limit::charge(state, 1 + rest.len() / 16);
    while let Some(at) = memchr::memchr(b'%', rest) {
        // invariant: `at` is where the sign was found; matches and captures lie within the subject.
        add(buffer, &rest[..at]);
        match rest.get(at + 1) {
            Some(b'%') => ffi::luaL_addchar(buffer, b'%' as c_char),
            Some(b'0') => add(buffer, &subject[start..end]),
            Some(digit @ b'1'..=b'9') => {
                let at = usize::from(digit - b'1');
                match capture(state, matcher, at, start, end) {
                    // invariant: captures lie within the subject.
                    Capture::Text(start, end) => add(buffer, &subject[start..end]),
                    Capture::Position(at) | Capture::Open(at) => {
                        ffi::lua_pushinteger(state, (at + 1) as _);
                        ffi::luaL_addvalue(buffer);
                    }
                }
            }
            _ => fail(state, c"invalid use of '%%' in replacement string"),
        }
        // invariant: a sign that nothing follows has failed above.
        rest = &rest[at + 2..];
    }
    add(buffer, rest);
}

/// Adds the replacement that the function or the table gives for a match; returns whether there is
/// one.
unsafe fn replace(
    state: *mut lua_State,
    buffer: *mut ffi::luaL_Buffer,
    matcher: &Matcher<'_>,
    start: usize,
    end: usize,
    kind: c_int,
) -> bool {
    if kind == ffi::LUA_TFUNCTION {
        ffi::lua_pushvalue(state, 3);
        let count = push_captures(state, matcher, start, end);
        ffi::lua_call(state, count, 1);
    } else {
        push_capture(state, matcher, 0, start, end);
        ffi::lua_gettable(state, 3);
    }
    if ffi::lua_toboolean(state, -1) == 0 {
        ffi::lua_pop(state, 1);
        // invariant: matches lie within the subject.
        add(buffer, &matcher.subject()[start..end]);
        return false;
    }
    if ffi::lua_isstring(state, -1) == 0 {
        let name = ffi::luaL_typename(state, -1);
        ffi::luaL_error(state, c"invalid replacement value (a %s)".as_ptr(), name);
    }
    ffi::luaL_addvalue(buffer);
    true
}

unsafe extern "C-unwind" fn rep(state: *mut lua_State) -> c_int {
    let text = bytes(state, 1);
    let count = ffi::luaL_checkinteger(state, 2);
    let mut length = 0;
    let separator = ffi::luaL_optlstring(state, 3, c"".as_ptr(), &mut length);
    // SAFETY: as for `bytes`; the default lives for ever.
    let separator: &[u8] = slice::from_raw_parts(separator.cast(), length);
    let unit = text.len() + separator.len();
    let count = usize::try_from(count).unwrap_or(0);
    if count == 0 || unit == 0 {
        ffi::lua_pushliteral(state, c"");
        return 1;
    }
    if unit > c_int::MAX as usize / count {
        fail(state, c"resulting string too large");
    }
    let total = unit * count - separator.len();
    if total > limit::memory() {
        fail(state, c"not enough memory");
    }
    limit::charge(state, 1 + total / 64);
    let mut buffer = MaybeUninit::<ffi::luaL_Buffer>::uninit();
    let buffer = buffer.as_mut_ptr();
    let start = ffi::luaL_buffinitsize(state, buffer, total);
    // SAFETY: so many bytes are there to be written, and nothing reads them before.
    let to = slice::from_raw_parts_mut(start.cast::<MaybeUninit<u8>>(), total);
    // Each copy doubles the text that is there, so that few copies are enough.
    let mut done = 0;
    for part in [text, separator] {
        // invariant: no more is done than the total, which is the length of `to`.
        let part = &part[..part.len().min(total - done)];
        to[done..done + part.len()].write_copy_of_slice(part);
        done += part.len();
    }
    while done < total {
        let more = done.min(total - done);
        to.copy_within(..more, done);
        done += more;
    }
    ffi::luaL_pushresultsize(buffer, total);
    1
}

// Tables -----------------------------------------------------------------------------------------

/// Abilities that an argument must have to be taken for a table.
const READ: u8 = 1;
const WRITE: u8 = 2;
const LENGTH: u8 = 4;

/// Raises unless the argument is a table or something that behaves like one.
unsafe fn check_table(state: *mut lua_State, arg: c_int, what: u8) {
    if ffi::lua_type(state, arg) == ffi::LUA_TTABLE {
        return;
    }
    let top = ffi::lua_gettop(state);
    let able =
        |key: &CStr| unsafe { ffi::luaL_getmetafield(state, arg, key.as_ptr()) != ffi::LUA_TNIL };
    let fits = ffi::lua_getmetatable(state, arg) != 0
        && (what & READ == 0 || able(c"__index"))
        && (what & WRITE == 0 || able(c"__newindex"))
        && (what & LENGTH == 0 || able(c"__len"));
    if !fits {
        ffi::luaL_checktype(state, arg, ffi::LUA_TTABLE);
    }
    ffi::lua_settop(state, top);
}

unsafe fn length(state: *mut lua_State, arg: c_int, what: u8) -> ffi::lua_Integer {
    check_table(state, arg, what | LENGTH);
    ffi::luaL_len(state, arg)
}

/// Copies an element from one index to another.
unsafe fn copy(state: *mut lua_State, from: ffi::lua_Integer, table: c_int, to: ffi::lua_Integer) {
    limit::charge(state, 2);
    ffi::lua_geti(state, 1, from);
    ffi::lua_seti(state, table, to);
}

unsafe extern "C-unwind" fn insert(state: *mut lua_State) -> c_int {
    let free = length(state, 1, READ | WRITE).wrapping_add(1);
    let mut at = free;
    match ffi::lua_gettop(state) {
        2 => {}
        3 => {
            at = ffi::luaL_checkinteger(state, 2);
            // As numbers without a sign, as the length may be anything.
            if at.wrapping_sub(1) as ffi::lua_Unsigned >= free as ffi::lua_Unsigned {
                ffi::luaL_argerror(state, 2, c"position out of bounds".as_ptr());
            }
            let mut to = free;
            while to > at {
                copy(state, to - 1, 1, to);
                to -= 1;
            }
        }
        _ => fail(state, c"wrong number of arguments to 'insert'"),
    }
    limit::charge(state, 1);
    ffi::lua_seti(state, 1, at);
    0
}

unsafe extern "C-unwind" fn remove(state: *mut lua_State) -> c_int {
    let size = length(state, 1, READ | WRITE);
    let mut at = ffi::luaL_optinteger(state, 2, size);
    if at != size && at.wrapping_sub(1) as ffi::lua_Unsigned > size as ffi::lua_Unsigned {
        ffi::luaL_argerror(state, 2, c"position out of bounds".as_ptr());
    }
    limit::charge(state, 1);
    ffi::lua_geti(state, 1, at);
    while at < size {
        copy(state, at + 1, 1, at);
        at += 1;
    }
    ffi::lua_pushnil(state);
    ffi::lua_seti(state, 1, at);
    1
}

unsafe extern "C-unwind" fn r#move(state: *mut lua_State) -> c_int {
    let first = ffi::luaL_checkinteger(state, 2);
    let last = ffi::luaL_checkinteger(state, 3);
    let to = ffi::luaL_checkinteger(state, 4);
    let table = match ffi::lua_type(state, 5) {
        ffi::LUA_TNONE | ffi::LUA_TNIL => 1,
        _ => 5,
    };
    check_table(state, 1, READ);
    check_table(state, table, WRITE);
    if last >= first {
        if first <= 0 && last >= ffi::lua_Integer::MAX + first {
            ffi::luaL_argerror(state, 3, c"too many elements to move".as_ptr());
        }
        let count = last - first + 1;
        if to > ffi::lua_Integer::MAX - count + 1 {
            ffi::luaL_argerror(state, 4, c"destination wrap around".as_ptr());
        }
        let apart = to > last
            || to <= first
            || table != 1 && ffi::lua_compare(state, 1, table, ffi::LUA_OPEQ) == 0;
        if apart {
            for at in 0..count {
                copy(state, first + at, table, to + at);
            }
        } else {
            for at in (0..count).rev() {
                copy(state, first + at, table, to + at);
            }
        }
    }
    ffi::lua_pushvalue(state, table);
    1
}

unsafe extern "C-unwind" fn concat(state: *mut lua_State) -> c_int {
    unsafe fn field(state: *mut lua_State, buffer: *mut ffi::luaL_Buffer, at: ffi::lua_Integer) {
        limit::charge(state, 2);
        ffi::lua_geti(state, 1, at);
        if ffi::lua_isstring(state, -1) == 0 {
            let name = ffi::luaL_typename(state, -1);
            let format = c"invalid value (%s) at index %I in table for 'concat'";
            ffi::luaL_error(state, format.as_ptr(), name, at);
        }
        ffi::luaL_addvalue(buffer);
    }
    let size = length(state, 1, READ);
    let mut separator = 0;
    let start = ffi::luaL_optlstring(state, 2, c"".as_ptr(), &mut separator);
    let mut at = ffi::luaL_optinteger(state, 3, 1);
    let last = ffi::luaL_optinteger(state, 4, size);
    let mut buffer = MaybeUninit::<ffi::luaL_Buffer>::uninit();
    let buffer = buffer.as_mut_ptr();
    ffi::luaL_buffinit(state, buffer);
    while at < last {
        field(state, buffer, at);
        ffi::luaL_addlstring(buffer, start, separator);
        at += 1;
    }
    if at == last {
        field(state, buffer, at);
    }
    ffi::luaL_pushresult(buffer);
    1
}

unsafe extern "C-unwind" fn unpack(state: *mut lua_State) -> c_int {
    let first = ffi::luaL_optinteger(state, 2, 1);
    let last = match ffi::lua_type(state, 3) {
        ffi::LUA_TNONE | ffi::LUA_TNIL => ffi::luaL_len(state, 1),
        _ => ffi::luaL_checkinteger(state, 3),
    };
    if first > last {
        return 0;
    }
    // One less than there are: that cannot overflow.
    let more = last.wrapping_sub(first) as ffi::lua_Unsigned;
    if more >= c_int::MAX as ffi::lua_Unsigned || ffi::lua_checkstack(state, more as c_int + 1) == 0
    {
        fail(state, c"too many results to unpack");
    }
    for at in first..=last {
        limit::charge(state, 1);
        ffi::lua_geti(state, 1, at);
    }
    more as c_int + 1
}

/// Number of elements from which on the pivot may be chosen at random.
const RANDOM: u32 = 100;

unsafe extern "C-unwind" fn sort(state: *mut lua_State) -> c_int {
    let size = length(state, 1, READ | WRITE);
    if size > 1 {
        if size >= ffi::lua_Integer::from(c_int::MAX) {
            ffi::luaL_argerror(state, 1, c"array too big".as_ptr());
        }
        if !matches!(ffi::lua_type(state, 2), ffi::LUA_TNONE | ffi::LUA_TNIL) {
            ffi::luaL_checktype(state, 2, ffi::LUA_TFUNCTION);
        }
        ffi::lua_settop(state, 2);
        sort_range(state, 1, size as u32, 0);
    }
    0
}

unsafe fn get(state: *mut lua_State, at: u32) {
    ffi::lua_geti(state, 1, at.into());
}

/// Sets two elements to the two values on the stack, the upper one first.
unsafe fn set(state: *mut lua_State, a: u32, b: u32) {
    ffi::lua_seti(state, 1, a.into());
    ffi::lua_seti(state, 1, b.into());
}

/// Returns whether one value on the stack sorts before another.
unsafe fn less(state: *mut lua_State, a: c_int, b: c_int) -> bool {
    if ffi::lua_type(state, 2) == ffi::LUA_TNIL {
        limit::charge(state, 2);
        return ffi::lua_compare(state, a, b, ffi::LUA_OPLT) != 0;
    }
    limit::charge(state, CALL);
    ffi::lua_pushvalue(state, 2);
    ffi::lua_pushvalue(state, a - 1);
    ffi::lua_pushvalue(state, b - 2);
    ffi::lua_call(state, 2, 1);
    let less = ffi::lua_toboolean(state, -1) != 0;
    ffi::lua_pop(state, 1);
    less
}

/// Sorts by the library's own quicksort, so that a function that is no order has the same effect.
unsafe fn sort_range(state: *mut lua_State, mut low: u32, mut high: u32, mut random: u32) {
    while low < high {
        get(state, low);
        get(state, high);
        if less(state, -1, -2) {
            set(state, low, high);
        } else {
            ffi::lua_pop(state, 2);
        }
        if high - low == 1 {
            return;
        }
        let pivot = if high - low < RANDOM || random == 0 {
            low.midpoint(high)
        } else {
            let quarter = (high - low) / 4;
            random % (quarter * 2) + low + quarter
        };
        get(state, pivot);
        get(state, low);
        if less(state, -2, -1) {
            set(state, pivot, low);
        } else {
            ffi::lua_pop(state, 1);
            get(state, high);
            if less(state, -1, -2) {
                set(state, pivot, high);
            } else {
                ffi::lua_pop(state, 2);
            }
        }
        if high - low == 2 {
            return;
        }
        get(state, pivot);
        ffi::lua_pushvalue(state, -1);
        get(state, high - 1);
        set(state, pivot, high - 1);
        let middle = partition(state, low, high);
        let smaller = if middle - low < high - middle {
            sort_range(state, low, middle - 1, random);
            let size = middle - low;
            low = middle + 1;
            size
        } else {
            sort_range(state, middle + 1, high, random);
            let size = high - middle;
            high = middle - 1;
            size
        };
        if high.wrapping_sub(low) / 128 > smaller {
            random = rand::random();
        }
    }
}

/// Moves what sorts before the pivot, which is on the top of the stack, below it, and the rest
/// above.
unsafe fn partition(state: *mut lua_State, low: u32, high: u32) -> u32 {
    let mut up = low;
    let mut down = high - 1;
    loop {
        loop {
            up += 1;
            get(state, up);
            if !less(state, -1, -2) {
                break;
            }
            if up == high - 1 {
                fail(state, c"invalid order function for sorting");
            }
            ffi::lua_pop(state, 1);
        }
        loop {
            down = down.wrapping_sub(1);
            get(state, down);
            if !less(state, -3, -1) {
                break;
            }
            if down < up {
                fail(state, c"invalid order function for sorting");
            }
            ffi::lua_pop(state, 1);
        }
        if down < up {
            ffi::lua_pop(state, 1);
            set(state, high - 1, up);
            return up;
        }
        set(state, up, down);
    }
}
