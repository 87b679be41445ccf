//! Routes of the admin interface.

use std::sync::Arc;

use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Extension, Path, Query};
use axum::http::{StatusCode, header};
use axum::middleware::from_fn_with_state;
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{MethodRouter, delete, get, post};
use axum::{Json, Router};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::guard::{Guard, guard};
use super::metrics;
use super::problem::Problem;
use super::sessions::{self, Explained, Filter, MAX_LIMIT, Sessions};
use super::status::Status;
use crate::gateway::{Fault, Gateway};
use crate::transport::kcp::Counters;

const PAGE: &str = include_str!("page.html");
const OPENAPI: &str = include_str!("openapi.json");

type Running = Extension<Arc<Gateway>>;

pub(super) fn router(state: Guard) -> Router {
    let mut router = Router::new();
    for (_, path, route) in routes() {
        router = router.route(path, route);
    }
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(from_fn_with_state(state, guard))
}

/// Returns every route with its method and path.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter)> {
    vec![
        ("get", "/", get(page)),
        ("get", "/openapi.json", get(openapi)),
        ("get", "/healthz", get(healthz)),
        ("get", "/readyz", get(readyz)),
        ("get", "/status", get(status)),
        ("get", "/config", get(config)),
        ("get", "/sessions", get(list)),
        ("get", "/sessions/{id}", get(explain)),
        ("delete", "/sessions/{id}", delete(kick)),
        ("get", "/metrics", get(prometheus)),
        ("get", "/kcp/snmp", get(snmp)),
        ("post", "/reload", post(reload)),
        ("post", "/drain", post(drain)),
    ]
}

/// Returns the page, which may run no script but its own.
async fn page() -> Response {
    let script = PAGE.split_once("<script>").map(|(_, rest)| rest);
    let script = script.and_then(|rest| rest.split_once("</script>"));
    let hash = STANDARD.encode(Sha256::digest(script.map_or("", |(script, _)| script)));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; \
         connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; \
         frame-ancestors 'none'"
    );
    ([(header::CONTENT_SECURITY_POLICY, policy)], Html(PAGE)).into_response()
}

async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], OPENAPI).into_response()
}

async fn healthz() -> Json<Value> {
    Json(json!({"healthy": true}))
}

async fn readyz(gateway: Running) -> (StatusCode, Json<Value>) {
    let ready = !gateway.is_draining();
    let status = match ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    (status, Json(json!({"ready": ready})))
}

async fn status(gateway: Running) -> Json<Status> {
    Json(Status::of(&gateway).await)
}

async fn config(gateway: Running) -> Result<Json<Value>, Problem> {
    let config = gateway.generation().config.redacted();
    config
        .map(Json)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

async fn prometheus(gateway: Running) -> Response {
    let format = "text/plain; version=0.0.4; charset=utf-8";
    (
        [(header::CONTENT_TYPE, format)],
        metrics::text(&gateway).await,
    )
        .into_response()
}

/// Returns the KCP counters under the names of kcp-go: the sums, and those of each bind.
async fn snmp(gateway: Running) -> Json<Value> {
    let mut total = Counters::default();
    let mut binds = Vec::new();
    for (key, counters) in gateway.kcp_counters().await {
        total += counters;
        let mut shown = snmp_names(&counters);
        shown["bind"] = key.bind.to_string().into();
        binds.push(shown);
    }
    let mut shown = snmp_names(&total);
    shown["binds"] = binds.into();
    Json(shown)
}

fn snmp_names(counters: &Counters) -> Value {
    let named = counters
        .metrics()
        .filter_map(|metric| Some((metric.snmp?, metric.value)));
    named.collect()
}

async fn list(
    gateway: Running,
    filter: Result<Query<Filter>, QueryRejection>,
) -> Result<Json<Sessions>, Problem> {
    let bad = |message: String| Problem::new(StatusCode::BAD_REQUEST, message);
    let Query(filter) = filter.map_err(|rejection| bad(rejection.body_text()))?;
    if !(1..=MAX_LIMIT).contains(&filter.limit) {
        return Err(bad(format!("limit must be 1 to {MAX_LIMIT}")));
    }
    Ok(Json(Sessions::list(&gateway, &filter).await))
}

async fn explain(
    gateway: Running,
    id: Result<Path<u64>, PathRejection>,
) -> Result<Json<Explained>, Problem> {
    let explained = match id {
        Ok(Path(id)) => Explained::find(&gateway, id).await,
        Err(_) => None,
    };
    explained.map(Json).ok_or_else(no_session)
}

async fn kick(
    gateway: Running,
    id: Result<Path<u64>, PathRejection>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    let id = id
        .ok()
        .map(|Path(id)| id)
        .filter(|id| sessions::kick(&gateway, *id));
    let id = id.ok_or_else(no_session)?;
    tracing::info!(id, "session kicked, as asked over HTTP");
    Ok((StatusCode::ACCEPTED, Json(json!({"id": id}))))
}

fn no_session() -> Problem {
    Problem::new(StatusCode::NOT_FOUND, "no such session")
}

/// Reloads in a task of its own: the client may leave before the reload is done.
async fn reload(Extension(gateway): Running) -> Response {
    let reloading = tokio::spawn(async move {
        let result = gateway.reload().await;
        result.map(|()| gateway.generation().number)
    });
    match reloading.await {
        Ok(Ok(generation)) => Json(json!({"generation": generation})).into_response(),
        Ok(Err(error)) => Problem {
            status: StatusCode::UNPROCESSABLE_ENTITY,
            error: Fault::from(&error),
        }
        .into_response(),
        Err(error) => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response()
        }
    }
}

async fn drain(Extension(gateway): Running) -> (StatusCode, Json<Value>) {
    gateway.drain().await;
    let sessions = gateway.sessions();
    tracing::info!(sessions, "draining, as asked over HTTP");
    (StatusCode::ACCEPTED, Json(json!({"sessions": sessions})))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn what_is_described_is_what_there_is() {
        let described: Value = serde_json::from_str(OPENAPI).unwrap();
        let mut paths = BTreeSet::new();
        for (path, operations) in described["paths"].as_object().unwrap() {
            for method in operations.as_object().unwrap().keys() {
                paths.insert((method.clone(), path.clone()));
            }
        }
        let own = |(method, path, _): (&str, &str, MethodRouter)| (method.into(), path.into());
        assert_eq!(paths, routes().into_iter().map(own).collect());
    }
}
