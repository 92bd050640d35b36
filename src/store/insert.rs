//! Jobs come in: all of a file or nothing.

use sqlx::sqlite::SqliteConnection;
use sqlx::{Connection, QueryBuilder, Sqlite};

use super::{Store, StoreError};
use crate::job::{JobId, JobSpec};
use crate::money::Money;

/// Rows in one INSERT statement: large enough that the statement's own cost vanishes.
const ROWS: usize = 200;

/// What became of the jobs of an `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// The ids of the new jobs, in the order of the specs.
    pub inserted: Vec<JobId>,
    /// The ids of jobs that were there under the same key.
    pub existing: Vec<JobId>,
}

impl Store {
    /// Inserts jobs in one transaction; a job whose key is there already is left out.
    ///
    /// # Errors
    /// [`StoreError::Rule`] where a job breaks a rule of the table; then none is inserted.
    pub async fn insert(&self, specs: &[JobSpec]) -> Result<Added, StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            let mut added = Added::default();
            for rows in specs.chunks(ROWS) {
                insert_rows(&mut tx, rows, &mut added).await?;
            }
            tx.commit().await?;
            Ok(added)
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// Inserts jobs from an iterator in one transaction and in constant memory.
    /// `feed` is asked for portions until it gives none; if it ends with an
    /// error, nothing is inserted.
    ///
    /// # Errors
    /// The error of `feed`, or the store's own as its `From`.
    pub async fn insert_from<E: From<StoreError>>(
        &self,
        mut feed: impl FnMut() -> Result<Vec<JobSpec>, E>,
    ) -> Result<(u64, u64), E> {
        let mut writer = self.writer.lock().await;
        let mut tx = writer
            .begin_with("BEGIN IMMEDIATE")
            .await
            .map_err(|e| self.judge(e))?;
        let (mut inserted, mut existing) = (0, 0);
        loop {
            let specs = feed()?;
            if specs.is_empty() {
                break;
            }
            for rows in specs.chunks(ROWS) {
                let done = statement(rows, false)
                    .build()
                    .execute(&mut *tx)
                    .await
                    .map_err(|e| self.judge(e))?
                    .rows_affected();
                inserted += done;
                existing += rows.len() as u64 - done;
            }
        }
        tx.commit().await.map_err(|e| self.judge(e))?;
        Ok((inserted, existing))
    }

    /// The job with a key.
    pub async fn id_of_key(&self, key: &str) -> Result<Option<JobId>, StoreError> {
        sqlx::query_scalar("SELECT id FROM jobs WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Sets or lifts (`None`) the cap on what a batch may cost, and lets the jobs
    /// go that the old cap held back.
    pub async fn set_batch_cap(&self, batch: &str, cap: Option<Money>) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
            sqlx::query(
                "INSERT INTO batches (name, max_cost) VALUES (?1, ?2) \
                 ON CONFLICT (name) DO UPDATE SET max_cost = ?2",
            )
            .bind(batch)
            .bind(cap.map(Money::micros))
            .execute(&mut *tx)
            .await?;
            sqlx::query(
                "UPDATE jobs SET due_at = not_before, note = NULL \
                 WHERE batch = ? AND state = 'pending' AND faults = 0 AND note IS NOT NULL",
            )
            .bind(batch)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }
}

fn statement(rows: &[JobSpec], returning: bool) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new(
        "INSERT INTO jobs (key, batch, prompt, image_url, duration, size, priority, not_before, metadata) ",
    );
    query.push_values(rows, |mut row, spec| {
        row.push_bind(spec.key.clone())
            .push_bind(spec.batch.clone())
            .push_bind(spec.prompt.clone())
            .push_bind(spec.image_url.clone())
            .push_bind(i64::from(spec.duration))
            .push_bind(spec.size.as_str())
            .push_bind(spec.priority)
            .push_bind(spec.not_before)
            .push_bind(spec.metadata.clone());
    });
    query.push(" ON CONFLICT (key) WHERE key IS NOT NULL DO NOTHING");
    if returning {
        query.push(" RETURNING id, key");
    }
    query
}

async fn insert_rows(
    tx: &mut SqliteConnection,
    rows: &[JobSpec],
    added: &mut Added,
) -> Result<(), sqlx::Error> {
    let new: Vec<(JobId, Option<String>)> = statement(rows, true)
        .build_query_as()
        .fetch_all(&mut *tx)
        .await?;
    if new.len() < rows.len() {
        for spec in rows {
            let Some(key) = &spec.key else { continue };
            if !new.iter().any(|(_, k)| k.as_ref() == Some(key)) {
                let id = sqlx::query_scalar("SELECT id FROM jobs WHERE key = ?")
                    .bind(key)
                    .fetch_one(&mut *tx)
                    .await?;
                added.existing.push(id);
            }
        }
    }
    added.inserted.extend(new.into_iter().map(|(id, _)| id));
    Ok(())
}
