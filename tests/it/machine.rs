//! The machine's own faults: a full disk, a locked database, a row that cannot
//! be read, a signal at a bad moment, a clock that jumps.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::path::Path;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use std::time::Duration;

use reelq::config::{self, Settings, Sources};
use reelq::daemon::Ending;
use reelq::engine::{Act, Engine, Report, Surroundings};
use reelq::gate::{Cause, Fault};
use reelq::job::{Evidence, JobSpec, Millis, State};
use reelq::places::Places;
use reelq::service;
use reelq::signals::Signals;
use reelq::sink::Sink;
use reelq::store::{Open, Store};
use reelq::verdict::{Fetched, PollVerdict, PostVerdict};
use rustix::process::{Pid, Resource, Rlimit, Signal, prlimit};
use sqlx::Connection;
use tokio::net::{TcpListener, UnixDatagram};
use tokio::process::Command;
use tokio::time::{Instant, interval, timeout};

use crate::film::{Layout, film};
use crate::provider::{End, KEY, Kind, Script, film_answer, json, status};
use crate::rig::{LIMIT, Rig, Row, connect, folder};

/// Said when a commit was refused for now.
const WAITS: &str = "nothing new is submitted until this is mended";

fn script(job: &str, length: usize) -> (String, Script) {
    let film = film(Layout::MoovFirst, job, 6, length);
    (job.to_owned(), Script::kind(film))
}

/// A job whose POST is answered when the test says so.
fn held(job: &str) -> (String, Script) {
    let (job, mut script) = script(job, 3_000);
    script.post = script
        .post
        .into_iter()
        .map(|answer| answer.held())
        .collect();
    (job, script)
}

async fn until_post(rig: &Rig) {
    rig.provider
        .until("a POST", LIMIT, |provider| {
            provider.count(Kind::Post, None) > 0
        })
        .await;
}

/// Every job is done, each for one POST, and nothing else is wrong.
async fn check_all_done(rig: &Rig) {
    assert_eq!(
        rig.violations().await,
        Vec::<String>::new(),
        "{}",
        rig.words()
    );
    for row in rig.rows().await {
        assert_eq!(row.state, "done", "{row:?}\n{}", rig.words());
        assert_eq!(rig.provider.count(Kind::Post, Some(&row.job)), 1);
    }
}

/// No file of a process may grow beyond this; a write that would is refused as
/// on a full disk.
fn limit_files(process: Pid, bytes: Option<u64>) {
    let limit = Rlimit {
        current: bytes,
        maximum: None,
    };
    prlimit(Some(process), Resource::Fsize, limit).unwrap();
}

/// A film that does not fit waits with what there is of it, and goes on from
/// there when there is room.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_interrupts_a_download() {
    let mut rig = Rig::new();
    rig.add(vec![script("large", 600_000), script("small", 3_000)])
        .await;
    let daemon = rig.start();
    limit_files(daemon.id(), Some(400_000));
    rig.until("the disk is full", async || {
        let full = |row: &Row| {
            row.note
                .as_ref()
                .is_some_and(|note| note.contains("no space left"))
        };
        rig.rows().await.iter().any(full)
    })
    .await;
    rig.until_jobs("done", 1).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0), "{}", rig.words());

    rig.run_until_idle().await;
    check_all_done(&rig).await;
    let seen = rig.provider.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range")));
}

/// A task id that the disk does not take is kept, said aloud, and written when
/// there is room again; nobody has to start anything anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_delays_a_commit() {
    let mut rig = Rig::new();
    rig.add(vec![held("one"), script("two", 3_000)]).await;
    let mut daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    rig.until_jobs("generating", 1).await;
    // The log of the database may not grow; the daemon's own may.
    let length = std::fs::metadata(rig.dir.path().join("q.db-wal"))
        .unwrap()
        .len();
    limit_files(daemon.id(), Some(length));
    rig.provider.release("one");
    rig.until_said(WAITS).await;
    rig.until_said("an accepted task is not on disk yet").await;
    rig.until_said("task=\"task_one\"").await;
    assert!(daemon.is_running());
    limit_files(daemon.id(), None);
    daemon.ended().await;
    check_all_done(&rig).await;
}

