//! What the daemon does with the queue: look, claim, commit.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::row::{self, COLUMNS, Corrupt};
use super::{Store, StoreError, begin};
use crate::budget::Spent;
use crate::job::{FailureCode, Job, JobId, Millis, State};
use crate::money::Money;
use crate::step::{Illegal, LedgerLine, Transition};

/// Waiting jobs whose time has come are made ready in portions of this size.
const RIPEN: i64 = 1_000;

/// A job that its batch's cap holds back is looked at again after so long.
const BATCH_CAP_PAUSE: Millis = 10 * 60_000;

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
}

/// What a claim took.
#[derive(Debug, Default)]
pub struct Claimed {
    /// The jobs whose intent is committed; each is to be POSTed once.
    pub jobs: Vec<Job>,
    /// Why the first job that was not taken had to wait, in words, if a cap held it.
    pub held: Option<String>,
    /// Rows that could not be read, set aside as failed.
    pub corrupt: Vec<(JobId, String)>,
}

/// A decision about one candidate of a claim.
#[derive(Debug)]
pub enum Admission {
    /// Take it.
    Take(Box<Transition>),
    /// The cap of the whole queue is reached: take nothing more.
    Stop(String),
    /// The cap of its batch is reached: look at it later, go on with others.
    Later(String),
}

/// How one transition of a commit fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is on disk.
    Written,
    /// The row had moved on; nothing of it was written.
    Fenced,
}

/// What a person's command did to one job.
#[derive(Debug)]
pub enum Edited {
    /// The job as it is now.
    Changed(Box<Job>),
    /// The command leaves it as it is.
    Kept(Box<Job>),
    /// It does not take the command in its state.
    Refused(Illegal),
    /// There is no such job.
    Missing(JobId),
}

/// Between what times a start leaves the appointments.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// The earliest time to ask a completed task anew.
    pub ask: Millis,
    /// The latest end of a back-off.
    pub backoff: Millis,
    /// When a task is given up.
    pub deadline: Millis,
    /// When a completed task without a usable video is given up.
    pub grace: Millis,
}

