//! Messages to the webhook: written from the history, kept until taken.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Row};

use super::row::{self, COLUMNS};
use super::{Counts, Event};
use super::{Store, StoreError, begin};
use crate::job::{Job, Millis};

/// The fact that says up to which event messages were written.
const CURSOR: &str = "webhook_cursor";

/// The words of the states in which nothing moves a job by itself. A history
/// line that leads to one of them is the moment at which its job settled.
const SETTLED: &str = "('done', 'failed', 'cancelled', 'unconfirmed')";

/// Something that settled, to be told.
#[derive(Clone, Debug)]
pub enum Absorbed<'a> {
    /// A job, as it is now, and the event that settled it.
    Job(&'a Job, &'a Event),
    /// A job whose row cannot be read, set aside as failed.
    Unreadable(&'a Event),
    /// The last job of a batch, by the event that settled it.
    Batch(&'a str, &'a Counts, &'a Event),
}

/// A message that waits to be taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// Rises with time; never used again.
    pub id: i64,
    /// Its type, such as `job.done`.
    pub kind: String,
    /// The job's id or the batch's name.
    pub subject: String,
    /// What is sent, to the byte.
    pub payload: String,
    /// When it was written.
    pub created_at: Millis,
    /// Tries that failed.
    pub attempts: u32,
}

impl Store {
    /// Starts to write messages: from now on, or from where it was left off. The
    /// clock may have been set back meanwhile: none was written later than now,
    /// and none waits longer than until `latest`.
    pub async fn open_outbox(&self, now: Millis, latest: Millis) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            sqlx::query(
                "INSERT INTO facts (name, value, at) \
                 SELECT ?, CAST(coalesce(max(id), 0) AS TEXT), ? FROM events WHERE true ON CONFLICT (name) DO NOTHING",
            )
            .bind(CURSOR)
            .bind(now)
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE outbox SET created_at = min(created_at, ?1), due_at = min(due_at, ?2) \
                 WHERE created_at > ?1 OR due_at > ?2",
            )
            .bind(now)
            .bind(latest)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// The wall clock jumped by `delta`: every message's times move along.
    pub async fn shift_outbox(&self, delta: Millis) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("UPDATE outbox SET created_at = created_at + ?1, due_at = due_at + ?1")
            .bind(delta)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Writes no more messages. Those that wait stay, for the case that webhooks
    /// are switched on again.
    pub async fn close_outbox(&self) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("DELETE FROM facts WHERE name = ?")
            .bind(CURSOR)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Writes a message for each thing that settled since the last call, in
    /// portions of `limit` events. `tell` gives its type and payload. `seen`: the
    /// event up to which an earlier call found nothing. Returns the event up to
    /// which all is written, and whether there may be more.
    pub async fn absorb(
        &self,
        seen: i64,
        limit: u32,
        now: Millis,
        tell: impl Fn(Absorbed<'_>) -> (&'static str, String),
    ) -> Result<(i64, bool), StoreError> {
        // A look without a lock first: an idle queue must not be written to.
        let last = self.last_event().await?;
        if last <= seen || !self.has_settled(seen, last).await? {
            return Ok((last.max(seen), false));
        }
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            let found = absorb_in(&mut tx, limit, now, &tell).await?;
            tx.commit().await?;
            Ok(found)
        };
        result.await.map_err(|e| self.judge(e))
    }

    async fn has_settled(&self, after: i64, last: i64) -> Result<bool, StoreError> {
        let sql = format!(
            "SELECT EXISTS (SELECT 1 FROM events WHERE id > ? AND id <= ? AND state IN {SETTLED})"
        );
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(after)
            .bind(last)
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Messages whose time has come, without those in hand: longest waiting first,
    /// or those first that failed least. A batch's completion is told after the
    /// first try of everything that was written of the batch before.
    pub async fn due_messages(
        &self,
        now: Millis,
        limit: u32,
        in_hand: &[i64],
        fresh_first: bool,
    ) -> Result<Vec<Message>, StoreError> {
        let in_hand = serde_json::Value::from(in_hand.to_vec()).to_string();
        let first = if fresh_first { "attempts, " } else { "" };
        let sql = format!(
            "SELECT id, kind, subject, payload, created_at, attempts FROM outbox \
             WHERE due_at <= ? AND id NOT IN (SELECT value FROM json_each(?)) \
             AND (kind <> 'batch.completed' OR NOT EXISTS (SELECT 1 FROM outbox e \
                  WHERE e.batch = outbox.batch AND e.id < outbox.id AND e.attempts = 0)) \
             ORDER BY {first}due_at, id LIMIT ?"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(now)
            .bind(in_hand)
            .bind(i64::from(limit))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        rows.iter()
            .map(|row| {
                Ok(Message {
                    id: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    subject: row.try_get(2)?,
                    payload: row.try_get(3)?,
                    created_at: row.try_get(4)?,
                    attempts: row.try_get::<i64, _>(5)? as u32,
                })
            })
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|e| self.judge(e))
    }

    /// How many messages wait.
    pub async fn messages_waiting(&self) -> Result<u64, StoreError> {
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM outbox")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(count.unsigned_abs())
    }

    /// Forgets a message: it was taken, or it is given up.
    pub async fn drop_message(&self, id: i64) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("DELETE FROM outbox WHERE id = ?")
            .bind(id)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Forgets the messages that were written before a time; says how many.
    pub async fn drop_messages_before(&self, before: Millis) -> Result<u64, StoreError> {
        let mut writer = self.writer.lock().await;
        let done = sqlx::query("DELETE FROM outbox WHERE created_at < ?")
            .bind(before)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(done.rows_affected())
    }

    /// A try failed: the message is tried again at `due_at`.
    pub async fn put_off_message(
        &self,
        id: i64,
        due_at: Millis,
        error: &str,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query(
            "UPDATE outbox SET due_at = ?, attempts = attempts + 1, error = ? WHERE id = ?",
        )
        .bind(due_at)
        .bind(error)
        .bind(id)
        .execute(&mut *writer)
        .await
        .map_err(|e| self.judge(e))?;
        Ok(())
    }
}

