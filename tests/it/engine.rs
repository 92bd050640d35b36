//! The engine with the real store, one short story a rule. The provider is
//! whoever writes the test.

use std::path::PathBuf;
use std::sync::Arc;

use jiff::tz::TimeZone;
use reelq::budget::Budget;
use reelq::engine::{Act, Engine, EngineError, Limits, Report, Surroundings};
use reelq::job::{Event, FailureCode, Job, JobId, JobSpec, Millis, Outcome, State};
use reelq::money::Money;
use reelq::naming::Template;
use reelq::places::{self, Places};
use reelq::sink::Sink;
use reelq::step::{self, Policy};
use reelq::store::{Edited, Open, Store};
use reelq::verdict::{Fetched, Reply, judge_poll, judge_post, judge_probe};
use serde_json::json;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

use crate::film::{Layout, film};
use crate::rig::{folder, put};
use crate::world::{
    DAY, ENDPOINT, HOUR, MINUTE, NEW_YEAR, SECOND, answer, lost, raw_answer, saved_file,
};

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

// ---- Crashes ----

#[tokio::test]
async fn a_post_on_the_wire_at_a_crash_is_unconfirmed() {
    let mut desk = Desk::new(limits()).await;
    desk.add(1).await;
    let job = desk.posts().await.remove(0);
    assert_eq!(desk.job(job.id).await.state, State::Submitting);
    desk.crash().await;
    let job = desk.job(job.id).await;
    assert_eq!(job.state, State::Unconfirmed);
    let words = job.failure.unwrap().message;
    assert!(
        words.contains("while the request was on the wire"),
        "{words}"
    );
    assert!(words.contains("reelq resolve 1 --adopt"), "{words}");
    let ledger = desk.store.ledger(None, None, None).await.unwrap();
    assert_eq!(ledger[0].outcome, Outcome::Unknown);
    assert!(desk.posts().await.is_empty(), "sent again");
}

// ---- Polls ----

#[tokio::test]
async fn a_task_is_asked_in_its_turn_and_more_slowly_when_it_is_old() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let policy = desk.limits.policy.clone();
    let (begun, mut last) = (desk.now, desk.now);
    let (mut young, mut old) = (0, 0);
    loop {
        let polled = desk.next_poll().await;
        let (gap, age) = (desk.now - last, last - begun);
        let (turn, count) = match age < policy.slow_after {
            true => (policy.interval, &mut young),
            false => (policy.slow_interval, &mut old),
        };
        assert!(
            (turn..=turn + turn / 5 + LOOK).contains(&gap),
            "{gap} ms after the last poll at {age} ms"
        );
        *count += 1;
        if old == 5 {
            break;
        }
        last = desk.now;
        desk.settle(vec![running(polled, 10)]).await;
    }
    assert!(young >= 80, "{young} polls in ten minutes");
}

#[tokio::test]
async fn a_poll_that_taught_nothing_brings_the_next_one_no_nearer() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let policy = desk.limits.policy.clone();
    let mut last = desk.now;
    for interval in [policy.interval, policy.slow_interval] {
        for _ in 0..12 {
            let polled = desk.next_poll().await;
            assert!(desk.now - last >= interval);
            last = desk.now;
            desk.settle(vec![after_poll(polled, lost("broken"))]).await;
        }
        // It has become old; an answer makes an end of the faults.
        desk.now += policy.slow_after;
        let polled = desk.next_poll().await;
        last = desk.now;
        desk.settle(vec![running(polled, 10)]).await;
    }
}

#[tokio::test]
async fn a_restart_asks_a_running_task_no_sooner_than_without_it() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let interval = desk.limits.policy.interval;
    let mut last = desk.now;
    for n in 0..40 {
        // Before the answer, at once after it, and a little later.
        let polled = desk.next_poll().await;
        assert!(
            desk.now - last >= interval,
            "{} ms after the last poll",
            desk.now - last
        );
        assert!(
            desk.now - last < 20 * SECOND,
            "a restart puts it off for long"
        );
        last = desk.now;
        if n % 3 > 0 {
            desk.settle(vec![running(polled, n)]).await;
        }
        desk.now += Millis::from(n % 5) * 900;
        desk.crash().await;
    }
}

#[tokio::test]
async fn a_task_that_has_told_its_end_is_asked_no_more() {
    type End = fn(Job) -> Report;
    let ends: [End; 3] = [completed, failed, expired];
    for end in ends {
        let mut desk = Desk::new(limits()).await;
        let id = desk.generate().await;
        let polled = desk.next_poll().await;
        desk.settle(vec![end(polled)]).await;
        let state = desk.job(id).await.state;
        assert_ne!(state, State::Generating);
        for restart in [false, true] {
            if restart {
                desk.crash().await;
            }
            for _ in 0..200 {
                let acts = desk.claim().await;
                assert!(
                    !acts.iter().any(|act| matches!(act, Act::Poll(_))),
                    "{state}"
                );
                desk.now += SECOND;
            }
        }
    }
}

// ---- A store that refuses ----

