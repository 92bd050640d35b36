//! What people ask of the queue. Short reads on their own connections, so that
//! the log never has to wait for one.

use serde::Serialize;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, QueryBuilder, Row, Sqlite};

use super::row::{self, COLUMNS};
use super::{COUNTED, Store, StoreError, spent_by};
use crate::job::{Job, JobId, Millis, Outcome, State};
use crate::money::Money;

/// How many jobs are in each state, in the order of [`State::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts([u64; 8]);

impl Counts {
    /// In one state.
    pub fn of(&self, state: State) -> u64 {
        self.0[state as usize]
    }

    /// In all states.
    pub fn total(&self) -> u64 {
        self.0.iter().sum()
    }

    /// Final, or waiting for a person.
    pub fn settled(&self) -> u64 {
        self.sum_if(State::is_settled)
    }

    /// Every state with its count.
    pub fn iter(&self) -> impl Iterator<Item = (State, u64)> + '_ {
        State::ALL.into_iter().map(|state| (state, self.of(state)))
    }

    fn sum_if(&self, test: impl Fn(State) -> bool) -> u64 {
        self.iter().filter(|(s, _)| test(*s)).map(|(_, n)| n).sum()
    }

    pub(super) fn add(&mut self, state: &str, count: i64) {
        if let Ok(state) = state.parse::<State>() {
            self.0[state as usize] += count.unsigned_abs();
        }
    }
}

impl std::ops::AddAssign for Counts {
    fn add_assign(&mut self, other: Counts) {
        for (count, more) in self.0.iter_mut().zip(other.0) {
            *count += more;
        }
    }
}

/// A batch and its jobs.
#[derive(Clone, Debug)]
pub struct Batch {
    /// Its name.
    pub name: String,
    /// Its jobs by state.
    pub counts: Counts,
}

/// Which jobs a list or a command means.
#[derive(Clone, Debug, Default)]
pub struct Filter {
    /// Only this state.
    pub state: Option<State>,
    /// Only this batch.
    pub batch: Option<String>,
    /// Only the job with this key.
    pub key: Option<String>,
    /// Only ids above this one.
    pub after: Option<JobId>,
    /// Only ids below this one.
    pub before: Option<JobId>,
    /// Newest first.
    pub newest_first: bool,
    /// At most so many; `None`: all.
    pub limit: Option<u32>,
}

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
    /// Jobs by state, of one batch or of all.
    pub async fn counts(&self, batch: Option<&str>) -> Result<Counts, StoreError> {
        let rows: Vec<(String, i64)> = match batch {
            Some(batch) => {
                sqlx::query_as("SELECT state, count(*) FROM jobs WHERE batch = ? GROUP BY state")
                    .bind(batch)
                    .fetch_all(&self.readers)
                    .await
            }
            None => {
                sqlx::query_as("SELECT state, count(*) FROM jobs GROUP BY state")
                    .fetch_all(&self.readers)
                    .await
            }
        }
        .map_err(|e| self.judge(e))?;
        let mut counts = Counts::default();
        for (state, count) in rows {
            counts.add(&state, count);
        }
        Ok(counts)
    }

    /// Every batch with its jobs by state, newest batch first.
    pub async fn batches(&self) -> Result<Vec<Batch>, StoreError> {
        let rows: Vec<(Vec<u8>, String, i64, i64)> = sqlx::query_as(
            "SELECT CAST(batch AS BLOB), state, count(*), max(id) FROM jobs GROUP BY batch, state ORDER BY batch",
        )
        .fetch_all(&self.readers)
        .await
        .map_err(|e| self.judge(e))?;
        let mut batches: Vec<(i64, Batch)> = Vec::new();
        for (name, state, count, newest) in rows {
            // A foreign program may have stored what is no text.
            let name = String::from_utf8_lossy(&name).into_owned();
            if batches.last().is_none_or(|(_, batch)| batch.name != name) {
                let counts = Counts::default();
                batches.push((0, Batch { name, counts }));
            }
            if let Some((last, batch)) = batches.last_mut() {
                *last = (*last).max(newest);
                batch.counts.add(&state, count);
            }
        }
        batches.sort_by_key(|(newest, _)| std::cmp::Reverse(*newest));
        Ok(batches.into_iter().map(|(_, batch)| batch).collect())
    }

    /// The jobs that a filter means. Unreadable rows are left out.
    pub async fn list(&self, filter: &Filter) -> Result<Vec<Job>, StoreError> {
        let mut query = select(COLUMNS, filter);
        let rows = query
            .build()
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(rows
            .iter()
            .filter_map(|found| row::job(found).ok())
            .collect())
    }

    /// The ids of the jobs that a filter means.
    pub async fn list_ids(&self, filter: &Filter) -> Result<Vec<JobId>, StoreError> {
        select("id", filter)
            .build_query_scalar()
            .fetch_all(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// One job.
    pub async fn job(&self, id: JobId) -> Result<Option<Job>, StoreError> {
        let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?");
        let found = sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| self.judge(e))?;
        match found {
            None => Ok(None),
            Some(found) => row::job(&found)
                .map(Some)
                .map_err(|corrupt| StoreError::Other {
                    path: self.path.display().to_string(),
                    reason: format!("job {id} cannot be read: {}", corrupt.reason),
                }),
        }
    }

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

fn select(columns: &'static str, filter: &Filter) -> QueryBuilder<Sqlite> {
    let mut query = QueryBuilder::new("SELECT ");
    query.push(columns).push(" FROM jobs WHERE true");
    if let Some(state) = filter.state {
        query.push(" AND state = ").push_bind(state.as_str());
    }
    if let Some(batch) = &filter.batch {
        query.push(" AND batch = ").push_bind(batch.clone());
    }
    if let Some(key) = &filter.key {
        query.push(" AND key = ").push_bind(key.clone());
    }
    if let Some(after) = filter.after {
        query.push(" AND id > ").push_bind(after);
    }
    if let Some(before) = filter.before {
        query.push(" AND id < ").push_bind(before);
    }
    query.push(if filter.newest_first {
        " ORDER BY id DESC"
    } else {
        " ORDER BY id"
    });
    if let Some(limit) = filter.limit {
        query.push(" LIMIT ").push_bind(i64::from(limit));
    }
    query
}
