//! A copy of the queue, and whether it is whole.

use std::path::Path;

use super::{Store, StoreError};

impl Store {
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
}
