//! Access to the admin interface: who may ask what.
//!
//! Web pages elsewhere can make a browser send requests to a loopback port. Three checks keep them
//! out. `Host` must be a name that nobody else can point here. A request that changes something, or
//! says that it comes from a page, must come from a page of this interface. And no answer lets
//! another page read it.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::{Arc, Weak};

use axum::extract::{Request, State};
use axum::http::uri::Uri;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Version, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::problem::Problem;
use crate::gateway::Gateway;

/// Paths that load balancers probe.
const PROBES: [&str; 2] = ["/healthz", "/readyz"];

/// Guard of a socket: the gateway behind it, and who can reach it.
#[derive(Clone)]
pub(super) struct Guard {
    pub gateway: Weak<Gateway>,
    /// Whether other machines can reach the socket.
    pub is_exposed: bool,
}

/// Refuses requests that are not allowed, and lends the others the gateway.
pub(super) async fn guard(
    State(Guard {
        gateway,
        is_exposed,
    }): State<Guard>,
    mut request: Request,
    next: Next,
) -> Response {
    let gateway = gateway
        .upgrade()
        .ok_or_else(|| Problem::new(StatusCode::SERVICE_UNAVAILABLE, "the gateway has stopped"));
    let admitted = gateway.and_then(|gateway| {
        check(&gateway, is_exposed, &request)?;
        Ok(gateway)
    });
    let mut response = match admitted {
        Ok(gateway) => {
            request.extensions_mut().insert(gateway);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    };
    let headers = response.headers_mut();
    for (name, value) in [
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::X_FRAME_OPTIONS, "DENY"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

fn check(gateway: &Arc<Gateway>, is_exposed: bool, request: &Request) -> Result<(), Problem> {
    let forbidden = |what| Problem::new(StatusCode::FORBIDDEN, what);
    let generation = gateway.generation();
    let headers = request.headers();
    let path = request.uri().path();
    let is_probe = PROBES.contains(&path);
    // No browser asks with HTTP/1.0 and no `Host`, but balancers do.
    let old = request.version() == Version::HTTP_10 && !headers.contains_key(header::HOST);
    if is_probe && old && !headers.contains_key(header::ORIGIN) {
        return Ok(());
    }
    let host = text(headers, header::HOST).ok_or_else(|| forbidden("no Host"))?;
    let named = request.uri().authority();
    if !is_ours(host, &generation.config.admin.names)
        || named.is_some_and(|authority| authority.as_str() != host)
    {
        return Err(forbidden(
            "Host is neither an IP address, localhost, nor one of admin.names",
        ));
    }
    if headers.contains_key(header::ORIGIN) && !is_from(headers, host) {
        return Err(forbidden("Origin is another than Host"));
    }
    let changes = !matches!(*request.method(), Method::GET | Method::HEAD);
    let site = headers.get("sec-fetch-site");
    if changes && site.is_some_and(|site| site != "same-origin") {
        return Err(forbidden("asked for by a page elsewhere"));
    }
    // The page itself holds no secrets.
    if is_probe || path == "/" {
        return Ok(());
    }
    match &generation.admin_token {
        Some(token) if !shown(headers).is_some_and(|shown| token.is(shown.as_bytes())) => {
            Err(Problem::new(
                StatusCode::UNAUTHORIZED,
                "needs the token: Authorization: Bearer …",
            ))
        }
        // A connection from before a reload that moved the interface to a loopback address.
        None if is_exposed => Err(forbidden("the interface is no longer at this address")),
        _ => Ok(()),
    }
}

/// Returns the value of a header that occurs once.
fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?.to_str().ok()?;
    values.next().is_none().then_some(value)
}

/// Returns whether a host, with or without a port, is one that nobody else can make point here.
fn is_ours(host: &str, names: &[String]) -> bool {
    let is_port = |rest: &str| {
        let port = rest.strip_prefix(':');
        rest.is_empty() || port.is_some_and(|port| port.parse::<u16>().is_ok())
    };
    if let Some(rest) = host.strip_prefix('[') {
        let split = rest.split_once(']');
        return split.is_some_and(|(v6, rest)| v6.parse::<Ipv6Addr>().is_ok() && is_port(rest));
    }
    let (name, rest) = host.split_at(host.find(':').unwrap_or(host.len()));
    let known = name.parse::<Ipv4Addr>().is_ok()
        || name.eq_ignore_ascii_case("localhost")
        || names.iter().any(|own| name.eq_ignore_ascii_case(own));
    known && is_port(rest)
}

/// Returns whether the request comes from a page of this host.
fn is_from(headers: &HeaderMap, host: &str) -> bool {
    let origin = text(headers, header::ORIGIN).and_then(|origin| origin.parse::<Uri>().ok());
    let authority = origin.as_ref().and_then(Uri::authority);
    authority.is_some_and(|authority| authority.as_str().eq_ignore_ascii_case(host))
}

/// Returns the token of a request.
fn shown(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = text(headers, header::AUTHORIZATION)?.split_once(' ')?;
    scheme
        .eq_ignore_ascii_case("bearer")
        .then_some(token.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_that_cannot_be_made_to_point_here() {
        let names = ["gate.example.com".to_owned()];
        for host in [
            "127.0.0.1:6620",
            "127.0.0.1",
            "[::1]:6620",
            "10.1.2.3:80",
            "localhost:6620",
            "LOCALHOST",
            "gate.example.com",
            "Gate.Example.com:443",
        ] {
            assert!(is_ours(host, &names), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "127.0.0.1.evil.example",
            "localhost.evil.example:6620",
            "127.0.0.1@evil.example",
            "evil@127.0.0.1",
            "127.0.0.1 evil",
            "[::1].evil",
            "example.com",
            "0x7f000001",
            "::1",
            "127.0.0.1:",
            "127.0.0.1:6620:1",
        ] {
            assert!(!is_ours(host, &names), "{host}");
        }
    }

    #[test]
    fn pages_of_this_host_only() {
        let from = |origin: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(header::ORIGIN, origin.parse().unwrap());
            is_from(&headers, "127.0.0.1:6620")
        };
        assert!(from("http://127.0.0.1:6620"));
        assert!(from("https://127.0.0.1:6620"));
        for origin in [
            "null",
            "",
            "http://127.0.0.1",
            "http://127.0.0.1:8000",
            "http://localhost:6620",
            "http://127.0.0.1:6620.evil.example",
            "http://evil.example",
        ] {
            assert!(!from(origin), "{origin}");
        }
    }
}
