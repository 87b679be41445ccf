//! What can be asked for.

use std::sync::{Arc, Weak};

use axum::extract::Extension;
use axum::http::StatusCode;
use axum::middleware::from_fn_with_state;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use serde_json::{Value, json};

use super::guard::guard;
use super::{Fault, Problem};
use crate::gateway::{Error, Gateway, Status};

type Running = Extension<Arc<Gateway>>;

pub(super) fn router(gateway: Weak<Gateway>) -> Router {
    let mut router = Router::new();
    for (_, path, route) in routes() {
        router = router.route(path, route);
    }
    router
        .fallback(|| async { Problem::new(StatusCode::NOT_FOUND, "no such resource") })
        .method_not_allowed_fallback(|| async {
            Problem::new(StatusCode::METHOD_NOT_ALLOWED, "not with this method")
        })
        .layer(from_fn_with_state(gateway, guard))
}

/// Every route by its method and path.
fn routes() -> Vec<(&'static str, &'static str, MethodRouter)> {
    vec![
        ("get", "/healthz", get(healthz)),
        ("get", "/readyz", get(readyz)),
        ("get", "/status", get(status)),
        ("get", "/config", get(config)),
        ("post", "/reload", post(reload)),
        ("post", "/drain", post(drain)),
    ]
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
    Json(gateway.status().await)
}

async fn config(gateway: Running) -> Result<Json<Value>, Problem> {
    let config = gateway.generation().config.redacted();
    config
        .map(Json)
        .map_err(|error| Problem::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

/// In a task of its own: who asked may leave before it is done.
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

impl From<&Error> for Fault {
    fn from(error: &Error) -> Self {
        let place = match error {
            Error::Build(error) => error.place.clone(),
            Error::Bind { .. } | Error::Admin { .. } | Error::Watch(_) => Default::default(),
        };
        Self {
            message: error.to_string(),
            file: place.file.map(|file| file.display().to_string()),
            line: place.line,
            key: place.key,
        }
    }
}
