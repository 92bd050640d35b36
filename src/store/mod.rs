//! All SQL. Each method is one transaction; no sqlx type leaves this room.
//!
//! One connection writes, so that a foreign commit is told from our own by
//! `PRAGMA data_version`; a few others read. `synchronous=FULL` holds on all.

mod appointments;
mod aside;
mod backup;
mod claim;
mod commit;
mod due;
mod edit;
mod facts;
mod history;
mod insert;
mod ledger;
mod list;
mod log;
mod outbox;
mod prune;
mod row;
mod targets;
mod videos;

use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{
    SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, Connection, Row, Sqlite, Transaction};
use tokio::sync::Mutex;

pub use appointments::Bounds;
pub use claim::{Admission, Claim, Claimed, Trial};
pub use commit::Committed;
pub use due::{Moving, Unplaced};
pub use edit::Edited;
pub use facts::GateRow;
pub use history::{Event, EventPage};
pub use insert::{Added, Insertion, There};
pub use ledger::{Cap, LedgerPlace, LedgerRow, Posts, SpendRow};
pub use list::{Batch, Counts, Filter};
pub use outbox::{Absorbed, Message};
pub use prune::Pruned;

/// SQLite's mark of a reelq database: "reel".
const APPLICATION_ID: i64 = 0x7265_656c;

/// The oldest SQLite that is safe with several connections in WAL mode: older
/// ones can lose commits when the log is reset.
const OLDEST_SQLITE: [u32; 3] = [3, 51, 3];

/// How long a statement waits for another process's write lock.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// The log file is cut back to this many bytes after a checkpoint.
const WAL_LIMIT: &str = "67108864";

/// The outcomes of submissions that were charged, or may have been.
const COUNTED: &str = "('in_flight', 'accepted', 'unknown')";

/// What a batch has cost or may have cost, with what was pruned. `batch`: its name, in SQL.
fn spent_by(batch: &str) -> String {
    format!(
        "(SELECT coalesce(sum(b.forgotten), 0) FROM batches b WHERE b.name = {batch}) \
         + (SELECT coalesce(sum(s.cost), 0) FROM submissions s WHERE s.batch = {batch} AND s.outcome IN {COUNTED})"
    )
}

/// The log and its index are made with the database's mode, and may outlive it.
const NOT_WRITABLE: &str = "the database cannot be written; check the owner and mode of the file, \
    of its -wal and -shm, and of its folder";

const NO_DATABASE: &str = "this is not an SQLite database; name another file with --database";

static MIGRATIONS: sqlx::migrate::Migrator = sqlx::migrate!("./migrations");

/// Why the database did not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Another process holds the write lock for long; try again.
    #[error("{path}: the database is locked by another process; find it with `fuser {path}`")]
    Busy {
        /// The database.
        path: String,
    },
    /// No room for the commit; nothing was changed.
    #[error("{path}: the disk is full, nothing was written; free some space")]
    Full {
        /// The database.
        path: String,
    },
    /// The disk did not confirm a write: what it holds is uncertain until a restart.
    #[error(
        "{path}: the disk failed to store a commit ({reason}); check the disk, then start reelq again"
    )]
    Sync {
        /// The database.
        path: String,
        /// SQLite's words.
        reason: String,
    },
    /// The file is not a queue of reelq, or not readable as one.
    #[error("{path}: {reason}")]
    Unusable {
        /// The database.
        path: String,
        /// What is wrong and what to do.
        reason: String,
    },
    /// A rule of the table refused a row.
    #[error("refused by the database: {0}")]
    Rule(String),
    /// Anything else.
    #[error("{path}: {reason}")]
    Other {
        /// The database.
        path: String,
        /// SQLite's words.
        reason: String,
    },
}

impl StoreError {
    /// Waiting may help; nothing was changed.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Busy { .. } | StoreError::Full { .. })
    }
}

/// Whether a missing database is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Open {
    /// Make it if it is not there.
    Create,
    /// It must be there.
    Existing,
}

/// The queue on disk.
pub struct Store {
    path: PathBuf,
    readers: SqlitePool,
    writer: Mutex<SqliteConnection>,
    queue_id: String,
}

