//! What scripts are asked and what their answers mean.

use std::sync::Arc;

use bytes::Bytes;
use stablegate::hooks::{
    Answer, AttrValue, Attrs, Call, Hook, HookErrorKind, Question, SessionInfo, Target,
};

use crate::rig::{Rig, announce, ask, closed, error, info, question, target};

async fn answer(function: &str, asked: Question, body: &str) -> Result<Answer, String> {
    let rig = Rig::new();
    let hook = rig.script(&format!(
        "\nfunction {function}(session, target)\n{body}\nend"
    ));
    let reply = ask(&hook, asked).await;
    reply.answer.map_err(|error| {
        assert_eq!(error.kind, HookErrorKind::Script);
        error.message
    })
}

#[tokio::test]
async fn access_answers() {
    let access = |body| answer("access", Question::Access, body);
    let deny = |reason: &str| {
        Ok(Answer::Deny {
            reason: reason.into(),
        })
    };
    assert_eq!(access("").await, Ok(Answer::Pass));
    assert_eq!(access("return nil").await, Ok(Answer::Pass));
    assert_eq!(access("return true").await, Ok(Answer::Allow));
    assert_eq!(access("return false").await, deny(""));
    assert_eq!(access("return false, 'full'").await, deny("full"));
    let bad = |got: &str| {
        Err(format!(
            "route.lua:2: access returned {got}, expected true, nil, or false and a reason"
        ))
    };
    assert_eq!(access("return 1").await, bad("1"));
    assert_eq!(access("return 'no'").await, bad("\"no\""));
    assert_eq!(access("return {}").await, bad("a table"));
    assert_eq!(
        access("return false, {}").await.unwrap_err(),
        "route.lua:2: access returned false and a table, expected the reason as a string"
    );
}

#[tokio::test]
async fn select_target_answers() {
    let select = |body| answer("select_target", Question::SelectTarget, body);
    let name = |name: &str| Ok(Answer::Target(Target::Name(name.into())));
    let addr = |addr: &str| Ok(Answer::Target(Target::Addr(addr.into())));
    assert_eq!(select("").await, Ok(Answer::Pass));
    assert_eq!(select("return 'lobby'").await, name("lobby"));
    assert_eq!(
        select("return {addr = 'h.example:80'}").await,
        addr("h.example:80")
    );
    assert_eq!(select("return {addr = '[::1]:80'}").await, addr("[::1]:80"));
    for (body, got) in [
        ("return 5", "returned 5,"),
        ("return true", "returned true,"),
        ("return ''", "returned \"\","),
        ("return '\\255'", "returned \"\u{fffd}\","),
        ("return {}", "with addr = nil,"),
        ("return {addr = 'nowhere'}", "with addr = \"nowhere\","),
        ("return {addr = 80}", "with addr = 80,"),
        ("return print", "returned a function,"),
    ] {
        let message = select(body).await.unwrap_err();
        assert!(
            message.starts_with("route.lua:2: select_target returned"),
            "{message}"
        );
        assert!(message.contains(got), "{message}");
    }
}

#[tokio::test]
async fn announce_answers() {
    let announced = |body| answer("announce", announce(), body);
    assert_eq!(announced("").await, Ok(Answer::Pass));
    assert_eq!(
        announced("return false").await,
        Ok(Answer::Message(Bytes::new()))
    );
    assert_eq!(
        announced("return target .. '\\0\\255'").await,
        Ok(Answer::Message(Bytes::from_static(b"10.0.0.9:80\0\xff")))
    );
    for body in ["return true", "return 1", "return {}"] {
        let message = announced(body).await.unwrap_err();
        assert!(
            message.contains("expected nil, false or a string"),
            "{message}"
        );
    }
    let message = announced("return ('x'):rep(1024 * 1024 + 1)")
        .await
        .unwrap_err();
    assert!(message.contains("expected at most 1048576"), "{message}");
}

#[tokio::test]
async fn closed_is_told_the_counts() {
    let rig = Rig::new();
    let hook = rig.script(
        "function closed(s)
           gateway.shared.set('closed', table.concat({s.id, s.received, s.sent, s.resumes,
             s.duration, s.reason, s.listener}, ' '))
           return 'whatever'
         end",
    );
    let reply = ask(&hook, closed()).await;
    assert_eq!(reply.answer.unwrap(), Answer::Pass);
    assert_eq!(
        rig.shared.get(b"closed"),
        Some(AttrValue::String(
            "7 10 20 2 1.5 upstream_closed game".into()
        ))
    );
}

