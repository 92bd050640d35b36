//! Answers that several routes give.

use std::io;

use axum::body::Body;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use bytes::Bytes;
use futures_util::stream;
use serde_json::json;

use super::check::Refusal;

/// Told to the log about a request that did not go its usual way.
#[derive(Clone, Copy)]
pub struct Note(pub &'static str);

/// The answer for a task that does not exist, or no longer.
pub fn no_task(id: &str) -> Refusal {
    let message = format!("The task \"{id}\" does not exist.");
    Refusal {
        param: Some("task_id"),
        ..Refusal::request(404, "task_not_exist", message)
    }
}

/// The answer of a rate limit, which tells no time to wait.
pub fn slow_down() -> Refusal {
    Refusal::gateway(
        429,
        "rate_limit_exceeded",
        "Too many requests, please slow down.",
    )
}

/// Closes the connection without a byte: a body that fails at once keeps the server from sending
/// the head that it has ready.
pub fn no_answer() -> Response {
    let body = stream::once(async { Err::<Bytes, _>(io::Error::other("answer lost on purpose")) });
    (
        Extension(Note("accepted, answer lost")),
        Body::from_stream(body),
    )
        .into_response()
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let error = json!({"message": self.message, "type": self.kind, "code": self.code, "param": self.param});
        (status, Json(json!({"error": error}))).into_response()
    }
}