#[tokio::test]
async fn answers_wait_for_a_store_that_refuses() {
    let mut desk = Desk::new(limits()).await;
    let running = desk.generate().await;
    desk.add(1).await;
    let sent = desk.posts().await.remove(0);
    let polled = desk.poll().await;
    let second = sent.id;
    desk.hide("jobs").await;
    let reports = vec![completed(polled), accepted(sent)];
    assert!(desk.engine.settle(reports, desk.now).await.is_err());
    assert!(desk.try_claim().await.unwrap().is_empty(), "went on");
    desk.bring_back("jobs").await;
    desk.settle(Vec::new()).await;
    assert_eq!(desk.job(running).await.state, State::Downloading);
    assert_eq!(desk.job(second).await.task_id.as_deref(), Some("task-2"));
}

#[tokio::test]
async fn an_intent_on_disk_is_sent_though_the_gates_cannot_be_shown() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    // The cap holds the second job back, which is to be shown.
    desk.hide("gates").await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 1);
    desk.bring_back("gates").await;
    desk.settle(vec![accepted(posts[0].clone())]).await;
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].name, "budget");
}

#[tokio::test]
async fn a_failed_sync_takes_no_other_answer_with_it() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    desk.add(1).await;
    let acts = desk.claim().await;
    let sent = acts.iter().cloned().find_map(posted).unwrap();
    let second = sent.id;
    let fetch = Report::Fetched(
        Box::new(desk.job(id).await),
        Fetched::SyncFailed("input/output error".to_owned()),
    );
    let end = desk
        .engine
        .settle(vec![fetch, accepted(sent)], desk.now)
        .await;
    assert!(matches!(end, Err(EngineError::Sync(_))), "{end:?}");
    assert_eq!(desk.job(second).await.state, State::Generating);
}

#[tokio::test]
async fn an_unreadable_row_is_set_aside_and_the_rest_goes_on() {
    let mut desk = Desk::new(limits()).await;
    desk.add(3).await;
    let acts = desk.posts().await;
    let lost = acts[0].id;
    desk.settle(acts[1..].iter().cloned().map(accepted).collect())
        .await;
    desk.add(1).await;
    desk.sql("UPDATE jobs SET video_urls = 'not json' WHERE id IN (1, 2, 4)")
        .await;
    desk.crash().await;
    desk.now += MINUTE;
    desk.claim().await;
    let states: Vec<(JobId, String, Option<String>)> =
        sqlx::query_as("SELECT id, state, error_code FROM jobs ORDER BY id")
            .fetch_all(&mut desk.raw)
            .await
            .unwrap();
    let code = Some(FailureCode::CorruptRow.as_str().to_owned());
    // What may have been charged is said to be so.
    assert_eq!(states[0], (lost, "unconfirmed".to_owned(), code.clone()));
    assert_eq!(states[1], (2, "failed".to_owned(), code.clone()));
    assert_eq!(states[2], (3, "generating".to_owned(), None));
    assert_eq!(states[3], (4, "failed".to_owned(), code));
    let ledger = desk.store.ledger(Some(lost), None, None).await.unwrap();
    assert_eq!(ledger[0].outcome, Outcome::Unknown);
    let history = desk.store.history(2).await.unwrap();
    assert_eq!(history.last().unwrap().event, "set_aside");
}

// ---- People in between ----

#[tokio::test]
async fn a_task_is_asked_again_after_a_person_was_faster() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.order(id, Event::Cancelled).await;
    desk.order(id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    desk.settle(vec![running(polled, 40)]).await;
    assert_eq!(desk.job(id).await.progress, 0, "a late answer was written");
    assert_eq!(desk.poll().await.id, id);
}

#[tokio::test]
async fn what_a_person_withdrew_is_not_overwritten() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.order(id, Event::Cancelled).await;
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.job(id).await.state, State::Cancelled);
    desk.now += HOUR;
    assert!(desk.claim().await.is_empty());
}

// ---- The clock ----

#[tokio::test]
async fn a_jump_ahead_ends_no_wait_early() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.now += 2 * HOUR;
    let in_hand = desk.poll().await;
    desk.now += DAY;
    desk.engine.clock_jumped(DAY).await.unwrap();
    desk.settle(vec![running(in_hand, 40)]).await;
    assert_eq!(
        desk.job(id).await.state,
        State::Generating,
        "26 hours by the clock"
    );
    let polled = desk.poll().await;
    desk.settle(vec![running(polled, 41)]).await;
    assert_eq!(desk.job(id).await.state, State::Generating);
    assert_eq!(desk.job(id).await.progress, 41);
}

#[tokio::test]
async fn a_jump_ahead_makes_no_young_task_old() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.now += DAY;
    desk.engine.clock_jumped(DAY).await.unwrap();
    for _ in 0..5 {
        let before = desk.now;
        let polled = desk.poll().await;
        assert!(
            desk.now - before <= 10 * SECOND,
            "asked as slowly as an old one"
        );
        desk.settle(vec![not_found(polled)]).await;
    }
    assert_eq!(
        desk.job(id).await.state,
        State::Generating,
        "it is only early"
    );
}

