//! What programs see of jobs and of the queue: the JSON of the command line and of HTTP.
//!
//! The names are the table's columns; times are Unix milliseconds, amounts are
//! numbers with all of their decimals.

use serde::Serialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::job::{Job, JobId, Millis, Outcome, Size, State};
use crate::money::Money;
use crate::store::{
    Batch, Cap, Counts, Event, Filter, GateRow, LedgerRow, Posts, SpendRow, Store, StoreError,
};

/// Unconfirmed jobs that are named in a [`Status`].
const UNCONFIRMED: u32 = 100;

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
            metadata: spec.metadata_json(),
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

/// A job with where its task belongs, its ledger and its history.
#[derive(Debug, Serialize)]
pub struct Detail<'a> {
    #[serde(flatten)]
    job: JobView<'a>,
    endpoint: Option<&'a str>,
    submissions: Vec<SubmissionView<'a>>,
    events: &'a [Event],
}

impl<'a> Detail<'a> {
    /// Puts them together.
    pub fn new(job: &'a Job, ledger: &'a [LedgerRow], events: &'a [Event]) -> Detail<'a> {
        Detail {
            job: job.into(),
            endpoint: job.endpoint.as_deref(),
            submissions: ledger.iter().map(SubmissionView::from).collect(),
            events,
        }
    }
}

/// Ids that are told one by one; of more, the first and the last are.
pub const MAX_IDS: usize = 10_000;

/// What went in, and what was there already.
#[derive(Debug, Serialize)]
pub struct Added {
    inserted: u64,
    existing: u64,
    /// All of them, or nothing.
    ids: Option<Vec<JobId>>,
    first_id: Option<JobId>,
    last_id: Option<JobId>,
    /// All of them, in the order of the request, or nothing.
    existing_ids: Option<Vec<JobId>>,
    /// How many keys are of jobs that ask for another video.
    differing_keys: u64,
}

impl Added {
    /// Of both kinds: how many, and the first [`MAX_IDS`] of their ids.
    pub fn new(
        (inserted, ids): (u64, &[JobId]),
        last_id: Option<JobId>,
        (existing, existing_ids): (u64, &[JobId]),
        differing_keys: u64,
    ) -> Added {
        let all = |ids: &[JobId], count: u64| (ids.len() as u64 == count).then(|| ids.to_vec());
        Added {
            inserted,
            existing,
            ids: all(ids, inserted),
            first_id: ids.first().copied(),
            last_id,
            existing_ids: all(existing_ids, existing),
            differing_keys,
        }
    }
}

/// How the queue stands.
#[derive(Debug)]
pub struct Status {
    /// Why and since when submitting is paused.
    pub paused: Option<(String, Millis)>,
    /// The jobs of all batches.
    pub counts: Counts,
    /// The newest first.
    pub batches: Vec<Batch>,
    /// What batches may cost.
    pub caps: Vec<Cap>,
    /// What holds stages back.
    pub held: Vec<Held>,
    /// Jobs that wait for a person's word; at most a hundred.
    pub unconfirmed: Vec<JobId>,
    /// What was submitted since the budget's day began.
    pub today: Vec<SpendRow>,
    /// What was submitted ever.
    pub total: Vec<SpendRow>,
}

impl Status {
    /// Reads it. `day_start`: when the budget's day began.
    ///
    /// # Errors
    /// The store's.
    pub async fn read(store: &Store, day_start: Millis) -> Result<Status, StoreError> {
        let batches = store.batches().await?;
        let mut counts = Counts::default();
        for batch in &batches {
            counts += batch.counts;
        }
        let unconfirmed = Filter {
            state: Some(State::Unconfirmed),
            limit: Some(UNCONFIRMED),
            ..Filter::default()
        };
        Ok(Status {
            paused: store.fact("paused").await?,
            counts,
            batches,
            caps: store.caps().await?,
            held: store.gates().await?.into_iter().map(Held::from).collect(),
            unconfirmed: store.list_ids(&unconfirmed).await?,
            today: store.spend(Posts::Since(day_start)).await?,
            total: store.spend(Posts::Since(0)).await?,
        })
    }

