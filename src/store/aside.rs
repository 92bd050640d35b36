//! A row that cannot be read or written is set aside, and the rest goes on.

use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};

use super::commit::{Committed, committed, is_rule};
use super::row;
use crate::job::{FailureCode, JobId};
use crate::step::Transition;

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
