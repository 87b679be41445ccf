//! Who is turned away.

use std::net::SocketAddr;

use hyper::StatusCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpSocket, TcpStream};

use super::CONFIG;
use crate::common::http::{get, post, request};
use crate::common::{Gateway, soon};

const TOKEN: &str = "a token that nobody guesses";

/// A gateway whose admin interface wants a token.
async fn guarded() -> (Gateway, SocketAddr) {
    let block = "admin: {bind: '127.0.0.1:0', token_file: token, names: [gate.example.com]}";
    let config = CONFIG.replace("admin: 127.0.0.1:0", block);
    let files = [("token", "a token that nobody guesses\n")];
    let gateway = Gateway::start_among(&files, &config).await;
    let admin = gateway.admin().await;
    (gateway, admin)
}

#[tokio::test]
async fn names_that_may_be_made_to_point_here() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    for path in ["/", "/healthz", "/status", "/metrics", "/nothing"] {
        for host in ["evil.example", "gate.example.com", "127.0.0.1.evil.example"] {
            let answer = request(admin, "GET", path, &[("host", host)]).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{host}{path}");
        }
    }
    let port = admin.port();
    for host in ["127.0.0.1", "localhost", "[::1]", "10.0.0.1"] {
        let host = format!("{host}:{port}");
        let answer = request(admin, "GET", "/healthz", &[("host", &host)]).await;
        assert_eq!(answer.status, StatusCode::OK, "{host}");
    }
    let two = [("host", "127.0.0.1"), ("host", "evil.example")];
    let answer = request(admin, "GET", "/healthz", &two).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);

    // What no client sends of itself.
    for head in [
        "GET / HTTP/1.0\r\n\r\n",
        "GET /status HTTP/1.0\r\n\r\n",
        "POST /drain HTTP/1.0\r\n\r\n",
        "GET /healthz HTTP/1.0\r\norigin: http://evil.example\r\n\r\n",
        "GET /healthz HTTP/1.0\r\nhost: evil.example\r\n\r\n",
        "GET /healthz HTTP/1.1\r\nconnection: close\r\n\r\n",
        "GET http://evil.example/healthz HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\n\r\n",
    ] {
        let answer = told(admin, head).await;
        assert!(
            answer.starts_with("HTTP/1.") && answer.contains(" 403 "),
            "{answer}"
        );
    }
}

/// What comes back for a request that is written like that.
async fn told(admin: SocketAddr, head: &str) -> String {
    let mut stream = TcpStream::connect(admin).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    soon("an answer", reading).await.unwrap();
    answer
}

#[tokio::test]
async fn balancers_probe_without_a_host() {
    let (_gateway, admin) = guarded().await;
    for path in ["/healthz", "/readyz"] {
        for method in ["GET", "HEAD"] {
            let answer = told(admin, &format!("{method} {path} HTTP/1.0\r\n\r\n")).await;
            assert!(answer.starts_with("HTTP/1.0 200 OK\r\n"), "{answer}");
        }
    }
}

#[tokio::test]
async fn pages_elsewhere_change_nothing() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    let evil = [
        ("origin", "http://evil.example"),
        ("origin", "null"),
        ("origin", "http://127.0.0.1:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ];
    for header in evil {
        for path in ["/reload", "/drain"] {
            let answer = request(admin, "POST", path, &[header]).await;
            assert_eq!(answer.status, StatusCode::FORBIDDEN, "{header:?}");
        }
        let answer = request(admin, "DELETE", "/sessions/1", &[header]).await;
        assert_eq!(answer.status, StatusCode::FORBIDDEN, "{header:?}");
    }
    let answer = request(admin, "GET", "/status", &[evil[0]]).await;
    assert_eq!(answer.status, StatusCode::FORBIDDEN);
    let status = get(admin, "/status").await.good();
    assert_eq!(
        (&status["draining"], &status["generation"]),
        (&false.into(), &1.into())
    );

    let own = format!("http://{admin}");
    let ours = [("origin", own.as_str()), ("sec-fetch-site", "same-origin")];
    assert_eq!(
        request(admin, "POST", "/reload", &ours).await.good()["generation"],
        2
    );
    // A link that somebody follows.
    let link = [("sec-fetch-site", "cross-site")];
    assert_eq!(
        request(admin, "GET", "/healthz", &link).await.status,
        StatusCode::OK
    );
}

#[tokio::test]
async fn reading_changes_nothing() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    for path in ["/reload", "/drain"] {
        let answer = get(admin, path).await;
        assert_eq!(answer.status, StatusCode::METHOD_NOT_ALLOWED);
        assert_eq!(answer.error(), "not with this method");
    }
    assert_eq!(
        post(admin, "/status").await.status,
        StatusCode::METHOD_NOT_ALLOWED
    );
    let answer = get(admin, "/sesions").await;
    assert_eq!(answer.status, StatusCode::NOT_FOUND);
    assert_eq!(answer.error(), "no such resource");
    assert_eq!(get(admin, "/readyz").await.status, StatusCode::OK);
}

