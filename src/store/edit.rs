//! A person's commands on jobs.

use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;

use super::row::{self, COLUMNS};
use super::{Store, StoreError, begin};
use crate::job::{Job, JobId, State};
use crate::step::{Illegal, LedgerLine, Transition};

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

impl Store {
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
