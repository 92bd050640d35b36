//! What a request brings: its job's name, its query, its body. Bounded in size
//! and in time, and wrong in the same words everywhere.

use std::collections::HashSet;
use std::str::FromStr;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::FromRequestParts;
use axum::extract::rejection::PathRejection;
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use futures_util::StreamExt;
use serde::Deserialize;
use serde::de::{DeserializeOwned, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::error::{ApiError, ApiResult};
use crate::job::JobId;
use crate::store::{Store, StoreError};

/// The longest body that is held in memory: a prompt and metadata of the
/// longest kind, with every letter escaped.
pub(super) const MAX_BODY: usize = 1 << 20;

/// Without a byte of the body for so long a request ends.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// How a request names a job: `video_12`, `12` or `key:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct JobName(pub String);

impl JobName {
    /// The job's number; `None` where there can be no such job.
    pub async fn id(&self, store: &Store) -> Result<Option<JobId>, StoreError> {
        if let Some(key) = self.0.strip_prefix("key:") {
            return store.id_of_key(key).await;
        }
        Ok(number(self.0.strip_prefix("video_").unwrap_or(&self.0)))
    }
}

/// As much of a name or a path as an error repeats.
pub(super) fn beginning(text: &str) -> String {
    text.chars().take(100).collect()
}

/// A job's number, in its one spelling.
pub(super) fn number(text: &str) -> Option<JobId> {
    let id: JobId = text.parse().ok()?;
    (id > 0 && id.to_string() == text).then_some(id)
}

impl<S: Send + Sync> FromRequestParts<S> for JobName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<JobName, ApiError> {
        PathName::from_request_parts(parts, state)
            .await
            .map(|name| JobName(name.0))
    }
}

/// The one variable part of a path.
pub(super) struct PathName(pub String);

impl<S: Send + Sync> FromRequestParts<S> for PathName {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<PathName, ApiError> {
        let path: Result<axum::extract::Path<String>, PathRejection> =
            axum::extract::Path::from_request_parts(parts, state).await;
        match path {
            Ok(axum::extract::Path(text)) => Ok(PathName(text)),
            Err(_) => Err(ApiError::bad(
                "invalid_path",
                "the path is not UTF-8 in percent-encoding",
            )),
        }
    }
}

/// The query string.
pub(super) struct Query(Vec<(String, String)>);

impl<S: Send + Sync> FromRequestParts<S> for Query {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Query, ApiError> {
        let text = parts.uri.query().unwrap_or_default();
        Ok(Query(
            url::form_urlencoded::parse(text.as_bytes())
                .into_owned()
                .collect(),
        ))
    }
}

impl Query {
    /// Refuses every other name: a filter that is passed over makes a list of what nobody asked for.
    pub fn only(&self, names: &[&str]) -> ApiResult<()> {
        match self.0.iter().find(|(name, _)| !names.contains(&&**name)) {
            Some((name, _)) => Err(surplus(
                &beginning(name),
                &format!("the query takes {}", names.join(", ")),
            )),
            None => Ok(()),
        }
    }

    /// A value that must not be given twice.
    pub fn text(&self, name: &'static str) -> ApiResult<Option<&str>> {
        let mut values = self.0.iter().filter(|(key, _)| key == name);
        let first = values.next().map(|(_, value)| value.as_str());
        if values.next().is_some() {
            let message = format!("{name} is given twice");
            return Err(ApiError::param(name, "invalid_value", message));
        }
        Ok(first)
    }

    /// A value of a type that says itself what is wrong.
    pub fn word<T: FromStr<Err = String>>(&self, name: &'static str) -> ApiResult<Option<T>> {
        self.text(name)?
            .map(|text| {
                text.parse().map_err(|reason| {
                    ApiError::param(name, "invalid_value", format!("{name}: {reason}"))
                })
            })
            .transpose()
    }

    /// A whole number in its one spelling.
    pub fn whole(
        &self,
        name: &'static str,
        range: std::ops::RangeInclusive<i64>,
    ) -> ApiResult<Option<i64>> {
        let Some(text) = self.text(name)? else {
            return Ok(None);
        };
        text.parse()
            .ok()
            .filter(|number: &i64| range.contains(number) && number.to_string() == text)
            .map(Some)
            .ok_or_else(|| {
                let (low, high) = (range.start(), range.end());
                let message = match *high {
                    i64::MAX => format!("{name} must be a whole number from {low}"),
                    _ => format!("{name} must be a whole number from {low} to {high}"),
                };
                ApiError::param(name, "invalid_value", message)
            })
    }

