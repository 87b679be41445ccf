//! Lua hooks of a running gateway.

use serde_json::Value;
use stablegate::client::scp::{Options, Stream};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::common::{Gateway, Server, connect_with, echoed, options, read, soon};

/// One scp listener with hooks from scripts, and the hosts `echo` and `server`.
fn config(hooks: &[&str], server: impl std::fmt::Display, more: &str) -> String {
    let names = hooks.join(", ");
    let list: String = hooks
        .iter()
        .map(|name| {
            format!(
                "  - {{name: {name}, lua: {name}.lua, timeout: 500ms, config: {{key: sesame}}}}\n"
            )
        })
        .collect();
    format!(
        "listeners:\n  - name: game\n    bind: ['tcp://127.0.0.1:0']\n    session: scp\n    \
         hooks: [{names}]\n{more}\
         hosts: [{{name: echo, addr: 'builtin:echo'}}, {{name: server, addr: '{server}'}}]\n\
         hooks:\n{list}"
    )
}

async fn connect(gateway: &Gateway, target: Option<&str>) -> Stream {
    let options = Options {
        target: target.map(str::to_owned),
        extra: vec!["1.2.3".to_owned()],
        ..options(gateway.addr())
    };
    connect_with(options).await
}

fn text<'a>(line: &'a Value, key: &str) -> &'a str {
    line[key]
        .as_str()
        .unwrap_or_else(|| panic!("no {key} in {line}"))
}

#[tokio::test]
async fn access_turns_a_client_away() {
    let script = r#"
        function access(session)
          if session.target == "lobby" then return true end
          return false, "no " .. session.target .. " for " .. session.extra[1]
        end
        function select_target() return "echo" end
    "#;
    let gateway = Gateway::start_among(&[("a.lua", script)], &config(&["a"], "x:1", "")).await;
    let mut welcome = connect(&gateway, Some("lobby")).await;
    let mut unwelcome = connect(&gateway, Some("vault")).await;
    let mut rest = Vec::new();
    soon("the end", unwelcome.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"");
    let closed = gateway.log().of(unwelcome.id(), "session closed").await;
    assert_eq!(text(&closed, "reason"), "denied");
    assert_eq!(
        text(&closed, "detail"),
        "denied by hook a: no vault for 1.2.3"
    );
    echoed(&mut welcome, b"hello").await;
}

#[tokio::test]
async fn select_target_and_announce() {
    let server = Server::start().await;
    let script = format!(
        r#"
        function select_target(session)
          if session.target == "by name" then return "server" end
          if session.target == "by address" then return {{addr = "{}"}} end
        end
        function announce(session, target)
          if session.target == "by name" then
            return "from " .. session.client_addr .. " to " .. target .. ";"
          end
          if session.target == "by address" then return false end
        end
        "#,
        server.addr
    );
    let more = "announce: {proxy_header: v1}\n";
    let config = config(&["a"], server.addr, "") + more;
    let gateway = Gateway::start_among(&[("a.lua", &script)], &config).await;

    let mut stream = connect(&gateway, Some("by name")).await;
    let client = stream.connection().unwrap().local_addr();
    stream.write_all(b"data").await.unwrap();
    let expected = format!("from {client} to {};data", server.addr);
    let mut connection = server.accept().await;
    assert_eq!(
        read(&mut connection, expected.len()).await,
        expected.as_bytes()
    );

    let mut stream = connect(&gateway, Some("by address")).await;
    stream.write_all(b"data").await.unwrap();
    assert_eq!(read(&mut server.accept().await, 4).await, b"data");

    // No opinion: any host, and the announcement of the configuration.
    let mut streams = Vec::new();
    let mut connection = loop {
        let stream = connect(&gateway, Some("nowhere")).await;
        let opened = gateway.log().of(stream.id(), "session opened").await;
        streams.push(stream);
        if text(&opened, "target") != "builtin:echo" {
            break server.accept().await;
        }
    };
    let stream = streams.pop().unwrap();
    let client = stream.connection().unwrap().local_addr();
    let (ip, port) = (client.ip(), client.port());
    let expected = format!(
        "PROXY TCP4 {ip} 127.0.0.1 {port} {}\r\n",
        gateway.addr().port()
    );
    assert_eq!(
        read(&mut connection, expected.len()).await,
        expected.as_bytes()
    );
}

