//! What there is to do: by state, and by time.

use sqlx::AssertSqlSafe;

use super::aside::set_aside;
use super::row::{self, COLUMNS};
use super::{Store, StoreError};
use crate::job::{Job, JobId, Millis, State};

/// Whether there are jobs that are not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Not submitted yet.
    pub pending: bool,
    /// Submitting, generating or downloading.
    pub under_way: bool,
}

/// Videos that have no place to go.
#[derive(Debug)]
pub struct Unplaced {
    /// There are none, due or not.
    pub none: bool,
    /// Those for which one is to be looked for now.
    pub due: Vec<Job>,
}

impl Store {
    /// The ids of every job in a state, oldest first. For the states that hold few.
    pub async fn ids_in(&self, state: State) -> Result<Vec<JobId>, StoreError> {
        // The words of the partial indexes; a bound parameter would not use them.
        let sql = match state {
            State::Submitting => "SELECT id FROM jobs WHERE state = 'submitting' ORDER BY id",
            // `+`: sorted afterwards; the order of the whole table would be taken instead.
            State::Generating => "SELECT id FROM jobs WHERE state = 'generating' ORDER BY +id",
            State::Unconfirmed => "SELECT id FROM jobs WHERE state = 'unconfirmed' ORDER BY id",
            State::Downloading => {
                "SELECT id FROM jobs WHERE state = 'downloading' ORDER BY due_at, id"
            }
            other => return self.ids_by_word(other).await,
        };
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(sql)
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    async fn ids_by_word(&self, state: State) -> Result<Vec<JobId>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar("SELECT id FROM jobs WHERE state = ? ORDER BY id")
            .bind(state.as_str())
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// The jobs of a list of ids that are in a state. A row that cannot be read
    /// is set aside: it fails with the reason, and the rest goes on.
    pub async fn load(&self, ids: &[JobId], state: State) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::with_capacity(ids.len());
        if ids.is_empty() {
            return Ok(jobs);
        }
        let mut writer = self.writer.lock().await;
        let list = serde_json::Value::from(ids.to_vec()).to_string();
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND state = ?"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(list)
            .bind(state.as_str())
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        for found in &rows {
            match row::job(found) {
                Ok(job)
                    if job.task_id.is_none()
                        && matches!(state, State::Generating | State::Downloading) =>
                {
                    let reason = "the row has lost its task id; the ledger may hold it";
                    set_aside(&mut writer, job.id, reason)
                        .await
                        .map_err(|e| self.judge(e))?;
                }
                Ok(job) => jobs.push(job),
                Err(corrupt) => set_aside(&mut writer, corrupt.id, &corrupt.to_string())
                    .await
                    .map_err(|e| self.judge(e))?,
            }
        }
        Ok(jobs)
    }

    /// Videos that are to be fetched now, longest waiting first, leaving out those in hand.
    pub async fn due_downloads(
        &self,
        now: Millis,
        limit: usize,
        in_hand: &[JobId],
        endpoint: &str,
    ) -> Result<Vec<Job>, StoreError> {
        let mut ids: Vec<JobId> = Vec::new();
        // Two looks: one with OR would walk over every video that is not due yet.
        for due in ["due_at IS NULL", "due_at <= ?1"] {
            let wanted = (limit + in_hand.len()).saturating_sub(ids.len());
            let sql = format!(
                "SELECT id FROM jobs WHERE state = 'downloading' AND {due} AND endpoint = ?3 \
                 AND target IS NOT NULL ORDER BY due_at LIMIT ?2"
            );
            let mut writer = self.writer.lock().await;
            let found: Vec<JobId> = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(now)
                .bind(wanted as i64)
                .bind(endpoint)
                .fetch_all(&mut *writer)
                .await
                .map_err(|e| self.judge(e))?;
            ids.extend(found);
        }
        let ids: Vec<JobId> = ids
            .into_iter()
            .filter(|id| !in_hand.contains(id))
            .take(limit)
            .collect();
        self.load(&ids, State::Downloading).await
    }

    /// Videos that have no place to go, those first that are due; and which of them are.
    pub async fn unplaced(
        &self,
        now: Millis,
        limit: usize,
        endpoint: &str,
    ) -> Result<Unplaced, StoreError> {
        let sql = "SELECT id, due_at IS NULL OR due_at <= ?1 FROM jobs \
                   WHERE state = 'downloading' AND target IS NULL AND endpoint = ?2 \
                   ORDER BY due_at LIMIT ?3";
        let mut writer = self.writer.lock().await;
        let found: Vec<(JobId, bool)> = sqlx::query_as(sql)
            .bind(now)
            .bind(endpoint)
            .bind(limit as i64)
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        drop(writer);
        let due: Vec<JobId> = found
            .iter()
            .filter(|(_, due)| *due)
            .map(|(id, _)| *id)
            .collect();
        Ok(Unplaced {
            none: found.is_empty(),
            due: self.load(&due, State::Downloading).await?,
        })
    }

    /// The earliest time after `now` at which a waiting job or a download becomes due.
    pub async fn next_due(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(
            "SELECT min(due_at) FROM ( \
             SELECT * FROM (SELECT due_at FROM jobs WHERE state = 'pending' AND due_at IS NOT NULL AND due_at > ?1 \
                            ORDER BY due_at LIMIT 1) \
             UNION ALL \
             SELECT * FROM (SELECT due_at FROM jobs WHERE state = 'downloading' AND due_at > ?1 \
                            ORDER BY due_at LIMIT 1))",
        )
        .bind(now)
        .fetch_one(&mut *writer)
        .await
        .map_err(|e| self.judge(e))
    }

    /// Whether jobs could still move by themselves, with tasks of one endpoint.
    /// What a batch's cap holds back waits for a person.
    pub async fn moving(&self, endpoint: &str) -> Result<Moving, StoreError> {
        let mut writer = self.writer.lock().await;
        let (pending, under_way): (bool, bool) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NULL) \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NOT NULL \
                        AND NOT (faults = 0 AND note IS NOT NULL)), \
             EXISTS (SELECT 1 FROM jobs WHERE state = 'submitting') \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'generating' AND endpoint = ?1) \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'downloading' AND endpoint = ?1)",
        )
        .bind(endpoint)
        .fetch_one(&mut *writer)
        .await
        .map_err(|e| self.judge(e))?;
        Ok(Moving { pending, under_way })
    }

    /// When the POSTs between two times were begun, oldest first; feeds the rate
    /// limit after a start. A clock that was set back leaves POSTs in the future,
    /// which must not count until it has caught up with them.
    pub async fn recent_starts(
        &self,
        since: Millis,
        now: Millis,
    ) -> Result<Vec<Millis>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(
            "SELECT started_at FROM submissions WHERE started_at > ? AND started_at <= ? ORDER BY started_at",
        )
        .bind(since)
        .bind(now)
        .fetch_all(&mut *writer)
        .await
        .map_err(|e| self.judge(e))
    }
}
