//! The state of the whole queue: counts, batches, gates, metrics, pause.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::{Value, json};
use tokio::time::Instant;

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{PathName, beginning, command, surplus, value};
use crate::job::{Millis, Outcome};
use crate::money::Money;
use crate::places::day_start;
use crate::store::{Batch, Posts, StoreError};
use crate::view::{self, Held, Status};

const OPEN_METRICS: &str = "application/openmetrics-text";

/// The longest reason of a pause, in bytes.
pub(super) const MAX_REASON: usize = 1_000;

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

/// What the daemon counted, and what the table says: as OpenMetrics for who asks
/// for it, else in Prometheus' own text format.
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> ApiResult {
    let store = app.store();
    let counts = store.counts(None).await?;
    let spent = store.spend(Posts::Since(0)).await?;
    let gates = store.gates().await?;
    let paused = store.fact("paused").await?;
    let waiting = store.messages_waiting().await?;
    let mut text = app.http.stats.encode();
    text.truncate(text.trim_end_matches("# EOF\n").len());
    let of = |outcomes: &[Outcome]| -> Money {
        let spent = spent.iter().filter(|row| outcomes.contains(&row.outcome));
        spent.map(|row| row.cost).sum()
    };
    let mut family = |name: &str, kind: &str, help: &str, samples: &[(String, String)]| {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "# HELP {name} {help}.\n# TYPE {name} {kind}");
        for (labels, value) in samples {
            let suffix = if kind == "counter" { "_total" } else { "" };
            let _ = writeln!(text, "{name}{suffix}{labels} {value}");
        }
    };
    let by_state: Vec<_> = counts
        .iter()
        .map(|(state, count)| (format!("{{state=\"{state}\"}}"), count.to_string()))
        .collect();
    family("reelq_jobs", "gauge", "Jobs by state", &by_state);
    let one = |value: String| [(String::new(), value)];
    let accepted = of(&[Outcome::Accepted]).to_string();
    family(
        "reelq_spend",
        "counter",
        "Cost of accepted submissions",
        &one(accepted),
    );
    let unsure = of(&[Outcome::InFlight, Outcome::Unknown]).to_string();
    family(
        "reelq_spend_unsure",
        "gauge",
        "Cost of submissions that may have been accepted",
        &one(unsure),
    );
    let mut closed: Vec<(String, Millis)> = gates
        .into_iter()
        .map(|row| {
            let held = Held::from(row);
            let labels = format!(
                "{{gate=\"{}\",cause=\"{}\"}}",
                escape(&held.name),
                escape(&held.cause)
            );
            (labels, held.since)
        })
        .collect();
    if let Some((_, since)) = paused {
        closed.push(("{gate=\"submit\",cause=\"paused\"}".to_owned(), since));
    }
    let count = |(labels, _): &(String, Millis)| (labels.clone(), "1".to_owned());
    family(
        "reelq_gate_closed",
        "gauge",
        "What holds a stage back now, and why",
        &closed.iter().map(count).collect::<Vec<_>>(),
    );
    let since = |(labels, since): &(String, Millis)| (labels.clone(), (since / 1_000).to_string());
    family(
        "reelq_gate_closed_since_seconds",
        "gauge",
        "Since when it does, in Unix seconds",
        &closed.iter().map(since).collect::<Vec<_>>(),
    );
    family(
        "reelq_webhooks_waiting",
        "gauge",
        "Webhooks that are not taken yet",
        &one(waiting.to_string()),
    );
    let mut accepted = headers.get_all(header::ACCEPT).iter();
    let kind = if accepted.any(|accept| contains(accept, OPEN_METRICS)) {
        text.push_str("# EOF\n");
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        text = classic(text);
        "text/plain; version=0.0.4; charset=utf-8"
    };
    Ok(([(header::CONTENT_TYPE, kind)], text).into_response())
}

fn contains(value: &HeaderValue, word: &str) -> bool {
    value.to_str().is_ok_and(|text| text.contains(word))
}

/// Prometheus' own format names a counter as its samples are named.
fn classic(text: String) -> String {
    let counter = |line: &str| {
        Some(
            line.strip_prefix("# TYPE ")?
                .strip_suffix(" counter")?
                .to_owned(),
        )
    };
    let counters: Vec<String> = text.lines().filter_map(counter).collect();
    counters.iter().fold(text, |text, name| {
        ["HELP", "TYPE"].iter().fold(text, |text, word| {
            text.replace(
                &format!("# {word} {name} "),
                &format!("# {word} {name}_total "),
            )
        })
    })
}

/// A label's value.
fn escape(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}
