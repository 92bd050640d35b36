//! Errors in the shape of the OpenAI API, which every SDK reads.

use std::borrow::Cow;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use serde_json::{Value, json};

use crate::store::StoreError;

/// An answer that is not what was asked for.
#[derive(Debug)]
pub(super) struct ApiError(Box<Inner>);

#[derive(Debug)]
struct Inner {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<Cow<'static, str>>,
    /// Beside the four members that every error has.
    more: Option<(&'static str, Value)>,
    /// SDKs send a 409 again by themselves unless they are told not to.
    again: Option<bool>,
    /// Seconds.
    retry_after: Option<u32>,
}

pub(super) type ApiResult<T = Response> = Result<T, ApiError>;

impl ApiError {
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError(Box::new(Inner {
            status,
            code,
            message: message.into(),
            param: None,
            more: None,
            again: (status == StatusCode::CONFLICT).then_some(false),
            retry_after: None,
        }))
    }

    /// 400.
    pub fn bad(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// 400 because of one parameter.
    pub fn param(
        name: impl Into<Cow<'static, str>>,
        code: &'static str,
        message: impl Into<String>,
    ) -> ApiError {
        ApiError::bad(code, message).of(name)
    }

    pub fn not_found(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::NOT_FOUND, code, message)
    }

    /// 409: the job's state or another job is in the way.
    pub fn conflict(code: &'static str, message: impl Into<String>) -> ApiError {
        ApiError::new(StatusCode::CONFLICT, code, message)
    }

    /// Names the parameter that is at fault.
    pub fn of(mut self, name: impl Into<Cow<'static, str>>) -> ApiError {
        self.0.param = Some(name.into());
        self
    }

    /// Adds a member.
    pub fn with(mut self, name: &'static str, value: Value) -> ApiError {
        self.0.more = Some((name, value));
        self
    }

    /// The same request may do better in so many seconds.
    pub fn again_in(mut self, seconds: u32) -> ApiError {
        self.0.again = Some(true);
        self.0.retry_after = Some(seconds);
        self
    }

    fn kind(&self) -> &'static str {
        match self.0.status {
            StatusCode::UNAUTHORIZED => "authentication_error",
            StatusCode::FORBIDDEN => "permission_error",
            status if status.is_server_error() => "server_error",
            _ => "invalid_request_error",
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> ApiError {
        match &error {
            StoreError::Busy { .. } => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "database_busy",
                "the database is locked by another process; nothing was changed",
            )
            .again_in(1),
            StoreError::Full { .. } => ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "disk_full",
                "the disk is full; nothing was changed",
            )
            .again_in(30),
            StoreError::Rule(rule) => ApiError::bad("invalid_value", rule.clone()),
            _ => {
                tracing::error!(%error, "a request failed");
                ApiError::internal()
            }
        }
    }
}

impl ApiError {
    /// 500, for what the log tells in full.
    pub fn internal() -> ApiError {
        ApiError::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal_error",
            "reelq failed to answer; its log says why",
        )
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let kind = self.kind();
        let this = *self.0;
        let mut error = json!({
            "message": this.message,
            "type": kind,
            "code": this.code,
            "param": this.param,
        });
        if let Some((name, value)) = this.more {
            error[name] = value;
        }
        let mut response = reply(this.status, &json!({ "error": error }));
        let headers = response.headers_mut();
        if let Some(again) = this.again {
            let text = if again { "true" } else { "false" };
            headers.insert("x-should-retry", HeaderValue::from_static(text));
        }
        if let Some(seconds) = this.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if this.status == StatusCode::UNAUTHORIZED {
            let scheme = HeaderValue::from_static("Bearer realm=\"reelq\"");
            headers.insert(header::WWW_AUTHENTICATE, scheme);
        }
        response
    }
}

/// An answer of JSON.
pub(super) fn reply(status: StatusCode, body: &impl Serialize) -> Response {
    let json = HeaderValue::from_static("application/json");
    let headers = [
        (header::CONTENT_TYPE, json),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    // Texts, numbers, lists and members: nothing of it can fail to be JSON.
    let text = serde_json::to_string(body).unwrap_or_default();
    (status, headers, text).into_response()
}

/// 200 with JSON.
pub(super) fn ok(body: &impl Serialize) -> Response {
    reply(StatusCode::OK, body)
}
