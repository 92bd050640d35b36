//! reelq's own appointments, when the wall clock is set.

use sqlx::AssertSqlSafe;

use super::{Store, StoreError, begin};
use crate::job::Millis;

/// A waiting job whose time is reelq's own, not its producer's: a back-off has
/// faults, what a cap holds has a note.
const OWN_WAIT: &str = "state = 'pending' AND due_at IS NOT NULL AND (faults > 0 OR note IS NOT NULL) \
                        AND due_at IS NOT not_before";

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

impl Store {
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

    /// After a start, when the clock may have been set back: no appointment lies further ahead
    /// than a back-off may, so that none is a day late; to look sooner costs nothing. And a download that has to ask
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