async fn absorb_in(
    tx: &mut SqliteConnection,
    limit: u32,
    now: Millis,
    tell: &impl Fn(Absorbed<'_>) -> (&'static str, String),
) -> Result<(i64, bool), sqlx::Error> {
    let cursor: Option<String> = sqlx::query_scalar("SELECT value FROM facts WHERE name = ?")
        .bind(CURSOR)
        .fetch_optional(&mut *tx)
        .await?;
    let Some(cursor) = cursor.and_then(|text| text.parse::<i64>().ok()) else {
        return Ok((0, false));
    };
    let sql = format!(
        "SELECT id, job_id, at, event, state, detail FROM events \
         WHERE id > ? AND state IN {SETTLED} ORDER BY id LIMIT ?"
    );
    let rows = sqlx::query(AssertSqlSafe(sql))
        .bind(cursor)
        .bind(i64::from(limit))
        .fetch_all(&mut *tx)
        .await?;
    let mut batches: Vec<(String, Event)> = Vec::new();
    let mut end = cursor;
    for found in &rows {
        let event = Event::read(found)?;
        end = event.id;
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?");
        let job = sqlx::query(AssertSqlSafe(sql))
            .bind(event.job_id)
            .fetch_optional(&mut *tx)
            .await?;
        // Pruned meanwhile: there is nothing to show.
        let Some(job) = job else { continue };
        let told = match row::job(&job) {
            Ok(job) => tell(Absorbed::Job(&job, &event)),
            Err(_) => tell(Absorbed::Unreadable(&event)),
        };
        let batch: String = job.try_get("batch")?;
        write(tx, &event, told, &event.job_id.to_string(), &batch, now).await?;
        batches.retain(|(name, _)| *name != batch);
        batches.push((batch, event));
    }
    for (name, event) in &batches {
        if let Some(counts) = completed(tx, name, end).await? {
            let told = tell(Absorbed::Batch(name, &counts, event));
            write(tx, event, told, name, name, now).await?;
        }
    }
    sqlx::query("UPDATE facts SET value = ?, at = ? WHERE name = ?")
        .bind(end.to_string())
        .bind(now)
        .bind(CURSOR)
        .execute(&mut *tx)
        .await?;
    Ok((end, rows.len() as u32 == limit))
}

/// The counts of a batch in which nothing moves, if no later event than `end`
/// settled one of its jobs: that one will tell it.
async fn completed(
    tx: &mut SqliteConnection,
    batch: &str,
    end: i64,
) -> Result<Option<Counts>, sqlx::Error> {
    let moving: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE batch = ? \
         AND state IN ('pending', 'submitting', 'generating', 'downloading'))",
    )
    .bind(batch)
    .fetch_one(&mut *tx)
    .await?;
    if moving {
        return Ok(None);
    }
    let sql = format!(
        "SELECT EXISTS (SELECT 1 FROM events e JOIN jobs j ON j.id = e.job_id \
         WHERE e.id > ? AND e.state IN {SETTLED} AND j.batch = ?)"
    );
    let later: bool = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(end)
        .bind(batch)
        .fetch_one(&mut *tx)
        .await?;
    if later {
        return Ok(None);
    }
    let rows: Vec<(String, i64)> =
        sqlx::query_as("SELECT state, count(*) FROM jobs WHERE batch = ? GROUP BY state")
            .bind(batch)
            .fetch_all(&mut *tx)
            .await?;
    let mut counts = Counts::default();
    for (state, count) in rows {
        counts.add(&state, count);
    }
    Ok(Some(counts))
}

async fn write(
    tx: &mut SqliteConnection,
    event: &Event,
    (kind, payload): (&'static str, String),
    subject: &str,
    batch: &str,
    now: Millis,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO outbox (event_id, kind, subject, batch, payload, created_at, due_at) \
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) ON CONFLICT DO NOTHING",
    )
    .bind(event.id)
    .bind(kind)
    .bind(subject)
    .bind(batch)
    .bind(payload)
    .bind(now)
    .execute(tx)
    .await?;
    Ok(())
}
