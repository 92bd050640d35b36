//! What the daemon does with the queue: look, claim, commit.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, Row};

use super::row::{self, COLUMNS};
use super::{COUNTED, Store, StoreError, begin};
use crate::budget::{Scope, Spent};
use crate::job::{FailureCode, Job, JobId, Millis, State};
use crate::money::Money;
use crate::step::{Illegal, LedgerLine, Transition};

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

/// How one transition of a commit fared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Committed {
    /// It is on disk.
    Written,
    /// The row had moved on; nothing of it was written.
    Fenced,
    /// The row breaks a rule of the table, so that it cannot be written: it was set aside.
    SetAside,
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
        let done = match write_all(&mut writer, transitions, false).await {
            // One row that somebody has spoilt must not keep the others' answers off the disk.
            Err(error) if is_rule(&error) => write_all(&mut writer, transitions, true).await,
            done => done,
        };
        done.map_err(|e| self.judge(e))
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
                        reason: corrupt.to_string(),
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
                Err(corrupt) => set_aside(&mut writer, corrupt.id, &corrupt.to_string())
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
             WHERE state IN ('failed', 'cancelled') AND target IS NOT NULL LIMIT 1000",
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
        "SELECT max_cost, forgotten + (SELECT coalesce(sum(cost), 0) FROM submissions \
         WHERE batch = name AND outcome IN {COUNTED}) \
         FROM batches WHERE name = ? AND max_cost IS NOT NULL"
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

async fn write_all(
    writer: &mut SqliteConnection,
    transitions: &[Transition],
    careful: bool,
) -> Result<Vec<Committed>, sqlx::Error> {
    let mut tx = begin(writer).await?;
    let mut verdicts = Vec::with_capacity(transitions.len());
    for transition in transitions {
        verdicts.push(match careful {
            true => write_or_set_aside(&mut tx, transition).await?,
            false => committed(row::write(&mut tx, transition).await?),
        });
    }
    tx.commit().await?;
    Ok(verdicts)
}

fn committed(written: bool) -> Committed {
    match written {
        true => Committed::Written,
        false => Committed::Fenced,
    }
}

/// Within a transaction: a row whose next form breaks a rule of the table is set
/// aside, and the transaction goes on.
async fn write_or_set_aside(
    conn: &mut SqliteConnection,
    transition: &Transition,
) -> Result<Committed, sqlx::Error> {
    let mut point = conn.begin().await?;
    let broken = match row::write(&mut point, transition).await {
        Ok(written) => {
            point.commit().await?;
            return Ok(committed(written));
        }
        Err(error) if is_rule(&error) => error,
        Err(error) => return Err(error),
    };
    point.rollback().await?;
    let job = &transition.job;
    let task = job.task_id.as_deref().unwrap_or("none");
    let reason = format!(
        "the row cannot be written: {broken}; it was to become {} (task {task})",
        job.state
    );
    set_aside(conn, job.id, &reason).await?;
    Ok(Committed::SetAside)
}

/// SQLite's class for a broken rule of the table.
fn is_rule(error: &sqlx::Error) -> bool {
    super::code(error) & 0xff == 19
}

/// A row that cannot be read or written fails by itself; the others go on. If its
/// POST was on the wire, it may have been charged, and the ledger and the job say so.
async fn set_aside(
    conn: &mut SqliteConnection,
    id: JobId,
    reason: &str,
) -> Result<(), sqlx::Error> {
    tracing::error!(job = id, reason, "this row is set aside");
    let now = "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)";
    let mut tx = conn.begin().await?;
    let sql = format!(
        "UPDATE jobs SET state = iif(state = 'submitting', 'unconfirmed', 'failed'), version = version + 1, \
         error_code = ?, error_message = ?, due_at = NULL, \
         submitted_at = coalesce(submitted_at, {now}), endpoint = coalesce(endpoint, ''), \
         finished_at = iif(state = 'submitting', NULL, {now}) WHERE id = ? RETURNING state"
    );
    let state: String = sqlx::query_scalar(AssertSqlSafe(sql))
        .bind(FailureCode::CorruptRow.as_str())
        .bind(reason)
        .bind(id)
        .fetch_one(&mut *tx)
        .await?;
    let sql = format!(
        "UPDATE submissions SET outcome = 'unknown', finished_at = {now}, error = ? \
         WHERE job_id = ? AND outcome = 'in_flight'"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(reason)
        .bind(id)
        .execute(&mut *tx)
        .await?;
    let sql = format!(
        "INSERT INTO events (job_id, at, event, state, detail) VALUES (?, {now}, 'set_aside', ?, ?)"
    );
    sqlx::query(AssertSqlSafe(sql))
        .bind(id)
        .bind(state)
        .bind(reason)
        .execute(&mut *tx)
        .await?;
    tx.commit().await
}
