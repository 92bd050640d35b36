//! Jobs come in: all of a file or nothing.

use std::borrow::Cow;
use std::collections::{HashMap, HashSet};
use std::sync::LazyLock;

use sqlx::query::Query;
use sqlx::sqlite::{SqliteArguments, SqliteConnection, SqliteQueryResult, SqliteRow};
use sqlx::{AssertSqlSafe, Row, Sqlite};

use super::{Store, StoreError, begin, row};
use crate::job::{JobId, JobSpec, Millis};
use crate::money::Money;

/// Rows in one INSERT statement: large enough that the statement's own cost vanishes.
const ROWS: usize = 500;

/// A twin is looked for among so many of the newest jobs.
const TWINS: i64 = 10_000;

/// What became of the jobs of an `add`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// The ids of the new jobs, in the order of the specs.
    pub inserted: Vec<JobId>,
    /// The ids of jobs that were there under the same key.
    pub existing: Vec<JobId>,
}

impl Store {
    /// Inserts jobs in one transaction; a job whose key is there already is left out.
    ///
    /// # Errors
    /// [`StoreError::Rule`] where a job breaks a rule of the table; then none is inserted.
    pub async fn insert(&self, specs: &[JobSpec]) -> Result<Added, StoreError> {
        self.insert_with(async |insertion| {
            let mut existing = Vec::new();
            insertion
                .push(specs, |there| existing.push(there.id))
                .await?;
            Ok(Added {
                inserted: insertion.ids(u32::MAX).await?,
                existing,
            })
        })
        .await
    }

    /// Inserts what `work` pushes, in one transaction: an error of `work` leaves
    /// nothing behind. Other writers wait meanwhile, so `work` must not wait for
    /// a network or a person.
    ///
    /// # Errors
    /// The error of `work`, or the store's own as its `From`.
    pub async fn insert_with<T, E: From<StoreError>>(
        &self,
        work: impl AsyncFnOnce(&mut Insertion<'_>) -> Result<T, E>,
    ) -> Result<T, E> {
        let mut writer = self.writer.lock().await;
        let mut tx = begin(&mut writer).await.map_err(|e| self.judge(e))?;
        let before: Option<JobId> =
            sqlx::query_scalar("SELECT seq FROM sqlite_sequence WHERE name = 'jobs'")
                .fetch_optional(&mut *tx)
                .await
                .map_err(|e| self.judge(e))?;
        let before = before.unwrap_or(0);
        let mut insertion = Insertion {
            store: self,
            conn: &mut tx,
            before,
            last: before,
            inserted: 0,
            existing: 0,
            rehearsal: false,
        };
        let done = work(&mut insertion).await?;
        let rehearsal = insertion.rehearsal;
        let end = if rehearsal {
            tx.rollback().await
        } else {
            tx.commit().await
        };
        end.map_err(|e| self.judge(e))?;
        Ok(done)
    }

    /// The job with a key.
    pub async fn id_of_key(&self, key: &str) -> Result<Option<JobId>, StoreError> {
        sqlx::query_scalar("SELECT id FROM jobs WHERE key = ?")
            .bind(key)
            .fetch_optional(&self.readers)
            .await
            .map_err(|e| self.judge(e))
    }

    /// Sets or lifts (`None`) the cap on what a batch may cost, and lets the jobs
    /// go that the old cap held back.
    pub async fn set_batch_cap(&self, batch: &str, cap: Option<Money>) -> Result<(), StoreError> {
        let mut writer = self.writer.lock().await;
        let result = async {
            let mut tx = begin(&mut writer).await?;
            set_cap(&mut tx, batch, cap).await?;
            tx.commit().await
        };
        result.await.map_err(|e| self.judge(e))
    }
}

/// An insert under way; see [`Store::insert_with`].
pub struct Insertion<'t> {
    store: &'t Store,
    conn: &'t mut SqliteConnection,
    /// The highest id before it.
    before: JobId,
    /// The highest id so far.
    last: JobId,
    inserted: u64,
    existing: u64,
    rehearsal: bool,
}

