//! What scripts have to say about connections and dials.

use serde_json::Value;
use stablegate::client::fastway::{Endpoint, Error, Version};

use super::rig::{self, client, connect, joined, listeners, passes, server, settings};
use crate::common::{Gateway, soon};

const SCRIPT: &str = r#"
    function access(session)
      if session.server_id == 13 then
        session.attrs.asked = "thirteen"
        return false, "unlucky"
      end
      local dial = session.dial
      if not dial then
        gateway.log.info("joins " .. session.listener .. " " .. tostring(session.server_id))
        return true
      end
      session.attrs.asked = dial.from .. ">" .. dial.to
      if dial.to == 66 then return false, "no way to " .. dial.to end
    end
    function select_target(session)
      assert(session.dial, "a connection has no target")
      if session.dial.to == 100 then
        -- Any of the lobby: the one with the least to do.
        local best
        for _, server in ipairs(gateway.fastway.servers()) do
          if not best or server.connections < best.connections then best = server end
        end
        return best.id
      elseif session.dial.to == 101 then
        return "lobby"
      end
    end
    function closed(session)
      gateway.log.info(string.format("closed %s %d %d %s", session.attrs.asked or "connection",
        session.received, session.sent, session.reason))
      if session.dial then gateway.log.info("clients " .. #gateway.fastway.clients()) end
    end
"#;

async fn start(script: &str) -> Gateway {
    let config = format!(
        "{}{}hooks: [{{name: h, lua: h.lua, timeout: 1s}}]\n",
        listeners(", hooks: [h]"),
        settings("")
    );
    Gateway::start_among(&[("h.lua", script)], &config).await
}

async fn logged(gateway: &Gateway, message: &str) {
    let fits = |line: &Value| line["message"] == message;
    gateway.log().wait(message, fits).await;
}

#[tokio::test]
async fn connections_and_dials_are_decided() {
    let gateway = start(SCRIPT).await;
    let one = server(&gateway, Version::V1, 1).await;
    let two = server(&gateway, Version::V3, 2).await;
    logged(&gateway, "joins servers1 1").await;
    let stream = rig::tcp(rig::servers(&gateway, Version::V3)).await;
    let unlucky = Endpoint::server(stream, 13, b"sesame", rig::options(Version::V3)).await;
    soon("its end", unlucky.unwrap().closed()).await;
    let fits = |line: &Value| line["detail"] == "denied by hook h: unlucky";
    gateway.log().wait("why", fits).await;
    logged(&gateway, "closed thirteen 0 0 denied").await;

    let client = client(&gateway, Version::V2).await;
    logged(&gateway, "joins clients2 nil").await;
    let (a, b) = connect(&client, &one, 1).await;
    passes(&a, &b, "twelve bytes").await;
    passes(&b, &a, "five!").await;
    let (from, id) = (b.remote(), b.id());
    assert_eq!(a.id(), id);
    // In order, although the hooks are asked for each.
    let (denied, lobby, wrong) = tokio::join!(client.dial(66), client.dial(100), client.dial(101));
    assert_eq!(denied.map(|c| c.id()), Err(Error::Refused));
    assert_eq!(wrong.map(|c| c.id()), Err(Error::Refused));
    let lobby = lobby.unwrap();
    // By that id the other implementations find the dial.
    assert_eq!(lobby.remote(), 100);
    let far = soon("a dial", two.accept()).await.unwrap();
    passes(&lobby, &far, "found").await;
    let fits = |line: &Value| line["message"] == "dial denied" && line["reason"] == "no way to 66";
    gateway.log().wait("why", fits).await;
    logged(&gateway, &format!("closed {from}>66 0 0 denied")).await;
    let fits = |line: &Value| {
        let text = line["error"].as_str().unwrap_or_default();
        text.contains("select_target returned \"lobby\" for a dial")
    };
    gateway.log().wait("what is wrong with it", fits).await;

    drop(a);
    logged(&gateway, &format!("closed {from}>1 12 5 closed")).await;
    logged(&gateway, "clients 1").await;
    // The other way round it is the server that dials.
    let (c, d) = connect(&one, &client, from).await;
    passes(&c, &d, "hello").await;
    client.close();
    logged(&gateway, &format!("closed 1>{from} 5 0 remote_lost")).await;
    let refused = soon("an answer", one.dial(from)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    logged(&gateway, &format!("closed 1>{from} 0 0 unknown_id")).await;
}

#[tokio::test]
async fn a_dial_is_decided_by_the_script_of_its_moment() {
    let gateway = start("function access() end").await;
    let server = server(&gateway, Version::V3, 9).await;
    let client = client(&gateway, Version::V3).await;
    let (a, b) = connect(&client, &server, 9).await;
    gateway.save(
        "h.lua",
        "function access(s) return not s.dial, 'no more' end",
    );
    gateway.log().nth("reloaded", 0).await;
    let refused = soon("an answer", client.dial(9)).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
    passes(&a, &b, "what there is stays").await;
}

#[tokio::test]
async fn a_dial_of_who_is_lost_meanwhile_is_told_to_its_end() {
    let script = r#"
        function access(s)
          if not s.dial then return end
          gateway.log.info("asked")
          repeat until #gateway.fastway.clients() == 0
        end
        function closed(s)
          if s.dial then gateway.log.info("closed " .. s.reason) end
        end
      "#;
    let gateway = start(script).await;
    let client = client(&gateway, Version::V3).await;
    let asked = async {
        logged(&gateway, "asked").await;
        client.close();
    };
    let (lost, ()) = tokio::join!(client.dial(9), asked);
    assert_eq!(lost.map(|c| c.id()), Err(Error::Closed));
    logged(&gateway, "closed withdrawn").await;
}

#[tokio::test]
async fn slow_hooks_hold_up_no_data() {
    let script = "function select_target(s)
        if s.dial.to == 100 then repeat until false end
      end";
    let gateway = start(script).await;
    let server = server(&gateway, Version::V3, 9).await;
    let stream = rig::tcp(rig::clients(&gateway, Version::V3)).await;
    let local = stream.local_addr().unwrap().to_string();
    let client = Endpoint::client(stream, rig::options(Version::V3));
    joined(&gateway, &local).await;
    let (a, b) = connect(&client, &server, 9).await;
    let slow = client.dial(100);
    let talking = async {
        for _ in 0..20 {
            passes(&a, &b, "to").await;
            passes(&b, &a, "fro").await;
        }
    };
    tokio::pin!(slow);
    tokio::select! {
        biased;
        early = &mut slow => panic!("answered before anything was said: {:?}", early.map(|c| c.id())),
        () = talking => {}
    }
    let refused = soon("an answer", slow).await;
    assert_eq!(refused.map(|c| c.id()), Err(Error::Refused));
}
