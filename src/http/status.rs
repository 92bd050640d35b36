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
use super::input::{PathName, command, surplus, value};
use crate::job::{Millis, Outcome};
use crate::money::Money;
use crate::places::day_start;
use crate::store::{Counts, GateRow, SpendRow, StoreError};
use crate::view::{self, money};

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
    let today = day_start(now, &app.http.timezone);
    let batches = store.batches().await?;
    let mut total = Counts::default();
    for batch in &batches {
        total += batch.counts;
    }
    Ok(json!({
        "version": env!("CARGO_PKG_VERSION"),
        "now": now,
        "paused": paused(app).await?,
        "gates": store.gates().await?.iter().map(gate).collect::<Vec<_>>(),
        "counts": view::counts(&total),
        "spend": { "today": spend(&rows(store.spend(today).await?)), "ever": spend(&rows(store.spend(0).await?)) },
        "batches": batches.iter().take(BATCHES).map(|batch| json!({
            "name": batch.name,
            "counts": view::counts(&batch.counts),
            "settled": batch.counts.settled() == batch.counts.total(),
        })).collect::<Vec<_>>(),
        "batches_total": batches.len(),
        "webhooks_waiting": store.messages_waiting().await?,
    }))
}

async fn paused(app: &App) -> Result<Value, StoreError> {
    Ok(match app.store().fact("paused").await? {
        None => Value::Null,
        Some((reason, since)) => json!({ "reason": reason, "since": since }),
    })
}

/// What holds a stage back, without what only the daemon reads.
fn gate(row: &GateRow) -> Value {
    let detail: Value = serde_json::from_str(&row.detail).unwrap_or_default();
    let text = |name: &str| detail.get(name).and_then(Value::as_str);
    json!({
        "name": row.name,
        "since": row.since,
        "until": row.until,
        "cause": text("cause"),
        "message": text("message"),
        "advice": text("advice"),
    })
}

fn rows(spent: Vec<(Outcome, u64, Money)>) -> Vec<SpendRow> {
    let row = |(outcome, count, cost)| SpendRow {
        outcome,
        count,
        cost,
    };
    spent.into_iter().map(row).collect()
}

/// What was paid for surely, and what may have been.
fn spend(rows: &[SpendRow]) -> Value {
    let of = |outcomes: &[Outcome]| {
        let rows = rows.iter().filter(|row| outcomes.contains(&row.outcome));
        rows.fold((0, Money::ZERO), |(count, cost), row| {
            (count + row.count, cost + row.cost)
        })
    };
    let (accepted, cost) = of(&[Outcome::Accepted]);
    let (unsure, unsure_cost) = of(&[Outcome::InFlight, Outcome::Unknown]);
    json!({
        "accepted": accepted,
        "cost": money(cost),
        "unsure": unsure,
        "unsure_cost": money(unsure_cost),
    })
}

pub(super) async fn batch(State(app): State<Arc<App>>, name: PathName) -> ApiResult {
    let store = app.store();
    let of_batch = store.counts(Some(&name.0)).await?;
    if of_batch.total() == 0 {
        let shown: String = name.0.chars().take(100).collect();
        let message = format!("there is no job in a batch {shown:?}");
        return Err(ApiError::not_found("batch_not_found", message).of("name"));
    }
    let mut answer = spend(&store.spend_of_batch(&name.0).await?);
    answer["name"] = name.0.into();
    answer["counts"] = view::counts(&of_batch);
    answer["settled"] = (of_batch.settled() == of_batch.total()).into();
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
    Ok(ok(&json!({ "paused": paused(app).await? })))
}

/// What the daemon counted, and what the table says: as OpenMetrics for who asks
/// for it, else in Prometheus' own text format.
pub(super) async fn metrics(State(app): State<Arc<App>>, headers: HeaderMap) -> ApiResult {
    let store = app.store();
    let counts = store.counts(None).await?;
    let spent = store.spend(0).await?;
    let gates = store.gates().await?;
    let paused = store.fact("paused").await?;
    let waiting = store.messages_waiting().await?;
    let mut text = app.http.stats.encode();
    text.truncate(text.trim_end_matches("# EOF\n").len());
    let of = |outcomes: &[Outcome]| -> Money {
        let spent = spent
            .iter()
            .filter(|(outcome, ..)| outcomes.contains(outcome));
        spent.map(|(_, _, cost)| *cost).sum()
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
        .iter()
        .map(|row| {
            let cause = gate(row)["cause"].as_str().unwrap_or_default().to_owned();
            let labels = format!(
                "{{gate=\"{}\",cause=\"{}\"}}",
                escape(&row.name),
                escape(&cause)
            );
            (labels, row.since)
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
