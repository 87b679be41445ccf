//! Scripts that answer anything.

use std::time::Duration;

use proptest::prelude::*;
use stablegate::hooks::{HookErrorKind, Question};

use crate::rig::{Rig, announce, ask, closed};

/// A Lua expression for some value.
fn value() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("nil".to_owned()),
        any::<bool>().prop_map(|value| value.to_string()),
        any::<i32>().prop_map(|value| value.to_string()),
        any::<f64>().prop_map(|value| format!("({value:e})")
            .replace("NaN", "0/0")
            .replace("inf", "1/0")),
        prop::collection::vec(any::<u8>(), 0..12)
            .prop_map(|bytes| bytes
                .iter()
                .map(|byte| format!("\\{byte:03}"))
                .collect::<String>())
            .prop_map(|text| format!("'{text}'")),
        Just("print".to_owned()),
        Just("session".to_owned()),
        Just("session.attrs".to_owned()),
        Just("gateway".to_owned()),
        Just("gateway.json.null".to_owned()),
        Just("coroutine.create(print)".to_owned()),
        Just("select(2, pcall(error, {}))".to_owned()),
        Just("setmetatable({}, {__index = error, __len = error, __tostring = error})".to_owned()),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop::collection::vec(inner, 0..4).prop_map(|items| {
            let entries: String = items
                .iter()
                .enumerate()
                .map(|(at, item)| match at {
                    0 => format!("addr = {item},"),
                    1 => format!("[{item} or 1] = 1,"),
                    _ => format!("{item},"),
                })
                .collect();
            format!("{{{entries}}}")
                .replace("[0/0 or 1]", "[1]")
                .replace("[(0/0) or 1]", "[1]")
        })
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever a script returns, raises or leaves in its attributes is an answer or an error.
    #[test]
    fn any_value_is_answered(a in value(), b in value(), attr in value(), raise: bool) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let rig = Rig::new();
        let end = if raise { format!("error({a})") } else { format!("return {a}, {b}") };
        let body = format!("function f(session) session.attrs.x = {attr} session.attrs = session.attrs {end} end");
        let hook = rig.script(&format!(
            "{body} access, select_target, announce, closed = f, f, f, f"
        ));
        runtime.block_on(async {
            for asked in [Question::Access, Question::SelectTarget, announce(), closed()] {
                let reply = ask(&hook, asked).await;
                if let Err(error) = &reply.answer {
                    assert_eq!(error.kind, HookErrorKind::Script);
                    assert!(error.message.starts_with("route.lua:1: "), "{error}");
                } else {
                    assert!(!raise);
                }
            }
        });
        assert!(rig.pool.wait_quiet(Duration::from_secs(10)));
        assert_eq!(rig.pool.stats().stuck_ever, 0);
    }

    /// Any text is a script or an error that says where.
    #[test]
    fn any_text_is_loaded_or_refused(text in "[ -~\n]{0,80}") {
        let rig = Rig::new();
        rig.write("route.lua", &text);
        if let Err(error) = rig.load() {
            prop_assert!(error.message.starts_with("route.lua"), "{}", error);
        }
    }
}