impl Store {
    /// How long a write waits for another program's lock from now on: a second or so is enough for
    /// who tries again by itself, and has to hear signals in between.
    ///
    /// # Errors
    /// The store's.
    pub async fn set_patience(&self, wait: Duration) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        wait_for_locks(&mut writer, wait)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Opens the queue and brings its tables up to date.
    ///
    /// # Errors
    /// [`StoreError::Unusable`] for a file that is missing, foreign, unreadable,
    /// read-only, or written by a newer reelq.
    pub async fn open(path: &Path, open: Open) -> Result<Store, StoreError> {
        let unusable = |reason: String| StoreError::Unusable {
            path: path.display().to_string(),
            reason,
        };
        if open == Open::Existing && !path.exists() {
            return Err(unusable(
                "there is no queue here yet; `reelq add` makes one, `--database` names another"
                    .to_owned(),
            ));
        }
        if path.is_dir() {
            return Err(unusable(
                "this is a folder; name a file in it, such as reelq.db".to_owned(),
            ));
        }
        if let Some(folder) = path
            .parent()
            .filter(|p| !p.as_os_str().is_empty() && !p.is_dir())
        {
            return Err(unusable(format!(
                "the folder {} does not exist; make it first",
                folder.display()
            )));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(open == Open::Create)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .busy_timeout(BUSY_TIMEOUT)
            .pragma("journal_size_limit", WAL_LIMIT)
            .pragma("cache_size", "-65536")
            .pragma("trusted_schema", "OFF");

        // A foreign file must not be touched: look before WAL mode is switched on.
        let length = std::fs::metadata(path).map_or(0, |meta| meta.len());
        // SQLite takes a single byte for nothing, and would write over it.
        if length == 1 {
            return Err(unusable(NO_DATABASE.to_owned()));
        }
        if length > 0 {
            let look = SqliteConnectOptions::new().filename(path);
            let verdict = match recognise(look.clone().read_only(true)).await {
                // A crash in the middle of a commit: only a writer may mend it, as any
                // program that opens the file would.
                Err(error) if is_read_only(&error) => recognise(look).await,
                other => other,
            };
            verdict.map_err(|e| judge(path, e))?.map_err(unusable)?;
        }
        let mut writer = SqliteConnection::connect_with(&options)
            .await
            .map_err(|e| judge(path, e))?;
        check_version(&mut writer)
            .await
            .map_err(|e| judge(path, e))?
            .map_err(unusable)?;
        migrate(&mut writer, path).await?;
        let queue_id = sqlx::query_scalar("SELECT value FROM facts WHERE name = 'queue_id'")
            .fetch_one(&mut writer)
            .await
            .map_err(|e| judge(path, e))?;
        let readers = SqlitePoolOptions::new()
            .max_connections(4)
            .connect_lazy_with(options);
        Ok(Store {
            path: path.to_owned(),
            readers,
            writer: Mutex::new(writer),
            queue_id,
        })
    }

    /// Where the database is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A random name that this queue was given when it was made.
    pub fn queue_id(&self) -> &str {
        &self.queue_id
    }

    /// A number that differs from the last call's after any other process or
    /// connection has committed. Costs some 35 microseconds.
    pub async fn data_version(&self) -> Result<i64, StoreError> {
        let mut writer = self.writer.lock().await;
        sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut *writer)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Writes what is left of the log into the database and closes every connection.
    pub async fn close(self) {
        self.readers.close().await;
        // The last connection's close checkpoints; a failure leaves the log, which is as good.
        let _ = self.writer.into_inner().close().await;
    }

    fn judge(&self, error: sqlx::Error) -> StoreError {
        judge(&self.path, error)
    }
}

/// Begins a transaction that writes: it has the lock from the start.
///
/// Where a commit finds the disk full, SQLite ends the transaction by itself.
/// sqlx then fails to roll it back, counts it as open for ever and begins no
/// other. So one is put in its place that can be rolled back.
async fn begin(writer: &mut SqliteConnection) -> Result<Transaction<'_, Sqlite>, sqlx::Error> {
    const IMMEDIATE: &str = "BEGIN IMMEDIATE";
    if writer.is_in_transaction() {
        // Its rollback may only be on its way.
        writer.ping().await?;
    }
    if writer.is_in_transaction() {
        sqlx::query("BEGIN").execute(&mut *writer).await?;
        // Refused, which rolls back what is open.
        drop(writer.begin_with(IMMEDIATE).await);
    }
    writer.begin_with(IMMEDIATE).await
}

/// Whether this is a queue of ours, or an empty file that may become one.
async fn recognise(look: SqliteConnectOptions) -> Result<Result<(), String>, sqlx::Error> {
    let mut conn = SqliteConnection::connect_with(&look).await?;
    let id: i64 = sqlx::query_scalar("PRAGMA application_id")
        .fetch_one(&mut conn)
        .await?;
    // The list of migrations is made before the first of them marks the file as ours.
    let tables: i64 = sqlx::query_scalar(
        "SELECT count(*) FROM sqlite_master WHERE tbl_name <> '_sqlx_migrations'",
    )
    .fetch_one(&mut conn)
    .await?;
    conn.close().await?;
    Ok(if id == APPLICATION_ID || (id == 0 && tables == 0) {
        Ok(())
    } else {
        Err(
            "this SQLite database belongs to another program; name another file with --database"
                .to_owned(),
        )
    })
}

