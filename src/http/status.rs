//! The state of the whole queue: counts, batches, gates; whether it is well.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{PathName, beginning};
use crate::places::day_start;
use crate::store::{Batch, Posts, StoreError};
use crate::view::{self, Status};

/// Batches in an answer, the newest first.
const BATCHES: usize = 100;

/// A summary is good for so long: it counts every row.
const FRESH: Duration = Duration::from_secs(1);

/// A summary and when it was made.
pub(super) struct Shown {
    at: Instant,
    summary: Value,
}

pub(super) async fn health() -> Response {
    ok(&json!({ "status": "ok" }))
}

/// Ready when the database answers.
pub(super) async fn ready(State(app): State<Arc<App>>) -> Response {
    let answers = app.store().fact("queue_id");
    match tokio::time::timeout(Duration::from_secs(2), answers).await {
        Ok(Ok(_)) => ok(&json!({ "status": "ready" })),
        Ok(Err(error)) => not_ready(&error.to_string()),
        Err(_) => not_ready("the database does not answer"),
    }
}

fn not_ready(why: &str) -> Response {
    let error = ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why);
    error.again_in(1).into_response()
}

pub(super) async fn status(State(app): State<Arc<App>>) -> ApiResult {
    let mut shown = app.shown.lock().await;
    if let Some(shown) = &*shown
        && shown.at.elapsed() < FRESH
    {
        return Ok(ok(&shown.summary));
    }
    let summary = summary(&app).await?;
    let response = ok(&summary);
    *shown = Some(Shown {
        at: Instant::now(),
        summary,
    });
    Ok(response)
}

async fn summary(app: &App) -> Result<Value, StoreError> {
    let store = app.store();
    let now = app.http.clock.now();
    let status = Status::read(store, day_start(now, &app.http.timezone)).await?;
    let mut summary = status.json(BATCHES);
    summary["version"] = json!(env!("CARGO_PKG_VERSION"));
    summary["now"] = json!(now);
    summary["batches_total"] = json!(status.batches.len());
    summary["webhooks_waiting"] = json!(store.messages_waiting().await?);
    Ok(summary)
}

pub(super) async fn batch(State(app): State<Arc<App>>, name: PathName) -> ApiResult {
    let store = app.store();
    let counts = store.counts(Some(&name.0)).await?;
    if counts.total() == 0 {
        let shown = beginning(&name.0);
        let message = format!("there is no job in a batch {shown:?}");
        return Err(ApiError::not_found("batch_not_found", message).of("name"));
    }
    let spent = store.spend(Posts::Batch(&name.0)).await?;
    let batch = Batch {
        name: name.0,
        counts,
    };
    let mut answer = view::batch(&batch, &store.caps().await?);
    answer["spend"] = view::spend(&spent);
    Ok(ok(&answer))
}
