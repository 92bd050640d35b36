//! What may be submitted: the best jobs that are due, as far as limits and caps
//! let them, taken with their intent and their reservation.

use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Row};

use super::aside::{set_aside, write_or_set_aside};
use super::commit::Committed;
use super::row::{self, COLUMNS};
use super::{COUNTED, Store, StoreError, begin, spent_by};
use crate::budget::{Scope, Spent};
use crate::job::{Job, JobId, Millis};
use crate::money::Money;
use crate::step::Transition;

/// Waiting jobs whose time has come are made ready in portions of this size.
const RIPEN: i64 = 1_000;

/// A job that a cap holds back is looked at again after so long.
const CAP_PAUSE: Millis = 10 * 60_000;

/// What a claim may take.
#[derive(Clone, Debug)]
pub struct Claim {
    /// At most so many jobs.
    pub limit: u32,
    /// At most so many tasks at this endpoint, counting those that are there.
    pub max_tasks: u32,
    /// Where the POSTs go. Tasks of another base URL or key take no room here.
    pub endpoint: String,
    /// The time.
    pub now: Millis,
    /// When the calendar day of the budget began.
    pub day_start: Millis,
    /// The gate is closed, and one job is to be tried.
    pub trial: Option<Trial>,
}

/// Which job is tried at a closed gate. None that failed before, if there is another: what closed
/// the gate may be the fault of some jobs alone, and would keep it closed if only they were tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trial {
    /// The first in the order of the queue.
    First,
    /// Any of the most urgent or, every other time, the last of the queue; by any number.
    Any(u64),
}

/// What a claim took.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs whose intent is committed; each is to be POSTed once.
    pub jobs: Vec<Job>,
    /// Why the first job that was not taken had to wait, in words, if a cap held it.
    pub held: Option<String>,
    /// It ended before it had looked at everything that is due.
    pub more: bool,
}

/// A decision about one candidate of a claim.
#[derive(Debug)]
pub enum Admission {
    /// Take it.
    Take(Box<Transition>),
    /// The cap of the whole queue is reached: take nothing more.
    Stop(String),
    /// A cap holds it and all that cost as much: look at them later, go on with others.
    Later(Scope, String),
}

impl Store {
    /// Takes the best jobs that are due and commits the intent to POST each,
    /// with its reservation, in one transaction. `admit` judges one candidate
    /// by what has been spent so far: today, and by its batch.
    pub async fn claim(
        &self,
        claim: &Claim,
        mut admit: impl FnMut(&Job, &Spent) -> Admission,
    ) -> Result<Claimed, StoreError> {
        let mut writer = self.writer.lock().await;
        // A look first: where nothing can be taken, no producer has to wait for the lock.
        if !something_due(&mut writer, claim)
            .await
            .map_err(|e| self.judge(e))?
        {
            return Ok(Claimed::default());
        }
        let result = async {
            let mut tx = begin(&mut writer).await?;
            let claimed = claim_in(&mut tx, claim, &mut admit).await?;
            tx.commit().await?;
            Ok(claimed)
        };
        result.await.map_err(|e| self.judge(e))
    }
}

async fn something_due(conn: &mut SqliteConnection, claim: &Claim) -> Result<bool, sqlx::Error> {
    let due: bool = sqlx::query_scalar(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NULL) \
         OR EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NOT NULL AND due_at <= ?)",
    )
    .bind(claim.now)
    .fetch_one(&mut *conn)
    .await?;
    Ok(due && tasks(conn, &claim.endpoint).await? < i64::from(claim.max_tasks))
}

/// Tasks that are at the provider, or may be in a moment, and videos that have no place
/// to go: no more is paid for than that many of them. Those of another base URL or key take
/// no room.
async fn tasks(conn: &mut SqliteConnection, endpoint: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM jobs WHERE state = 'submitting') \
         + (SELECT count(*) FROM jobs WHERE state = 'generating' AND endpoint = ?1) \
         + (SELECT count(*) FROM jobs WHERE state = 'downloading' AND target IS NULL AND endpoint = ?1)",
    )
    .bind(endpoint)
    .fetch_one(conn)
    .await
}

async fn claim_in(
    tx: &mut SqliteConnection,
    claim: &Claim,
    admit: &mut impl FnMut(&Job, &Spent) -> Admission,
) -> Result<Claimed, sqlx::Error> {
    let mut claimed = Claimed::default();
    // Under the lock: once a pause is answered, nothing more is submitted.
    let paused = "SELECT EXISTS (SELECT 1 FROM facts WHERE name = 'paused')";
    if sqlx::query_scalar(paused).fetch_one(&mut *tx).await? {
        return Ok(claimed);
    }
    let ripened = sqlx::query(
        "UPDATE jobs SET due_at = NULL WHERE id IN (SELECT id FROM jobs \
         WHERE state = 'pending' AND due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?)",
    )
    .bind(claim.now)
    .bind(RIPEN)
    .execute(&mut *tx)
    .await?
    .rows_affected() as i64;

    let room = i64::from(claim.max_tasks) - tasks(tx, &claim.endpoint).await?;
    let limit = room.min(i64::from(claim.limit));
    // What is set aside or put off is bounded, so that one claim stays short.
    let mut passed_over = 0;
    while (claimed.jobs.len() as i64) < limit && passed_over < RIPEN {
        let found = match claim.trial {
            Some(trial) => for_trial(tx, trial).await?,
            None => best(tx, "").await?,
        };
        let Some(found) = found else {
            break;
        };
        let job = match row::job(&found) {
            // Somebody has got round the table's rules: nothing is paid for what they refuse.
            Ok(job) if !job.spec.faults().is_empty() => {
                let faults: Vec<String> =
                    job.spec.faults().iter().map(ToString::to_string).collect();
                set_aside(tx, job.id, &faults.join("; ")).await?;
                passed_over += 1;
                continue;
            }
            Ok(job) => job,
            Err(corrupt) => {
                set_aside(tx, corrupt.id, &corrupt.to_string()).await?;
                passed_over += 1;
                continue;
            }
        };
        let spent = spent(tx, claim.day_start, &job.spec.batch).await?;
        match admit(&job, &spent) {
            Admission::Take(transition) => {
                // Just read in this transaction: the fence cannot miss.
                match write_or_set_aside(tx, &transition).await? {
                    Committed::Written => claimed.jobs.push(transition.job),
                    _ => passed_over += 1,
                }
            }
            Admission::Stop(reason) => {
                claimed.held = Some(reason);
                break;
            }
            Admission::Later(scope, reason) => {
                passed_over += put_off(tx, claim.now, &job, scope, &reason).await?;
            }
        }
    }
    claimed.more = passed_over.max(ripened) >= RIPEN;
    Ok(claimed)
}

