//! The description, held against the answers.

use std::net::SocketAddr;

use serde_json::Value;

use super::SCRIPTED;
use crate::common::http::{Answer, get, request};
use crate::common::{Gateway, connect, echoed};

/// Whether a value is as its schema says, as far as ours say anything.
fn check(api: &Value, schema: &Value, value: &Value, at: &str) {
    if let Some(reference) = schema["$ref"].as_str() {
        let path = reference.strip_prefix('#').unwrap();
        let schema = api.pointer(path).unwrap_or_else(|| panic!("{reference}"));
        return check(api, schema, value, at);
    }
    if let Some(choices) = schema["anyOf"].as_array() {
        let null = choices.iter().any(|choice| choice["type"] == "null");
        if !(null && value.is_null()) {
            check(api, &choices[0], value, at);
        }
        return;
    }
    if let Some(values) = schema["enum"].as_array() {
        assert!(values.contains(value), "{at}: {value}");
        return;
    }
    let kind = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_u64() => "integer",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    let types = match &schema["type"] {
        Value::Array(types) => types.clone(),
        one => vec![one.clone()],
    };
    let fits = |t: &Value| t == kind || (t == "number" && kind == "integer");
    assert!(types.iter().any(fits), "{at} is no {types:?}: {value}");
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        check(api, &schema["items"], item, &format!("{at}[{n}]"));
    }
    let (Some(value), Some(properties)) = (value.as_object(), schema["properties"].as_object())
    else {
        return;
    };
    for name in schema["required"].as_array().unwrap() {
        assert!(
            value.contains_key(name.as_str().unwrap()),
            "{at} lacks {name}"
        );
    }
    for (name, value) in value {
        let schema = properties.get(name);
        let schema = schema.unwrap_or_else(|| panic!("{at}.{name} is not described"));
        check(api, schema, value, &format!("{at}.{name}"));
    }
}

/// Checks an answer against what is said of its path.
fn is_described(api: &Value, method: &str, path: &str, answer: &Answer) {
    let operation = &api["paths"][path][method.to_lowercase()];
    let described = &operation["responses"][answer.status.as_str()];
    let at = format!("{method} {path}: {}", answer.status);
    assert!(
        described.is_object(),
        "{at} is not described: {}",
        answer.body
    );
    let (kind, content) = described["content"]
        .as_object()
        .unwrap()
        .iter()
        .next()
        .unwrap();
    let sent = answer.headers["content-type"].to_str().unwrap();
    assert_eq!(sent.split(';').next().unwrap(), kind, "{at}");
    if kind == "application/json" {
        check(api, &content["schema"], &answer.json(), &at);
    }
}

async fn asked(api: &Value, admin: SocketAddr, method: &str, path: &str, real: &str) -> Answer {
    let answer = request(admin, method, real, &[]).await;
    is_described(api, method, path, &answer);
    answer
}

#[tokio::test]
async fn every_described_route_answers_as_described() {
    let script = "function access(s) s.attrs.n = 1 end\n\
        function announce() return 'hi' end\n\
        function closed() error('oops') end\n";
    let gateway = Gateway::start_among(&[("route.lua", script)], SCRIPTED).await;
    let admin = gateway.admin().await;
    let api = get(admin, "/openapi.json").await.good();
    let mut client = connect(gateway.addr()).await;
    echoed(&mut client, b"").await;
    gateway.log().of(client.id(), "session opened").await;
    let one = format!("/sessions/{}", client.id());

    // Every route once; those that end something last.
    let mut routes = Vec::new();
    for (path, operations) in api["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.as_str()));
        }
    }
    routes.sort_by_key(|(method, path)| (method == "DELETE", *path == "/drain"));
    assert!(routes.len() > 10, "{routes:?}");
    for (method, path) in &routes {
        let answer = asked(
            &api,
            admin,
            method,
            path,
            &path.replace("/sessions/{id}", &one),
        )
        .await;
        assert!(
            answer.status.is_success(),
            "{method} {path}: {}",
            answer.status
        );
    }
    // And once more in other circumstances.
    gateway.log().of(client.id(), "session closed").await;
    std::fs::write(gateway.directory().join("config.yaml"), "listeners: [}").unwrap();
    for (method, path, real, status) in [
        ("POST", "/reload", "/reload", 422),
        ("GET", "/readyz", "/readyz", 503),
        ("GET", "/status", "/status", 200),
        ("GET", "/sessions", "/sessions?limit=0", 400),
        ("GET", "/sessions", "/sessions?state=ended", 200),
        ("GET", "/sessions/{id}", &one, 200),
        ("GET", "/sessions/{id}", "/sessions/1", 404),
        ("DELETE", "/sessions/{id}", &one, 404),
    ] {
        let answer = asked(&api, admin, method, path, real).await;
        assert_eq!(answer.status.as_u16(), status, "{method} {real}");
    }
    for (method, path) in &routes {
        let real = path.replace("/sessions/{id}", &one);
        let answer = request(admin, method, &real, &[("host", "evil.example")]).await;
        is_described(&api, method, path, &answer);
    }
}
