//! What a call of a plugin costs.
//!
//! Prints the cost of a call on a kept instance and on a fresh one, each also as a ratio to a
//! baseline measured in the same run: the same question put to the built-in rule. Then what it
//! takes to load a component of 10 MB, compiled and from the cache.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stablegate::config::Instance;
use stablegate::hooks::Roster;
use stablegate::hooks::builtin::{Announcement, Builtin};
use stablegate::hooks::shared::Shared;
use stablegate::hooks::spec::{Environment, Limits, Spec};
use stablegate::hooks::wasm::{PluginHost, WasmHook};
use stablegate::hooks::{Answer, Attrs, Call, Hook, Question, SessionInfo};
use wat::{Value, Wat};

#[allow(dead_code, reason = "tests use the rest")]
#[path = "../tests/wasm/wat.rs"]
mod wat;

const CALLS: u32 = 200_000;

/// Size of the large component, bytes.
const LARGE: usize = 10_000_000;

/// Answers `allow`.
const ALLOW: &str = "(i32.store8 (i32.const 16) (i32.const 0))
  (i32.store8 (i32.const 20) (i32.const 1))";

fn main() {
    let directory = tempfile::tempdir().expect("a directory can be made");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime can be made");
    let builtin = Builtin::new(Announcement::default());
    let baseline = runtime.block_on(measure(&builtin));
    println!("baseline, the built-in rule: {baseline:.3} µs");

    let host = PluginHost::new(None);
    let plain = Wat::default().function("access-control#access", ALLOW);
    let mut busy = Wat::default();
    let body = [
        busy.bytes(b"sessions"),
        busy.value(Value::Integer(1)),
        " i32.const 1 f64.const 60 i32.const 32\n".to_owned(),
        busy.call("shared.incr"),
        busy.bytes(b"seen"),
        busy.value(Value::Boolean(true)),
        busy.call("attrs.set"),
        ALLOW.to_owned(),
    ]
    .concat();
    let busy = busy.function("access-control#access", &body);
    for (name, text) in [("allow", plain.text()), ("counter, attrs", busy.text())] {
        let file = directory.path().join("plugin.wat");
        std::fs::write(&file, text).expect("the file can be written");
        for instances in [Instance::Pooled, Instance::Fresh] {
            let hook = load(&host, &file, instances);
            let cost = runtime.block_on(measure(&hook));
            println!(
                "{name}, {instances:?}: {cost:.2} µs = {:.0} × baseline",
                cost / baseline
            );
        }
    }

    let file = directory.path().join("large.wasm");
    std::fs::write(&file, large()).expect("the file can be written");
    let cache = directory.path().join("cache");
    for what in ["compiled", "from the cache"] {
        // As after a restart of the gateway.
        let host = PluginHost::new(Some(cache.clone()));
        load(&host, &directory.path().join("plugin.wat"), Instance::Fresh);
        let started = Instant::now();
        load(&host, &file, Instance::Fresh);
        println!("{LARGE} bytes, {what}: {:.1?}", started.elapsed());
    }
}

fn load(host: &PluginHost, file: &Path, instances: Instance) -> WasmHook {
    let spec = Spec {
        name: "bench".into(),
        path: file.into(),
        limits: Limits {
            timeout: Duration::from_secs(1),
            wall_timeout: Duration::from_secs(20),
            load_timeout: Duration::from_secs(5),
            memory: 32 * 1024 * 1024,
        },
        config: serde_json::Map::new(),
        environment: Environment {
            shared: Arc::new(Shared::default()),
            resolver: Arc::default(),
            hosts: Vec::new(),
            fastway: Roster::default(),
            grown: Arc::default(),
        },
        modules: Vec::new(),
    };
    WasmHook::load(host, spec, instances).expect("the plugin loads")
}

/// The cost of a call in µs: the best of several rounds, as what else runs only adds to it.
async fn measure(hook: &dyn Hook) -> f64 {
    const ROUNDS: u32 = 20;
    let addr = |text: &str| text.parse().expect("an address");
    let info = Arc::new(SessionInfo {
        id: 1,
        session: "scp",
        target: Some("lobby".into()),
        ..SessionInfo::new("game", addr("192.0.2.1:50000"), addr("192.0.2.2:1248"))
    });
    let mut best = f64::INFINITY;
    for _ in 0..ROUNDS {
        let started = Instant::now();
        for _ in 0..CALLS / ROUNDS {
            let call = Call {
                question: Question::Access,
                info: info.clone(),
                attrs: Attrs::new(),
            };
            let answer = hook.call(call).await.answer;
            assert_eq!(answer.expect("it answers"), Answer::Allow);
        }
        let each = started.elapsed().as_secs_f64() * 1e6 / f64::from(CALLS / ROUNDS);
        best = best.min(each);
    }
    best
}

/// A component of many functions.
fn large() -> Vec<u8> {
    /// What one of them takes, bytes.
    const EACH: usize = 1000;
    let mut functions = String::new();
    for number in 0..LARGE / EACH {
        write!(
            functions,
            "(func (param i32) (result i32) (local i32) (i32.const {number}) (local.set 1)"
        )
        .expect("writing to a string does not fail");
        for step in 0..49 {
            write!(
                functions,
                "(if (i32.gt_u (local.get 0) (i32.const {})) (then
                   (i32.store (local.get 1) (i32.add (local.get 1) (i32.const {step})))))",
                number * 64 + step + 100_000
            )
            .expect("writing to a string does not fail");
        }
        functions += "(local.get 1))\n";
    }
    let wat = Wat::default()
        .function("access-control#access", ALLOW)
        .more(&functions);
    let binary = ::wat::parse_str(wat.text()).expect("it is valid");
    assert!(
        (LARGE * 9 / 10..LARGE * 11 / 10).contains(&binary.len()),
        "{}",
        binary.len()
    );
    binary
}
