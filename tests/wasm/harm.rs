//! A plugin that does harm to whom it is told to.

use stablegate::hooks::HookErrorKind;

use crate::wat::{Value, Wat};

/// Answers `allow`.
pub const ALLOW: &str = "(i32.store8 (i32.const 16) (i32.const 0))
  (i32.store8 (i32.const 20) (i32.const 1))";

/// A plugin that does harm when the target that the client asks for begins with one of these
/// letters, and lets in whoever asks for something else.
pub fn plugin() -> Wat {
    let mut wat = Wat::default();
    let incr = [
        wat.bytes(b"flood"),
        wat.value(Value::Integer(1)),
        "i32.const 0 f64.const 0 i32.const 16\n".to_owned(),
        wat.call("shared.incr"),
    ]
    .concat();
    let when = |letter: char, harm: &str| {
        let letter = u32::from(letter);
        format!("(if (i32.eq (local.get $i) (i32.const {letter})) (then {harm}))\n")
    };
    let body = [
        "(if (i32.load8_u offset=48 (local.get $session))
           (then (local.set $i (i32.load8_u (i32.load offset=52 (local.get $session))))))\n"
            .to_owned(),
        when('l', "(loop $again (br $again))"),
        when(
            'm',
            "(loop $again (drop (memory.grow (i32.const 1))) (br $again))",
        ),
        when('r', "(drop (call $recurse (i32.const 0)))"),
        when('t', "unreachable"),
        when('f', &format!("(loop $again {incr} (br $again))")),
        when('o', "(drop (i32.load (i32.const -1)))"),
        ALLOW.to_owned(),
    ]
    .concat();
    wat.function("access-control#access", &body).more(
        "(func $recurse (param i32) (result i32)
           (i32.add (i32.const 1) (call $recurse (i32.add (i32.const 1) (local.get 0)))))",
    )
}

pub const BOMBS: [(&str, HookErrorKind); 6] = [
    ("loop", HookErrorKind::Timeout),
    ("memory", HookErrorKind::Memory),
    ("recursion", HookErrorKind::Trap),
    ("trap", HookErrorKind::Trap),
    ("flood", HookErrorKind::Timeout),
    ("outside", HookErrorKind::Trap),
];
