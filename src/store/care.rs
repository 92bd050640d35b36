//! The keeping of the queue: facts, gates, forgetting, copying.

use std::path::Path;

use super::{GateRow, Store, StoreError, begin};
use crate::job::Millis;

/// What a prune forgot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Jobs, with their submissions and history.
    pub jobs: u64,
}

impl Store {
    /// Writes a fact, or forgets it (`None`).
    pub async fn set_fact(
        &self,
        name: &str,
        value: Option<&str>,
        now: Millis,
    ) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        match value {
            Some(value) => {
                sqlx::query(
                    "INSERT INTO facts (name, value, at) VALUES (?1, ?2, ?3) \
                     ON CONFLICT (name) DO UPDATE SET value = ?2, at = ?3",
                )
                .bind(name)
                .bind(value)
                .bind(now)
                .execute(&mut *writer)
                .await
            }
            None => {
                sqlx::query("DELETE FROM facts WHERE name = ?")
                    .bind(name)
                    .execute(&mut *writer)
                    .await
            }
        }
        .map_err(|e| self.judge(e))?;
        Ok(())
    }

    /// Writes what holds the stages back, in place of what was there.
    pub async fn set_gates(&self, gates: &[GateRow]) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            sqlx::query("DELETE FROM gates").execute(&mut *tx).await?;
            for gate in gates {
                sqlx::query("INSERT INTO gates (name, since, until, detail) VALUES (?, ?, ?, ?)")
                    .bind(&gate.name)
                    .bind(gate.since)
                    .bind(gate.until)
                    .bind(&gate.detail)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// Forgets the jobs that ended before a time, with their ledger and history. Never a file.
    pub async fn prune(&self, before: Millis, now: Millis) -> Result<Pruned, StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            sqlx::query("INSERT INTO facts (name, value, at) VALUES ('pruning', '', ?)")
                .bind(now)
                .execute(&mut *tx)
                .await?;
            // A batch with a cap is counted by its ledger as long as any of its jobs may cost more.
            let old = "SELECT id FROM jobs WHERE state IN ('done', 'failed', 'cancelled') AND finished_at < ? \
                 AND batch NOT IN (SELECT name FROM batches WHERE max_cost IS NOT NULL AND EXISTS ( \
                     SELECT 1 FROM jobs AS open WHERE open.batch = name \
                     AND open.state NOT IN ('done', 'failed', 'cancelled')))";
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

    /// A consistent copy of the queue into a new file, while everything goes on.
    pub async fn backup(&self, to: &Path) -> Result<(), StoreError> {
        if to.exists() {
            return Err(StoreError::Unusable {
                path: to.display().to_string(),
                reason: "the file exists already; name a new one".to_owned(),
            });
        }
        sqlx::query("VACUUM INTO ?")
            .bind(to.display().to_string())
            .execute(&self.readers)
            .await
            .map_err(|e| super::judge(to, e))?;
        Ok(())
    }

    /// SQLite's own examination; empty when all is well.
    pub async fn integrity(&self) -> Result<Vec<String>, StoreError> {
        let lines: Vec<String> = sqlx::query_scalar("PRAGMA quick_check")
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(lines.into_iter().filter(|line| line != "ok").collect())
    }

    /// Writes the log back into the database, as far as no reader is in the way,
    /// so that it does not grow without end. Returns its length in pages.
    pub async fn checkpoint(&self) -> Result<i64, StoreError> {
        let mut writer = self.writer.lock().await;
        let (_, log, _): (i64, i64, i64) = sqlx::query_as("PRAGMA wal_checkpoint(PASSIVE)")
            .fetch_one(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(log)
    }
}