/// Whether there are jobs that are not settled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moving {
    /// Not submitted yet.
    pub pending: bool,
    /// Submitting, generating or downloading.
    pub under_way: bool,
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

    /// Writes transitions in one transaction, each only if its row is as it was judged.
    pub async fn commit(&self, transitions: &[Transition]) -> Result<Vec<Committed>, StoreError> {
        if transitions.is_empty() {
            return Ok(Vec::new());
        }
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            let mut verdicts = Vec::with_capacity(transitions.len());
            for transition in transitions {
                verdicts.push(if row::write(&mut tx, transition).await? {
                    Committed::Written
                } else {
                    Committed::Fenced
                });
            }
            tx.commit().await?;
            Ok(verdicts)
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// A person's command on some jobs: each row is read, judged and written in
    /// one transaction, so no daemon comes between. `judge` gives the job's next
    /// row, or `None` where it is to stay as it is. A task that is one job's
    /// already is not adopted by another.
    pub async fn edit<T: Into<Option<Transition>>>(
        &self,
        ids: &[JobId],
        mut judge: impl FnMut(&Job) -> Result<T, Illegal>,
    ) -> Result<Vec<Edited>, StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            let mut edited = Vec::with_capacity(ids.len());
            for id in ids {
                let sql = format!("SELECT {COLUMNS} FROM jobs WHERE id = ?");
                let found = sqlx::query(AssertSqlSafe(sql))
                    .bind(id)
                    .fetch_optional(&mut *tx)
                    .await?;
                let Some(found) = found else {
                    edited.push(Edited::Missing(*id));
                    continue;
                };
                edited.push(match row::job(&found) {
                    Err(corrupt) => Edited::Refused(Illegal {
                        id: *id,
                        state: State::Failed,
                        reason: format!("its row cannot be read: {}", corrupt.reason),
                    }),
                    Ok(job) => match judge(&job).map(Into::into) {
                        Err(illegal) => Edited::Refused(illegal),
                        Ok(None) => Edited::Kept(Box::new(job)),
                        Ok(Some(transition)) => match owner(&mut tx, &transition).await? {
                            Some(illegal) => Edited::Refused(illegal),
                            None => {
                                row::write(&mut tx, &transition).await?;
                                Edited::Changed(Box::new(transition.job))
                            }
                        },
                    },
                });
            }
            tx.commit().await?;
            Ok(edited)
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// The ids of every job in a state, oldest first. For the states that hold few.
    pub async fn ids_in(&self, state: State) -> Result<Vec<JobId>, StoreError> {
        // The words of the partial indexes; a bound parameter would not use them.
        let sql = match state {
            State::Submitting => "SELECT id FROM jobs WHERE state = 'submitting' ORDER BY id",
            // `+`: sorted afterwards; the order of the whole table would be taken instead.
            State::Generating => "SELECT id FROM jobs WHERE state = 'generating' ORDER BY +id",
            State::Unconfirmed => "SELECT id FROM jobs WHERE state = 'unconfirmed' ORDER BY id",
            State::Downloading => {
                "SELECT id FROM jobs WHERE state = 'downloading' ORDER BY due_at, id"
            }
            other => return self.ids_by_word(other).await,
        };
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(sql)
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    async fn ids_by_word(&self, state: State) -> Result<Vec<JobId>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar("SELECT id FROM jobs WHERE state = ? ORDER BY id")
            .bind(state.as_str())
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// The jobs of a list of ids that are in a state. A row that cannot be read
    /// is set aside: it fails with the reason, and the rest goes on.
    pub async fn load(&self, ids: &[JobId], state: State) -> Result<Vec<Job>, StoreError> {
        let mut jobs = Vec::with_capacity(ids.len());
        if ids.is_empty() {
            return Ok(jobs);
        }
        let mut writer = self.writer.lock().await;
        let list = serde_json::Value::from(ids.to_vec()).to_string();
        let sql = format!(
            "SELECT {COLUMNS} FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND state = ?"
        );
        let rows = sqlx::query(AssertSqlSafe(sql))
            .bind(list)
            .bind(state.as_str())
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        for found in &rows {
            match row::job(found) {
                Ok(job) => jobs.push(job),
                Err(corrupt) => set_aside(&mut writer, &corrupt)
                    .await
                    .map_err(|e| self.judge(e))?,
            }
        }
        Ok(jobs)
    }

    /// Videos that are to be fetched now, longest waiting first, leaving out those in hand.
    pub async fn due_downloads(
        &self,
        now: Millis,
        limit: usize,
        in_hand: &[JobId],
        endpoint: &str,
    ) -> Result<Vec<Job>, StoreError> {
        let mut ids: Vec<JobId> = Vec::new();
        // Two looks: one with OR would walk over every video that is not due yet.
        for due in ["due_at IS NULL", "due_at <= ?1"] {
            let wanted = (limit + in_hand.len()).saturating_sub(ids.len());
            let sql = format!(
                "SELECT id FROM jobs WHERE state = 'downloading' AND {due} AND endpoint = ?3 \
                 ORDER BY due_at LIMIT ?2"
            );
            let mut writer = self.writer.lock().await;
            let found: Vec<JobId> = sqlx::query_scalar(AssertSqlSafe(sql))
                .bind(now)
                .bind(wanted as i64)
                .bind(endpoint)
                .fetch_all(&mut *writer)
                .await
                .map_err(|e| self.judge(e))?;
            ids.extend(found);
        }
        let ids: Vec<JobId> = ids
            .into_iter()
            .filter(|id| !in_hand.contains(id))
            .take(limit)
            .collect();
        self.load(&ids, State::Downloading).await
    }

    /// The earliest time after `now` at which a waiting job or a download becomes due.
    pub async fn next_due(&self, now: Millis) -> Result<Option<Millis>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(
            "SELECT min(due_at) FROM ( \
             SELECT * FROM (SELECT due_at FROM jobs WHERE state = 'pending' AND due_at IS NOT NULL AND due_at > ?1 \
                            ORDER BY due_at LIMIT 1) \
             UNION ALL \
             SELECT * FROM (SELECT due_at FROM jobs WHERE state = 'downloading' AND due_at > ?1 \
                            ORDER BY due_at LIMIT 1))",
        )
        .bind(now)
        .fetch_one(&mut *writer)
        .await
        .map_err(|e| self.judge(e))
    }

    /// Whether another job has reserved this path.
    pub async fn is_target_taken(&self, target: &str) -> Result<bool, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar("SELECT EXISTS (SELECT 1 FROM jobs WHERE target = ?)")
            .bind(target)
            .fetch_one(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Jobs that ended without a video, with the paths that are still reserved for one.
    pub async fn leftovers(&self) -> Result<Vec<(JobId, String)>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_as(
            "SELECT id, target FROM jobs \
             WHERE state IN ('failed', 'cancelled') AND target IS NOT NULL \
             AND (state = 'cancelled' OR error_code <> 'video_unavailable') LIMIT 1000",
        )
        .fetch_all(&mut *writer)
        .await
        .map_err(|e| self.judge(e))
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

    /// Whether jobs could still move by themselves, with tasks of one endpoint.
    /// What a batch's cap holds back waits for a person.
    pub async fn moving(&self, endpoint: &str) -> Result<Moving, StoreError> {
        let mut writer = self.writer.lock().await;
        let (pending, under_way): (bool, bool) = sqlx::query_as(
            "SELECT EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NULL) \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'pending' AND due_at IS NOT NULL \
                        AND NOT (faults = 0 AND note IS NOT NULL)), \
             EXISTS (SELECT 1 FROM jobs WHERE state = 'submitting') \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'generating' AND endpoint = ?1) \
             OR EXISTS (SELECT 1 FROM jobs WHERE state = 'downloading' AND endpoint = ?1)",
        )
        .bind(endpoint)
        .fetch_one(&mut *writer)
        .await
        .map_err(|e| self.judge(e))?;
        Ok(Moving { pending, under_way })
    }

    /// When the POSTs between two times were begun, oldest first; feeds the rate
    /// limit after a start. A clock that was set back leaves POSTs in the future,
    /// which must not count until it has caught up with them.
    pub async fn recent_starts(
        &self,
        since: Millis,
        now: Millis,
    ) -> Result<Vec<Millis>, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar(
            "SELECT started_at FROM submissions WHERE started_at > ? AND started_at <= ? ORDER BY started_at",
        )
        .bind(since)
        .bind(now)
        .fetch_all(&mut *writer)
        .await
        .map_err(|e| self.judge(e))
    }

    /// Moves reelq's own appointments when the wall clock jumped by `delta`, so
    /// that no pause becomes a day and no deadline passes early. A producer's
    /// `not_before` stays. The version rises: what is in hand was judged by the
    /// old appointments, and its late answer would write them back.
    pub async fn shift_appointments(&self, delta: Millis) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            // One statement a state: each has its own index.
            for rows in [
                "state = 'generating'",
                "state = 'downloading'",
                "state = 'pending' AND due_at IS NOT NULL AND faults > 0",
            ] {
                let sql = format!(
                    "UPDATE jobs SET version = version + 1, give_up_at = give_up_at + ?1, \
                     due_at = due_at + ?1 WHERE {rows}"
                );
                sqlx::query(AssertSqlSafe(sql))
                    .bind(delta)
                    .execute(&mut *tx)
                    .await?;
            }
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }

    /// After a start, when the clock may have been set back: no appointment lies
    /// further ahead than reelq ever makes one. And a download that has to ask
    /// its task anew does not ask sooner than a poll would.
    pub async fn clamp_appointments(&self, bounds: &Bounds) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            for (column, rows, latest) in [
                ("due_at", "state = 'downloading'", bounds.backoff),
                (
                    "due_at",
                    "state = 'pending' AND due_at IS NOT NULL AND faults > 0 AND coalesce(not_before, 0) < due_at",
                    bounds.backoff,
                ),
                ("give_up_at", "state = 'generating'", bounds.deadline),
                ("give_up_at", "state = 'downloading'", bounds.grace),
            ] {
                let sql = format!("UPDATE jobs SET {column} = ?1 WHERE {rows} AND {column} > ?1");
                sqlx::query(AssertSqlSafe(sql))
                    .bind(latest)
                    .execute(&mut *tx)
                    .await?;
            }
            sqlx::query(
                "UPDATE jobs SET due_at = ?1 WHERE state = 'downloading' AND faults > 0 \
                 AND coalesce(due_at, 0) < ?1",
            )
            .bind(bounds.ask)
            .execute(&mut *tx)
            .await?;
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }
}

