//! What was judged goes to disk, each row only if it is as it was judged.

use sqlx::sqlite::SqliteConnection;

use super::aside::write_or_set_aside;
use super::row;
use super::{Store, StoreError, begin};
use crate::step::Transition;

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

pub(super) fn committed(written: bool) -> Committed {
    match written {
        true => Committed::Written,
        false => Committed::Fenced,
    }
}

/// SQLite's class for a broken rule of the table.
pub(super) fn is_rule(error: &sqlx::Error) -> bool {
    super::code(error) & 0xff == 19
}
