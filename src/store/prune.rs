//! Forgetting settled jobs.

use super::{COUNTED, Store, StoreError, begin};
use crate::job::Millis;

/// What a prune forgot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs, with their submissions and history.
    pub jobs: u64,
}

impl Store {
    /// Forgets the jobs that ended before a time, with their ledger and history. Never a file.
    pub async fn prune(&self, before: Millis, now: Millis) -> Result<Pruned, StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            sqlx::query("INSERT INTO facts (name, value, at) VALUES ('pruning', '', ?)")
                .bind(now)
                .execute(&mut *tx)
                .await?;
            let old = "SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') AND finished_at < ?";
            // What a capped batch has cost still counts against its cap.
            let sql = format!(
                "UPDATE batches SET forgotten = forgotten + (SELECT coalesce(sum(cost), 0) FROM submissions \
                 WHERE batch = name AND outcome IN {COUNTED} AND job_id IN ({old})) WHERE max_cost IS NOT NULL"
            );
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(before)
                .execute(&mut *tx)
                .await?;
            for table in ["submissions", "events"] {
                let sql = format!("DELETE FROM {table} WHERE job_id IN ({old})");
                sqlx::query(sqlx::AssertSqlSafe(sql))
                    .bind(before)
                    .execute(&mut *tx)
                    .await?;
            }
            let sql = format!("DELETE FROM jobs WHERE id IN ({old})");
            let jobs = sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(before)
                .execute(&mut *tx)
                .await?
                .rows_affected();
            sqlx::query("DELETE FROM facts WHERE name = 'pruning'")
                .execute(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(Pruned { jobs })
        };
        result.await.map_err(|e| self.judge(e))
    }
}
