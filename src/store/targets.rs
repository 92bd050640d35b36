//! The paths that are reserved for videos.

use sqlx::AssertSqlSafe;

use super::{Store, StoreError};
use crate::job::JobId;

/// The note of a job that ended although its video is on disk, as SQL.
const KEPT: &str =
    "('its video is on disk: ' || target || '; `reelq retry` takes it up at no cost')";

impl Store {
    /// Whether another job has reserved this path.
    pub async fn is_target_taken(&self, target: &str) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE target = ?)")
            .bind(target)
            .fetch_one(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Jobs that ended without a video, with the paths that are still reserved for
    /// one; not those that say already what lies there.
    pub async fn leftovers(&self) -> Result<Vec<(JobId, String)>, StoreError> {
        let mut writer = self.writer.lock().await;
        let sql = format!(
            "SELECT id, target FROM jobs \
             WHERE state IN ('failed', 'cancelled') AND target IS NOT NULL \
             AND (state = 'cancelled' OR error_code <> 'video_unavailable') \
             AND note IS NOT {KEPT} LIMIT 1000"
        );
        sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// A whole video lies at the path that was reserved for a job without one. Its
    /// note says so, and so the row is no leftover any more.
    pub async fn keep_target(&self, id: JobId) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let sql = format!(
            "UPDATE jobs SET note = {KEPT} WHERE id = ? AND state IN ('failed', 'cancelled')"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Nothing lies at the path any more that was reserved for a job without a video.
    pub async fn release_target(&self, id: JobId) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query(
            "UPDATE jobs SET target = NULL WHERE id = ? AND state IN ('failed', 'cancelled')",
        )
        .bind(id)
        .execute(&mut *writer)
        .await
        .map_err(|e| self.judge(e))?;
        Ok(())
    }
}