#[tokio::test]
async fn a_clock_set_back_during_a_stop_delays_nothing_by_a_day() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.rate_per_minute = 3;
    desk.crash().await;
    desk.add(4).await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 3);
    let mut reports: Vec<Report> = posts.into_iter().map(accepted).collect();
    let refused = reports.remove(0);
    let Report::Posted(job, _) = refused else {
        unreachable!()
    };
    reports.push(after_post(
        *job,
        answer(503, &json!({"error": {"type": "new_api_error"}})),
    ));
    desk.settle(reports).await;
    desk.now -= DAY;
    desk.crash().await;
    desk.now += 3 * MINUTE;
    let mut sent = 0;
    for _ in 0..20 {
        for act in desk.claim().await {
            match act {
                Act::Probe => desk.settle(vec![Report::Probed(Ok(()))]).await,
                Act::Post { job, .. } => {
                    sent += 1;
                    desk.settle(vec![accepted(*job)]).await;
                }
                _ => {}
            }
        }
        desk.now += 10 * SECOND;
    }
    assert_eq!(sent, 2);
    let give_up = desk.job(2).await.give_up_at.unwrap();
    assert!(give_up <= desk.now + desk.limits.policy.deadline);
}

#[tokio::test]
async fn a_closed_poll_gate_stays_short_when_the_clock_was_set_back() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![after_poll(polled, answer(401, &json!({})))])
        .await;
    assert_eq!(desk.store.gates().await.unwrap()[0].name, "poll");
    desk.now -= DAY;
    desk.crash().await;
    desk.poll().await;
}

// ---- Money ----

fn cents(n: i64) -> Money {
    Money::from_micros(n * 10_000)
}

#[tokio::test]
async fn a_cap_of_three_at_sixty_cents_lets_exactly_five_through() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget = Budget {
        max_cost_per_day: Some(cents(300)),
        price_per_second: [None, Some(cents(10)), None],
        ..Budget::default()
    };
    desk.crash().await;
    desk.add(9).await;
    let mut sent = 0;
    for _ in 0..9 {
        for job in desk.posts().await {
            sent += 1;
            // Whether it is known or unknown: it is spent.
            desk.settle(vec![match sent {
                2 => after_post(job, lost("timeout")),
                _ => accepted(job),
            }])
            .await;
        }
        desk.now += MINUTE;
        for act in desk.claim().await {
            match act {
                Act::Probe => desk.settle(vec![Report::Probed(Ok(()))]).await,
                Act::Post { job, .. } => {
                    sent += 1;
                    desk.settle(vec![accepted(*job)]).await;
                }
                _ => {}
            }
        }
    }
    assert_eq!(sent, 5);
    assert!(!desk.engine.is_idle().await.unwrap(), "tasks are running");
    let ledger = desk.store.ledger(None, None, None).await.unwrap();
    assert_eq!(ledger.iter().map(|row| row.cost).sum::<Money>(), cents(300));
}

#[tokio::test]
async fn a_cap_that_has_room_again_is_no_end() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    let job = desk.posts().await.remove(0);
    assert!(desk.posts().await.is_empty());
    let refused = after_post(job, answer(400, &json!({"error": "bad prompt"})));
    desk.settle(vec![refused]).await;
    assert!(!desk.engine.is_idle().await.unwrap());
    let job = desk.posts().await.remove(0);
    assert_eq!(job.id, 2);
    desk.settle(vec![after_post(job, lost("timeout"))]).await;
    desk.add(1).await;
    desk.now += MINUTE;
    let acts = desk.claim().await;
    assert!(matches!(acts[..], [Act::Probe]), "{acts:?}");
    desk.settle(vec![Report::Probed(Ok(()))]).await;
    assert!(desk.posts().await.is_empty());
    assert!(desk.engine.is_idle().await.unwrap(), "it goes on tomorrow");
}

#[tokio::test]
async fn a_cap_that_still_holds_is_said_once() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    let job = desk.posts().await.remove(0);
    desk.settle(vec![accepted(job)]).await;
    let since = desk.now;
    let (seen, gates) = (desk.commits().await, desk.store.gates().await.unwrap());
    assert_eq!((gates[0].name.as_str(), gates[0].since), ("budget", since));
    for _ in 0..20 {
        // Another process has committed.
        desk.now += LOOK;
        desk.engine.refresh(desk.now).await.unwrap();
        assert!(desk.posts().await.is_empty());
    }
    assert_eq!(desk.commits().await, seen, "written again");
    // By the new clock it is as long ago as it was.
    desk.now += HOUR;
    desk.engine.clock_jumped(HOUR).await.unwrap();
    assert!(desk.posts().await.is_empty());
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].since, since + HOUR);
    desk.now += DAY;
    assert_eq!(desk.posts().await.len(), 1, "a new day");
}