#[tokio::test]
async fn nothing_is_told_without_the_token() {
    let (gateway, admin) = guarded().await;
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(admin, path).await.status, StatusCode::OK);
    }
    let wrong = "Bearer a token that somebody guesses".to_owned();
    for header in [
        None,
        Some(wrong),
        Some(TOKEN.to_owned()),
        Some(format!("Basic {TOKEN}")),
        Some(format!("Bearer {TOKEN}x")),
        Some("Bearer ".to_owned()),
    ] {
        let headers: Vec<_> = header
            .iter()
            .map(|h| ("authorization", h.as_str()))
            .collect();
        for path in ["/status", "/config", "/metrics", "/sessions", "/nothing"] {
            let answer = request(admin, "GET", path, &headers).await;
            assert_eq!(answer.status, StatusCode::UNAUTHORIZED, "{header:?}");
            assert_eq!(answer.headers["www-authenticate"], "Bearer");
        }
        let answer = request(admin, "POST", "/drain", &headers).await;
        assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    }
    let shown = format!("Bearer {TOKEN}");
    let named = [
        ("authorization", shown.as_str()),
        ("host", "gate.example.com:80"),
    ];
    let config = request(admin, "GET", "/config", &named).await;
    assert!(!config.body.contains(TOKEN));
    assert_eq!(config.good()["admin"]["names"][0], "gate.example.com");

    // Another token takes effect with the next reload, at the same address.
    gateway.save("token", "another that nobody guesses either");
    gateway.log().nth("reloaded", 0).await;
    let answer = request(admin, "GET", "/status", &named).await;
    assert_eq!(answer.status, StatusCode::UNAUTHORIZED);
    let shown = [("authorization", "bearer another that nobody guesses either")];
    request(admin, "GET", "/status", &shown).await.good();
    let problem = "cannot be read";
    std::fs::remove_file(gateway.directory().join("token")).unwrap();
    let failed = gateway.log().nth("reload failed, nothing changed", 0).await;
    let error = failed["error"].as_str().unwrap();
    assert!(
        error.contains("admin.token_file") && error.contains(problem),
        "{error}"
    );
    request(admin, "GET", "/status", &shown).await.good();
}

#[tokio::test]
async fn requests_too_long() {
    let gateway = Gateway::start(CONFIG).await;
    let admin = gateway.admin().await;
    let long = "x".repeat(20_000);
    let answer = request(admin, "GET", &format!("/{long}"), &[]).await;
    assert!(answer.status.is_client_error(), "{}", answer.status);
    let answer = request(admin, "GET", "/status", &[("x-long", &long)]).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    get(admin, "/status").await.good();
}

#[tokio::test]
async fn those_who_keep_connections_shut_nobody_out() {
    let (_gateway, admin) = guarded().await;
    // Requests whose answers nobody reads.
    let requests = format!("GET / HTTP/1.1\r\nhost: {admin}\r\n\r\n").repeat(400);
    let mut kept = Vec::new();
    for _ in 0..65 {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4 * 1024).unwrap();
        let mut stream = socket.connect(admin).await.unwrap();
        stream.write_all(requests.as_bytes()).await.unwrap();
        kept.push(stream);
        get(admin, "/healthz").await.good();
    }
}

#[tokio::test]
async fn a_request_on_its_way_when_the_token_goes() {
    let (files, config) = ([("token", TOKEN)], "{bind: '0.0.0.0:0', token_file: token}");
    let config = CONFIG.replace("127.0.0.1:0\nl", &format!("{config}\nl"));
    let gateway = Gateway::start_among(&files, &config).await;
    let admin = ([127, 0, 0, 1], gateway.admin().await.port());
    let mut stream = TcpStream::connect(SocketAddr::from(admin)).await.unwrap();
    stream.write_all(b"POST /drain HTTP/1.1\r\n").await.unwrap();
    gateway.save("config.yaml", CONFIG);
    gateway.log().nth("reloaded", 0).await;
    let rest = b"host: 127.0.0.1\r\nconnection: close\r\n\r\n";
    stream.write_all(rest).await.unwrap();
    let mut answer = String::new();
    let reading = stream.read_to_string(&mut answer);
    soon("an answer", reading).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 403 "), "{answer}");
    let line = gateway.log().nth("admin interface open", 1).await;
    let moved = line["addr"].as_str().unwrap().parse().unwrap();
    assert_eq!(get(moved, "/status").await.good()["draining"], false);
}
