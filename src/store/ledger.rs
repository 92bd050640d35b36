//! What was paid, may have been, or was not.

use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite};

use super::{COUNTED, Store, StoreError, spent_by};
use crate::job::{JobId, Millis, Outcome};
use crate::money::Money;

/// A POST that was begun.
#[derive(Clone, Debug)]
pub struct LedgerRow {
    /// The job.
    pub job_id: JobId,
    /// Its key.
    pub key: Option<String>,
    /// Its batch.
    pub batch: String,
    /// The number of the POST.
    pub attempt: u32,
    /// When it was begun.
    pub started_at: Millis,
    /// When it ended.
    pub finished_at: Option<Millis>,
    /// How it ended.
    pub outcome: Outcome,
    /// What it cost or may have cost.
    pub cost: Money,
    /// The HTTP status of the answer.
    pub http_status: Option<u16>,
    /// The accepted task.
    pub task_id: Option<String>,
    /// What went wrong.
    pub error: Option<String>,
    /// The answer's request ids.
    pub request_id: Option<String>,
    /// The first 2 KiB of the answer.
    pub answer: Option<String>,
    /// A person's word: `adopted`, `resubmitted`, `written_off`.
    pub resolution: Option<String>,
    /// Where it went.
    pub endpoint: String,
    /// The job's state now.
    pub state: String,
}

/// Which submissions are counted.
#[derive(Clone, Copy, Debug)]
pub enum Posts<'a> {
    /// Those that were begun at a time or later.
    Since(Millis),
    /// Those of one batch.
    Batch(&'a str),
}

/// Submissions of one outcome, and their cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpendRow {
    /// How they ended.
    pub outcome: Outcome,
    /// How many.
    pub count: u64,
    /// What they cost, or may have cost.
    pub cost: Money,
}

/// A batch whose cost is capped.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cap {
    /// The batch.
    pub batch: String,
    /// What it may cost.
    pub max_cost: Money,
    /// What it has cost or may have cost so far.
    pub spent: Money,
}

/// Where the next portion of the ledger begins: behind this row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LedgerPlace {
    /// When the POST was begun.
    pub started_at: Millis,
    /// The job.
    pub job_id: JobId,
    /// The number of the POST.
    pub attempt: u32,
}

impl LedgerRow {
    /// Its place in the ledger.
    pub fn place(&self) -> LedgerPlace {
        LedgerPlace {
            started_at: self.started_at,
            job_id: self.job_id,
            attempt: self.attempt,
        }
    }
}

impl Store {
    /// POSTs that were begun, oldest first: of one job, of one batch, since a time.
    pub async fn ledger(
        &self,
        job: Option<JobId>,
        batch: Option<&str>,
        since: Option<Millis>,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        self.ledger_where(job, batch, since, None, u32::MAX).await
    }

    /// A portion of [`Store::ledger`], so that a long one needs no memory.
    pub async fn ledger_page(
        &self,
        batch: Option<&str>,
        since: Option<Millis>,
        after: Option<LedgerPlace>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        self.ledger_where(None, batch, since, after, limit).await
    }