#[tokio::test]
async fn a_batch_s_cap_holds_back_its_own_jobs_and_no_others() {
    for price in [Some(cents(10)), None] {
        let mut desk = Desk::new(limits()).await;
        desk.limits.budget.price_per_second = [None, price, None];
        desk.crash().await;
        desk.store
            .set_batch_cap("small", Some(cents(59)))
            .await
            .unwrap();
        let mut first = JobSpec::new("a boat", "https://example.com/boat.jpg");
        first.batch = "small".to_owned();
        first.priority = 9;
        desk.store.insert(&[first]).await.unwrap();
        desk.add(1).await;
        let posts = desk.posts().await;
        assert_eq!(posts.len(), 1, "{price:?}");
        assert_eq!(posts[0].id, 2, "{price:?}");
        assert!(desk.job(1).await.note.unwrap().contains("batch"));
        let refused = after_post(posts[0].clone(), answer(400, &json!({})));
        desk.settle(vec![refused]).await;
        assert!(
            desk.engine.is_idle().await.unwrap(),
            "it waits for a person"
        );
        // The person raises the cap.
        desk.store.set_batch_cap("small", None).await.unwrap();
        desk.engine.refresh(desk.now).await.unwrap();
        assert!(!desk.engine.is_idle().await.unwrap());
        assert_eq!(desk.posts().await[0].id, 1);
    }
}

/// A desk where a second of 720p costs ten cents, and a batch that may cost something.
async fn capped(cap: Money) -> Desk {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.price_per_second = [None, Some(cents(10)), None];
    desk.crash().await;
    desk.store.set_batch_cap("small", Some(cap)).await.unwrap();
    desk
}

fn of_small_batch() -> JobSpec {
    let mut spec = JobSpec::new("a boat", "https://example.com/boat.jpg");
    spec.batch = "small".to_owned();
    spec.priority = 9;
    spec
}

#[tokio::test]
async fn what_a_batch_did_not_pay_is_room_for_its_next_job() {
    let mut desk = capped(cents(60)).await;
    desk.store.insert(&vec![of_small_batch(); 3]).await.unwrap();
    let first = desk.posts().await;
    assert_eq!(first.len(), 1);
    let refused = after_post(first[0].clone(), answer(400, &json!({"error": "bad"})));
    desk.settle(vec![refused]).await;
    assert!(!desk.engine.is_idle().await.unwrap());
    let second = desk.posts().await.remove(0);
    assert_eq!(second.id, 2);
    desk.settle(vec![after_post(second, lost("timeout"))]).await;
    assert!(desk.engine.is_idle().await.unwrap());
    desk.order(2, Event::Resubmitted).await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(!desk.engine.is_idle().await.unwrap());
}

#[tokio::test]
async fn what_was_pruned_still_counts_against_its_batch() {
    let mut desk = capped(cents(60)).await;
    desk.store.insert(&[of_small_batch()]).await.unwrap();
    let job = desk.posts().await.remove(0);
    let id = job.id;
    desk.settle(vec![accepted(job)]).await;
    desk.order(id, Event::Cancelled).await;
    let later = desk.now + DAY;
    assert_eq!(desk.store.prune(later, later).await.unwrap().jobs, 1);
    desk.store.insert(&[of_small_batch()]).await.unwrap();
    assert!(desk.posts().await.is_empty());
    assert_eq!(desk.store.caps().await.unwrap()[0].spent, cents(60));
}

#[tokio::test]
async fn a_large_batch_at_its_cap_keeps_nobody_waiting() {
    let mut desk = capped(cents(0)).await;
    desk.store
        .insert(&vec![of_small_batch(); 2_500])
        .await
        .unwrap();
    desk.add(1).await;
    for round in 0..2 {
        let mut claims = 0;
        let posts = loop {
            claims += 1;
            assert!(claims < 9, "round {round}");
            let posts = desk.posts().await;
            if !posts.is_empty() {
                break posts;
            }
            let wake = desk.engine.next_wake(desk.now).await.unwrap().unwrap();
            assert!(wake <= desk.now + SECOND, "the rest is looked at soon");
        };
        assert_eq!(posts[0].id, 2_501 + round);
        desk.settle(vec![accepted(posts[0].clone())]).await;
        // They are all due again.
        desk.now += HOUR;
        desk.add(1).await;
    }
}

#[tokio::test]
async fn a_job_that_no_day_lets_through_holds_up_no_other() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget = Budget {
        max_cost_per_day: Some(cents(100)),
        price_per_second: [None, Some(cents(10)), None],
        ..Budget::default()
    };
    desk.crash().await;
    let mut dear = JobSpec::new("a boat", "https://example.com/boat.jpg");
    dear.duration = 15;
    desk.store.insert(&[dear]).await.unwrap();
    desk.add(1).await;
    let posts = desk.posts().await;
    assert_eq!(posts.iter().map(|job| job.id).collect::<Vec<_>>(), [2]);
    let why = desk.job(1).await.note.unwrap();
    assert!(why.contains("more than budget.max_cost_per_day"), "{why}");
}

// ---- Gates ----

