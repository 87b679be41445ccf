//! Plugins in the text format, put together from what a test says.
//!
//! Shows what the contract is to a compiler: where the fields of a session lie, how values are
//! passed, and what an answer looks like in memory.

use std::collections::BTreeSet;
use std::fmt::Write as _;

/// Where answers of functions and results of the host's functions are put.
const RESULT: u32 = 16;

/// Where the plugin's strings begin.
const DATA: u32 = 1024;

/// A core module that is put together.
#[derive(Default)]
pub struct Wat {
    data: Vec<u8>,
    imports: BTreeSet<&'static str>,
    functions: String,
}

/// A value to write into a plugin.
#[derive(Debug, Clone, Copy)]
pub enum Value {
    Boolean(bool),
    Integer(i64),
    Number(f64),
    Bytes(&'static [u8]),
}

/// The fields of a session, by how they are read. Numbers are offsets in the record.
#[derive(Debug, Clone, Copy)]
pub enum Field {
    Unsigned64(u32),
    Unsigned32(u32),
    String(u32),
    OptionalString(u32),
    OptionalUnsigned32(u32),
}

/// The offset of a field of the record `session`, by its name in Lua.
pub fn field(name: &str) -> Field {
    match name {
        "id" => Field::Unsigned64(0),
        "listener" => Field::String(8),
        "session" => Field::String(16),
        "transport" => Field::String(24),
        "client_addr" => Field::String(32),
        "gateway_addr" => Field::String(40),
        "target" => Field::OptionalString(48),
        "flags" => Field::Unsigned32(60),
        "first_data" => Field::OptionalString(72),
        "server_id" => Field::OptionalUnsigned32(92),
        "dial.from" => Field::Unsigned32(104),
        "dial.to" => Field::Unsigned32(108),
        other => panic!("no field {other}"),
    }
}

impl Wat {
    /// Adds a function of the contract, `access-control#access` and the like, with this body. Its
    /// parameter is `$session`; what it leaves at [`RESULT`] is its answer.
    pub fn function(mut self, name: &str, body: &str) -> Self {
        let (interface, function) = name.split_once('#').unwrap();
        write!(
            self.functions,
            "(func (export \"stablegate:plugin/{interface}@0.1.0#{function}\") \
             (param $session i32) (result i32)\n (local $i i32)\n{body}\n i32.const {RESULT})\n"
        )
        .unwrap();
        self
    }

    /// Adds anything else.
    pub fn more(mut self, text: &str) -> Self {
        self.functions += text;
        self
    }

    /// Pushes address and length of some bytes.
    pub fn bytes(&mut self, bytes: &[u8]) -> String {
        let at = DATA as usize + self.data.len();
        self.data.extend_from_slice(bytes);
        format!(" i32.const {at} i32.const {}\n", bytes.len())
    }

    /// Pushes a value as parameters.
    pub fn value(&mut self, value: Value) -> String {
        match value {
            Value::Boolean(value) => {
                format!(" i32.const 0 i64.const {} i32.const 0\n", u8::from(value))
            }
            Value::Integer(value) => format!(" i32.const 1 i64.const {value} i32.const 0\n"),
            Value::Number(value) => {
                format!(" i32.const 2 i64.const {} i32.const 0\n", value.to_bits())
            }
            Value::Bytes(bytes) => {
                let at = DATA as usize + self.data.len();
                self.data.extend_from_slice(bytes);
                format!(" i32.const 3 i64.const {at} i32.const {}\n", bytes.len())
            }
        }
    }

    /// Calls a function of the host, `log.write` and the like, with what was pushed.
    pub fn call(&mut self, name: &str) -> String {
        let (name, _) = HOST
            .iter()
            .find(|(known, _)| *known == name)
            .unwrap_or_else(|| panic!("no function {name}"));
        self.imports.insert(name);
        format!(" call ${name}\n")
    }

    /// Pushes as a value what the host left as an optional value `at` some bytes behind
    /// [`RESULT`].
    pub fn result_value(at: u32) -> String {
        let (tag, payload, length) = (RESULT + at, RESULT + at + 8, RESULT + at + 12);
        format!(
            " i32.const {tag} i32.load8_u\n\
             (if (result i64) (i32.eq (i32.load8_u (i32.const {tag})) (i32.const 3))\n\
               (then (i64.load32_u (i32.const {payload})))\n\
               (else (if (result i64) (i32.load8_u (i32.const {tag}))\n\
                 (then (i64.load (i32.const {payload})))\n\
                 (else (i64.load8_u (i32.const {payload}))))))\n\
             i32.const {length} i32.load\n"
        )
    }

    /// The text of the module.
    pub fn text(&self) -> String {
        let mut text = "(module\n".to_owned();
        for name in &self.imports {
            let (_, types) = HOST.iter().find(|(known, _)| known == name).unwrap();
            let (interface, function) = name.split_once('.').unwrap();
            writeln!(
                text,
                "(import \"stablegate:plugin/{interface}@0.1.0\" \"{function}\" \
                 (func ${name} {types}))"
            )
            .unwrap();
        }
        text += MEMORY;
        let data: String = self
            .data
            .iter()
            .map(|byte| format!("\\{byte:02x}"))
            .collect();
        writeln!(text, "(data (i32.const {DATA}) \"{data}\")").unwrap();
        text + &self.functions + ")"
    }
}

/// The functions of the host and their types.
const HOST: &[(&str, &str)] = &[
    ("log.write", "(param i32 i32 i32)"),
    ("shared.get", "(param i32 i32 i32)"),
    ("shared.set", "(param i32 i32 i32 i64 i32 i32 f64 i32)"),
    ("shared.add", "(param i32 i32 i32 i64 i32 i32 f64 i32)"),
    ("shared.incr", "(param i32 i32 i32 i64 i32 i32 f64 i32)"),
    ("shared.delete", "(param i32 i32) (result i32)"),
    ("hosts.list", "(param i32)"),
    ("hosts.fastway-servers", "(param i32)"),
    ("config.get", "(param i32 i32 i32)"),
    ("config.json", "(param i32)"),
    ("attrs.set", "(param i32 i32 i32 i64 i32)"),
    ("attrs.remove", "(param i32 i32)"),
];

/// Memory that is taken and never given back: an instance lives for one call.
const MEMORY: &str = r#"
(memory (export "memory") 4)
(global $heap (mut i32) (i32.const 65536))
(func (export "cabi_realloc") (param $old i32) (param $size i32) (param $align i32) (param $new i32)
  (result i32)
  (local $at i32)
  (local.set $at (i32.and
    (i32.add (global.get $heap) (i32.sub (local.get $align) (i32.const 1)))
    (i32.sub (i32.const 0) (local.get $align))))
  (global.set $heap (i32.add (local.get $at) (local.get $new)))
  (if (i32.gt_u (global.get $heap) (i32.mul (memory.size) (i32.const 65536)))
    (then (drop (memory.grow (i32.add (i32.const 1)
      (i32.shr_u (local.get $new) (i32.const 16)))))))
  (memory.copy (local.get $at) (local.get $old) (local.get $size))
  (local.get $at))
"#;