/// Why a task cannot be adopted: another job has or had it. Looks at every row.
async fn owner(
    conn: &mut SqliteConnection,
    transition: &Transition,
) -> Result<Option<Illegal>, sqlx::Error> {
    let Some(LedgerLine::Resolve {
        task_id: Some(task_id),
        ..
    }) = &transition.ledger
    else {
        return Ok(None);
    };
    let id = transition.job.id;
    let other: Option<JobId> = sqlx::query_scalar(
        "SELECT id FROM jobs WHERE task_id = ?1 AND id <> ?2 \
         UNION SELECT job_id FROM submissions WHERE task_id = ?1 AND job_id <> ?2 LIMIT 1",
    )
    .bind(task_id)
    .bind(id)
    .fetch_optional(conn)
    .await?;
    Ok(other.map(|other| Illegal {
        id,
        state: transition.from,
        reason: format!("task {task_id} is job {other}'s already; see `reelq show {other}`"),
    }))
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

/// Tasks that are at the provider, or may be in a moment. Those of another base
/// URL or key take no room.
async fn tasks(conn: &mut SqliteConnection, endpoint: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "SELECT (SELECT count(*) FROM jobs WHERE state = 'submitting') \
         + (SELECT count(*) FROM jobs WHERE state = 'generating' AND endpoint = ?)",
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
    sqlx::query(
        "UPDATE jobs SET due_at = NULL WHERE id IN (SELECT id FROM jobs \
         WHERE state = 'pending' AND due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?)",
    )
    .bind(claim.now)
    .bind(RIPEN)
    .execute(&mut *tx)
    .await?;

    let room = i64::from(claim.max_tasks) - tasks(tx, &claim.endpoint).await?;
    let limit = room.min(i64::from(claim.limit));
    let sql = format!(
        "SELECT {COLUMNS} FROM jobs WHERE state = 'pending' AND due_at IS NULL \
         ORDER BY priority DESC, id LIMIT 1"
    );
    // What is set aside or put off is bounded, so that one claim stays short.
    let mut passed_over = 0;
    while (claimed.jobs.len() as i64) < limit && passed_over < RIPEN {
        let Some(found) = sqlx::query(AssertSqlSafe(sql.as_str()))
            .fetch_optional(&mut *tx)
            .await?
        else {
            break;
        };
        let job = match row::job(&found) {
            Ok(job) => job,
            Err(corrupt) => {
                set_aside(tx, &corrupt).await?;
                claimed.corrupt.push((corrupt.id, corrupt.reason));
                passed_over += 1;
                continue;
            }
        };
        let spent = spent(tx, claim.day_start, &job.spec.batch).await?;
        match admit(&job, &spent) {
            Admission::Take(transition) => {
                // Just read in this transaction: the fence cannot miss.
                row::write(tx, &transition).await?;
                claimed.jobs.push(transition.job);
            }
            Admission::Stop(reason) => {
                claimed.held = Some(reason);
                break;
            }
            Admission::Later(reason) => {
                // No faults, but a note: that tells it from a back-off.
                sqlx::query("UPDATE jobs SET due_at = ?, note = ?, faults = 0 WHERE id = ?")
                    .bind(claim.now + BATCH_CAP_PAUSE)
                    .bind(reason)
                    .bind(job.id)
                    .execute(&mut *tx)
                    .await?;
                passed_over += 1;
            }
        }
    }
    Ok(claimed)
}

/// What was paid or may have been: today by everyone, and ever by one batch.
async fn spent(
    conn: &mut SqliteConnection,
    day_start: Millis,
    batch: &str,
) -> Result<Spent, sqlx::Error> {
    let today = sqlx::query(
        "SELECT count(*), coalesce(sum(cost), 0) FROM submissions \
         WHERE started_at >= ? AND outcome IN ('in_flight', 'accepted', 'unknown')",
    )
    .bind(day_start)
    .fetch_one(&mut *conn)
    .await?;
    let cap: Option<i64> = sqlx::query_scalar("SELECT max_cost FROM batches WHERE name = ?")
        .bind(batch)
        .fetch_optional(&mut *conn)
        .await?
        .flatten();
    let by_batch: i64 = match cap {
        None => 0,
        Some(_) => {
            sqlx::query_scalar(
                "SELECT coalesce(sum(cost), 0) FROM submissions \
                 WHERE batch = ? AND outcome IN ('in_flight', 'accepted', 'unknown')",
            )
            .bind(batch)
            .fetch_one(&mut *conn)
            .await?
        }
    };
    Ok(Spent {
        jobs_today: today.try_get::<i64, _>(0)?.unsigned_abs(),
        cost_today: Money::from_micros(today.try_get(1)?),
        batch_cap: cap.map(Money::from_micros),
        cost_of_batch: Money::from_micros(by_batch),
    })
}

/// A row that cannot be read fails by itself; the others go on. If its POST was
/// on the wire, it may have been charged, and the ledger and the job say so.
async fn set_aside(conn: &mut SqliteConnection, corrupt: &Corrupt) -> Result<(), sqlx::Error> {
    let reason = format!("the row cannot be read: {}", corrupt.reason);
    tracing::error!(job = corrupt.id, %reason, "this row is set aside");
    let now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";
    let mut tx = conn.begin().await?;
    let sql = format!(
        "UPDATE jobs SET state = iif(state = 'submitting', 'unconfirmed', 'failed'), version = version + 1, \
         error_code = ?, error_message = ?, due_at = NULL, \
         finished_at = iif(state = 'submitting', NULL, {now}) WHERE id = ? RETURNING state"
    );
    let state: String = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(FailureCode::CorruptRow.as_str())
        .bind(&reason)
        .bind(corrupt.id)
        .fetch_one(&mut *tx)
        .await?;
    let sql = format!(
        "UPDATE submissions SET outcome = 'unknown', finished_at = {now}, error = ? \
         WHERE job_id = ? AND outcome = 'in_flight'"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(&reason)
        .bind(corrupt.id)
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "INSERT INTO events (job_id, at, event, state, detail) VALUES (?, {now}, 'set_aside', ?, ?)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(corrupt.id)
        .bind(state)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}