/// With less free space than configured nothing is submitted, and it says why.
#[tokio::test(flavor = "multi_thread")]
async fn little_free_space_holds_submissions() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    rig.set("DOWNLOAD__MIN_FREE_SPACE", "4000PiB");
    let daemon = rig.start();
    rig.until("the disk holds", async || {
        let mut conn = connect(&rig.database()).await;
        let held: i64 = sqlx::query_scalar("SELECT count(*) FROM gates WHERE name = 'disk'")
            .fetch_one(&mut conn)
            .await
            .unwrap();
        held == 1
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(rig.provider.count(Kind::Post, None), 0);
    rig.set("DOWNLOAD__MIN_FREE_SPACE", "0");
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}

/// A stop lets a POST on the wire be answered and keeps the answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_waits_for_a_post() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let mut daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    rig.until_said("waiting for the requests on the wire").await;
    assert!(daemon.is_running());
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
    let row = rig.rows().await.remove(0);
    assert_eq!(
        (row.state.as_str(), row.task.as_deref()),
        ("generating", Some("task_one"))
    );
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}

/// A stop begins nothing new, whatever is ready with it.
#[tokio::test]
async fn a_stop_goes_before_new_work() {
    for _ in 0..20 {
        let dir = folder();
        let settings = settings(dir.path(), &[]);
        let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
        let job = JobSpec::new("one", "https://example.com/a.jpg");
        store.insert(&[job]).await.unwrap();
        let service = service::assemble(&settings, Arc::clone(&store), false);
        let service = service.await.unwrap();
        let mut run = pin!(service.daemon.run(Signals::listen().unwrap()));
        let begun = poll_fn(|context| Poll::Ready(run.as_mut().poll(context)));
        assert!(begun.await.is_pending());
        // A later timer: the daemon's first look is due with the stop.
        interval(Duration::from_secs(1)).tick().await;
        service.stop.notify_one();
        assert_eq!(run.await.unwrap(), Ending::Stopped);
        assert!(store.ledger(None, None, None).await.unwrap().is_empty());
    }
}

/// The service manager hears that a daemon is alive that waits for an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_waits_feeds_the_watchdog() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let path = rig.dir.path().join("notify");
    let socket = UnixDatagram::bind(&path).unwrap();
    rig.set_system("NOTIFY_SOCKET", path.to_str().unwrap());
    rig.set_system("WATCHDOG_USEC", "300000");
    let daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    let mut stopping = false;
    let mut fed = 0;
    let mut words = [0; 256];
    while fed < 3 {
        let heard = timeout(LIMIT, socket.recv(&mut words)).await;
        let length = heard.expect("no word to the service manager").unwrap();
        let words = str::from_utf8(&words[..length]).unwrap();
        stopping |= words.contains("STOPPING=1");
        fed += u32::from(stopping && words.contains("WATCHDOG=1"));
    }
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
}

/// A second signal does not wait: the POST's end is then unknown, and stays so.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_signal_does_not_wait() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let daemon = rig.start();
    until_post(&rig).await;
    daemon.signal(Signal::TERM);
    rig.until_said("waiting for the requests on the wire").await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    assert_eq!(rig.rows().await[0].state, "submitting");
    rig.provider.release("one");
    rig.run_until_idle().await;
    assert_eq!(rig.rows().await[0].state, "unconfirmed");
    assert_eq!(rig.provider.count(Kind::Post, None), 1);
    assert_eq!(rig.violations().await, Vec::<String>::new());
}

/// A stop does not wait for a download, and the next start goes on with it.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_keeps_half_a_film() {
    let mut rig = Rig::new();
    let (job, mut slow) = script("one", 300_000);
    let whole = film_answer().ranges("\"v1\"");
    let answers = vec![whole.clone().ends(End::Stall(50)), whole];
    slow.files.insert("v".to_owned(), answers);
    rig.add(vec![(job, slow)]).await;
    let daemon = rig.start();
    let part = rig.videos().join("default/1.mp4.part");
    rig.until("half a film", async || {
        std::fs::metadata(&part).is_ok_and(|meta| meta.len() >= 150_000)
    })
    .await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));
    rig.run_until_idle().await;
    check_all_done(&rig).await;
    let seen = rig.provider.seen();
    assert!(seen.iter().any(|seen| seen.headers.contains_key("range")));
}

