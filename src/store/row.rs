//! A row of `jobs` to a [`Job`] and back.

use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};

use crate::job::{Failure, Job, JobId, JobSpec, Millis, Outcome, SavedFile};
use crate::money::Money;
use crate::step::{LedgerLine, Transition};

/// Every column that [`job`] reads.
pub const COLUMNS: &str = "id, version, key, batch, prompt, image_url, duration, size, priority, not_before, \
     metadata, state, due_at, faults, attempt, cost, resent, progress, endpoint, task_id, give_up_at, video_urls, \
     target, path, bytes, sha256, note, error_code, error_message, created_at, submitted_at, completed_at, \
     finished_at";

/// A row that holds something unreadable.
#[derive(Debug, thiserror::Error)]
#[error("the row cannot be read: {reason}")]
pub struct Corrupt {
    pub id: JobId,
    pub reason: String,
}

/// Reads a row of [`COLUMNS`]. What cannot be read names its column.
pub fn job(row: &SqliteRow) -> Result<Job, Corrupt> {
    let id: JobId = row.try_get("id").unwrap_or(-1);
    read(row).map_err(|reason| Corrupt { id, reason })
}

fn read(row: &SqliteRow) -> Result<Job, String> {
    fn get<'r, T>(row: &'r SqliteRow, column: &'static str) -> Result<T, String>
    where
        T: sqlx::Decode<'r, sqlx::Sqlite> + sqlx::Type<sqlx::Sqlite>,
    {
        row.try_get(column)
            .map_err(|error| format!("column {column}: {error}"))
    }
    fn word<T: std::str::FromStr<Err = String>>(
        row: &SqliteRow,
        column: &'static str,
    ) -> Result<T, String> {
        get::<String>(row, column)?
            .parse()
            .map_err(|error| format!("column {column}: {error}"))
    }
    fn number<T: TryFrom<i64>>(row: &SqliteRow, column: &'static str) -> Result<T, String> {
        T::try_from(get::<i64>(row, column)?).map_err(|_| format!("column {column}: out of range"))
    }

    let file = match get::<Option<String>>(row, "path")? {
        Some(path) => Some(SavedFile {
            path,
            bytes: number(row, "bytes")?,
            sha256: get(row, "sha256")?,
        }),
        None => None,
    };
    let failure = match get::<Option<String>>(row, "error_code")? {
        Some(code) => Some(Failure {
            code: code.parse()?,
            message: get(row, "error_message")?,
        }),
        None => None,
    };
    let video_urls = match get::<Option<String>>(row, "video_urls")? {
        Some(text) => {
            serde_json::from_str(&text).map_err(|error| format!("column video_urls: {error}"))?
        }
        None => Vec::new(),
    };
    Ok(Job {
        id: get(row, "id")?,
        version: get(row, "version")?,
        spec: JobSpec {
            key: get(row, "key")?,
            batch: get(row, "batch")?,
            prompt: get(row, "prompt")?,
            image_url: get(row, "image_url")?,
            duration: number(row, "duration")?,
            size: word(row, "size")?,
            priority: get(row, "priority")?,
            not_before: get(row, "not_before")?,
            metadata: get(row, "metadata")?,
        },
        state: word(row, "state")?,
        due_at: get(row, "due_at")?,
        faults: number(row, "faults")?,
        attempt: number(row, "attempt")?,
        cost: Money::from_micros(get(row, "cost")?),
        progress: number(row, "progress")?,
        endpoint: get(row, "endpoint")?,
        task_id: get(row, "task_id")?,
        give_up_at: get(row, "give_up_at")?,
        video_urls,
        target: get(row, "target")?,
        file,
        note: get(row, "note")?,
        failure,
        created_at: get(row, "created_at")?,
        resent: get(row, "resent")?,
        submitted_at: get(row, "submitted_at")?,
        completed_at: get(row, "completed_at")?,
        finished_at: get(row, "finished_at")?,
    })
}

