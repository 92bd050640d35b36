//! How fast the queue is, each time as a ratio against a yardstick that is measured in the same run.
//!
//! `cargo bench --bench queue` runs everything, with `-- insert`, `claim` or `poll` one part. `REELQ_BENCH_ROWS` sets the size of
//! the first two.

#![allow(clippy::unwrap_used)] // a bench may break off

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use reelq::engine::{Act, Engine, Limits, Report, Surroundings};
use reelq::intake::{Defaults, Format, Portion, ReadError, read};
use reelq::job::{Event, Evidence, JobSpec, Millis};
use reelq::money::Money;
use reelq::naming::Template;
use reelq::places::Places;
use reelq::sink::Sink;
use reelq::stats::Stats;
use reelq::step::{Policy, step};
use reelq::store::{Admission, Claim, Committed, Open, Posts, Store, StoreError};
use reelq::verdict::PollVerdict;
use sqlx::Connection as _;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

const NOW: Millis = 1_800_000_000_000;
const DAY: Millis = 86_400_000;
const ENDPOINT: &str = "https://bench.invalid";

#[tokio::main]
async fn main() {
    let parts: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| !arg.starts_with('-'))
        .collect();
    let wanted = |part: &str| parts.is_empty() || parts.iter().any(|name| part.contains(name));
    if wanted("insert") {
        insert(rows(200_000)).await;
    }
    if wanted("claim") {
        claim(rows(1_000_000)).await;
    }
    if wanted("poll") {
        poll(2_000).await;
    }
}

fn rows(default: u64) -> u64 {
    std::env::var("REELQ_BENCH_ROWS").map_or(default, |text| text.parse().unwrap())
}

#[allow(clippy::disallowed_methods)] // a bench reads the clock itself
fn start() -> Instant {
    Instant::now()
}

fn say(what: &str, ours: Duration, yardstick: &str, theirs: Duration) {
    let ratio = ours.as_secs_f64() / theirs.as_secs_f64();
    println!("{what}: {ours:.2?}; {yardstick}: {theirs:.2?}; ratio {ratio:.2}");
}

/// The middle one.
fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times[times.len() / 2]
}

/// A folder on the disk that builds use, for what has to be synced.
fn on_disk() -> TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap()
}

/// A folder in memory where there is one: without the disk's syncs the ratio is that of the work.
fn in_memory() -> TempDir {
    let memory = Path::new("/dev/shm");
    if memory.is_dir() {
        tempfile::tempdir_in(memory).unwrap()
    } else {
        on_disk()
    }
}

// ---- insert ----