/// A job that was left out, because its key is there.
#[derive(Clone, Copy, Debug)]
pub struct There<'a> {
    /// What was to be inserted.
    pub spec: &'a JobSpec,
    /// The job that has its key.
    pub id: JobId,
    /// That job came in by this very insertion.
    pub is_new: bool,
    /// That job asks for the same video.
    pub is_same: bool,
}

impl Insertion<'_> {
    /// Inserts some jobs; `there` is told of each whose key is there already.
    ///
    /// # Errors
    /// [`StoreError::Rule`] where a job breaks a rule of the table.
    pub async fn push(
        &mut self,
        specs: &[JobSpec],
        mut there: impl FnMut(There<'_>),
    ) -> Result<(), StoreError> {
        let mut portions = specs.chunks(ROWS);
        let mut next = portions.next().map(|rows| (rows, bound(rows)));
        while let Some((rows, query)) = next {
            let run = query.execute(&mut *self.conn);
            // While the database works, the arguments of the next statement are made.
            let prepare = async { portions.next().map(|rows| (rows, bound(rows))) };
            let (done, prepared) = futures_util::future::join(run, prepare).await;
            next = prepared;
            match done {
                Ok(done) => self.took(rows, &done, &mut there).await,
                Err(error) => Err(error),
            }
            .map_err(|e| self.store.judge(e))?;
        }
        Ok(())
    }

    /// Counts what a statement inserted, and tells of what it left out.
    async fn took(
        &mut self,
        rows: &[JobSpec],
        done: &SqliteQueryResult,
        there: &mut impl FnMut(There<'_>),
    ) -> Result<(), sqlx::Error> {
        let before = self.last;
        self.inserted += done.rows_affected();
        if done.rows_affected() > 0 {
            self.last = done.last_insert_rowid();
        }
        if done.rows_affected() == rows.len() as u64 {
            return Ok(());
        }
        let keys: Vec<&str> = rows.iter().filter_map(|spec| spec.key.as_deref()).collect();
        let found = sqlx::query(
            "SELECT key, id, prompt, image_url, duration, size FROM jobs \
             WHERE key IN (SELECT value FROM json_each(?))",
        )
        .bind(serde_json::Value::from(keys).to_string())
        .fetch_all(&mut *self.conn)
        .await?;
        let found: HashMap<&str, &SqliteRow> = found
            .iter()
            .map(|row| Ok((row.try_get(0)?, row)))
            .collect::<Result<_, sqlx::Error>>()?;
        let mut taken = HashSet::new();
        for spec in rows {
            let Some(key) = spec.key.as_deref() else {
                continue;
            };
            let Some(row) = found.get(key) else { continue };
            let id: JobId = row.try_get(1)?;
            // The first of its key in this statement is the one that went in.
            if id > before && taken.insert(key) {
                continue;
            }
            self.existing += 1;
            there(There {
                spec,
                id,
                is_new: id > self.before,
                is_same: row.try_get::<&str, _>(2)? == spec.prompt
                    && row.try_get::<&str, _>(3)? == spec.image_url
                    && row.try_get::<i64, _>(4)? == i64::from(spec.duration)
                    && row.try_get::<&str, _>(5)? == spec.size.as_str(),
            });
        }
        Ok(())
    }

    /// How many went in so far.
    pub fn inserted(&self) -> u64 {
        self.inserted
    }

    /// How many were left out so far.
    pub fn existing(&self) -> u64 {
        self.existing
    }

    /// The first ids of the jobs that went in so far, in their order.
    ///
    /// # Errors
    /// The store's.
    pub async fn ids(&mut self, limit: u32) -> Result<Vec<JobId>, StoreError> {
        sqlx::query_scalar("SELECT id FROM jobs WHERE id > ? ORDER BY id LIMIT ?")
            .bind(self.before)
            .bind(i64::from(limit))
            .fetch_all(&mut *self.conn)
            .await
            .map_err(|e| self.store.judge(e))
    }

    /// The id of the last job that went in, if any did.
    pub fn last(&self) -> Option<JobId> {
        (self.last > self.before).then_some(self.last)
    }

    /// The newest job without a key that asks for exactly the same, inserted at
    /// or after a time. Under the write lock: none can come in meanwhile.
    ///
    /// # Errors
    /// The store's.
    pub async fn twin(
        &mut self,
        spec: &JobSpec,
        since: Millis,
    ) -> Result<Option<JobId>, StoreError> {
        sqlx::query_scalar(
            "SELECT id FROM jobs WHERE id > (SELECT coalesce(max(id), 0) FROM jobs) - ?1 AND created_at >= ?2 \
             AND key IS NULL AND batch = ?3 AND prompt = ?4 AND image_url = ?5 AND duration = ?6 \
             AND size = ?7 AND priority = ?8 AND not_before IS ?9 AND metadata IS ?10 \
             ORDER BY id DESC LIMIT 1",
        )
        .bind(TWINS)
        .bind(since)
        .bind(&spec.batch)
        .bind(&spec.prompt)
        .bind(&spec.image_url)
        .bind(i64::from(spec.duration))
        .bind(spec.size.as_str())
        .bind(spec.priority)
        .bind(spec.not_before)
        .bind(&spec.metadata)
        .fetch_optional(&mut *self.conn)
        .await
        .map_err(|e| self.store.judge(e))
    }

    /// Sets or lifts (`None`) the cap on what a batch may cost, with the insert.
    ///
    /// # Errors
    /// The store's.
    pub async fn set_cap(&mut self, batch: &str, cap: Option<Money>) -> Result<(), StoreError> {
        set_cap(self.conn, batch, cap)
            .await
            .map_err(|e| self.store.judge(e))
    }

    /// It is only tried: whatever it does is undone in the end.
    pub fn rehearse(&mut self) {
        self.rehearsal = true;
    }
}

/// What a batch may cost from now on; what an old cap held back is due again.
async fn set_cap(
    conn: &mut SqliteConnection,
    batch: &str,
    cap: Option<Money>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO batches (name, max_cost) VALUES (?1, ?2) \
         ON CONFLICT (name) DO UPDATE SET max_cost = ?2",
    )
    .bind(batch)
    .bind(cap.map(Money::micros))
    .execute(&mut *conn)
    .await?;
    row::release_held(conn, batch).await
}