/// The first in the order of the queue.
async fn best(tx: &mut SqliteConnection, which: &str) -> Result<Option<SqliteRow>, sqlx::Error> {
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE state = 'pending' AND due_at IS NULL {which} \
         ORDER BY priority DESC, id LIMIT 1"
    );
    sqlx::query(AssertSqlSafe(sql)).fetch_optional(tx).await
}

async fn for_trial(
    tx: &mut SqliteConnection,
    trial: Trial,
) -> Result<Option<SqliteRow>, sqlx::Error> {
    const FRESH: &str = "state = 'pending' AND due_at IS NULL AND faults = 0";
    let found = match trial {
        Trial::First => None,
        Trial::Any(number) if number.is_multiple_of(2) => {
            let sql = format!(
                "SELECT {COLUMNS} FROM jobs WHERE {FRESH} ORDER BY priority, id DESC LIMIT 1"
            );
            sqlx::query(AssertSqlSafe(sql))
                .fetch_optional(&mut *tx)
                .await?
        }
        Trial::Any(number) => {
            let ends: Option<(i64, JobId, JobId)> = sqlx::query_as(
                "SELECT priority, id, (SELECT id FROM jobs WHERE state = 'pending' AND due_at IS NULL \
                                       AND priority = first.priority ORDER BY id DESC LIMIT 1) \
                 FROM jobs AS first WHERE state = 'pending' AND due_at IS NULL \
                 ORDER BY priority DESC, id LIMIT 1",
            )
            .fetch_optional(&mut *tx)
            .await?;
            let Some((priority, first, last)) = ends else {
                return Ok(None);
            };
            let from = first + (number / 2 % (last - first + 1).unsigned_abs()) as JobId;
            let sql = format!(
                "SELECT {COLUMNS} FROM jobs WHERE {FRESH} AND priority = ? AND id >= ? ORDER BY id LIMIT 1"
            );
            sqlx::query(AssertSqlSafe(sql))
                .bind(priority)
                .bind(from)
                .fetch_optional(&mut *tx)
                .await?
        }
    };
    match found {
        Some(found) => Ok(Some(found)),
        None => match best(tx, "AND faults = 0").await? {
            Some(found) => Ok(Some(found)),
            None => best(tx, "").await,
        },
    }
}

/// Puts a job off, and with it those that the same cap holds: of the same size
/// and at least as long. Bounded, so that one claim stays short. Returns how many.
async fn put_off(
    conn: &mut SqliteConnection,
    now: Millis,
    job: &Job,
    scope: Scope,
    reason: &str,
) -> Result<i64, sqlx::Error> {
    let batch = (scope == Scope::Batch).then_some(job.spec.batch.as_str());
    // No faults, but a note: that tells it from a back-off.
    let sql = "UPDATE jobs SET due_at = ?1, note = ?2, faults = 0 WHERE id IN ( \
               SELECT id FROM jobs WHERE state = 'pending' AND due_at IS NULL \
               AND size = ?3 AND duration >= ?4 AND (?5 IS NULL OR batch = ?5) LIMIT ?6)";
    let done = sqlx::query(sql)
        .bind(now + CAP_PAUSE)
        .bind(reason)
        .bind(job.spec.size.as_str())
        .bind(i64::from(job.spec.duration))
        .bind(batch)
        .bind(RIPEN)
        .execute(conn)
        .await?;
    Ok(done.rows_affected() as i64)
}

/// What was paid or may have been: today by everyone, and ever by one batch.
async fn spent(
    conn: &mut SqliteConnection,
    day_start: Millis,
    batch: &str,
) -> Result<Spent, sqlx::Error> {
    let sql = format!(
        "SELECT count(*), coalesce(sum(cost), 0) FROM submissions \
         WHERE started_at >= ? AND outcome IN {COUNTED}"
    );
    let today = sqlx::query(AssertSqlSafe(sql))
        .bind(day_start)
        .fetch_one(&mut *conn)
        .await?;
    let sql = format!(
        "SELECT max_cost, {} FROM batches WHERE name = ?1 AND max_cost IS NOT NULL",
        spent_by("?1")
    );
    let capped: Option<(i64, i64)> = sqlx::query_as(AssertSqlSafe(sql))
        .bind(batch)
        .fetch_optional(&mut *conn)
        .await?;
    let cap = capped.map(|(cap, _)| cap);
    let by_batch = capped.map_or(0, |(_, spent)| spent);
    Ok(Spent {
        jobs_today: today.try_get::<i64, _>(0)?.unsigned_abs(),
        cost_today: Money::from_micros(today.try_get(1)?),
        batch_cap: cap.map(Money::from_micros),
        cost_of_batch: Money::from_micros(by_batch),
    })
}