#[tokio::test]
async fn a_closed_gate_lets_a_free_request_out_and_then_one_job() {
    let mut desk = Desk::new(limits()).await;
    desk.add(5).await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 3, "three on the wire");
    let lost_all = posts
        .into_iter()
        .map(|job| after_post(job, lost("timeout")));
    desk.settle(lost_all.collect()).await;
    assert!(desk.claim().await.is_empty(), "it is closed");
    desk.now += MINUTE;
    let acts = desk.claim().await;
    assert!(matches!(acts[..], [Act::Probe]), "{acts:?}");
    assert!(desk.claim().await.is_empty(), "one free request at a time");
    desk.settle(vec![Report::Probed(Ok(()))]).await;
    let trial = desk.posts().await;
    assert_eq!(trial.len(), 1, "one job, to see");
    assert!(desk.posts().await.is_empty());
    desk.settle(vec![accepted(trial[0].clone())]).await;
    assert_eq!(desk.posts().await.len(), 1, "the last one: it is open");
}

#[tokio::test]
async fn a_gate_is_as_it_was_after_a_restart() {
    let mut desk = Desk::new(limits()).await;
    desk.add(5).await;
    for job in desk.posts().await {
        desk.settle(vec![after_post(job, lost("timeout"))]).await;
    }
    desk.crash().await;
    assert!(desk.claim().await.is_empty(), "a crash does not open it");
    desk.now += MINUTE;
    assert!(matches!(desk.claim().await[..], [Act::Probe]));
}

/// Some jobs, first in the queue, are answered in a way that closes the gate, for ever; in how
/// many seconds forty others are made.
async fn made_behind(first: usize, reply: &Reply) -> i64 {
    let limits = Limits {
        max_in_flight: 100,
        rate_per_minute: 1_000,
        ..limits()
    };
    let mut desk = Desk::new(limits).await;
    desk.add(first + 40).await;
    let (begin, mut made) = (desk.now, 0);
    while made < 40 {
        assert!(desk.now - begin < HOUR, "{made} made in an hour");
        for act in desk.claim().await {
            match act {
                Act::Probe => desk.settle(vec![Report::Probed(Ok(()))]).await,
                Act::Post { job, .. } if job.id <= first as JobId => {
                    desk.settle(vec![after_post(*job, reply.clone())]).await;
                }
                Act::Post { job, .. } => {
                    made += 1;
                    desk.settle(vec![accepted(*job)]).await;
                }
                _ => {}
            }
        }
        desk.now += SECOND;
    }
    for id in 1..=first as JobId {
        let state = desk.job(id).await.state;
        assert!(matches!(state, State::Pending | State::Unconfirmed));
    }
    (desk.now - begin) / SECOND
}

#[tokio::test]
async fn refused_jobs_do_not_stop_the_others() {
    let busy = json!({"error": {"type": "new_api_error", "message": "no channel"}});
    for (first, reply, most) in [
        (1, answer(403, &json!({})), 20),
        (4, answer(401, &json!({})), 60),
        (4, answer(402, &json!({})), 60),
        (12, answer(403, &json!({})), 90),
        (4, answer(429, &json!({})), 60),
        (4, answer(503, &busy), 60),
        // Accepted, perhaps, each of them.
        (10, answer(200, &json!({})), 90),
    ] {
        let seconds = made_behind(first, &reply).await;
        assert!(seconds <= most, "{seconds} s for {first} of {reply:?}");
    }
}

#[tokio::test]
async fn too_many_tasks_at_once_narrows_the_window() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    desk.add(4).await;
    let posts = desk.posts().await;
    let full = || answer(429, &json!({"error": "too many concurrent tasks"}));
    desk.settle(
        posts
            .into_iter()
            .map(|job| after_post(job, full()))
            .collect(),
    )
    .await;
    desk.now += 5 * MINUTE;
    let polled = desk.poll().await;
    assert!(
        desk.posts().await.is_empty(),
        "one task runs, and one is taken"
    );
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.posts().await.len(), 1);
}

// ---- Other accounts ----

#[tokio::test]
async fn tasks_of_another_account_take_no_room_and_are_never_asked_for() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.max_in_flight = 1;
    desk.crash().await;
    let old = desk.generate().await;
    desk.endpoint = "https://provider.test key-2";
    desk.crash().await;
    desk.add(1).await;
    let job = desk.posts().await.remove(0);
    let new = job.id;
    desk.settle(vec![accepted(job)]).await;
    for _ in 0..20 {
        for job in desk.claim().await.into_iter().filter_map(polled) {
            assert_eq!(job.id, new, "asked elsewhere");
            desk.settle(vec![running(job, 1)]).await;
        }
        desk.now += 10 * SECOND;
    }
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].name, "endpoint", "and it is said: {gates:?}");
    desk.endpoint = ENDPOINT;
    desk.crash().await;
    assert_eq!(desk.poll().await.id, old);
}

/// A desk with one task of its own, due behind many of another account; and its job.
async fn behind_strangers(strangers: usize) -> (Desk, JobId) {
    let mut desk = Desk::new(limits()).await;
    desk.add(strangers).await;
    desk.sql(
        "UPDATE jobs SET state = 'generating', version = version + 1, task_id = 't' || id, \
         endpoint = 'elsewhere', submitted_at = 0",
    )
    .await;
    let own = desk.generate().await;
    (desk, own)
}