#[tokio::test]
async fn hooks_run_in_order_and_hand_on_attributes() {
    let first = r#"
        function access(session) session.attrs.user = "ann"; session.attrs.level = 3 end
        function closed(session) gateway.log.info("first", session.reason, session.received) end
    "#;
    let second = r#"
        function access(session)
          assert(gateway.config.key == "sesame")
          if session.attrs.user == "ann" and session.attrs.level == 3 then
            session.attrs.level = 4
            return true
          end
          return false, "no attributes"
        end
        function select_target(session) return session.attrs.level == 4 and "server" or "echo" end
        function closed(session) gateway.log.info("second", session.attrs.level, session.sent) end
    "#;
    let server = Server::start().await;
    let files = [("one.lua", first), ("two.lua", second)];
    let gateway = Gateway::start_among(&files, &config(&["one", "two"], server.addr, "")).await;
    let mut stream = connect(&gateway, None).await;
    let mut connection = server.accept().await;
    stream.write_all(b"12345").await.unwrap();
    assert_eq!(read(&mut connection, 5).await, b"12345");
    connection.write_all(b"123").await.unwrap();
    drop(connection);
    let mut rest = Vec::new();
    soon("the end", stream.read_to_end(&mut rest))
        .await
        .unwrap();
    assert_eq!(rest, b"123");
    gateway.log().nth("first upstream_closed 5", 0).await;
    gateway.log().nth("second 4 3", 0).await;
}

#[tokio::test]
async fn a_login_token_in_the_first_frame() {
    let script = r#"
        function access(session)
          local user, sum = session.first_data:match("^..(%w+):(%x+)$")
          if user and sum == gateway.hash.hmac_sha256(gateway.config.key, user) then
            session.attrs.user = user
            return true
          end
          return false, "bad token"
        end
        function select_target() return "server" end
        function announce(session) return session.attrs.user .. "\n" end
    "#;
    let more = "    peek: {frame: u16be, timeout: 30s}\n";
    let server = Server::start().await;
    let gateway =
        Gateway::start_among(&[("a.lua", script)], &config(&["a"], server.addr, more)).await;
    // HMAC-SHA256 of "ann" under "sesame".
    let token = "ann:".to_owned() + &hmac("sesame", "ann");
    let frame = [&(token.len() as u16).to_be_bytes(), token.as_bytes()].concat();

    let mut stream = connect(&gateway, None).await;
    for byte in &frame {
        stream.write_all(&[*byte]).await.unwrap();
        stream.flush().await.unwrap();
    }
    stream.write_all(b"and more").await.unwrap();
    let expected = [b"ann\n", &frame[..], b"and more"].concat();
    assert_eq!(
        read(&mut server.accept().await, expected.len()).await,
        expected
    );

    let mut stream = connect(&gateway, None).await;
    stream.write_all(b"\x00\x05ann:0").await.unwrap();
    let closed = gateway.log().of(stream.id(), "session closed").await;
    assert_eq!(text(&closed, "detail"), "denied by hook a: bad token");
    assert_eq!(closed["received"], 7);
}

