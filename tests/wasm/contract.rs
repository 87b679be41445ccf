//! What plugins are asked and what their answers mean; what loads and what does not.

use stablegate::config::Instance;
use stablegate::hooks::FileHook;
use stablegate::hooks::wasm::PluginHost;
use stablegate::hooks::{Answer, Hook, HookErrorKind, Question};

use crate::harm::ALLOW;
use crate::rig::{Rig, announce, closed, error, question};
use crate::wat::{Value, Wat};

fn access(body: &str) -> Wat {
    Wat::default().function("access-control#access", body)
}

#[tokio::test]
async fn a_plugin_is_asked_what_it_exports() {
    let rig = Rig::new();
    let hook = rig.plugin(&access(ALLOW));
    let answer = hook.call(question(Question::Access)).await.answer;
    assert_eq!(answer.unwrap(), Answer::Allow);
    for asked in [Question::SelectTarget, announce(), closed()] {
        let answer = hook.call(question(asked)).await.answer;
        assert_eq!(answer.unwrap(), Answer::Pass);
    }
    let files = hook.files();
    assert!(files.paths().eq([rig.dir.path().join("plugin.wat")]));
}

#[tokio::test]
async fn what_does_not_load_says_what_is_missing() {
    let rig = Rig::new();
    let good = access(ALLOW).text();
    for (text, want) in [
        ("", "expected"),
        ("(module", "expected `)`"),
        (
            "(module)",
            "exports none of access-control, target-selection, announcement and lifecycle",
        ),
        (
            &good.replace(
                "access-control@0.1.0#access\"",
                "access-control@0.1.0#acess\"",
            ),
            "access-control@0.1.0",
        ),
        (
            &good.replace("access-control@0.1.0", "access-control@7.0.0"),
            "exports `stablegate:plugin/access-control@7.0.0`, which the gateway does not know",
        ),
        (
            &good.replace(
                "(memory (export",
                "(import \"env\" \"f\" (func))\n(memory (export",
            ),
            "imports `env`, which the gateway does not know",
        ),
        (
            &good.replace(
                "(memory (export",
                "(import \"stablegate:plugin/log@0.1.0\" \"nope\" (func))\n(memory (export",
            ),
            "nope",
        ),
        (
            &good.replace("(result i32)\n (local", "(result i64)\n (local"),
            "access",
        ),
        (
            &good.replace("(export \"cabi_realloc\")", ""),
            "cabi_realloc",
        ),
        (
            &access(ALLOW)
                .more("(start $start) (func $start unreachable)")
                .text(),
            "unreachable",
        ),
        (
            &good.replace(
                "(memory (export \"memory\") 4)",
                "(memory (export \"memory\") 600)",
            ),
            "memory limit of 32.0 MiB exceeded",
        ),
        ("(component)", "exports none of access-control"),
        (
            "(component (import \"game:stats/sink@1.0.0\" (instance)))",
            "exports none of",
        ),
    ] {
        let message = rig.load_error(text);
        assert!(message.starts_with("plugin.wat: "), "{message}");
        assert!(message.contains(want), "{want}: {message}\n{text}");
    }
    // A line of the file may be all of it.
    let message = rig.load_error(&format!("(module\n (nonsense) {}", " ".repeat(100_000)));
    assert!(message.contains("--> plugin.wat:2:3"), "{message}");
    assert!(message.len() < 2000, "{message}");
    rig.write("plugin.wat", b"\xff\xfe");
    let Err(failed) = rig.load("plugin.wat") else {
        panic!("it loads")
    };
    assert_eq!(
        failed.to_string(),
        "hook plugin: plugin.wat: neither WebAssembly nor its text format"
    );
    assert!(failed.files.paths().eq([rig.dir.path().join("plugin.wat")]));
    assert!(rig.load("nowhere.wasm").is_err());
}