#[tokio::test]
async fn tasks_of_another_account_keep_none_of_ours_waiting() {
    // The second gives a claim more to look at than it does at once.
    for strangers in [200, 2_000] {
        for closed in [false, true] {
            let (mut desk, own) = behind_strangers(strangers).await;
            if closed {
                let polled = desk.poll().await;
                let refused = after_poll(polled, answer(401, &json!({})));
                desk.settle(vec![refused]).await;
            }
            // All are due together, the strangers first.
            desk.crash().await;
            desk.now += MINUTE;
            let due = desk.now;
            let polled = loop {
                if let Some(job) = desk.claim().await.into_iter().find_map(polled) {
                    break job;
                }
                desk.now = desk.engine.next_wake(desk.now).await.unwrap().unwrap();
                assert!(desk.now < due + SECOND, "closed: {closed}");
            };
            assert_eq!(polled.id, own);
        }
    }
}

// ---- Downloads ----

#[tokio::test]
async fn downloads_go_before_submissions() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.downloads = 1;
    desk.crash().await;
    for _ in 0..2 {
        desk.generate().await;
    }
    desk.now += 20 * SECOND;
    let polls: Vec<Job> = desk.claim().await.into_iter().filter_map(polled).collect();
    assert_eq!(polls.len(), 2);
    desk.settle(polls.into_iter().map(completed).collect())
        .await;
    desk.add(1).await;
    let acts = desk.claim().await;
    let [Act::Fetch(job)] = &acts[..] else {
        panic!("one download, and nothing new while another waits: {acts:?}");
    };
    let saved = Fetched::Saved {
        file: saved_file(),
        note: None,
    };
    desk.settle(vec![Report::Fetched(job.clone(), saved)]).await;
    assert_eq!(desk.job(job.id).await.state, State::Done);
    let acts = desk.claim().await;
    assert!(
        matches!(acts[..], [Act::Fetch(_), Act::Post { .. }]),
        "{acts:?}"
    );
}

#[tokio::test]
async fn what_a_failed_job_has_of_its_video_is_there_for_the_retry() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let target = desk.job(id).await.target.unwrap();
    let part = format!("{target}.part");
    std::fs::create_dir_all(desk.folder.path().join("videos")).unwrap();
    std::fs::write(&part, b"ftyp").unwrap();

    let mut fetching = desk.job(id).await;
    desk.now = fetching.give_up_at.unwrap();
    fetching.faults = step::UNUSABLE_LIMIT;
    let unusable = Fetched::Unusable {
        reason: "404".to_owned(),
    };
    desk.settle(vec![Report::Fetched(Box::new(fetching), unusable)])
        .await;
    assert_eq!(desk.job(id).await.state, State::Failed);
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(std::fs::exists(&part).unwrap());

    desk.order(id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.job(id).await.target, Some(target));

    desk.order(id, Event::Cancelled).await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert!(!std::fs::exists(&part).unwrap());
    assert_eq!(desk.job(id).await.target, None);
}

#[tokio::test]
async fn a_finished_task_without_a_place_outlives_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    put(&desk.videos(), b"where a folder should be");
    desk.now = desk.job(id).await.give_up_at.unwrap();
    let polled = desk.next_poll().await;
    desk.settle(vec![completed(polled)]).await;
    for _ in 0..20 {
        assert!(desk.claim().await.is_empty(), "neither asked nor fetched");
        let job = desk.job(id).await;
        assert_eq!(job.state, State::Downloading);
        assert!(job.note.unwrap().contains("no place"));
        desk.now = job.due_at.unwrap();
    }
    std::fs::remove_file(desk.videos()).unwrap();
    let job = fetches(&mut desk).await.remove(0);
    let target = job.target.unwrap();
    assert!(std::path::Path::new(&target).starts_with(desk.videos()));
}

/// A job that was cancelled while its video came in: the file is there all the same.
async fn cancelled_too_late(desk: &mut Desk) -> Job {
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let job = fetches(desk).await.remove(0);
    desk.order(id, Event::Cancelled).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let target = job.target.clone().unwrap();
    desk.put_film(&target);
    let (file, note) = (saved_file(), None);
    let saved = Fetched::Saved { file, note };
    desk.settle(vec![Report::Fetched(Box::new(job), saved)])
        .await;
    let job = desk.job(id).await;
    assert_eq!(job.state, State::Cancelled);
    assert_eq!(job.target, Some(target));
    job
}

