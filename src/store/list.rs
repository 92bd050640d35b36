//! Jobs as people ask for them: counted, listed, one. Short reads on their own connections, so
//! that the log never has to wait for one.

use sqlx::{AssertSqlSafe, QueryBuilder, Sqlite};

use super::row::{self, COLUMNS};
use super::{Store, StoreError};
use crate::job::{Job, JobId, State};

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