#[tokio::test]
async fn a_trap_is_an_error_of_its_call_alone() {
    for instances in [Instance::Fresh, Instance::Pooled] {
        let mut rig = Rig::new();
        rig.instances = instances;
        // Traps when the client has asked for a target of five letters.
        let hook = rig.plugin(&access(&format!(
            "(if (i32.eq (i32.load offset=56 (local.get $session)) (i32.const 5))
               (then unreachable))
             {ALLOW}"
        )));
        let trapped = hook.call(question(Question::Access)).await;
        let message = error(&trapped, HookErrorKind::Trap);
        assert!(
            message.starts_with("plugin.wat: access: ") && message.contains("unreachable"),
            "{message}"
        );
        let mut call = question(Question::Access);
        std::sync::Arc::make_mut(&mut call.info).target = None;
        assert_eq!(hook.call(call).await.answer.unwrap(), Answer::Allow);
    }
}

#[tokio::test]
async fn an_instance_lives_as_long_as_it_was_said_to() {
    // Counts its calls, and traps in the third.
    let counting = access(&format!(
        "(global.set $calls (i32.add (global.get $calls) (i32.const 1)))
         (if (i32.eq (global.get $calls) (i32.const 3)) (then unreachable))
         {ALLOW}"
    ))
    .more("(global $calls (mut i32) (i32.const 0))");
    for (instances, want) in [
        (Instance::Fresh, [true; 6]),
        (Instance::Pooled, [true, true, false, true, true, false]),
    ] {
        let mut rig = Rig::new();
        rig.instances = instances;
        let hook = rig.plugin(&counting);
        for want in want {
            let answer = hook.call(question(Question::Access)).await.answer;
            assert_eq!(answer.is_ok(), want, "{instances:?}");
        }
    }
}

/// As many as reloads leave behind while sessions last.
#[tokio::test]
async fn plugins_that_were_replaced_leave_room_for_others() {
    let mut rig = Rig::new();
    rig.instances = Instance::Pooled;
    rig.host = PluginHost::new(Some(rig.dir.path().join("cache")));
    let mut replaced = Vec::new();
    for _ in 0..600 {
        let hook = rig.plugin(&access(ALLOW));
        let answer = hook.call(question(Question::Access)).await.answer;
        assert_eq!(answer.unwrap(), Answer::Allow);
        replaced.push(hook);
    }
}

#[tokio::test]
async fn what_cannot_grow_takes_nothing() {
    let rig = Rig::new();
    let growing = access(&format!(
        "(local.set $i (i32.const 1000))
         (loop $again
           (drop (memory.grow (i32.const 1000)))
           (drop (table.grow (ref.null func) (i32.const 1000)))
           (br_if $again (local.tee $i (i32.sub (local.get $i) (i32.const 1)))))
         {ALLOW}"
    ));
    let text = growing.more("(table 1 2 funcref)").text().replace(
        "(memory (export \"memory\") 4)",
        "(memory (export \"memory\") 4 8)",
    );
    rig.write("plugin.wat", text);
    let hook = rig.load("plugin.wat").unwrap();
    let answer = hook.call(question(Question::Access)).await.answer;
    assert_eq!(answer.unwrap(), Answer::Allow);
}

/// A call may set more than it leaves, but no more than its memory.
#[tokio::test]
async fn attributes_take_memory() {
    let rig = Rig::new();
    let mut wat = Wat::default();
    let value = wat.value(Value::Bytes(&[0; 4000]));
    let set = wat.call("attrs.set");
    // The key is the number of the turn.
    let hook = rig.plugin(&wat.function(
        "access-control#access",
        &format!(
            "(loop $again
               (local.set $i (i32.add (local.get $i) (i32.const 1)))
               (i32.store (i32.const 512) (i32.and (local.get $i) (i32.const 0x7f7f7f7f)))
               (i32.const 512) (i32.const 4) {value} {set}
               (br $again))"
        ),
    ));
    let reply = hook.call(question(Question::Access)).await;
    let message = error(&reply, HookErrorKind::Memory);
    assert!(message.contains("memory limit of 32.0 MiB"), "{message}");
}
