//! `GET /metrics`, for Prometheus.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, header};
use axum::response::IntoResponse;

use super::App;
use super::error::ApiResult;
use crate::job::{Millis, Outcome};
use crate::money::Money;
use crate::store::Posts;
use crate::view::Held;

const OPEN_METRICS: &str = "application/openmetrics-text";

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
