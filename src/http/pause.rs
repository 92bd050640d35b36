//! `POST /api/pause` and `/api/resume`.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde_json::json;

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{command, surplus, value};
use crate::view;

/// The longest reason of a pause, in bytes.
pub(super) const MAX_REASON: usize = 1_000;

pub(super) async fn pause(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let mut reason = None;
    for (name, raw) in command(&headers, body).await? {
        if name != "reason" {
            return Err(surplus(&name, "pause takes reason, a text"));
        }
        reason = value::<Option<String>>("reason", &raw, "a text")?;
    }
    let reason = reason.unwrap_or_else(|| "paused over HTTP".to_owned());
    if reason.len() > MAX_REASON || reason.contains('\0') {
        let message = format!("reason must be a text of at most {MAX_REASON} bytes, without NUL");
        return Err(ApiError::param("reason", "invalid_value", message));
    }
    set_paused(&app, Some(reason)).await
}

pub(super) async fn resume(
    State(app): State<Arc<App>>,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    if let Some((name, _)) = command(&headers, body).await?.first() {
        return Err(surplus(name, "resume takes nothing"));
    }
    set_paused(&app, None).await
}

async fn set_paused(app: &App, reason: Option<String>) -> ApiResult {
    let store = Arc::clone(&app.http.store);
    let now = app.http.clock.now();
    app.change(async move { store.set_fact("paused", reason.as_deref(), now).await })
        .await??;
    *app.shown.lock().await = None;
    let paused = app.store().fact("paused").await?;
    Ok(ok(&json!({ "paused": view::paused(paused.as_ref()) })))
}