#[tokio::test]
async fn a_session_has_all_its_fields() {
    let rig = Rig::new();
    rig.check(&[
        "session.id == 7",
        "session.listener == 'game' and session.session == 'scp' and session.transport == 'tcp'",
        "session.client_addr == '192.0.2.1:5000'",
        "session.gateway_addr == '[2001:db8::1]:1248'",
        "session.target == 'lobby' and session.flags == 3",
        "#session.extra == 2 and session.extra[1] == 'one' and session.extra[2] == 'two'",
        "session.first_data == '\\0hello\\255'",
        "next(session.attrs) == nil",
        "session.received == nil",
    ])
    .await;
}

#[tokio::test]
async fn what_a_session_lacks_is_nil_or_empty() {
    let rig = Rig::new();
    let hook = rig.script(
        "function access(s)
           return s.target == nil and #s.extra == 0 and s.first_data == nil and s.id == 0
         end",
    );
    let info = SessionInfo {
        id: 0,
        target: None,
        extra: Default::default(),
        first_data: None,
        ..info()
    };
    let call = Call {
        info: Arc::new(info),
        ..question(Question::Access)
    };
    assert_eq!(hook.call(call).await.answer.unwrap(), Answer::Allow);
}

#[tokio::test]
async fn attrs_come_and_go() {
    let rig = Rig::new();
    let hook = rig.script(
        "function access(s)
           assert(s.attrs.old == 'x' and s.attrs.gone == 1 and s.attrs.raw == '\\255')
           s.attrs.gone = nil
           s.attrs.flag, s.attrs.count, s.attrs.share, s.attrs.name = true, 42, 0.5, 'n\\0'
         end",
    );
    let mut call = question(Question::Access);
    call.attrs = Attrs::from([
        ("old".into(), AttrValue::String("x".into())),
        ("gone".into(), AttrValue::Integer(1)),
        ("raw".into(), AttrValue::String(Bytes::from_static(b"\xff"))),
    ]);
    let reply = hook.call(call).await;
    assert_eq!(reply.answer.unwrap(), Answer::Pass);
    assert_eq!(
        reply.attrs,
        Attrs::from([
            ("old".into(), AttrValue::String("x".into())),
            ("raw".into(), AttrValue::String(Bytes::from_static(b"\xff"))),
            ("flag".into(), AttrValue::Boolean(true)),
            ("count".into(), AttrValue::Integer(42)),
            ("share".into(), AttrValue::Number(0.5)),
            ("name".into(), AttrValue::String("n\0".into())),
        ])
    );
}

#[tokio::test]
async fn attrs_may_be_replaced_but_only_by_scalars() {
    let rig = Rig::new();
    let before = Attrs::from([("k".into(), AttrValue::Integer(1))]);
    for (body, want) in [
        ("s.attrs = {k = 2}", Ok(2)),
        (
            "s.attrs = nil",
            Err("session.attrs is nil, expected a table"),
        ),
        (
            "s.attrs.list = {}",
            Err("session.attrs.list is a table, expected"),
        ),
        (
            "s.attrs.f = print",
            Err("session.attrs.f is a function, expected"),
        ),
        (
            "s.attrs[1] = 'x'",
            Err("session.attrs has the key 1, expected only strings"),
        ),
        ("s.attrs['\\255'] = 'x'", Err("a key that is not UTF-8")),
        (
            "s.attrs.big = ('x'):rep(70000)",
            Err("larger than 65536 bytes"),
        ),
        ("s.attrs.k = 3; error('late')", Err("route.lua:1: late")),
    ] {
        let hook = rig.script(&format!("function access(s) {body} end"));
        let mut call = question(Question::Access);
        call.attrs = before.clone();
        let reply = hook.call(call).await;
        match want {
            Ok(value) => {
                let want = Attrs::from([("k".into(), AttrValue::Integer(value))]);
                assert_eq!(reply.attrs, want);
            }
            Err(message) => {
                let got = error(&reply, HookErrorKind::Script);
                assert!(
                    got.starts_with("route.lua:1: ") && got.contains(message),
                    "{got}"
                );
                assert_eq!(reply.attrs, before);
            }
        }
    }
}

#[tokio::test]
async fn an_undefined_function_passes_without_a_worker() {
    let rig = Rig::new();
    let hook = rig.script("function access() return false end");
    let vms = rig.pool.stats().vms;
    for asked in [Question::SelectTarget, announce(), closed()] {
        assert_eq!(ask(&hook, asked).await.answer.unwrap(), Answer::Pass);
    }
    let stats = rig.pool.stats();
    assert_eq!((stats.calls, stats.vms), (0, vms));
    ask(&hook, Question::Access).await;
    assert_eq!(rig.pool.stats().calls, 1);
}