#[tokio::test]
async fn a_video_that_a_cancel_came_too_late_for_is_not_forgotten() {
    let mut desk = Desk::new(limits()).await;
    let job = cancelled_too_late(&mut desk).await;
    let target = job.target.unwrap();
    let note = job.note.unwrap();
    assert!(note.contains(&target) && note.contains("retry"), "{note}");
    let leftovers = desk.store.leftovers().await.unwrap();
    assert!(leftovers.is_empty(), "looked at for ever: {leftovers:?}");
    desk.crash().await;
    assert_eq!(desk.job(job.id).await.target.as_ref(), Some(&target));

    desk.order(job.id, Event::Retried).await;
    desk.engine.refresh(desk.now).await.unwrap();
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    let job = fetches(&mut desk).await.remove(0);
    assert_eq!(job.target.as_ref(), Some(&target));
    let sink = Sink::new(desk.videos()).unwrap();
    let there = sink.already_there(target.as_ref()).await;
    assert_eq!(there.unwrap().unwrap().0.path, target);
}

#[tokio::test]
async fn a_video_on_disk_outlives_its_task() {
    for end in [failed, expired, not_found] {
        let mut desk = Desk::new(limits()).await;
        let job = cancelled_too_late(&mut desk).await;
        desk.order(job.id, Event::Retried).await;
        desk.engine.refresh(desk.now).await.unwrap();
        let polled = desk.poll().await;
        desk.settle(vec![end(polled)]).await;
        let fetched = fetches(&mut desk).await.remove(0);
        assert_eq!(fetched.target, job.target);
    }
}

#[tokio::test]
async fn a_poll_that_taught_nothing_writes_nothing() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![running(polled, 10)]).await;
    let before = desk.job(id).await.version;
    let seen = desk.commits().await;
    for _ in 0..3 {
        let polled = desk.poll().await;
        desk.settle(vec![running(polled, 10)]).await;
        let polled = desk.poll().await;
        desk.settle(vec![after_poll(polled, answer(500, &json!({})))])
            .await;
    }
    assert_eq!(desk.commits().await, seen, "something was written");
    assert_eq!(desk.job(id).await.version, before);
}

// ---- Gates whose free request is of no use ----

/// Turns until the POST is tried, while the free request is answered like this.
async fn probes_before_a_trial(desk: &mut Desk, probe: &Reply) -> u32 {
    let mut probes = 0;
    for _ in 0..HOUR / SECOND {
        for act in desk.claim().await {
            match act {
                Act::Probe => {
                    probes += 1;
                    let failed = judge_probe(probe.clone());
                    assert!(failed.is_err());
                    desk.settle(vec![Report::Probed(failed)]).await;
                }
                Act::Post { job, .. } => {
                    desk.settle(vec![accepted(*job)]).await;
                    return probes;
                }
                _ => {}
            }
        }
        desk.now += SECOND;
    }
    panic!("still closed after {probes} free requests and an hour");
}

#[tokio::test]
async fn a_probe_that_always_fails_keeps_no_gate_closed_for_ever() {
    let cases = [
        (answer(401, &json!({"error": "no"})), [2, 2, 2]),
        // That the key is refused shows that the outage is over.
        (raw_answer(503, b"<html>"), [1, 6, 6]),
    ];
    for (post, patience) in cases {
        let probes = [
            answer(401, &json!({})),
            raw_answer(500, b""),
            lost("timeout"),
        ];
        for (probe, patience) in probes.into_iter().zip(patience) {
            let mut desk = Desk::new(limits()).await;
            desk.add(4).await;
            let posts = desk.posts().await.into_iter();
            let reports = posts.map(|job| after_post(job, post.clone()));
            desk.settle(reports.collect()).await;
            assert_eq!(probes_before_a_trial(&mut desk, &probe).await, patience);
        }
    }
}

#[tokio::test]
async fn a_start_looks_at_once_whether_a_fault_is_mended() {
    let cases = [
        (answer(401, &json!({})), true),
        (answer(402, &json!({})), true),
        (Reply::NotSent("refused".to_owned()), true),
        (answer(429, &json!({})), false),
        (answer(502, &json!({})), false),
    ];
    for (post, at_once) in cases {
        let mut desk = Desk::new(limits()).await;
        desk.add(4).await;
        let posts = desk.posts().await.into_iter();
        let reports = posts.map(|job| after_post(job, post.clone()));
        desk.settle(reports.collect()).await;
        assert!(desk.claim().await.is_empty(), "it is closed");
        desk.crash().await;
        let acts = desk.claim().await;
        assert_eq!(
            matches!(acts[..], [Act::Probe]),
            at_once,
            "{post:?}: {acts:?}"
        );
    }
}

#[tokio::test]
async fn a_gate_belongs_to_the_endpoint_that_it_was_closed_for() {
    let mut desk = Desk::new(limits()).await;
    desk.add(4).await;
    let posts = desk.posts().await.into_iter();
    let reports = posts.map(|job| after_post(job, lost("timeout")));
    desk.settle(reports.collect()).await;
    desk.endpoint = "https://provider.test key-2";
    desk.crash().await;
    assert_eq!(desk.posts().await.len(), 1, "another key's fault");
    assert!(desk.store.gates().await.unwrap().is_empty(), "still shown");
}

// ---- A task that is never answered ----