/// Writes a transition with its ledger and history lines, if nobody changed the
/// row since it was judged. False: the row has moved on, nothing was written.
pub async fn write(
    conn: &mut SqliteConnection,
    transition: &Transition,
) -> Result<bool, sqlx::Error> {
    let job = &transition.job;
    let done = sqlx::query(
        "UPDATE jobs SET version = ?1, state = ?2, due_at = ?3, faults = ?4, attempt = ?5, cost = ?6, \
         progress = ?7, endpoint = ?8, task_id = ?9, give_up_at = ?10, video_urls = ?11, target = ?12, \
         path = ?13, bytes = ?14, sha256 = ?15, note = ?16, error_code = ?17, error_message = ?18, \
         submitted_at = ?19, completed_at = ?20, finished_at = ?21, resent = ?24 \
         WHERE id = ?22 AND version = ?23",
    )
    .bind(job.version)
    .bind(job.state.as_str())
    .bind(job.due_at)
    .bind(i64::from(job.faults))
    .bind(i64::from(job.attempt))
    .bind(job.cost.micros())
    .bind(i64::from(job.progress))
    .bind(&job.endpoint)
    .bind(&job.task_id)
    .bind(job.give_up_at)
    .bind(urls_text(&job.video_urls))
    .bind(&job.target)
    .bind(job.file.as_ref().map(|file| file.path.as_str()))
    .bind(job.file.as_ref().map(|file| file.bytes as i64))
    .bind(job.file.as_ref().map(|file| file.sha256.as_str()))
    .bind(&job.note)
    .bind(job.failure.as_ref().map(|failure| failure.code.as_str()))
    .bind(job.failure.as_ref().map(|failure| failure.message.as_str()))
    .bind(job.submitted_at)
    .bind(job.completed_at)
    .bind(job.finished_at)
    .bind(job.id)
    .bind(job.version - 1)
    .bind(job.resent)
    .execute(&mut *conn)
    .await?
    .rows_affected();
    if done == 0 {
        return Ok(false);
    }
    match &transition.ledger {
        Some(LedgerLine::Begin { cost, endpoint }) => {
            sqlx::query(
                "INSERT INTO submissions (job_id, attempt, key, batch, cost, endpoint, started_at) \
                 VALUES (?, ?, ?, ?, ?, ?, ?)",
            )
            .bind(job.id)
            .bind(i64::from(job.attempt))
            .bind(&job.spec.key)
            .bind(&job.spec.batch)
            .bind(cost.micros())
            .bind(endpoint)
            .bind(transition.at)
            .execute(&mut *conn)
            .await?;
        }
        Some(LedgerLine::End {
            outcome,
            task_id,
            evidence,
        }) => {
            sqlx::query(
                "UPDATE submissions SET finished_at = ?, outcome = ?, task_id = ?, http_status = ?, error = ?, \
                 request_id = ?, answer = ? WHERE job_id = ? AND attempt = ?",
            )
            .bind(transition.at)
            .bind(outcome.as_str())
            .bind(task_id)
            .bind(evidence.http_status.map(i64::from))
            .bind(&evidence.error)
            .bind(&evidence.request_id)
            .bind(&evidence.answer)
            .bind(job.id)
            .bind(i64::from(job.attempt))
            .execute(&mut *conn)
            .await?;
            if matches!(outcome, Outcome::Rejected | Outcome::NotAccepted) {
                release_batch(conn, &job.spec.batch).await?;
            }
        }
        Some(LedgerLine::Resolve {
            outcome,
            task_id,
            resolution,
        }) => {
            sqlx::query(
                "UPDATE submissions SET outcome = ?, task_id = coalesce(?, task_id), resolution = ? \
                 WHERE job_id = ? AND attempt = ?",
            )
            .bind(outcome.as_str())
            .bind(task_id)
            .bind(resolution)
            .bind(job.id)
            .bind(i64::from(job.attempt))
            .execute(&mut *conn)
            .await?;
            if *outcome == Outcome::NotAccepted {
                release_batch(conn, &job.spec.batch).await?;
            }
        }
        None => {}
    }
    history(
        conn,
        job.id,
        transition.at,
        transition.event,
        job.state.as_str(),
        transition.detail.as_deref(),
    )
    .await?;
    Ok(true)
}

/// What was reserved under a batch's cap is free again: those that it held back are due.
async fn release_batch(conn: &mut SqliteConnection, batch: &str) -> Result<(), sqlx::Error> {
    let capped = "SELECT EXISTS (SELECT 1 FROM batches WHERE name = ? AND max_cost IS NOT NULL)";
    let capped: bool = sqlx::query_scalar(capped)
        .bind(batch)
        .fetch_one(&mut *conn)
        .await?;
    if capped {
        release_held(conn, batch).await?;
    }
    Ok(())
}

/// Makes the jobs due that a cap held back.
pub async fn release_held(conn: &mut SqliteConnection, batch: &str) -> Result<(), sqlx::Error> {
    sqlx::query(
        "UPDATE jobs SET due_at = not_before, note = NULL \
         WHERE batch = ? AND state = 'pending' AND faults = 0 AND note IS NOT NULL",
    )
    .bind(batch)
    .execute(conn)
    .await?;
    Ok(())
}

/// One line of a job's history.
pub async fn history(
    conn: &mut SqliteConnection,
    id: JobId,
    at: Millis,
    event: &str,
    state: &str,
    detail: Option<&str>,
) -> Result<(), sqlx::Error> {
    sqlx::query("INSERT INTO events (job_id, at, event, state, detail) VALUES (?, ?, ?, ?, ?)")
        .bind(id)
        .bind(at)
        .bind(event)
        .bind(state)
        .bind(detail)
        .execute(conn)
        .await?;
    Ok(())
}

fn urls_text(urls: &[String]) -> Option<String> {
    // A list of strings always has a JSON form.
    (!urls.is_empty()).then(|| serde_json::Value::from(urls.to_vec()).to_string())
}
