//! The plugins in `plugins/`, built from their sources, against the script that does the same.
//!
//! They are built by other compilers: `STABLEGATE_SAMPLES` names the files, with a colon between
//! two. Without it the script is tested alone.

use std::path::PathBuf;
use std::sync::Arc;

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use stablegate::hooks::lua::{LuaHook, Pool};
use stablegate::hooks::wasm::WasmHook;
use stablegate::hooks::{Answer, AttrValue, Attrs, Call, Hook, HookErrorKind, Question, Target};

use crate::rig::{Rig, question};

const SCRIPT: &str = include_str!("../../plugins/token-auth.lua");

const KEY: &str = "sesame";

/// A time that has passed, and one that has not.
const PAST: u64 = 1_000_000_000;
const FUTURE: u64 = 99_999_999_999;

fn token(user: &str, expires: impl std::fmt::Display, key: &str) -> String {
    let signed = format!("{user}.{expires}");
    let mut mac = Hmac::<Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(signed.as_bytes());
    let mac = mac.finalize().into_bytes();
    let mac: String = mac.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{signed}.{mac}")
}

/// Where a client shows something.
#[derive(Clone, Copy)]
enum Shown<'a> {
    Nothing,
    Target(&'a str),
    Data(&'a [u8]),
}

/// The script, and the plugins that were built.
fn hooks(rig: &Rig) -> Vec<(String, Box<dyn Hook>)> {
    let path = rig.write("token-auth.lua", SCRIPT);
    let script = LuaHook::load(&Pool::new(1), rig.spec("script", path)).unwrap();
    let mut hooks: Vec<(String, Box<dyn Hook>)> = vec![("script".into(), Box::new(script))];
    let samples = std::env::var("STABLEGATE_SAMPLES").unwrap_or_default();
    for sample in samples.split(':').filter(|sample| !sample.is_empty()) {
        let spec = rig.spec("plugin", PathBuf::from(sample));
        let plugin = WasmHook::load(&rig.host, spec, rig.instances).unwrap();
        hooks.push((sample.to_owned(), Box::new(plugin)));
    }
    hooks
}

fn call(asked: Question, shown: Shown<'_>) -> Call {
    let mut call = question(asked);
    let info = Arc::make_mut(&mut call.info);
    info.target = None;
    info.first_data = None;
    match shown {
        Shown::Nothing => {}
        Shown::Target(target) => info.target = Some(target.to_owned()),
        Shown::Data(data) => info.first_data = Some(data.to_vec().into()),
    }
    call
}

#[tokio::test]
async fn tokens_are_judged_alike() {
    let mut rig = Rig::new();
    rig.config = serde_json::json!({ "key": KEY });
    let hooks = hooks(&rig);
    let good = token("ann", FUTURE, KEY);
    let line = format!("{good}\r\n");
    let cut = &good[..good.len() - 1];
    let other = format!("{}0", &good[..good.len() - 1]);
    let deny = |reason: &str| Answer::Deny {
        reason: reason.to_owned(),
    };
    let in_target = |token: &str| format!("lobby/{token}");
    for (shown, want) in [
        (Shown::Target(&in_target(&good)), Answer::Allow),
        (Shown::Data(good.as_bytes()), Answer::Allow),
        (Shown::Data(line.as_bytes()), Answer::Allow),
        (Shown::Nothing, deny("no token")),
        (Shown::Target("lobby"), deny("no token")),
        (Shown::Target("lobby/"), deny("bad token")),
        (Shown::Target(&in_target(cut)), deny("bad token")),
        (Shown::Target(&in_target(&other)), deny("bad token")),
        (
            Shown::Target(&in_target(&good.to_uppercase())),
            deny("bad token"),
        ),
        (Shown::Data(b""), deny("bad token")),
        (Shown::Data(b"\xff\x00."), deny("bad token")),
        (Shown::Data(b"..."), deny("bad token")),
        (
            Shown::Target(&in_target(&token("ann", PAST, KEY))),
            deny("token expired"),
        ),
        (
            Shown::Target(&in_target(&token("ann", FUTURE, "other"))),
            deny("bad token"),
        ),
        (
            Shown::Target(&in_target(&token("", FUTURE, KEY))),
            deny("bad token"),
        ),
        (
            Shown::Target(&in_target(&token("ann", "-5", KEY))),
            deny("bad token"),
        ),
        (
            Shown::Target(&in_target(&token("ann", "9".repeat(19), KEY))),
            deny("bad token"),
        ),
    ] {
        for (name, hook) in &hooks {
            let reply = hook.call(call(Question::Access, shown)).await;
            let answer = reply
                .answer
                .unwrap_or_else(|error| panic!("{name}: {error}"));
            assert_eq!(answer, want, "{name}");
            let user = ("user".to_owned(), AttrValue::String("ann".into()));
            let noted = if want == Answer::Allow {
                Attrs::from([user])
            } else {
                Attrs::new()
            };
            assert_eq!(reply.attrs, noted, "{name}");
        }
    }
}

/// Their letters are bytes on the wire, in the signature and in the attribute.
#[tokio::test]
async fn users_may_have_any_letters() {
    let mut rig = Rig::new();
    rig.config = serde_json::json!({ "key": KEY });
    let token = token("Jörg \u{1f600}", FUTURE, KEY);
    for (name, hook) in hooks(&rig) {
        for shown in [
            Shown::Data(token.as_bytes()),
            Shown::Target(&format!("lobby/{token}")),
        ] {
            let reply = hook.call(call(Question::Access, shown)).await;
            assert_eq!(reply.answer.unwrap(), Answer::Allow, "{name}");
            let user = AttrValue::String("Jörg \u{1f600}".into());
            assert_eq!(reply.attrs.get("user"), Some(&user), "{name}");
        }
    }
}

#[tokio::test]
async fn targets_are_named_alike() {
    let rig = Rig::new();
    for (name, hook) in hooks(&rig) {
        for (shown, want) in [
            (Shown::Nothing, Answer::Pass),
            (Shown::Target("lobby"), Answer::Pass),
            (Shown::Target("/x"), Answer::Pass),
            (
                Shown::Target("lobby/ann.1.2/3"),
                Answer::Target(Target::Name("lobby".into())),
            ),
        ] {
            let answer = hook.call(call(Question::SelectTarget, shown)).await.answer;
            assert_eq!(answer.unwrap(), want, "{name}");
        }
    }
}

#[tokio::test]
async fn a_frame_s_header_is_skipped_and_a_key_is_needed() {
    let mut rig = Rig::new();
    for (name, hook) in hooks(&rig) {
        let reply = hook.call(call(Question::Access, Shown::Nothing)).await;
        let error = reply.answer.unwrap_err();
        assert_eq!(error.kind, HookErrorKind::Script, "{name}");
        assert!(
            error.message.ends_with("the hook's config has no key"),
            "{name}: {error}"
        );
    }
    rig.config = serde_json::json!({ "key": "k".repeat(100), "skip": 2 });
    let token = token("ann", FUTURE, &"k".repeat(100));
    let frame = [&(token.len() as u16).to_be_bytes(), token.as_bytes()].concat();
    for (name, hook) in hooks(&rig) {
        for (data, want) in [
            (&frame[..], Answer::Allow),
            (
                b"\x00",
                Answer::Deny {
                    reason: "no token".into(),
                },
            ),
        ] {
            let answer = hook
                .call(call(Question::Access, Shown::Data(data)))
                .await
                .answer;
            assert_eq!(answer.unwrap(), want, "{name}");
        }
    }
}