#[tokio::test]
async fn a_task_that_alone_is_never_answered_ends_at_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    desk.generate().await;
    let overdue = desk.now + desk.limits.policy.deadline;
    while desk.job(id).await.state == State::Generating {
        assert!(desk.now < overdue + HOUR, "it never ends");
        let polls = desk.claim().await.into_iter().filter_map(polled);
        let reports = polls.map(|job| match job.id == id {
            true => after_poll(job, answer(500, &json!({"error": "internal"}))),
            false => running(job, 1),
        });
        desk.settle(reports.collect()).await;
        let near = desk.now + HOUR >= overdue;
        desk.now += if near { 5 * SECOND } else { HOUR };
    }
    assert!(desk.now >= overdue);
    let failure = desk.job(id).await.failure.unwrap();
    assert_eq!(failure.code, FailureCode::Deadline);
}

#[tokio::test]
async fn an_outage_ends_no_task_at_its_deadline() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..2 {
        desk.generate().await;
    }
    desk.now += 2 * DAY;
    desk.crash().await;
    let mut polls = 0;
    for _ in 0..100 {
        let acts = desk.claim().await.into_iter().filter_map(polled);
        let reports: Vec<Report> = acts
            .map(|job| after_poll(job, raw_answer(502, b"<html>")))
            .collect();
        polls += reports.len();
        desk.settle(reports).await;
        desk.now += 2 * SECOND;
    }
    assert!(polls > 4, "{polls} polls");
    for id in 1..=2 {
        assert_eq!(desk.job(id).await.state, State::Generating);
    }
}

// ---- Too many tasks ----

#[tokio::test]
async fn tasks_taken_together_with_a_refusal_count() {
    let mut desk = Desk::new(limits()).await;
    desk.add(9).await;
    let mut posts = desk.posts().await;
    let full = answer(429, &json!({"error": "too many concurrent tasks"}));
    let refused = after_post(posts.remove(1), full);
    let mut reports: Vec<Report> = posts.into_iter().map(accepted).collect();
    reports.push(refused);
    desk.settle(reports).await;
    desk.now += 5 * MINUTE;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    // Two are what it takes, and one of them has ended.
    assert_eq!(desk.posts().await.len(), 1);
}

// ---- What hangs ----

#[tokio::test]
async fn a_post_that_hangs_does_not_keep_a_gate_closed() {
    let mut desk = Desk::new(limits()).await;
    desk.add(4).await;
    let mut posts = desk.posts().await;
    let _hangs = posts.remove(0);
    let limited = posts
        .into_iter()
        .map(|job| after_post(job, answer(429, &json!({"error": "slow down"}))));
    desk.settle(limited.collect()).await;
    assert!(desk.posts().await.is_empty());
    desk.now += MINUTE;
    let trial = desk.posts().await;
    assert_eq!(trial.len(), 1, "one job, to see");
    assert!(desk.posts().await.is_empty(), "and no second one beside it");
    desk.settle(vec![accepted(trial[0].clone())]).await;
    assert_eq!(desk.posts().await.len(), 2, "it is open");
}

/// The downloads that begin now.
async fn fetches(desk: &mut Desk) -> Vec<Job> {
    let acts = desk.claim().await;
    acts.into_iter()
        .filter_map(|act| match act {
            Act::Fetch(job) => Some(*job),
            _ => None,
        })
        .collect()
}

#[tokio::test]
async fn downloads_that_hang_leave_room_for_new_videos_and_new_jobs() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..3 {
        let id = desk.generate().await;
        let job = loop {
            let job = desk.poll().await;
            if job.id == id {
                break job;
            }
            desk.settle(vec![running(job, 1)]).await;
        };
        desk.settle(vec![completed(job)]).await;
        desk.sql("UPDATE jobs SET faults = 1 WHERE id < 3 AND state = 'downloading'")
            .await;
    }
    desk.crash().await;
    desk.now += HOUR;
    desk.add(1).await;
    // Two places: a video that was not tried yet goes first, and one retry beside it.
    let taken = fetches(&mut desk).await;
    let ids: Vec<JobId> = taken.iter().map(|job| job.id).collect();
    assert_eq!(ids, [3, 1]);
    assert_eq!(desk.job(4).await.state, State::Submitting);
    // With the retry still in hand, the place that comes free waits for a new video.
    let (file, note) = (saved_file(), None);
    let saved = Report::Fetched(Box::new(taken[0].clone()), Fetched::Saved { file, note });
    desk.settle(vec![saved]).await;
    assert!(fetches(&mut desk).await.is_empty());
}

#[tokio::test]
async fn videos_that_wait_for_ever_do_not_hold_submissions_for_ever() {
    let mut desk = Desk::new(limits()).await;
    for _ in 0..3 {
        desk.generate().await;
    }
    desk.sql(
        "UPDATE jobs SET state = 'downloading', version = version + 1, target = '/v/' || id, due_at = NULL",
    )
    .await;
    desk.engine.refresh(desk.now).await.unwrap();
    assert_eq!(fetches(&mut desk).await.len(), 2, "a third one waits");
    desk.add(1).await;
    assert!(desk.posts().await.is_empty(), "videos go first");
    desk.now += MINUTE;
    assert_eq!(desk.posts().await.len(), 1, "but nothing begins or ends");
}