/// Another program holds the database for longer than a statement waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_is_waited_for() {
    let mut rig = Rig::new();
    rig.add(vec![held("one"), script("two", 3_000)]).await;
    let daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    rig.until_jobs("generating", 1).await;
    let mut other = connect(&rig.database()).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    rig.provider.release("one");
    rig.until_said(WAITS).await;
    lock.rollback().await.unwrap();
    daemon.ended().await;
    check_all_done(&rig).await;
}

/// What others have committed is not passed over because it could not be followed at once.
#[tokio::test]
async fn a_locked_database_is_no_idle_one() {
    let dir = folder();
    let settings = settings(dir.path(), &[]);
    let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
    let service = service::assemble(&settings, Arc::clone(&store), true);
    let service = service.await.unwrap();
    // A path is to be released, which needs the lock.
    let job = JobSpec::new("one", "https://example.com/a.jpg");
    store.insert(&[job]).await.unwrap();
    let mut other = connect(&settings.database).await;
    sqlx::query(
        "UPDATE jobs SET state = 'cancelled', version = version + 1, finished_at = 1, \
         target = '/nowhere/1.mp4'",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();

    let log = tempfile::NamedTempFile::new().unwrap();
    let _listens = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_writer(Mutex::new(log.reopen().unwrap()))
            .finish(),
    );
    let said = || std::fs::read_to_string(log.path()).unwrap();
    let daemon = tokio::spawn(service.daemon.run(Signals::listen().unwrap()));
    let deadline = Instant::now() + LIMIT;
    while !said().contains(WAITS) {
        assert!(Instant::now() < deadline, "{}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lock.rollback().await.unwrap();
    assert_eq!(daemon.await.unwrap().unwrap(), Ending::Idle);
    assert!(store.leftovers().await.unwrap().is_empty(), "{}", said());
    for line in [WAITS, "the database takes commits again"] {
        assert_eq!(said().matches(line).count(), 1, "{}", said());
    }
}

/// The same at the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_locked_at_the_start_is_waited_for() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    let mut other = connect(&rig.database()).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let daemon = rig.start_behind(&[], true);
    rig.until_said("waiting; nothing is done until this is mended")
        .await;
    lock.rollback().await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(0));
    check_all_done(&rig).await;
}

