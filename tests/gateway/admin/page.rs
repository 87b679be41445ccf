//! The page, in a real browser.

use serde_json::json;

use super::browser::Browser;
use super::{CONFIG, SCRIPTED};
use crate::common::http::get;
use crate::common::{Gateway, connect, echoed};

/// The text of a row of sessions.
fn row(id: u64) -> String {
    format!("document.querySelector('#sessions tr[data-id=\"{id}\"]')")
}

#[tokio::test]
async fn what_goes_on_is_shown_and_can_be_changed() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let script = "function access(s) if s.target then error('<b id=evil>oops</b>') end end\n";
    let gateway = Gateway::start_among(&[("route.lua", script)], SCRIPTED).await;
    let admin = gateway.admin().await;
    let mut client = connect(gateway.addr()).await;
    echoed(&mut client, b"hello").await;
    let mut other = connect(gateway.addr()).await;
    echoed(&mut other, b"hello").await;
    let fails = stablegate::client::scp::Options {
        target: Some("x".to_owned()),
        ..crate::common::options(gateway.addr())
    };
    let denied = crate::common::connect_with(fails).await;
    gateway.log().of(denied.id(), "session closed").await;

    browser.open(&format!("http://{admin}/")).await;
    let shown = browser
        .until(&format!("{}?.innerText", row(client.id())))
        .await;
    let shown = shown.as_str().unwrap();
    for part in ["live", "127.0.0.1:", "tcp", "game", "builtin:echo", "5 B"] {
        assert!(shown.contains(part), "{part}: {shown}");
    }
    browser.until(&row(other.id())).await;
    let hook = browser
        .until("document.querySelector('#hooks tr')?.innerText")
        .await;
    let hook = hook.as_str().unwrap();
    assert!(
        hook.starts_with("route") && hook.contains("route.lua"),
        "{hook}"
    );
    // What others say is text, whatever it says.
    assert!(hook.contains("<b id=evil>oops</b>"), "{hook}");
    assert_eq!(
        browser.run("document.querySelector('#evil')").await,
        json!(null)
    );
    let health = browser
        .run("document.querySelector('#health').innerText")
        .await;
    assert_eq!(health, "ready");
    browser
        .until("document.querySelectorAll('#chart path').length == 2 && document.querySelector('#chart path').getAttribute('d')")
        .await;

    // Who decided.
    browser
        .run(&format!(
            "{}.querySelector('button.link').click()",
            row(client.id())
        ))
        .await;
    let explained = browser
        .until("document.querySelector('dialog[open] pre')?.innerText")
        .await;
    assert!(
        explained.as_str().unwrap().contains("\"decisions\""),
        "{explained}"
    );
    browser
        .run("document.querySelector('dialog').close()")
        .await;

    let reload = "document.querySelector('#reload').click()";
    let reloaded = "document.querySelector('#reloaded').innerText";
    browser.run(reload).await;
    browser
        .until(&format!("{reloaded}.includes('generation 2')"))
        .await;
    assert_eq!(get(admin, "/status").await.good()["generation"], 2);
    gateway.save("route.lua", "\n\nfunction access( end\n");
    browser.run(reload).await;
    let failed = browser
        .until(&format!("{reloaded}.includes('failed') && {reloaded}"))
        .await;
    let failed = failed.as_str().unwrap();
    assert!(
        failed.contains("route.lua:3:") && failed.contains("nothing changed"),
        "{failed}"
    );

    let kick = "[...document.querySelectorAll('button')].find(b => b.textContent == 'Kick' && ";
    browser
        .run(&format!(
            "{kick} b.closest('tr').dataset.id == '{}').click()",
            client.id()
        ))
        .await;
    let closed = gateway.log().of(client.id(), "session closed").await;
    assert_eq!(closed["reason"], "kicked");
    browser.until(&format!("!{}", row(client.id()))).await;
    browser.until(&row(other.id())).await;
    browser
        .run("document.querySelector('#ended').click()")
        .await;
    let ended = browser
        .until(&format!("{}?.innerText", row(client.id())))
        .await;
    assert!(ended.as_str().unwrap().contains("kicked"), "{ended}");
    browser
        .run("document.querySelector('#ended').click()")
        .await;

    // On a phone nothing but tables is wider than the screen.
    let phone = json!({"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": true});
    browser
        .call("Emulation.setDeviceMetricsOverride", phone)
        .await;
    browser.until(&row(other.id())).await;
    let width = browser.run("document.documentElement.scrollWidth").await;
    assert_eq!(width, 360);
    let back = "getComputedStyle(document.body).backgroundColor";
    let mut backs = Vec::new();
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.call("Emulation.setEmulatedMedia", media).await;
        backs.push(browser.run(back).await);
    }
    assert_eq!(backs, ["rgb(246, 247, 249)", "rgb(18, 21, 26)"]);
}

#[tokio::test]
async fn the_page_asks_for_the_token() {
    let Some(mut browser) = Browser::start().await else {
        return;
    };
    let block = "admin: {bind: '127.0.0.1:0', token_file: token}";
    let config = CONFIG.replace("admin: 127.0.0.1:0", block);
    let files = [("token", "a token that nobody guesses")];
    let gateway = Gateway::start_among(&files, &config).await;
    let mut client = connect(gateway.addr()).await;
    echoed(&mut client, b"hello").await;
    browser
        .open(&format!("http://{}/", gateway.admin().await))
        .await;
    browser
        .until("!document.querySelector('#login').hidden")
        .await;
    assert_eq!(browser.run(&row(client.id())).await, json!(null));
    browser
        .run(
            "document.querySelector('#token').value = 'a token that nobody guesses';
             document.querySelector('#login').requestSubmit()",
        )
        .await;
    browser.until(&row(client.id())).await;
    browser
        .until("document.querySelector('#login').hidden")
        .await;
}