/// How long a connection waits for another program's lock before it says `Busy`.
async fn wait_for_locks(conn: &mut SqliteConnection, wait: Duration) -> Result<(), sqlx::Error> {
    let pragma = format!("PRAGMA busy_timeout = {}", wait.as_millis());
    sqlx::query(AssertSqlSafe(pragma)).execute(conn).await?;
    Ok(())
}

fn is_read_only(error: &sqlx::Error) -> bool {
    code(error) & 0xff == 8
}

async fn check_version(conn: &mut SqliteConnection) -> Result<Result<(), String>, sqlx::Error> {
    let text: String = sqlx::query("SELECT sqlite_version()")
        .fetch_one(conn)
        .await?
        .get(0);
    let mut parts = [0; 3];
    for (part, word) in parts.iter_mut().zip(text.split('.')) {
        *part = word.parse().unwrap_or(0);
    }
    Ok(if parts >= OLDEST_SQLITE {
        Ok(())
    } else {
        Err(format!(
            "this reelq was built with SQLite {text}, which can lose commits; build it with 3.51.3 or newer"
        ))
    })
}

/// Two processes may meet an empty file at once: the one that comes second
/// finds the work done.
async fn migrate(conn: &mut SqliteConnection, path: &Path) -> Result<(), StoreError> {
    let begun = tokio::time::Instant::now();
    let mut tries = 0;
    loop {
        match MIGRATIONS.run_direct(None, &mut *conn, false).await {
            Ok(()) => return Ok(()),
            Err(
                sqlx::migrate::MigrateError::VersionMissing(_)
                | sqlx::migrate::MigrateError::VersionMismatch(_),
            ) => {
                return Err(StoreError::Unusable {
                    path: path.display().to_string(),
                    reason: "this queue was made by another version of reelq; use that one"
                        .to_owned(),
                });
            }
            Err(_) if tries < 20 && begun.elapsed() < BUSY_TIMEOUT => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(25)).await;
            }
            Err(sqlx::migrate::MigrateError::Execute(error)) => return Err(judge(path, error)),
            Err(other) => {
                return Err(StoreError::Unusable {
                    path: path.display().to_string(),
                    reason: format!("its tables could not be brought up to date: {other}"),
                });
            }
        }
    }
}

/// SQLite's extended result code; 0 where the error is another's.
fn code(error: &sqlx::Error) -> u32 {
    error
        .as_database_error()
        .and_then(|inner| inner.code())
        .and_then(|code| code.parse().ok())
        .unwrap_or(0)
}

/// SQLite's codes, told apart by what the caller can do about them.
fn judge(path: &Path, error: sqlx::Error) -> StoreError {
    let shown = path.display().to_string();
    let code = code(&error);
    let reason = match &error {
        sqlx::Error::Database(inner) => inner.message().to_owned(),
        other => other.to_string(),
    };
    // The low byte is the class, the rest the kind: sqlite.org/rescode.html.
    match code & 0xff {
        5 | 6 => StoreError::Busy { path: shown },
        13 => StoreError::Full { path: shown },
        10 if matches!(code >> 8, 4 | 5) => StoreError::Sync { path: shown, reason },
        // A short or refused write: SQLite rolls it back, as it does for a full disk.
        10 if code >> 8 == 3 => StoreError::Full { path: shown },
        10 => StoreError::Sync { path: shown, reason },
        8 => StoreError::Unusable {
            path: shown,
            reason: NOT_WRITABLE.to_owned(),
        },
        14 => StoreError::Unusable {
            path: shown,
            reason: "the database cannot be opened; check the path and the owner and mode of the file and its folder"
                .to_owned(),
        },
        26 => StoreError::Unusable {
            path: shown,
            reason: NO_DATABASE.to_owned(),
        },
        11 => StoreError::Unusable {
            path: shown,
            reason: format!(
                "the database is damaged ({reason}); restore a copy made by `reelq backup`, or see `sqlite3 .recover`"
            ),
        },
        19 => StoreError::Rule(
            reason
                .trim_start_matches("CHECK constraint failed: ")
                .to_owned(),
        ),
        _ => StoreError::Other { path: shown, reason },
    }
}