/// Rows that cannot be read are named and set aside; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_row_is_set_aside() {
    let mut rig = Rig::new();
    let mut jobs = vec![
        script("good", 3_000),
        script("generating", 3_000),
        script("downloading", 3_000),
    ];
    jobs[1].1.poll = vec![json(200, r#"{"status":"running"}"#)];
    jobs[2].1.files.clear();
    jobs[2].1.content = vec![status(503)];
    rig.add(jobs).await;
    let daemon = rig.start();
    rig.until_jobs("done", 1).await;
    rig.until_jobs("downloading", 1).await;
    daemon.signal(Signal::TERM);
    daemon.ended().await;

    let mut conn = connect(&rig.database()).await;
    for sql in [
        "INSERT INTO jobs (prompt, image_url) VALUES (CAST(x'ff' AS TEXT), 'https://example.com/a.jpg')",
        "UPDATE jobs SET endpoint = CAST(x'ff' AS TEXT) WHERE prompt = 'generating'",
        "UPDATE jobs SET video_urls = '{' WHERE prompt = 'downloading'",
    ] {
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    rig.add(vec![script("late", 3_000)]).await;
    rig.run_until_idle().await;
    for row in rig.rows().await {
        let column = match row.job.as_str() {
            "unreadable" => "prompt",
            "generating" => "endpoint",
            "downloading" => "video_urls",
            _ => {
                assert_eq!(row.state, "done", "{row:?}");
                continue;
            }
        };
        assert_eq!(
            (row.state.as_str(), row.code.as_str()),
            ("failed", "corrupt_row"),
            "{row:?}"
        );
        assert!(
            row.message
                .as_ref()
                .is_some_and(|words| words.contains(column)),
            "{row:?}"
        );
        rig.until_said(&format!("this row is set aside job={}", row.id))
            .await;
    }
}

const SECOND: Millis = 1_000;
const DAY: Millis = 86_400 * SECOND;

/// A queue's settings, with nobody to talk to.
fn settings(folder: &Path, more: &[(&str, &str)]) -> Settings {
    let mut env: BTreeMap<String, String> = [
        ("REELQ_PROVIDER__BASE_URL", "http://127.0.0.1:1"),
        ("REELQ_PROVIDER__API_KEY", KEY),
        ("REELQ_DOWNLOAD__MIN_FREE_SPACE", "0"),
    ]
    .iter()
    .chain(more)
    .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
    .collect();
    config::load(Sources {
        database: Some("q.db".into()),
        env: std::mem::take(&mut env),
        folder: folder.to_owned(),
        ..Sources::default()
    })
    .unwrap()
}

async fn engine(settings: &Settings, store: &Arc<Store>, now: Millis) -> Engine {
    let places = Places {
        sink: Sink::new(settings.download.dir.clone()).unwrap(),
        template: settings.download.name.clone(),
        timezone: settings.budget.timezone.clone(),
    };
    let (store, limits) = (Arc::clone(store), service::limits(settings));
    let endpoint = "here".to_owned();
    Engine::open(store, places, endpoint, limits, Arc::default(), now)
        .await
        .unwrap()
}

/// A queue in the middle of everything, without a network: one task runs, one
/// download waits out a back-off, one POST was refused and its gate is closed.
struct Middle {
    engine: Engine,
    store: Arc<Store>,
    now: Millis,
    _dir: tempfile::TempDir,
}

impl Middle {
    async fn new() -> Middle {
        let dir = folder();
        // So that a deadline lies within the jump.
        let settings = settings(dir.path(), &[("REELQ_POLL__DEADLINE", "1h")]);
        let now = 1_767_225_600_000;
        let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
        let specs: Vec<JobSpec> = (0..4)
            .map(|n| JobSpec {
                not_before: (n == 3).then_some(now + DAY / 2),
                ..JobSpec::new(format!("job{n}"), "https://example.com/a.jpg")
            })
            .collect();
        store.insert(&specs).await.unwrap();
        let engine = engine(&settings, &store, now).await;
        let mut middle = Middle {
            engine,
            store,
            now,
            _dir: dir,
        };
        middle.come_about().await;
        middle
    }

    async fn come_about(&mut self) {
        for act in self.claim().await {
            let Act::Post { job, .. } = act else {
                panic!("{act:?}")
            };
            let evidence = Evidence::default();
            let verdict = match job.id {
                3 => PostVerdict::NotAccepted {
                    evidence,
                    fault: Fault {
                        cause: Cause::KeyRefused,
                        symptom: "401".to_owned(),
                        message: "who are you?".to_owned(),
                        retry_after: Some(600 * SECOND),
                    },
                    crowded: false,
                },
                id => PostVerdict::Accepted {
                    task_id: format!("task{id}"),
                    evidence,
                },
            };
            self.settle(Report::Posted(job, verdict)).await;
        }
        self.now += 30 * SECOND;
        for act in self.claim().await {
            let Act::Poll(job) = act else {
                panic!("{act:?}")
            };
            let verdict = match job.id {
                1 => PollVerdict::Running { progress: None },
                _ => PollVerdict::Completed {
                    urls: vec!["http://127.0.0.1:1/v".to_owned()],
                },
            };
            self.settle(Report::Polled(job, verdict)).await;
        }
        for act in self.claim().await {
            let Act::Fetch(job) = act else {
                panic!("{act:?}")
            };
            let fetched = Fetched::Interrupted {
                reason: "no route".to_owned(),
                advanced: false,
            };
            self.settle(Report::Fetched(job, fetched)).await;
        }
    }

    async fn claim(&mut self) -> Vec<Act> {
        let around = Surroundings {
            now: self.now,
            day_start: 0,
            free_space: None,
            submit: true,
        };
        self.engine.claim(&around).await.unwrap()
    }

    async fn settle(&mut self, report: Report) {
        self.engine.settle(vec![report], self.now).await.unwrap();
    }

    /// What it does in the next quarter of an hour, each with its time from now.
    /// Tasks still run, downloads are still interrupted, POSTs are accepted.
    async fn goes_on(&mut self) -> Vec<(Millis, String)> {
        let start = self.now;
        let mut done = Vec::new();
        while self.now < start + 900 * SECOND {
            for act in self.claim().await {
                let (what, report) = match act {
                    Act::Post { job, .. } => {
                        let verdict = PostVerdict::Accepted {
                            task_id: format!("late{}", job.id),
                            evidence: Evidence::default(),
                        };
                        (format!("post {}", job.id), Report::Posted(job, verdict))
                    }
                    Act::Poll(job) => {
                        let verdict = PollVerdict::Running { progress: None };
                        (format!("poll {}", job.id), Report::Polled(job, verdict))
                    }
                    Act::Fetch(job) => {
                        let reason = "no route".to_owned();
                        let fetched = Fetched::Interrupted {
                            reason,
                            advanced: false,
                        };
                        (format!("fetch {}", job.id), Report::Fetched(job, fetched))
                    }
                    Act::Probe => ("probe".to_owned(), Report::Probed(Ok(()))),
                };
                done.push(((self.now - start) / (60 * SECOND), what));
                self.settle(report).await;
            }
            self.now += SECOND;
        }
        done.sort();
        done.dedup();
        done
    }
}

/// The wall clock is set by a day, either way: nothing comes early, nothing
/// waits for a day, no deadline passes, and only a producer's own date stays.
#[tokio::test]
async fn a_clock_that_jumps_moves_every_appointment() {
    let mut calm = Middle::new().await;
    let expected = calm.goes_on().await;
    assert!(
        expected.iter().any(|(_, what)| what == "post 3"),
        "{expected:?}"
    );
    assert!(expected.iter().any(|(_, what)| what == "poll 1"));
    assert!(expected.iter().any(|(_, what)| what == "fetch 2"));
    for delta in [DAY, -DAY] {
        let mut middle = Middle::new().await;
        middle.now += delta;
        middle.engine.clock_jumped(delta).await.unwrap();
        let done = middle.goes_on().await;
        // A task's age, which makes its polls rarer, counts by the wall clock; the
        // fourth job's date has come now, if the clock went forward.
        let comparable = |done: &[(Millis, String)]| -> Vec<(Millis, String)> {
            let (polls, rest): (Vec<_>, Vec<_>) = done
                .iter()
                .cloned()
                .partition(|(_, what)| what.starts_with("poll"));
            assert!(polls.iter().filter(|(_, what)| what == "poll 1").count() >= 12);
            rest.into_iter()
                .filter(|(_, what)| what != "post 4")
                .collect()
        };
        assert_eq!(
            comparable(&done),
            comparable(&expected),
            "after a jump by {delta} ms"
        );
        for id in 1..=3 {
            let job = middle.store.job(id).await.unwrap().unwrap();
            assert!(!job.state.is_settled(), "{job:?}");
        }
        let dated = middle.store.job(4).await.unwrap().unwrap();
        assert_eq!(dated.state == State::Pending, delta < 0, "{dated:?}");
    }
}

/// The clock is set back while reelq is stopped: the POSTs of the last day, which
/// now lie in the future, are no reason to wait for a day.
#[tokio::test]
async fn a_clock_that_was_set_back_does_not_stop_submissions() {
    let dir = folder();
    let settings = settings(dir.path(), &[("REELQ_SUBMIT__RATE_PER_MINUTE", "1")]);
    let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
    let spec = JobSpec::new("job", "https://example.com/a.jpg");
    store.insert(&[spec.clone(), spec]).await.unwrap();
    let mut now = 1_767_225_600_000;
    for delta in [0, -DAY] {
        now += delta;
        let around = Surroundings {
            now,
            day_start: 0,
            free_space: None,
            submit: true,
        };
        let acts = engine(&settings, &store, now)
            .await
            .claim(&around)
            .await
            .unwrap();
        let posts = acts
            .iter()
            .filter(|act| matches!(act, Act::Post { .. }))
            .count();
        assert_eq!(posts, 1, "after a jump by {delta} ms: {acts:?}");
    }
}

/// Where no video is to be had the task is asked anew; the daemon that is
/// started after a kill does not know when that was.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_asks_no_sooner_for_another_link() {
    let mut rig = Rig::new();
    let (job, mut late) = script("one", 3_000);
    late.poll = vec![json(200, r#"{"status":"completed"}"#)];
    late.content = vec![status(404), film_answer().held(), film_answer()];
    rig.add(vec![(job, late)]).await;
    let daemon = rig.start();
    rig.provider
        .until("a second try", LIMIT, |provider| {
            provider.count(Kind::Content, None) == 2
        })
        .await;
    assert_eq!(rig.provider.count(Kind::Poll, None), 2);
    daemon.kill().await;
    rig.run_until_idle().await;
    check_all_done(&rig).await;
    assert_eq!(rig.provider.count(Kind::Poll, None), 3);
}

// ---- Starts that must be refused ----

/// Starts a daemon that must end by itself with this status; its one line.
async fn refused(rig: &Rig, more: &[(&str, &str)], status: i32) -> String {
    let mut environment: BTreeMap<String, String> = rig.environment().into_iter().collect();
    environment.remove("REELQ_LOG");
    let database = rig.database().to_string_lossy().into_owned();
    environment.insert("REELQ_DATABASE".to_owned(), database);
    let config = rig.dir.path().join("config.toml");
    let run = Command::new(env!("CARGO_BIN_EXE_reelq"))
        .args(["run", "--config", &config.to_string_lossy()])
        .env_clear()
        .envs(environment)
        .envs(more.iter().copied())
        .current_dir(rig.dir.path())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(LIMIT, run).await.unwrap().unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert_eq!(ran.status.code(), Some(status), "{said}");
    assert_eq!(ran.stdout, b"");
    let line = said.strip_suffix('\n').unwrap();
    assert!(!line.contains('\n'), "more than a line:\n{said}");
    line.to_owned()
}

/// The first daemon is not disturbed, and nothing is sent by the second one.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_daemon_is_refused() {
    let mut rig = Rig::new();
    rig.add(vec![held("one")]).await;
    let mut daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    let said = refused(&rig, &[], 75).await;
    assert_eq!(
        said,
        format!(
            "reelq: {}: another reelq daemon (process {}) works on this queue; stop it first, \
             or use another --database",
            rig.database().display(),
            daemon.id().as_raw_nonzero()
        )
    );
    assert_eq!(rig.rows().await[0].state, "submitting", "taken for lost");
    assert!(daemon.is_running());
    rig.provider.release("one");
    assert_eq!(daemon.ended().await.code(), Some(0));
    check_all_done(&rig).await;
    // Its lock ended with it.
    rig.run_until_idle().await;
}

/// Places that refuse everybody, and root as well.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_cannot_be_written_is_named() {
    let rig = Rig::new();
    let file = rig.dir.path().join("config.toml");
    for place in [Path::new("/proc"), Path::new("/sys"), &file] {
        for (setting, variable, name) in [
            ("", "REELQ_DATABASE", "q.db"),
            ("download.dir = ", "REELQ_DOWNLOAD__DIR", "videos"),
        ] {
            let path = place.join(name).display().to_string();
            let said = refused(&rig, &[(variable, &path)], 78).await;
            let named = format!("reelq: {setting}{path}: ");
            assert!(said.starts_with(&named), "{said}");
        }
    }
    assert_eq!(std::fs::read(&file).unwrap(), b"");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_named() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let said = refused(&rig, &[("REELQ_HTTP__LISTEN", &address)], 69).await;
    assert_eq!(
        said,
        format!(
            "reelq: http.listen = {address}: another program listens there; stop it or choose \
             another address"
        )
    );
    assert_eq!(rig.provider.count(Kind::Post, None), 0);
    drop(other);
    rig.run_until_idle().await;
    check_all_done(&rig).await;
}
