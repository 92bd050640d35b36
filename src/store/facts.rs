//! Facts of the whole queue, and what holds the stages back.

use super::{Store, StoreError, begin};
use crate::job::Millis;

/// What holds a stage back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GateRow {
    /// Which stage or limit.
    pub name: String,
    /// Since when.
    pub since: Millis,
    /// When it is looked at again.
    pub until: Option<Millis>,
    /// JSON: what the daemon knows about it.
    pub detail: String,
}

impl Store {
    /// The value of a fact and when it was written.
    pub async fn fact(&self, name: &str) -> Result<Option<(String, Millis)>, StoreError> {
        sqlx::query_as("SELECT value, at FROM facts WHERE name = ?")
            .bind(name)
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// What holds the stages back, as the daemon last wrote it.
    pub async fn gates(&self) -> Result<Vec<GateRow>, StoreError> {
        let rows: Vec<(String, Millis, Option<Millis>, String)> =
            sqlx::query_as("SELECT name, since, until, detail FROM gates ORDER BY name")
                .fetch_all(&self.readers)
                .await
                .map_err(|e| self.judge(e))?;
        Ok(rows
            .into_iter()
            .map(|(name, since, until, detail)| GateRow {
                name,
                since,
                until,
                detail,
            })
            .collect())
    }

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
}
