//! The engine with the real store, one short story a rule. The provider is
//! whoever writes the test.

mod accounts;
mod clock;
mod downloads;
mod gates;
mod money;
mod people;
mod polls;
mod store;

use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use reelq::budget::Budget;
use reelq::engine::{Act, Engine, EngineError, Limits, Report, Surroundings};
use reelq::job::{Event, FailureCode, Job, JobId, JobSpec, Millis, State};
use reelq::naming::Template;
use reelq::places::{self, Places};
use reelq::sink::Sink;
use reelq::step::{self, Policy};
use reelq::store::{Edited, Open, Store};
use reelq::verdict::{Fetched, Reply, judge_poll, judge_post};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

use crate::film::{Layout, film};
use crate::rig::{folder, put};
use crate::world::{DAY, ENDPOINT, HOUR, MINUTE, NEW_YEAR, SECOND, answer, lost, raw_answer};

/// From look to look, where it is the moment that counts.
const LOOK: Millis = 100;

fn limits() -> Limits {
    Limits {
        max_in_flight: 20,
        rate_per_minute: 60,
        downloads: 2,
        min_free_space: 0,
        policy: Policy::default(),
        budget: Budget::default(),
    }
}

/// A daemon's desk: one engine, its queue, and a hand in the database.
struct Desk {
    folder: TempDir,
    store: Arc<Store>,
    engine: Engine,
    limits: Limits,
    endpoint: &'static str,
    raw: SqliteConnection,
    now: Millis,
}

async fn start(
    folder: &TempDir,
    limits: &Limits,
    endpoint: &str,
    now: Millis,
) -> (Arc<Store>, Engine) {
    let path = folder.path().join("queue.db");
    let store = Arc::new(Store::open(&path, Open::Create).await.unwrap());
    let places = Places {
        sink: Sink::new(folder.path().join("videos")).unwrap(),
        template: Template::parse("{id}.mp4").unwrap(),
        timezone: TimeZone::UTC,
    };
    let engine = Engine::open(
        Arc::clone(&store),
        places,
        endpoint.to_owned(),
        limits.clone(),
        Arc::default(),
        now,
    );
    let engine = engine.await.unwrap();
    (store, engine)
}

impl Desk {
    async fn new(limits: Limits) -> Desk {
        let folder = folder();
        let now = NEW_YEAR + 12 * HOUR;
        let (store, engine) = start(&folder, &limits, ENDPOINT, now).await;
        let raw = SqliteConnectOptions::new()
            .filename(store.path())
            .connect()
            .await
            .unwrap();
        Desk {
            folder,
            store,
            engine,
            limits,
            endpoint: ENDPOINT,
            raw,
            now,
        }
    }

    /// Everything in memory is gone.
    async fn crash(&mut self) {
        let (store, engine) = start(&self.folder, &self.limits, self.endpoint, self.now).await;
        self.store = store;
        self.engine = engine;
    }

    async fn add(&self, jobs: usize) {
        let spec = JobSpec::new("a boat", "https://example.com/boat.jpg");
        self.store.insert(&vec![spec; jobs]).await.unwrap();
    }

    async fn try_claim(&mut self) -> Result<Vec<Act>, EngineError> {
        let around = Surroundings {
            now: self.now,
            day_start: places::day_start(self.now, &TimeZone::UTC),
            free_space: None,
            submit: true,
        };
        self.engine.claim(&around).await
    }

    async fn claim(&mut self) -> Vec<Act> {
        self.try_claim().await.unwrap()
    }

    /// The jobs that are POSTed now.
    async fn posts(&mut self) -> Vec<Job> {
        let acts = self.claim().await;
        acts.into_iter().filter_map(posted).collect()
    }

    async fn settle(&mut self, reports: Vec<Report>) {
        self.engine.settle(reports, self.now).await.unwrap();
    }

    /// A job of state `generating`, its poll not yet due.
    async fn generate(&mut self) -> JobId {
        self.add(1).await;
        let job = self.posts().await.remove(0);
        let id = job.id;
        self.settle(vec![accepted(job)]).await;
        id
    }

    /// The next poll, when its time has come.
    async fn poll(&mut self) -> Job {
        for _ in 0..20 {
            if let Some(job) = self.claim().await.into_iter().find_map(polled) {
                return job;
            }
            self.now += 5 * SECOND;
        }
        panic!("no poll in {} s", 20 * 5);
    }

    /// The next poll, to the moment, as a daemon would find it that looks at once.
    async fn next_poll(&mut self) -> Job {
        for _ in 0..2 * MINUTE / LOOK {
            if let Some(job) = self.claim().await.into_iter().find_map(polled) {
                return job;
            }
            self.now += LOOK;
        }
        panic!("no poll in two minutes");
    }

    async fn job(&self, id: JobId) -> Job {
        self.store.job(id).await.unwrap().unwrap()
    }

    async fn order(&self, id: JobId, event: Event) {
        let policy = &self.limits.policy;
        let edited = self
            .store
            .edit(&[id], |job| {
                step::step(job, event.clone(), self.now, policy)
            })
            .await
            .unwrap();
        assert!(matches!(edited[0], Edited::Changed(_)), "{edited:?}");
    }

    /// Changes with each commit of the engine.
    async fn commits(&mut self) -> i64 {
        sqlx::query_scalar("PRAGMA data_version")
            .fetch_one(&mut self.raw)
            .await
            .unwrap()
    }

    fn videos(&self) -> PathBuf {
        self.folder.path().join("videos")
    }

    /// A whole video, as a download leaves it.
    fn put_film(&self, target: &str) {
        std::fs::create_dir_all(self.videos()).unwrap();
        put(
            target.as_ref(),
            &film(Layout::MoovFirst, "a boat", 6, 4_096),
        );
    }

    async fn sql(&mut self, sql: &str) {
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut self.raw)
            .await
            .unwrap();
    }

    /// A table is out of reach, or back.
    async fn hide(&mut self, table: &str) {
        self.sql(&format!("ALTER TABLE {table} RENAME TO away"))
            .await;
    }

    async fn bring_back(&mut self, table: &str) {
        self.sql(&format!("ALTER TABLE away RENAME TO {table}"))
            .await;
    }
}

fn posted(act: Act) -> Option<Job> {
    match act {
        Act::Post { job, .. } => Some(*job),
        _ => None,
    }
}

fn polled(act: Act) -> Option<Job> {
    match act {
        Act::Poll(job) => Some(*job),
        _ => None,
    }
}

fn after_post(job: Job, reply: Reply) -> Report {
    Report::Posted(Box::new(job), judge_post(reply))
}

fn accepted(job: Job) -> Report {
    let id = format!("task-{}", job.id);
    after_post(job, answer(200, &json!({"id": id})))
}

fn after_poll(job: Job, reply: Reply) -> Report {
    Report::Polled(Box::new(job), judge_poll(reply))
}

fn completed(job: Job) -> Report {
    after_poll(
        job,
        answer(200, &json!({"status": "completed", "url": "/v.mp4"})),
    )
}

fn running(job: Job, progress: u8) -> Report {
    after_poll(
        job,
        answer(200, &json!({"status": "queued", "progress": progress})),
    )
}

fn failed(job: Job) -> Report {
    after_poll(job, answer(200, &json!({"status": "failed"})))
}

fn expired(job: Job) -> Report {
    after_poll(job, answer(200, &json!({"status": "expired"})))
}

fn not_found(job: Job) -> Report {
    after_poll(job, answer(404, &json!({"error": "not found"})))
}