/// The statement for so many rows. The same text every time, so that it is
/// prepared once.
fn insert_sql(rows: usize) -> AssertSqlSafe<Cow<'static, str>> {
    static FULL: LazyLock<String> = LazyLock::new(|| sql_of(ROWS));
    // Nothing of a job is in the text.
    AssertSqlSafe(if rows == ROWS {
        Cow::Borrowed(FULL.as_str())
    } else {
        Cow::Owned(sql_of(rows))
    })
}

fn sql_of(rows: usize) -> String {
    let mut sql = String::from(
        "INSERT INTO jobs (key, batch, prompt, image_url, duration, size, priority, not_before, metadata) VALUES ",
    );
    for row in 0..rows {
        sql.push_str(if row == 0 { "" } else { "," });
        sql.push_str("(?,?,?,?,?,?,?,?,?)");
    }
    sql.push_str(" ON CONFLICT (key) DO NOTHING");
    sql
}

/// The statement for some rows, with its arguments.
fn bound(rows: &[JobSpec]) -> Query<'static, Sqlite, SqliteArguments> {
    let mut query = sqlx::query(insert_sql(rows.len()));
    for spec in rows {
        query = query
            .bind(spec.key.clone())
            .bind(spec.batch.clone())
            .bind(spec.prompt.clone())
            .bind(spec.image_url.clone())
            .bind(i64::from(spec.duration))
            .bind(spec.size.as_str())
            .bind(spec.priority)
            .bind(spec.not_before)
            .bind(spec.metadata.clone());
    }
    query
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Open;
    use proptest::prelude::*;

    fn is_send<T: Send>(_: &T) {}

    /// HTTP handlers move between threads.
    #[allow(dead_code)]
    fn futures_can_cross_threads(store: &'static Store, specs: &'static [JobSpec]) {
        is_send(&store.insert(specs));
    }

    /// Texts at the edge of the rules: blanks, schemes, what follows them.
    fn edgy() -> impl Strategy<Value = String> {
        let piece = prop::sample::select(vec![
            " ",
            "\t",
            "\n",
            "\r",
            "\u{a0}",
            "\u{b}",
            "x",
            "雪",
            "http",
            "HTTPs",
            "https",
            "://",
            ":",
            "/",
            "?",
            "#",
            "]",
            "^",
            "*",
            "[",
            "{}",
            "{\"a\":1}",
            "null",
        ]);
        prop::collection::vec(piece, 0..6).prop_map(|pieces| pieces.concat())
    }

    fn long(text: &str, times: usize) -> String {
        text.repeat(times)
    }

    async fn verdicts(specs: &[JobSpec]) -> Vec<bool> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let store = Store::open(&path, Open::Create).await.unwrap();
        let mut verdicts = Vec::new();
        for spec in specs {
            let taken = store
                .insert_with(async |insertion| {
                    insertion.rehearse();
                    insertion.push(std::slice::from_ref(spec), |_| {}).await
                })
                .await;
            verdicts.push(match taken {
                Ok(()) => true,
                Err(StoreError::Rule(_)) => false,
                Err(other) => panic!("{other} for {spec:?}"),
            });
        }
        verdicts
    }

    fn agree(specs: &[JobSpec]) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let taken = runtime.block_on(verdicts(specs));
        for (spec, taken) in specs.iter().zip(taken) {
            assert_eq!(spec.faults().is_empty(), taken, "{spec:?}");
        }
    }

    #[test]
    fn the_table_has_the_rules_of_the_specs_at_their_limits() {
        let good = || JobSpec::new("p", "https://e");
        let mut specs = vec![good()];
        let mut with = |set: &dyn Fn(&mut JobSpec)| {
            let mut spec = good();
            set(&mut spec);
            specs.push(spec);
        };
        for length in [200, 201] {
            with(&|spec| spec.key = Some(long("k", length)));
            with(&|spec| spec.batch = long("b", length));
        }
        for times in [66, 67] {
            with(&|spec| spec.batch = long("雪", times));
        }
        for length in [100_000, 100_001] {
            with(&|spec| spec.prompt = long("p", length));
        }
        for length in [8_184, 8_185] {
            with(&|spec| spec.image_url = format!("https://{}", long("e", length)));
        }
        for duration in [0, 1, 15, 16] {
            with(&|spec| spec.duration = duration);
        }
        for at in [-1, 0, 253_402_300_799_999, 253_402_300_800_000] {
            with(&|spec| spec.not_before = Some(at));
        }
        for length in [65_528, 65_529] {
            with(&|spec| spec.metadata = Some(format!("{{\"a\":\"{}\"}}", long("m", length))));
        }
        agree(&specs);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn the_table_has_the_rules_of_the_specs(
            texts in prop::collection::vec((edgy(), edgy(), edgy(), edgy(), edgy()), 40)
        ) {
            let specs: Vec<JobSpec> = texts
                .into_iter()
                .flat_map(|(key, batch, prompt, url, metadata)| {
                    let good = || JobSpec::new("p", "https://e");
                    [
                        JobSpec { key: Some(key), ..good() },
                        JobSpec { batch, ..good() },
                        JobSpec { prompt, ..good() },
                        JobSpec { image_url: format!("https://{url}"), ..good() },
                        JobSpec { image_url: url, ..good() },
                        JobSpec { metadata: Some(metadata), ..good() },
                    ]
                })
                .collect();
            agree(&specs);
        }
    }
}