    /// True for `order=desc`, false for `asc`.
    pub fn newest_first(&self, otherwise: bool) -> ApiResult<bool> {
        match self.text("order")? {
            None => Ok(otherwise),
            Some("asc") => Ok(false),
            Some("desc") => Ok(true),
            Some(_) => Err(ApiError::param(
                "order",
                "invalid_value",
                "order must be asc or desc",
            )),
        }
    }
}

/// The media type without its parameters, in lower case; empty if there is none.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|text| text.split(';').next())
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase()
}

/// A whole body in memory.
pub(super) async fn body(body: Body) -> ApiResult<Bytes> {
    let mut bytes = Vec::new();
    let mut stream = body.into_data_stream();
    while let Some(chunk) = patient(stream.next()).await? {
        let chunk = chunk.map_err(|_| broken_off())?;
        if bytes.len() + chunk.len() > MAX_BODY {
            return Err(too_long(MAX_BODY));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes.into())
}

/// Waits for the next part of a body, but not for ever.
pub(super) async fn patient<T>(next: impl Future<Output = T>) -> ApiResult<T> {
    tokio::time::timeout(PATIENCE, next).await.map_err(|_| {
        ApiError::new(
            StatusCode::REQUEST_TIMEOUT,
            "body_timeout",
            "no byte of the body came for 30 seconds",
        )
    })
}

pub(super) fn broken_off() -> ApiError {
    ApiError::bad("invalid_body", "the body broke off")
}

pub(super) fn too_long(limit: usize) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "body_too_large",
        format!("the body is longer than {limit} bytes"),
    )
}

/// 415.
pub(super) fn wrong_type(found: &str, wanted: &str) -> ApiError {
    let found = match found {
        "" => "none",
        found => found,
    };
    ApiError::new(
        StatusCode::UNSUPPORTED_MEDIA_TYPE,
        "unsupported_media_type",
        format!("Content-Type must be {wanted}; found {found}"),
    )
    .of("Content-Type")
}

/// The members of a JSON object, each with its source text; no name twice.
pub(super) fn members(bytes: &[u8]) -> ApiResult<Vec<(String, Box<RawValue>)>> {
    let Members(members) = parse(bytes)?;
    let mut names = HashSet::new();
    for (name, _) in &members {
        if !names.insert(name) {
            let message = format!("{name} is given twice");
            return Err(ApiError::param(name.clone(), "invalid_value", message));
        }
    }
    Ok(members)
}

/// The body of a command: a JSON object, or nothing for an empty one.
pub(super) async fn command(
    headers: &HeaderMap,
    content: Body,
) -> ApiResult<Vec<(String, Box<RawValue>)>> {
    let bytes = body(content).await?;
    if bytes.is_empty() {
        return Ok(Vec::new());
    }
    match media_type(headers).as_str() {
        "application/json" => members(&bytes),
        other => Err(wrong_type(other, "application/json")),
    }
}

/// 400 for a name that is not taken here.
pub(super) fn surplus(name: &str, takes: &str) -> ApiError {
    let message = format!("{name} is not known here: {takes}");
    ApiError::param(name.to_owned(), "unknown_parameter", message)
}

/// A member's value, in the type that it must have.
pub(super) fn value<T: DeserializeOwned>(name: &str, raw: &RawValue, wanted: &str) -> ApiResult<T> {
    serde_json::from_str(raw.get()).map_err(|_| {
        ApiError::param(
            name.to_owned(),
            "invalid_value",
            format!("{name} must be {wanted}"),
        )
    })
}

fn parse<T: DeserializeOwned>(bytes: &[u8]) -> ApiResult<T> {
    serde_json::from_slice(bytes).map_err(|error| {
        ApiError::bad(
            "invalid_json",
            format!("the body is not a JSON object: {error}"),
        )
    })
}

struct Members(Vec<(String, Box<RawValue>)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: serde::Deserializer<'de>>(json: D) -> Result<Members, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Members, M::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Members(members))
            }
        }
        json.deserialize_map(Object)
    }
}