#[tokio::test]
async fn errors_name_script_and_line() {
    let rig = Rig::new();
    for (body, want) in [
        ("\nerror('boom')", "route.lua:2: boom"),
        ("\nerror('boom', 0)", "route.lua:2: boom"),
        (
            "\nlocal x = nil\nreturn x.y",
            "route.lua:3: attempt to index",
        ),
        (
            "\nerror({code = 1})",
            "route.lua:2: error object is a table",
        ),
        ("\nerror(nil)", "route.lua:2: "),
        ("\nerror()", "route.lua:2: "),
        ("\nerror(42)", "route.lua:2: 42"),
        ("\nerror(true)", "route.lua:2: true"),
        ("\nerror(print)", "route.lua:2: error object is a function"),
        (
            "\nerror(setmetatable({}, {__tostring = function() return 'told' end}))",
            "route.lua:2: told",
        ),
        (
            "\nerror(setmetatable({}, {__tostring = function() error('no') end}))",
            "route.lua:2: error object is a table whose __tostring fails",
        ),
        (
            "\nerror(setmetatable({}, {__tostring = function() return {} end}))",
            "route.lua:2: error object is a table whose __tostring fails",
        ),
        (
            "\nerror(coroutine.create(print))",
            "route.lua:2: error object is a thread",
        ),
        (
            "\nerror(gateway.json.null)",
            "route.lua:2: error object is a",
        ),
        (
            "\nlocal f = coroutine.wrap(function()\nerror('in co') end)\nf()",
            "route.lua:3: in co",
        ),
        ("\ncoroutine.yield()", "route.lua:2: "),
        ("\nerror(('x'):rep(100000))", "route.lua:2: xxxx"),
    ] {
        let error = rig.fail(body).await;
        assert_eq!(error.kind, HookErrorKind::Script, "{body}");
        assert!(error.message.starts_with(want), "{body}: {}", error.message);
        assert!(error.message.len() < 1200);
    }
    assert_eq!(rig.pool.stats().errors, 17);
}

#[tokio::test]
async fn an_error_leaves_the_script_as_it_was() {
    let rig = Rig::new();
    rig.shared
        .set(b"fail", AttrValue::Boolean(true), None)
        .unwrap();
    let hook = rig.script(
        "local calls = 0
         function select_target()
           calls = calls + 1
           if gateway.shared.delete('fail') then error('once') end
           return 'lobby'
         end",
    );
    error(&target(&hook).await, HookErrorKind::Script);
    let lobby = Answer::Target(Target::Name("lobby".into()));
    assert_eq!(target(&hook).await.answer.unwrap(), lobby);
}

#[tokio::test]
async fn what_does_not_load_says_where() {
    let rig = Rig::new();
    for (text, want) in [
        ("function access(\n  x y\nend", "route.lua:2: "),
        ("\n\nerror('early')", "route.lua:3: early"),
        ("\nerror({})", "route.lua:2: error object is a table"),
        (
            "access = 5",
            "route.lua: global 'access' is a number, expected a function",
        ),
        (
            "closed = {}",
            "route.lua: global 'closed' is a table, expected a function",
        ),
        (
            "local x = 1",
            "route.lua: defines none of the functions access,",
        ),
        ("", "route.lua: defines none of"),
        ("require 'nope'", "route.lua:1: module 'nope' not found"),
        ("\x1bLua not text", "route.lua"),
    ] {
        let message = rig.load_error(text);
        assert!(message.starts_with(want), "{text}: {message}");
    }
    std::fs::remove_file(rig.dir.path().join("route.lua")).unwrap();
    let error = rig.load().unwrap_err();
    assert!(error.to_string().starts_with("hook route: /"), "{error}");
    assert!(error.files.paths().eq([rig.dir.path().join("route.lua")]));
    std::fs::create_dir(rig.dir.path().join("route.lua")).unwrap();
    assert!(
        rig.load()
            .unwrap_err()
            .message
            .ends_with("not a regular file")
    );
}

#[tokio::test]
async fn the_shipped_script_lets_everyone_in() {
    let rig = Rig::new();
    let text = include_str!("../../scripts/route.lua");
    let hook = rig.script(text);
    let access = ask(&hook, Question::Access).await;
    assert!(matches!(
        access.answer.unwrap(),
        Answer::Allow | Answer::Pass
    ));
    assert_eq!(
        target(&hook).await.answer.unwrap(),
        Answer::Target(Target::Name("lobby".into()))
    );
    assert_eq!(ask(&hook, closed()).await.answer.unwrap(), Answer::Pass);
}
