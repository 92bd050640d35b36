//! What the daemon does with the jobs that it has: look, commit, set aside.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::row::{self, COLUMNS};
use super::{Store, StoreError, begin};
use crate::job::{FailureCode, Job, JobId, Millis, State};
use crate::step::{Illegal, LedgerLine, Transition};

/// The note of a job that ended although its video is on disk, as SQL.
const KEPT: &str =
    "('its video is on disk: ' || target || '; `reelq retry` takes it up at no cost')";

/// A waiting job whose time is reelq's own, not its producer's: a back-off has
/// faults, what a cap holds has a note.
const OWN_WAIT: &str = "state = 'pending' AND due_at IS NOT NULL AND (faults > 0 OR note IS NOT NULL) \
                        AND due_at IS NOT not_before";

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
                Ok(job)
                    if job.task_id.is_none()
                        && matches!(state, State::Generating | State::Downloading) =>
                {
                    let reason = "the row has lost its task id; the ledger may hold it";
                    set_aside(&mut writer, job.id, reason)
                        .await
                        .map_err(|e| self.judge(e))?;
                }
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

    /// Jobs that ended without a video, with the paths that are still reserved for
    /// one; not those that say already what lies there.
    pub async fn leftovers(&self) -> Result<Vec<(JobId, String)>, StoreError> {
        let mut writer = self.writer.lock().await;
        let sql = format!(
            "SELECT id, target FROM jobs \
             WHERE state IN ('failed', 'cancelled') AND target IS NOT NULL \
             AND (state = 'cancelled' OR error_code <> 'video_unavailable') \
             AND note IS NOT {KEPT} LIMIT 1000"
        );
        sqlx::query_as(AssertSqlSafe(sql))
            .fetch_all(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// A whole video lies at the path that was reserved for a job without one. Its
    /// note says so, and so the row is no leftover any more.
    pub async fn keep_target(&self, id: JobId) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let sql = format!(
            "UPDATE jobs SET note = {KEPT} WHERE id = ? AND state IN ('failed', 'cancelled')"
        );
        sqlx::query(AssertSqlSafe(sql))
            .bind(id)
            .execute(&mut *writer)
            .await
            .map_err(|e| self.judge(e))?;
        Ok(())
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
            for rows in ["state = 'generating'", "state = 'downloading'", OWN_WAIT] {
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
                ("due_at", OWN_WAIT, bounds.backoff),
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
pub(super) async fn write_or_set_aside(
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
pub(super) async fn set_aside(
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
