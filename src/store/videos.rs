//! What the OpenAI-compatible interface lists.

use sqlx::{QueryBuilder, Sqlite};

use super::row::{self, COLUMNS};
use super::{Store, StoreError};
use crate::job::{Job, JobId, Millis};

impl Store {
    /// Jobs that are shown as videos, on one side of a job. Unreadable rows are
    /// left out. True: there are more behind them.
    pub async fn videos(
        &self,
        after: Option<JobId>,
        newest_first: bool,
        limit: u32,
    ) -> Result<(Vec<Job>, bool), StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new("SELECT ");
        query.push(COLUMNS).push(
            " FROM jobs WHERE NOT EXISTS (SELECT 1 FROM hidden_videos WHERE job_id = jobs.id)",
        );
        if let Some(after) = after {
            query
                .push(if newest_first {
                    " AND id < "
                } else {
                    " AND id > "
                })
                .push_bind(after);
        }
        query
            .push(" ORDER BY id")
            .push(if newest_first { " DESC" } else { "" })
            .push(" LIMIT ")
            .push_bind(i64::from(limit) + 1);
        let rows = query
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        let more = rows.len() > limit as usize;
        let jobs = rows
            .iter()
            .take(limit as usize)
            .filter_map(|found| row::job(found).ok())
            .collect();
        Ok((jobs, more))
    }

    /// Takes a job off the list of videos. The job, its ledger and its file stay.
    pub async fn hide_video(&self, id: JobId, now: Millis) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query("INSERT INTO hidden_videos (job_id, at) VALUES (?, ?) ON CONFLICT DO NOTHING")
            .bind(id)
            .bind(now)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Whether a job was taken off the list of videos.
    pub async fn is_hidden(&self, id: JobId) -> Result<bool, StoreError> {
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM hidden_videos WHERE job_id = ?)")
            .bind(id)
            .fetch_one(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }
}
