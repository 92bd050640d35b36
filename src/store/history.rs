//! What happened to jobs.

use serde::Serialize;
use sqlx::Row;
use sqlx::sqlite::SqliteRow;

use super::{Store, StoreError};
use crate::job::{JobId, Millis};

/// A line of a job's history.
#[derive(Clone, Debug, Serialize)]
pub struct Event {
    /// Rises with time.
    pub id: i64,
    /// The job.
    pub job_id: JobId,
    /// When.
    pub at: Millis,
    /// What happened.
    pub event: String,
    /// The state it led to.
    pub state: String,
    /// More words.
    pub detail: Option<String>,
}

impl Event {
    /// From a row that begins with id, job_id, at, event, state and detail.
    pub(super) fn read(row: &SqliteRow) -> Result<Event, sqlx::Error> {
        Ok(Event {
            id: row.try_get(0)?,
            job_id: row.try_get(1)?,
            at: row.try_get(2)?,
            event: row.try_get(3)?,
            state: row.try_get(4)?,
            detail: row.try_get(5)?,
        })
    }
}

/// A portion of the history of all jobs.
#[derive(Clone, Debug, Default)]
pub struct EventPage {
    /// Each with its job's batch, oldest first.
    pub events: Vec<(Event, String)>,
    /// Everything up to this event was looked at.
    pub end: i64,
}

impl Store {
    /// The history of one job, oldest first.
    pub async fn history(&self, id: JobId) -> Result<Vec<Event>, StoreError> {
        let rows = sqlx::query(
            "SELECT id, job_id, at, event, state, detail FROM events WHERE job_id = ? ORDER BY id",
        )
        .bind(id)
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.judge(e))?;
        rows.iter()
            .map(Event::read)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|e| self.judge(e))
    }

    /// The newest event's id; 0 where nothing has happened.
    pub async fn last_event(&self) -> Result<i64, StoreError> {
        sqlx::query_scalar("SELECT coalesce(max(id), 0) FROM events")
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// What happened after an event, of one batch or of all. Looks at no more
    /// than `limit` events, so that one page costs the same in any batch.
    pub async fn events_page(
        &self,
        after: i64,
        batch: Option<&str>,
        limit: u32,
    ) -> Result<EventPage, StoreError> {
        let rows = sqlx::query(
            "SELECT e.id, e.job_id, e.at, e.event, e.state, e.detail, j.batch \
             FROM events e JOIN jobs j ON j.id = e.job_id WHERE e.id > ? ORDER BY e.id LIMIT ?",
        )
        .bind(after)
        .bind(i64::from(limit))
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.judge(e))?;
        let mut page = EventPage {
            events: Vec::new(),
            end: after,
        };
        for row in &rows {
            let read = Event::read(row).and_then(|event| Ok((event, row.try_get(6)?)));
            let (event, of): (Event, String) = read.map_err(|e| self.judge(e))?;
            page.end = event.id;
            if batch.is_none_or(|batch| batch == of) {
                page.events.push((event, of));
            }
        }
        Ok(page)
    }
}
