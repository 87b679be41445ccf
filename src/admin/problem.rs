//! Answers that report an error.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;

use crate::gateway::Fault;

/// Answer that reports an error: `{"error": {"message": …}}`.
#[derive(Debug, Serialize)]
pub(super) struct Problem {
    #[serde(skip)]
    pub status: StatusCode,
    pub error: Fault,
}

impl Problem {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        let error = Fault {
            message: message.into(),
            file: None,
            line: None,
            key: None,
        };
        Self { status, error }
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let status = self.status;
        let mut response = (status, Json(self)).into_response();
        if status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer");
            response
                .headers_mut()
                .insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}