/// A file of JSON lines goes in, read, checked and durable; the yardstick is what Python's `executemany` takes for the same
/// rows, ready made, into a table with the same columns and no rules, and into the queue's own table.
async fn insert(count: u64) {
    println!("insert: {count} jobs");
    let dir = on_disk();
    let file = dir.path().join("jobs.jsonl");
    let mut text = Vec::new();
    for n in 0..count {
        writeln!(
            text,
            r#"{{"key":"sku-{n}","batch":"spring","prompt":"The bottle number {n} turns slowly on a marble table while the light of the morning sun wanders over it","image_url":"https://images.example.com/products/{n}/front.jpg","duration":6,"size":"720p","metadata":{{"sku":"sku-{n}","shop":"example"}}}}"#
        )
        .unwrap();
    }
    #[allow(clippy::disallowed_methods)] // an input, and nothing that has to last
    std::fs::write(&file, text).unwrap();

    let mut ours = Vec::new();
    let mut bare = Vec::new();
    let mut ruled = Vec::new();
    for round in 0..3 {
        ours.push(add(&file, &dir.path().join(format!("ours-{round}.db")), count).await);
        bare.extend(python(
            BARE,
            &dir.path().join(format!("bare-{round}.db")),
            count,
        ));
        ruled.extend(python(
            include_str!("../migrations/0001_queue.sql"),
            &dir.path().join(format!("ruled-{round}.db")),
            count,
        ));
    }
    let ours = median(ours);
    if bare.is_empty() || ruled.is_empty() {
        println!("  {ours:.2?}; skipped the yardstick: it needs python3 with SQLite 3.37 or newer");
        return;
    }
    say(
        "  JSON lines to durable jobs",
        ours,
        "executemany, the same columns",
        median(bare),
    );
    say(
        "  JSON lines to durable jobs",
        ours,
        "executemany, the same rules",
        median(ruled),
    );
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Text(#[from] ReadError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

async fn add(file: &Path, database: &Path, count: u64) -> Duration {
    let store = Store::open(database, Open::Create).await.unwrap();
    let begun = start();
    #[allow(clippy::disallowed_methods)] // as `reelq add` does
    let input = std::io::BufReader::with_capacity(1 << 16, std::fs::File::open(file).unwrap());
    let mut entries = read(Format::Jsonl, input, &Defaults::default());
    let added = store
        .insert_with::<_, Broken>(async |insertion| {
            let mut portion = Portion::default();
            for entry in entries.by_ref() {
                if let Some(full) = portion.push(entry?.spec) {
                    insertion.push(&full, |_| {}).await?;
                }
            }
            insertion.push(&portion.take(), |_| {}).await?;
            Ok(insertion.inserted())
        })
        .await
        .unwrap();
    let took = begun.elapsed();
    assert_eq!(added, count);
    store.close().await;
    took
}

const BARE: &str = "CREATE TABLE jobs (id INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT, batch TEXT NOT NULL, \
    prompt TEXT NOT NULL, image_url TEXT NOT NULL, duration INTEGER NOT NULL, size TEXT NOT NULL, \
    priority INTEGER NOT NULL, not_before INTEGER, metadata TEXT) STRICT";

const PYTHON: &str = r#"
import sqlite3, sys, time
path, count, tables = sys.argv[1], int(sys.argv[2]), sys.stdin.read()
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA journal_mode = WAL")
db.execute("PRAGMA synchronous = FULL")
db.executescript(tables)
rows = [("sku-%d" % n, "spring",
         "The bottle number %d turns slowly on a marble table while the light of the morning sun wanders over it" % n,
         "https://images.example.com/products/%d/front.jpg" % n, 6, "720p", 0, None,
         '{"sku":"sku-%d","shop":"example"}' % n) for n in range(count)]
begun = time.perf_counter()
db.execute("BEGIN IMMEDIATE")
db.executemany("INSERT INTO jobs (key, batch, prompt, image_url, duration, size, priority, not_before, metadata) "
               "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
db.execute("COMMIT")
print(time.perf_counter() - begun)
"#;

/// How long Python takes; `None` if it cannot.
fn python(tables: &str, database: &Path, count: u64) -> Option<Duration> {
    let mut child = Command::new("python3")
        .args(["-c", PYTHON])
        .arg(database)
        .arg(count.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .ok()?;
    child.stdin.take()?.write_all(tables.as_bytes()).ok()?;
    let output = child.wait_with_output().ok()?;
    let seconds = String::from_utf8(output.stdout).ok()?.trim().parse().ok()?;
    Some(Duration::from_secs_f64(seconds))
}

// ---- claim ----

/// One claim and the commit of its answer: with ten jobs waiting, then with a queue of years, of which half is settled.
async fn claim(count: u64) {
    println!("claim and commit: one job at a time, in memory");
    let few = Bench::new(10).await;
    let small = few.claims(NOW).await;
    let many = Bench::new(count).await;
    many.age(count).await;
    let large = many.claims(NOW).await;
    say(
        &format!("  with {count} rows"),
        large,
        "with 10 rows",
        small,
    );
    many.spend(count / 10).await;
    let busy = many.claims(NOW).await;
    say(
        &format!(
            "  with {count} rows, {} of them submitted today",
            count / 10
        ),
        busy,
        "with 10 rows",
        small,
    );
}

struct Bench {
    _dir: TempDir,
    database: PathBuf,
    store: Arc<Store>,
    dir: PathBuf,
}

impl Bench {
    /// A queue with so many jobs waiting.
    async fn new(count: u64) -> Bench {
        let dir = in_memory();
        let database = dir.path().join("reelq.db");
        let store = Store::open(&database, Open::Create).await.unwrap();
        let added: Result<_, StoreError> = store
            .insert_with(async |insertion| {
                for begin in (0..count).step_by(1_000) {
                    let portion = 1_000.min(count - begin);
                    let specs: Vec<_> = (0..portion).map(|_| spec()).collect();
                    insertion.push(&specs, |_| {}).await?;
                }
                Ok(insertion.inserted())
            })
            .await;
        assert_eq!(added.unwrap(), count);
        Bench {
            dir: dir.path().to_owned(),
            database,
            store: Arc::new(store),
            _dir: dir,
        }
    }

    /// Another program on the same database.
    async fn run(&self, sql: &'static str) {
        let options = SqliteConnectOptions::new().filename(&self.database);
        let mut conn = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::raw_sql(sql).execute(&mut conn).await.unwrap();
        conn.close().await.unwrap();
    }

    /// Half of the jobs are settled, a tenth waits for another day; each settled one has its line in the ledger.
    async fn age(&self, count: u64) {
        self.run(
            "UPDATE jobs SET state = 'done', version = version + 1, task_id = 't' || id, endpoint = 'e', attempt = 1, \
             submitted_at = 1, finished_at = 2, path = '/videos/' || id, bytes = 1, sha256 = 'x' WHERE id % 10 < 4; \
             UPDATE jobs SET state = 'failed', version = version + 1, error_code = 'refused', error_message = 'x', \
             attempt = 1, finished_at = 2 WHERE id % 10 = 4; \
             UPDATE jobs SET not_before = 4000000000000 WHERE id % 10 = 5; \
             INSERT INTO submissions (job_id, attempt, batch, cost, endpoint, started_at, finished_at, outcome, task_id) \
             SELECT id, 1, batch, 1, 'e', id, id + 1, 'accepted', 't' FROM jobs WHERE id % 10 < 4;",
        )
        .await;
        let counts = self.store.counts(None).await.unwrap();
        assert_eq!((counts.total(), counts.settled()), (count, count / 2));
    }

    /// The ledger of a busy day.
    async fn spend(&self, count: u64) {
        self.run(
            "UPDATE submissions SET started_at = started_at + 1799999000000 \
             WHERE job_id <= (SELECT max(id) / 4 FROM jobs)",
        )
        .await;
        let today = self.store.spend(Posts::Since(NOW - DAY)).await.unwrap();
        assert!(today.iter().any(|row| row.count >= count));
    }

    /// The median time of a claim and the commit of its answer.
    async fn claims(&self, now: Millis) -> Duration {
        let policy = Policy::default();
        let mut times = Vec::new();
        for round in 0..300 {
            let begun = start();
            let claimed = self
                .store
                .claim(
                    &Claim {
                        limit: 1,
                        max_tasks: 100,
                        now,
                        day_start: now - DAY,
                        trial: None,
                        endpoint: ENDPOINT.to_owned(),
                    },
                    |job, _| {
                        let event = Event::Claimed {
                            cost: Money::from_micros(840_000),
                            endpoint: ENDPOINT.to_owned(),
                        };
                        Admission::Take(Box::new(step(job, event, now, &policy).unwrap()))
                    },
                )
                .await
                .unwrap();
            let event = Event::Accepted {
                task_id: format!("task_{round}"),
                evidence: Evidence::default(),
            };
            let accepted = step(&claimed.jobs[0], event, now, &policy).unwrap();
            let committed = self.store.commit(std::slice::from_ref(&accepted)).await;
            times.push(begun.elapsed());
            assert_eq!(committed.unwrap(), [Committed::Written]);

            // It settles, and another one takes its place.
            let event = Event::TaskFailed {
                message: "as it goes".to_owned(),
            };
            let settled = step(&accepted.job, event, now, &policy).unwrap();
            self.store.commit(&[settled]).await.unwrap();
            self.store.insert(&[spec()]).await.unwrap();
        }
        median(times)
    }
}

fn spec() -> JobSpec {
    JobSpec::new("A harbour at dawn", "https://example.com/1.jpg")
}

// ---- poll ----

/// Polls that taught nothing write nothing; the yardstick is the same polls with news.
async fn poll(count: u64) {
    println!("poll: {count} running tasks, on disk");
    let dir = on_disk();
    let bench = Bench {
        database: dir.path().join("reelq.db"),
        store: Arc::new(
            Store::open(&dir.path().join("reelq.db"), Open::Create)
                .await
                .unwrap(),
        ),
        dir: dir.path().to_owned(),
        _dir: dir,
    };
    let specs: Vec<JobSpec> = (0..count).map(|_| spec()).collect();
    bench.store.insert(&specs).await.unwrap();
    bench
        .run(
            "UPDATE jobs SET state = 'generating', version = version + 1, task_id = 't' || id, \
             endpoint = 'https://bench.invalid', attempt = 1, submitted_at = 1800000000000, give_up_at = 1900000000000",
        )
        .await;
    let mut engine = Engine::open(
        Arc::clone(&bench.store),
        Places {
            sink: Sink::new(bench.dir.join("videos")).unwrap(),
            template: Template::parse("{id}.mp4").unwrap(),
            timezone: jiff::tz::TimeZone::UTC,
        },
        ENDPOINT.to_owned(),
        Limits {
            max_in_flight: 100_000,
            rate_per_minute: 60,
            downloads: 4,
            min_free_space: 0,
            policy: Policy::default(),
            budget: reelq::budget::Budget::default(),
        },
        Arc::new(Stats::default()),
        NOW,
    )
    .await
    .unwrap();
    let log = bench.dir.join("reelq.db-wal");
    let length = || std::fs::metadata(&log).map_or(0, |meta| meta.len());

    let news = all(&mut engine, count, NOW + 20_000, Some(10)).await;
    let before = (length(), bench.store.last_event().await.unwrap());
    let nothing = all(&mut engine, count, NOW + 40_000, Some(10)).await;
    assert_eq!(
        (length(), bench.store.last_event().await.unwrap()),
        before,
        "a poll that taught nothing wrote something"
    );
    say(
        "  polls that taught nothing, 0 bytes written",
        nothing,
        "with news",
        news,
    );
}

/// One poll of each task.
async fn all(engine: &mut Engine, count: u64, now: Millis, progress: Option<u8>) -> Duration {
    let around = Surroundings {
        now,
        day_start: 0,
        free_space: None,
        submit: false,
    };
    let begun = start();
    let mut polled = 0;
    while polled < count {
        let acts = engine.claim(&around).await.unwrap();
        assert!(!acts.is_empty(), "{polled} of {count} tasks were due");
        let reports: Vec<Report> = acts
            .into_iter()
            .map(|act| match act {
                Act::Poll(job) => Report::Polled(job, PollVerdict::Running { progress }),
                other => panic!("not a poll: {other:?}"),
            })
            .collect();
        polled += reports.len() as u64;
        engine.settle(reports, now).await.unwrap();
    }
    begun.elapsed()
}