    async fn ledger_where(
        &self,
        job: Option<JobId>,
        batch: Option<&str>,
        since: Option<Millis>,
        after: Option<LedgerPlace>,
        limit: u32,
    ) -> Result<Vec<LedgerRow>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(
            "SELECT s.job_id, s.key, s.batch, s.attempt, s.started_at, s.finished_at, s.outcome, s.cost, \
             s.http_status, s.task_id, s.error, s.request_id, s.answer, s.resolution, s.endpoint, coalesce(j.state, 'missing') \
             FROM submissions s LEFT JOIN jobs j ON j.id = s.job_id WHERE true",
        );
        if let Some(job) = job {
            query.push(" AND s.job_id = ").push_bind(job);
        }
        if let Some(batch) = batch {
            query.push(" AND s.batch = ").push_bind(batch.to_owned());
        }
        if let Some(since) = since {
            query.push(" AND s.started_at >= ").push_bind(since);
        }
        if let Some(after) = after {
            query
                .push(" AND (s.started_at, s.job_id, s.attempt) > (")
                .push_bind(after.started_at)
                .push(", ")
                .push_bind(after.job_id)
                .push(", ")
                .push_bind(i64::from(after.attempt))
                .push(")");
        }
        query
            .push(" ORDER BY s.started_at, s.job_id, s.attempt LIMIT ")
            .push_bind(i64::from(limit));
        let rows = query
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        rows.iter()
            .map(ledger_row)
            .collect::<Result<_, sqlx::Error>>()
            .map_err(|e| self.judge(e))
    }

    /// How submissions ended and what they cost, by outcome.
    pub async fn spend(&self, of: Posts<'_>) -> Result<Vec<SpendRow>, StoreError> {
        let mut query = QueryBuilder::<Sqlite>::new(format!(
            "SELECT outcome, count(*), coalesce(sum(iif(outcome IN {COUNTED}, cost, 0)), 0) FROM submissions WHERE "
        ));
        match of {
            Posts::Since(at) => query.push("started_at >= ").push_bind(at),
            Posts::Batch(name) => query.push("batch = ").push_bind(name.to_owned()),
        };
        let rows: Vec<(String, i64, i64)> = query
            .push(" GROUP BY outcome")
            .build_query_as()
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        let read = |(outcome, count, cost): (String, i64, i64)| {
            Some(SpendRow {
                outcome: outcome.parse().ok()?,
                count: count.unsigned_abs(),
                cost: Money::from_micros(cost),
            })
        };
        Ok(rows.into_iter().filter_map(read).collect())
    }

    /// What was paid or may have been, ever, by one batch or by all that the ledger holds.
    pub async fn cost_of(&self, batch: Option<&str>) -> Result<Money, StoreError> {
        let sql = match batch {
            Some(_) => format!("SELECT {}", spent_by("?1")),
            None => format!(
                "SELECT coalesce(sum(cost), 0) FROM submissions WHERE ?1 IS NULL AND outcome IN {COUNTED}"
            ),
        };
        sqlx::query_scalar(AssertSqlSafe(sql))
            .bind(batch)
            .fetch_one(&self.readers)
            .await
            .map(Money::from_micros)
            .map_err(|e| self.judge(e))
    }

    /// The batches whose cost is capped, by name.
    pub async fn caps(&self) -> Result<Vec<Cap>, StoreError> {
        let sql = format!(
            "SELECT name, max_cost, {} FROM batches WHERE max_cost IS NOT NULL ORDER BY name",
            spent_by("batches.name")
        );
        let rows: Vec<(String, i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(rows
            .into_iter()
            .map(|(batch, max_cost, spent)| Cap {
                batch,
                max_cost: Money::from_micros(max_cost),
                spent: Money::from_micros(spent),
            })
            .collect())
    }

    /// Where the tasks that still run belong, with their number.
    pub async fn endpoints(&self) -> Result<Vec<(String, u64)>, StoreError> {
        // The words of the partial indexes; one condition over both states would not use them.
        let rows: Vec<(String, i64)> = sqlx::query_as(
            "SELECT endpoint, count(*) FROM (\
             SELECT endpoint FROM jobs WHERE state = 'generating' \
             UNION ALL SELECT endpoint FROM jobs WHERE state = 'downloading') GROUP BY endpoint",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.judge(e))?;
        Ok(rows
            .into_iter()
            .map(|(endpoint, count)| (endpoint, count.unsigned_abs()))
            .collect())
    }
}

fn ledger_row(row: &SqliteRow) -> Result<LedgerRow, sqlx::Error> {
    Ok(LedgerRow {
        job_id: row.try_get(0)?,
        key: row.try_get(1)?,
        batch: row.try_get(2)?,
        attempt: row.try_get::<i64, _>(3)? as u32,
        started_at: row.try_get(4)?,
        finished_at: row.try_get(5)?,
        outcome: row
            .try_get::<String, _>(6)?
            .parse()
            .map_err(|error: String| sqlx::Error::Decode(error.into()))?,
        cost: Money::from_micros(row.try_get(7)?),
        http_status: row.try_get::<Option<i64>, _>(8)?.map(|s| s as u16),
        task_id: row.try_get(9)?,
        error: row.try_get(10)?,
        request_id: row.try_get(11)?,
        answer: row.try_get(12)?,
        resolution: row.try_get(13)?,
        endpoint: row.try_get(14)?,
        state: row.try_get(15)?,
    })
}
