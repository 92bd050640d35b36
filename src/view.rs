//! What programs see of a job: the JSON of the command line and of HTTP.
//!
//! The names are the table's columns; times are Unix milliseconds, amounts are
//! numbers with all of their decimals.

use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::job::{Job, JobId, Millis, Outcome, Size, State};
use crate::money::Money;
use crate::store::{Counts, LedgerRow};

/// A job, its fields in the order of the documentation.
#[derive(Debug, Serialize)]
pub struct JobView<'a> {
    id: JobId,
    key: Option<&'a str>,
    batch: &'a str,
    state: State,
    progress: u8,
    task_id: Option<&'a str>,
    path: Option<&'a str>,
    bytes: Option<u64>,
    sha256: Option<&'a str>,
    error_code: Option<&'static str>,
    error_message: Option<&'a str>,
    note: Option<&'a str>,
    prompt: &'a str,
    image_url: &'a str,
    duration: u32,
    size: Size,
    priority: i64,
    not_before: Option<Millis>,
    metadata: Option<Box<RawValue>>,
    attempt: u32,
    cost: f64,
    due_at: Option<Millis>,
    created_at: Millis,
    submitted_at: Option<Millis>,
    completed_at: Option<Millis>,
    finished_at: Option<Millis>,
}

impl<'a> From<&'a Job> for JobView<'a> {
    fn from(job: &'a Job) -> JobView<'a> {
        let (spec, file, failure) = (&job.spec, job.file.as_ref(), job.failure.as_ref());
        JobView {
            id: job.id,
            key: spec.key.as_deref(),
            batch: &spec.batch,
            state: job.state,
            progress: job.progress,
            task_id: job.task_id.as_deref(),
            path: file.map(|file| file.path.as_str()),
            bytes: file.map(|file| file.bytes),
            sha256: file.map(|file| file.sha256.as_str()),
            error_code: failure.map(|failure| failure.code.as_str()),
            error_message: failure.map(|failure| failure.message.as_str()),
            note: job.note.as_deref(),
            prompt: &spec.prompt,
            image_url: &spec.image_url,
            duration: spec.duration,
            size: spec.size,
            priority: spec.priority,
            not_before: spec.not_before,
            metadata: spec.metadata.as_deref().and_then(raw),
            attempt: job.attempt,
            cost: money(job.cost),
            due_at: job.due_at,
            created_at: job.created_at,
            submitted_at: job.submitted_at,
            completed_at: job.completed_at,
            finished_at: job.finished_at,
        }
    }
}

/// A job as a value, for a caller that adds to it.
pub fn job(job: &Job) -> Value {
    // Numbers, texts and JSON: nothing in it can fail to be a value.
    serde_json::to_value(JobView::from(job)).unwrap_or_default()
}

/// A line of the ledger.
#[derive(Debug, Serialize)]
pub struct SubmissionView<'a> {
    job_id: JobId,
    key: Option<&'a str>,
    batch: &'a str,
    attempt: u32,
    started_at: Millis,
    finished_at: Option<Millis>,
    outcome: Outcome,
    resolution: Option<&'a str>,
    cost: f64,
    http_status: Option<u16>,
    task_id: Option<&'a str>,
    error: Option<&'a str>,
    request_id: Option<&'a str>,
    answer: Option<&'a str>,
    endpoint: &'a str,
    state: &'a str,
}

impl<'a> From<&'a LedgerRow> for SubmissionView<'a> {
    fn from(row: &'a LedgerRow) -> SubmissionView<'a> {
        SubmissionView {
            job_id: row.job_id,
            key: row.key.as_deref(),
            batch: &row.batch,
            attempt: row.attempt,
            started_at: row.started_at,
            finished_at: row.finished_at,
            outcome: row.outcome,
            resolution: row.resolution.as_deref(),
            cost: money(row.cost),
            http_status: row.http_status,
            task_id: row.task_id.as_deref(),
            error: row.error.as_deref(),
            request_id: row.request_id.as_deref(),
            answer: row.answer.as_deref(),
            endpoint: &row.endpoint,
            state: &row.state,
        }
    }
}

/// How many jobs are in each state, and in all.
pub fn counts(counts: &Counts) -> Value {
    let mut map: serde_json::Map<String, Value> = counts
        .iter()
        .map(|(state, count)| (state.to_string(), count.into()))
        .collect();
    map.insert("total".to_owned(), counts.total().into());
    Value::Object(map)
}

/// An amount as a JSON number. Below a billion its text is exact: a double
/// keeps fifteen digits, and the shortest text that gives it back is written.
pub fn money(amount: Money) -> f64 {
    amount.micros() as f64 / 1e6
}

/// The text of a JSON object as it is, unless it would break a line.
fn raw(text: &str) -> Option<Box<RawValue>> {
    let text = if text.contains(['\n', '\r']) {
        serde_json::from_str::<Value>(text).ok()?.to_string()
    } else {
        text.to_owned()
    };
    RawValue::from_string(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_written_as_they_are() {
        for text in ["0.6", "0.1", "0.3", "12.345678", "999999999.999999", "3.0"] {
            let amount: Money = text.parse().unwrap();
            assert_eq!(Value::from(money(amount)).to_string(), text);
        }
    }

    #[test]
    fn metadata_is_handed_through_on_one_line() {
        let text = |metadata: &str| raw(metadata).unwrap().get().to_owned();
        assert_eq!(text(r#"{"b": 1.00,"a":2}"#), r#"{"b": 1.00,"a":2}"#);
        assert_eq!(text("{\"a\":\n1}"), r#"{"a":1}"#);
    }
}