fn hmac(key: &str, message: &str) -> String {
    use hmac::{Hmac, KeyInit, Mac};
    let mut mac = Hmac::<sha2::Sha256>::new_from_slice(key.as_bytes()).unwrap();
    mac.update(message.as_bytes());
    mac.finalize()
        .into_bytes()
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

#[tokio::test]
async fn a_chosen_name_that_no_host_has_is_logged() {
    let script = r#"function select_target(session) return session.target or "lobbi" end"#;
    let config = config(&["a"], "builtin:echo", "");
    let gateway = Gateway::start_among(&[("a.lua", script)], &config).await;
    let mut asked = connect(&gateway, Some("lobbi")).await;
    echoed(&mut asked, b"what a client asks for may be anything").await;
    let mut chosen = connect(&gateway, None).await;
    echoed(&mut chosen, b"hello").await;
    let warned = gateway
        .log()
        .nth("no host has the name that a hook chose", 0)
        .await;
    assert_eq!(warned["id"], chosen.id(), "{warned}");
    assert_eq!(warned["name"], "lobbi");
}

/// A gateway whose first listener has this script, and whose second, `calm`, one that lets in.
async fn beside(script: &str, timeout: &str) -> Gateway {
    let calm = "function select_target() return 'echo' end";
    let config = format!(
        "listeners:
  - {{name: game, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [a]}}
  - {{name: calm, bind: ['tcp://127.0.0.1:0'], session: scp, hooks: [calm]}}
hosts: [{{name: echo, addr: 'builtin:echo'}}]
hooks:
  - {{name: a, lua: a.lua, timeout: {timeout}, wall_timeout: 600s}}
  - {{name: calm, lua: calm.lua}}
"
    );
    Gateway::start_among(&[("a.lua", script), ("calm.lua", calm)], &config).await
}

async fn connect_to(gateway: &Gateway, listener: &str, target: Option<&str>) -> Stream {
    let options = Options {
        target: target.map(str::to_owned),
        ..options(gateway.addrs(listener)[0])
    };
    connect_with(options).await
}

/// What clients send to an innocent script may take it for ever.
#[tokio::test]
async fn a_pattern_that_clients_make_backtrack_holds_up_nobody_else() {
    let script = r#"
        function access(session)
          return (session.target or ""):match("^(.-)@(.-)/(.-):ok$") ~= nil, "who are you"
        end
    "#;
    let gateway = beside(script, "100ms").await;
    let target = "@/".repeat(1900);
    let mut strangers = Vec::new();
    for _ in 0..40 {
        strangers.push(connect(&gateway, Some(&target)).await);
    }
    for _ in 0..10 {
        let mut fresh = connect_to(&gateway, "calm", None).await;
        echoed(&mut fresh, b"fresh").await;
    }
    let decided = gateway.log().all("session closed").len();
    assert!(decided < strangers.len(), "they waited for all strangers");
    for stranger in strangers {
        let failed = gateway.log().of(stranger.id(), "hook failed").await;
        assert_eq!(text(&failed, "kind"), "timeout", "{failed}");
    }
}

#[tokio::test]
async fn a_reload_puts_a_script_right_while_calls_loop() {
    let script = "function access() while true do end end";
    let gateway = beside(script, "600s").await;
    let mut looping = Vec::new();
    for _ in 0..64 {
        looping.push(connect(&gateway, None).await);
    }
    gateway.save("a.lua", "function access(s) return s.target == 'x' end");
    assert_eq!(gateway.log().nth("reloaded", 0).await["generation"], 2);
    let mut fresh = connect(&gateway, Some("x")).await;
    echoed(&mut fresh, b"fresh").await;
    let mut calm = connect_to(&gateway, "calm", None).await;
    echoed(&mut calm, b"calm").await;
    assert!(gateway.log().all("session closed").is_empty());
}

#[tokio::test]
async fn modules_that_calls_require_are_watched_from_then_on() {
    let route = "function access() return require('late') end";
    let files = [("a.lua", route), ("late.lua", "return true")];
    let gateway = Gateway::start_among(&files, &config(&["a"], "x:1", "")).await;
    let mut first = connect(&gateway, Some("echo")).await;
    echoed(&mut first, b"first").await;
    gateway.save("late.lua", "return return");
    let failed = gateway.log().nth("reload failed, nothing changed", 0).await;
    assert!(text(&failed, "error").contains("late.lua:1:"), "{failed}");
    let mut second = connect(&gateway, Some("echo")).await;
    echoed(&mut second, b"second").await;
    gateway.save("late.lua", "return false");
    gateway.log().nth("reloaded", 0).await;
    let third = connect(&gateway, Some("echo")).await;
    let closed = gateway.log().of(third.id(), "session closed").await;
    assert_eq!(text(&closed, "reason"), "denied");
}

/// Every way a script can hurt, many at once, beside sessions of the same script that must not
/// feel it.
#[tokio::test]
async fn bombs_beside_live_traffic() {
    let script = r#"
        local bombs = {}
        function bombs.loop() while true do end end
        function bombs.pcall() while true do pcall(error, "again") end end
        function bombs.coroutine() coroutine.wrap(function() while true do end end)() end
        function bombs.pattern() string.find(("a"):rep(28), ("a?"):rep(28) .. ("a"):rep(28)) end
        function bombs.table() local t = {} while true do t[#t + 1] = {} end end
        function bombs.recursion() local function f() return 1 + f() end return f() end
        function bombs.object() error({}) end
        function access(session)
          local bomb = bombs[session.target]
          if bomb then bomb() end
        end
        function select_target() return "echo" end
    "#;
    let gateway = beside(script, "200ms").await;
    let mut live = connect(&gateway, None).await;
    echoed(&mut live, b"before").await;

    let bombs = [
        "loop",
        "pcall",
        "coroutine",
        "pattern",
        "table",
        "recursion",
        "object",
    ];
    let mut victims = Vec::new();
    for _ in 0..3 {
        for bomb in bombs {
            victims.push((bomb, connect(&gateway, Some(bomb)).await));
        }
    }
    // While those go off: new sessions of another script come in, and live ones go on.
    for _ in 0..10 {
        let mut fresh = connect_to(&gateway, "calm", None).await;
        echoed(&mut fresh, b"fresh").await;
        echoed(&mut live, b"live").await;
    }
    let decided = gateway.log().all("session closed").len();
    assert!(decided < victims.len(), "they waited for all bombs");
    for (bomb, victim) in victims {
        let closed = gateway.log().of(victim.id(), "session closed").await;
        assert_eq!(text(&closed, "reason"), "denied", "{bomb}");
        let failed = gateway.log().of(victim.id(), "hook failed").await;
        // Time may be over before memory is.
        let kinds: &[&str] = match bomb {
            "object" => &["script"],
            "loop" | "pcall" | "coroutine" | "pattern" => &["timeout"],
            _ => &["memory", "script", "timeout"],
        };
        assert!(kinds.contains(&text(&failed, "kind")), "{bomb}: {failed}");
    }
    echoed(&mut live, b"after").await;
}

#[tokio::test]
async fn an_error_can_be_skipped() {
    let script = "function access() error('oops') end";
    let config = config(&["a"], "x:1", "").replace("lua: a.lua", "lua: a.lua, on_error: skip");
    let config = config.replace("{name: server, addr: 'x:1'}", "");
    let gateway = Gateway::start_among(&[("a.lua", script)], &config).await;
    let mut stream = connect(&gateway, None).await;
    echoed(&mut stream, b"still in").await;
    let failed = gateway.log().of(stream.id(), "hook failed").await;
    assert!(text(&failed, "error").contains("a.lua:1: oops"), "{failed}");
}