    /// As programs see it, with so many of the batches.
    pub fn json(&self, batches: usize) -> Value {
        let shown = self.batches.iter().take(batches);
        json!({
            "paused": paused(self.paused.as_ref()),
            "jobs": counts(&self.counts),
            "batches": shown.map(|shown| batch(shown, &self.caps)).collect::<Vec<_>>(),
            "held": self.held,
            "unconfirmed": self.unconfirmed,
            "spend": { "today": spend(&self.today), "total": spend(&self.total) },
        })
    }
}

/// What holds a stage back, as the daemon put it.
#[derive(Debug, Serialize)]
pub struct Held {
    /// Which stage or limit.
    pub name: String,
    /// Since when.
    pub since: Millis,
    /// When it is looked at again.
    pub until: Option<Millis>,
    /// Why, in one word.
    pub cause: String,
    /// Why, in a sentence.
    pub message: String,
    /// What can be done about it.
    pub advice: String,
}

impl From<GateRow> for Held {
    fn from(row: GateRow) -> Held {
        let detail: Value = serde_json::from_str(&row.detail).unwrap_or_default();
        let text = |name: &str| detail[name].as_str().unwrap_or_default().to_owned();
        Held {
            cause: text("cause"),
            message: text("message"),
            advice: text("advice"),
            name: row.name,
            since: row.since,
            until: row.until,
        }
    }
}

/// Why and since when submitting is paused; null if it is not.
pub fn paused(paused: Option<&(String, Millis)>) -> Value {
    json!(paused.map(|(reason, since)| json!({ "reason": reason, "since": since })))
}

/// How far a batch is, and what its cap is.
pub fn batch(batch: &Batch, caps: &[Cap]) -> Value {
    let cap = caps.iter().find(|cap| cap.batch == batch.name);
    json!({
        "name": batch.name,
        "jobs": counts(&batch.counts),
        "settled": batch.counts.settled() == batch.counts.total(),
        "max_cost": cap.map(|cap| money(cap.max_cost)),
        "spent": cap.map(|cap| money(cap.spent)),
    })
}

/// How many submissions ended in each way, and what they cost or may have cost.
pub fn spend(rows: &[SpendRow]) -> Value {
    let entry = |outcome: Outcome| {
        let row = rows.iter().find(|row| row.outcome == outcome);
        let (count, cost) = row.map_or((0, Money::ZERO), |row| (row.count, row.cost));
        let entry = json!({ "submissions": count, "cost": money(cost) });
        (outcome.as_str().to_owned(), entry)
    };
    Value::Object(Outcome::ALL.into_iter().map(entry).collect())
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::JobSpec;

    #[test]
    fn amounts_are_written_as_they_are() {
        for text in ["0.6", "0.1", "0.3", "12.345678", "999999999.999999", "3.0"] {
            let amount: Money = text.parse().unwrap();
            assert_eq!(Value::from(money(amount)).to_string(), text);
        }
    }

    #[test]
    fn metadata_is_handed_through_on_one_line() {
        let deep = format!("{{\"a\":{}{}}}", "[".repeat(999), "]".repeat(999));
        for (metadata, shown) in [
            (r#"{"b": 1.00,"a":2}"#, r#"{"b": 1.00,"a":2}"#),
            ("{\"a\":\r\n1}\n", "{\"a\":  1}"),
            (r#"{"a":1e999}"#, r#"{"a":1e999}"#),
            (r#"{"\udead":"\ud800"}"#, r#"{"\udead":"\ud800"}"#),
            (&deep, &deep),
            // Past the table's rules.
            ("{\"a\":1", r#""{\"a\":1""#),
        ] {
            let mut spec = JobSpec::new("p", "https://e");
            spec.metadata = Some(metadata.to_owned());
            assert_eq!(spec.metadata_json().unwrap().get(), shown);
        }
    }
}
