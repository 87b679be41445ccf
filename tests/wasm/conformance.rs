//! Scripts and plugins are the same thing: each case is written down once, made a Lua script and
//! a plugin, and asked of both. Answers, attributes, lines in the log and what is left in the
//! shared store must be equal.

mod written;

use std::sync::{Arc, LazyLock, Mutex};

use bytes::Bytes;
use stablegate::hooks::Host;
use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::{
    Answer, AttrValue, Attrs, Call, Dial, Fastway, Hook, Question, SessionInfo, Target,
};
use tracing::field::{Field as LogField, Visit};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::{Context, SubscriberExt};

use self::written::{plugin, script};
use crate::rig::{Rig, announce, closed, info, question};
use crate::wat::{Value, Wat};

/// One thing that a hook does before it answers. What is got is put into the attribute `to`;
/// `None` and errors are the boolean false.
#[derive(Clone, Copy)]
enum Step {
    Log(&'static str, &'static str),
    Set(&'static str, Value),
    Remove(&'static str),
    Field {
        to: &'static str,
        name: &'static str,
    },
    Get {
        to: &'static str,
        key: &'static str,
    },
    Put(&'static str, Value, Option<f64>),
    Add {
        to: &'static str,
        key: &'static str,
        value: Value,
    },
    Incr {
        to: &'static str,
        key: &'static str,
        by: Value,
    },
    Delete {
        to: &'static str,
        key: &'static str,
    },
    Config {
        to: &'static str,
        key: &'static str,
    },
    /// The sessions of the first host.
    Sessions {
        to: &'static str,
    },
    Healthy {
        to: &'static str,
    },
    Draining {
        to: &'static str,
    },
}

use Step::{Add, Config, Delete, Draining, Get, Healthy, Incr, Log, Put, Remove, Sessions, Set};
use Value::{Boolean, Integer, Number};

/// What it answers.
#[derive(Clone, Copy)]
enum Verdict {
    Pass,
    Allow,
    Deny(&'static str),
    Name(&'static str),
    Addr(&'static str),
    Endpoint(u32),
    Message(&'static [u8]),
    Error(&'static str),
}

fn text(text: &'static str) -> Value {
    Value::Bytes(text.as_bytes())
}

#[tokio::test]
async fn answers() {
    use Verdict::{Addr, Allow, Deny, Endpoint, Error, Message, Name, Pass};
    for verdict in [Pass, Allow, Deny("full"), Deny(""), Error("oops")] {
        same(Question::Access, &[], verdict).await.ok();
    }
    for verdict in [
        Pass,
        Name("lobby"),
        Addr("h.example:80"),
        Addr("[::1]:80"),
        Error("oops"),
        // These are no answers.
        Name(""),
        Addr("nowhere"),
        Addr("h:0"),
        Endpoint(3),
    ] {
        same(Question::SelectTarget, &[], verdict).await.ok();
    }
    for verdict in [Pass, Message(b""), Message(b"\x00hello\xff"), Error("oops")] {
        same(announce(), &[], verdict).await.ok();
    }
    for verdict in [Pass, Error("oops")] {
        same(closed(), &[], verdict).await.ok();
    }
    let long = "x".repeat(600).leak();
    let replies = same(Question::Access, &[], Deny(long)).await;
    assert!(matches!(replies, Ok(Answer::Deny { reason }) if reason.len() < 600));
}

#[tokio::test]
async fn answers_to_dials() {
    use Verdict::{Addr, Endpoint, Name, Pass};
    for verdict in [
        Pass,
        Endpoint(0),
        Endpoint(u32::MAX),
        Name("lobby"),
        Addr("h:1"),
    ] {
        let call = Call {
            info: Arc::new(SessionInfo {
                fastway: Some(Fastway {
                    server_id: Some(9),
                    dial: Some(Dial { from: 9, to: 77 }),
                }),
                ..info()
            }),
            ..question(Question::SelectTarget)
        };
        let fields = ["server_id", "dial.from", "dial.to"];
        let steps = fields.map(|name| Step::Field { to: name, name });
        same_call(call, &steps, verdict).await.ok();
    }
}

#[tokio::test]
async fn every_field_of_a_session() {
    let names = [
        "id",
        "listener",
        "session",
        "transport",
        "client_addr",
        "gateway_addr",
        "target",
        "flags",
        "first_data",
        "server_id",
    ];
    let steps = names.map(|name| Step::Field { to: name, name });
    let bare = SessionInfo {
        id: 0,
        target: None,
        extra: Default::default(),
        first_data: None,
        fastway: Some(Fastway::default()),
        ..info()
    };
    let large = SessionInfo {
        id: u64::from(u32::MAX) << 24,
        target: Some("x".repeat(70_000)),
        extra: (&vec!["y".repeat(1000); 100][..]).into(),
        first_data: Some(Bytes::from(vec![0xff; 60_000])),
        ..info()
    };
    for (info, steps) in [
        (info(), &steps[..]),
        (bare, &steps),
        // Too large for an attribute, but not for the plugin.
        (large, &steps[..2]),
    ] {
        let call = Call {
            info: Arc::new(info),
            ..question(Question::Access)
        };
        let answer = same_call(call, steps, Verdict::Allow).await;
        assert_eq!(answer, Ok(Answer::Allow));
    }
}

#[tokio::test]
async fn attributes() {
    for steps in [
        &[
            Set("flag", Boolean(true)),
            Set("count", Integer(i64::MIN)),
            Set("share", Number(0.5)),
            Set("raw", Value::Bytes(b"\x00\xff")),
            Set("", text("")),
        ][..],
        &[Remove("old"), Remove("never")],
        &[Remove("old"), Set("old", Integer(1))],
        &[Set("new", Integer(1)), Remove("new")],
        &[Set("new", Integer(1)), Set("new", Integer(2))],
        &[Set("big", Value::Bytes(&[b'x'; 70_000]))],
        // What counts is what is left at the end.
        &[
            Set("big", Value::Bytes(&[b'x'; 70_000])),
            Set("big", Integer(1)),
        ],
        &[
            Set("one", Value::Bytes(&[b'x'; 30_000])),
            Set("two", Value::Bytes(&[b'y'; 40_000])),
            Remove("two"),
        ],
    ] {
        for verdict in [Verdict::Pass, Verdict::Error("late")] {
            let mut call = question(Question::Access);
            call.attrs = Attrs::from([("old".into(), AttrValue::String("x".into()))]);
            same_call(call, steps, verdict).await.ok();
        }
    }
}

#[tokio::test]
async fn the_log() {
    let long = "é".repeat(5000).leak();
    let steps = [
        Log("debug", "one"),
        Log("info", "two"),
        Log("warn", ""),
        Log("error", "four\nlines"),
        Log("info", long),
    ];
    same(Question::Access, &steps, Verdict::Pass).await.unwrap();
    for verdict in [Verdict::Pass, Verdict::Error("late")] {
        let steps = [Log("error", "again"); 103];
        let seen = both(question(Question::Access), &steps, verdict).await;
        assert_eq!(seen.log.len(), 101);
        assert_eq!(seen.log[100], "WARN 3 lines dropped");
    }
}

#[tokio::test]
async fn the_shared_store() {
    for steps in [
        &[
            Get { to: "a", key: "k" },
            Put("k", text("v\0"), None),
            Get { to: "b", key: "k" },
            Put("k", Boolean(false), Some(60.0)),
            Get { to: "c", key: "k" },
            Put("k", Number(-0.5), Some(1e300)),
            Get { to: "d", key: "k" },
            Delete { to: "e", key: "k" },
            Delete { to: "f", key: "k" },
        ][..],
        &[
            Add {
                to: "a",
                key: "k",
                value: Integer(1),
            },
            Add {
                to: "b",
                key: "k",
                value: Integer(2),
            },
            Get { to: "c", key: "k" },
        ],
        &[
            Incr {
                to: "a",
                key: "k",
                by: Integer(5),
            },
            Incr {
                to: "b",
                key: "k",
                by: Integer(-7),
            },
            Incr {
                to: "c",
                key: "k",
                by: Number(0.25),
            },
            Get { to: "d", key: "k" },
        ],
        &[
            Put("k", text("x"), None),
            Incr {
                to: "a",
                key: "k",
                by: Integer(1),
            },
            Put("k", Integer(i64::MAX), None),
            Incr {
                to: "b",
                key: "k",
                by: Integer(1),
            },
            Incr {
                to: "c",
                key: "k",
                by: text("1"),
            },
        ],
    ] {
        same(Question::Access, steps, Verdict::Pass).await.unwrap();
        // What is in the store stays there, whatever the answer.
        same(Question::Access, steps, Verdict::Error("late"))
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn the_configuration_and_the_hosts() {
    let keys = ["name", "on", "n", "f", "none", "list", "nowhere"];
    let steps = keys.map(|key| Config { to: key, key });
    same(Question::Access, &steps, Verdict::Pass).await.unwrap();
    let steps = [
        Sessions { to: "sessions" },
        Healthy { to: "healthy" },
        Draining { to: "draining" },
    ];
    same(Question::SelectTarget, &steps, Verdict::Pass)
        .await
        .unwrap();
}

async fn same(asked: Question, steps: &[Step], verdict: Verdict) -> Result<Answer, ()> {
    same_call(question(asked), steps, verdict).await
}

async fn same_call(call: Call, steps: &[Step], verdict: Verdict) -> Result<Answer, ()> {
    both(call, steps, verdict).await.answer
}

/// Asks a script and a plugin and compares everything that can be seen of what they did.
async fn both(call: Call, steps: &[Step], verdict: Verdict) -> Seen {
    let function = match call.question {
        Question::Access => ("access", "access-control#access"),
        Question::SelectTarget => ("select_target", "target-selection#select-target"),
        Question::Announce { .. } => ("announce", "announcement#announce"),
        Question::Closed(_) => ("closed", "lifecycle#closed"),
    };
    let lua = script(function.0, steps, verdict);
    let mut wat = Wat::default();
    let body = plugin(&mut wat, steps, verdict);
    let wat = wat.function(function.1, &body).text();

    let script = seen(&call, |rig, name| {
        let path = rig.write("hook.lua", &lua);
        Box::new(LuaHook::load(&Pool::new(1), rig.spec(name, path)).expect(&lua))
    });
    let plugin = seen(&call, |rig, name| {
        let path = rig.write("hook.wat", &wat);
        let spec = rig.spec(name, path);
        let loaded = stablegate::hooks::wasm::WasmHook::load(&rig.host, spec, rig.instances);
        Box::new(loaded.unwrap_or_else(|error| panic!("{error}\n{wat}")))
    });
    let (script, plugin) = (script.await, plugin.await);
    assert_eq!(script, plugin, "script and plugin differ:\n{lua}\n{wat}");
    script
}

/// What can be seen of a call.
#[derive(Debug, PartialEq)]
struct Seen {
    answer: Result<Answer, ()>,
    /// A word for the kind of error, and whether its message has what the hook said.
    error: Option<(&'static str, bool)>,
    attrs: Attrs,
    log: Vec<String>,
    store: Option<AttrValue>,
}

async fn seen(call: &Call, load: impl FnOnce(&Rig, &str) -> Box<dyn Hook>) -> Seen {
    /// Names a hook, so that its lines in the log can be told from those of others.
    static NEXT: Mutex<u32> = Mutex::new(0);
    LazyLock::force(&LOG);
    let name = {
        let mut next = NEXT.lock().unwrap();
        *next += 1;
        format!("hook-{next}")
    };
    let mut rig = Rig::new();
    rig.config = serde_json::json!({
        "name": "x", "on": true, "n": 3, "f": 1.5, "none": null, "list": ["a"],
    });
    let host = Host {
        draining: true,
        ..Host::new("lobby", "10.0.0.1:80", 100)
    };
    host.sessions.store(5, std::sync::atomic::Ordering::Relaxed);
    rig.hosts = vec![Arc::new(host)];
    let hook = load(&rig, &name);
    let reply = hook.call(call.clone()).await;
    let error = reply.answer.as_ref().err();
    Seen {
        error: error.map(|error| {
            let said = error.message.ends_with("oops") || error.message.ends_with("late");
            (error.kind.label(), said)
        }),
        answer: reply.answer.map_err(|_| ()),
        attrs: reply.attrs,
        log: logged(&name),
        store: rig.shared.get(b"k"),
    }
}

/// The hook and what it logged.
type Lines = Arc<Mutex<Vec<(String, String)>>>;

static LOG: LazyLock<Lines> = LazyLock::new(|| {
    let log = Lines::default();
    let subscriber = tracing_subscriber::registry().with(Collect(log.clone()));
    tracing::subscriber::set_global_default(subscriber).unwrap();
    log
});

fn logged(hook: &str) -> Vec<String> {
    let log = LOG.lock().unwrap();
    let lines = log.iter().filter(|(of, _)| of == hook);
    lines.map(|(_, line)| line.clone()).collect()
}

struct Collect(Lines);

impl<S: tracing::Subscriber> Layer<S> for Collect {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        #[derive(Default)]
        struct Line(String, String);
        impl Visit for Line {
            fn record_debug(&mut self, field: &LogField, value: &dyn std::fmt::Debug) {
                match field.name() {
                    "hook" => self.0 = format!("{value:?}"),
                    "message" => self.1 = format!("{value:?}"),
                    _ => {}
                }
            }
        }
        let mut line = Line::default();
        event.record(&mut line);
        let level = event.metadata().level();
        self.0
            .lock()
            .unwrap()
            .push((line.0, format!("{level} {}", line.1)));
    }
}

/// Names what is chosen, so that a case that ends otherwise than meant is seen.
#[tokio::test]
async fn what_is_chosen() {
    let chosen = |verdict| same(Question::SelectTarget, &[], verdict);
    assert_eq!(
        chosen(Verdict::Name("lobby")).await,
        Ok(Answer::Target(Target::Name("lobby".into())))
    );
    assert_eq!(
        chosen(Verdict::Addr("h:1")).await,
        Ok(Answer::Target(Target::Addr("h:1".into())))
    );
    assert_eq!(chosen(Verdict::Endpoint(1)).await, Err(()));
}
