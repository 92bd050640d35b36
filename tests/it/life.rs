//! Lives of jobs, from the insert to the file: on the sandbox, and as the program
//! that waits for them sees them.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use reelq::Queue;
use reelq::config::{self, SecretSource, Settings};
use reelq::daemon::{DaemonError, Ending};
use reelq::job::{JobSpec, Outcome, Size, State};
use reelq::queue::QueueError;
use reelq::sandbox::{self, Options, Sandbox};
use reelq::service;
use reelq::signals::Signals;
use reelq::store::{Filter, Open, Store};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::rig::{LIMIT, files_below};

async fn sandbox(options: Options) -> Sandbox {
    sandbox::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        generation_time: Duration::ZERO,
        ..options
    })
    .await
    .unwrap()
}

fn settings(dir: &Path, sandbox: &Sandbox) -> Settings {
    let mut settings = config::defaults(dir).unwrap();
    settings.provider.base_url = sandbox.base_url().parse().unwrap();
    settings.provider.key = SecretSource::text("the test", "sk-test");
    settings.poll.interval = Duration::from_secs(3);
    settings.download.min_free_space = 0;
    settings
}

/// Stands between the daemon and the sandbox, and keeps what is asked and counts
/// what is given. The sandbox's links lead back to it.
struct Relay {
    url: String,
    asked: Arc<Mutex<Vec<u8>>>,
    given: Arc<AtomicU64>,
}

impl Relay {
    async fn to(sandbox: &Sandbox) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let relay = Relay {
            url: format!("http://{}", listener.local_addr().unwrap()),
            asked: Arc::default(),
            given: Arc::default(),
        };
        let address = sandbox.base_url();
        let address = address.strip_prefix("http://").unwrap().to_owned();
        let (asked, given) = (Arc::clone(&relay.asked), Arc::clone(&relay.given));
        tokio::spawn(async move {
            while let Ok((near, _)) = listener.accept().await {
                let far = TcpStream::connect(&address).await.unwrap();
                let (asked, given) = (Arc::clone(&asked), Arc::clone(&given));
                let (from_near, to_near) = near.into_split();
                let (from_far, to_far) = far.into_split();
                tokio::spawn(pass_on(from_near, to_far, move |bytes| {
                    asked.lock().unwrap().extend_from_slice(bytes);
                }));
                tokio::spawn(pass_on(from_far, to_near, move |bytes| {
                    given.fetch_add(bytes.len() as u64, Ordering::Relaxed);
                }));
            }
        });
        relay
    }

    /// Where each request for a part of a file began.
    fn offsets(&self) -> Vec<u64> {
        let asked = String::from_utf8_lossy(&self.asked.lock().unwrap()).into_owned();
        let ranges = asked
            .lines()
            .filter_map(|line| line.strip_prefix("range: bytes="));
        ranges
            .map(|range| range.strip_suffix('-').unwrap().parse().unwrap())
            .collect()
    }
}

async fn pass_on(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, keep: impl Fn(&[u8])) {
    let mut buffer = vec![0; 64 * 1024];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        keep(&buffer[..length]);
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

async fn run_until_idle(settings: &Settings) -> Arc<Store> {
    let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
    let service = service::assemble(settings, Arc::clone(&store), true)
        .await
        .unwrap();
    assert_eq!(
        service
            .daemon
            .run(Signals::listen().unwrap())
            .await
            .unwrap(),
        Ending::Idle
    );
    store
}

#[tokio::test]
async fn a_job_goes_in_and_a_verified_video_comes_out() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let settings = settings(dir.path(), &sandbox);
    let mut spec = JobSpec::new("A harbour at dawn", "https://example.com/harbour.jpg");
    spec.duration = 2;
    spec.size = Size::P480;
    spec.key = Some("harbour".to_owned());
    spec.batch = "spring".to_owned();
    let store = Store::open(&settings.database, Open::Create).await.unwrap();
    store.insert(&[spec.clone()]).await.unwrap();
    store.close().await;

    let store = run_until_idle(&settings).await;

    let jobs = store.list(&Filter::default()).await.unwrap();
    let [job] = jobs.as_slice() else {
        panic!("one job, not {}", jobs.len())
    };
    assert_eq!(job.state, State::Done);
    assert_eq!(job.spec, spec, "what was asked for is untouched");
    assert_eq!(job.note, None, "length and height are as asked");
    let file = job.file.as_ref().unwrap();
    assert_eq!(
        Path::new(&file.path),
        settings.download.dir.join("spring/1.mp4")
    );
    let bytes = std::fs::read(&file.path).unwrap();
    assert_eq!(bytes.len() as u64, file.bytes);
    let hash: String = <sha2::Sha256 as sha2::Digest>::digest(&bytes)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    assert_eq!(hash, file.sha256);
    let names: Vec<_> = std::fs::read_dir(settings.download.dir.join("spring"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(names, ["1.mp4"], "no partial file is left");

    let words: Vec<_> = store
        .history(job.id)
        .await
        .unwrap()
        .into_iter()
        .map(|event| event.event)
        .filter(|event| event != "running")
        .collect();
    assert_eq!(words, ["claimed", "accepted", "completed", "saved"]);
    let ledger = store.ledger(Some(job.id), None, None).await.unwrap();
    assert_eq!(ledger.len(), 1);
    assert_eq!(ledger[0].outcome, Outcome::Accepted);
    assert_eq!(ledger[0].task_id, job.task_id);

    let bill = sandbox.shutdown().await;
    assert_eq!(bill.accepted, 1);
    assert_eq!(bill.tasks[0].prompt, spec.prompt);
    assert_eq!((bill.tasks[0].duration, bill.tasks[0].polls), (2, 1));
    let key = bill.tasks[0].idempotency_key.clone().unwrap();
    assert_eq!(key, format!("reelq-{}-1-1", store.queue_id()));
}

#[tokio::test]
async fn lost_answers_are_billed_once_and_wait_for_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options {
        lose_rate: 1.0,
        ..Options::default()
    })
    .await;
    let settings = settings(dir.path(), &sandbox);
    let store = Store::open(&settings.database, Open::Create).await.unwrap();
    let spec = JobSpec::new("A harbour at dawn", "https://example.com/harbour.jpg");
    store.insert(&[spec]).await.unwrap();
    store.close().await;

    for _restart in 0..2 {
        let store = run_until_idle(&settings).await;
        let jobs = store.list(&Filter::default()).await.unwrap();
        assert_eq!(jobs[0].state, State::Unconfirmed);
    }
    assert_eq!(sandbox.shutdown().await.accepted, 1);
}

#[tokio::test]
async fn cut_downloads_go_on_where_they_broke_off() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options {
        cut_rate: 0.5,
        seed: Some(3),
        ..Options::default()
    })
    .await;
    let relay = Relay::to(&sandbox).await;
    let mut settings = settings(dir.path(), &sandbox);
    settings.provider.base_url = relay.url.parse().unwrap();
    let store = Store::open(&settings.database, Open::Create).await.unwrap();
    let specs: Vec<_> = (0..6)
        .map(|n| JobSpec::new(format!("clip {n}"), "https://example.com/a.jpg"))
        .collect();
    store.insert(&specs).await.unwrap();
    store.close().await;

    let store = run_until_idle(&settings).await;

    let counts = store.counts(None).await.unwrap();
    assert_eq!(counts.of(State::Done), 6);
    let bill = sandbox.shutdown().await;
    assert_eq!(bill.accepted, 6);
    assert!(bill.downloads > 6, "some were cut: {}", bill.downloads);
    let offsets = relay.offsets();
    let again = bill.downloads - 6;
    assert_eq!(offsets.len() as u64, again, "each asks for the rest alone");
    assert!(offsets.iter().all(|offset| *offset > 0), "{offsets:?}");
    let files = files_below(&settings.download.dir);
    let bytes: u64 = files
        .iter()
        .map(|file| std::fs::metadata(file).unwrap().len())
        .sum();
    // Every byte came once; the rest is what heads and answers about tasks take.
    let given = relay.given.load(Ordering::Relaxed);
    let least = offsets.iter().min().unwrap();
    assert!(
        (bytes..bytes + least).contains(&given),
        "{given} bytes were given for {bytes}, offsets {offsets:?}"
    );
}

/// A daemon at work in this process, until it is told to stop.
struct Running {
    stop: Arc<Notify>,
    task: JoinHandle<Result<Ending, DaemonError>>,
}

impl Running {
    async fn start(settings: &Settings) -> Running {
        let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
        let service = service::assemble(settings, store, false).await.unwrap();
        Running {
            stop: Arc::clone(&service.stop),
            task: tokio::spawn(service.daemon.run(Signals::listen().unwrap())),
        }
    }

    async fn stop(self) {
        self.stop.notify_one();
        assert_eq!(self.task.await.unwrap().unwrap(), Ending::Stopped);
    }
}

fn keyed(key: &str, batch: &str) -> JobSpec {
    let mut spec = JobSpec::new(format!("clip {key}"), "https://example.com/a.jpg");
    spec.key = Some(key.to_owned());
    spec.batch = batch.to_owned();
    spec.duration = 1;
    spec
}

#[tokio::test]
async fn a_program_adds_jobs_and_waits_for_them() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options::default()).await;
    let settings = settings(dir.path(), &sandbox);
    let queue = Queue::open(&settings.database).await.unwrap();
    let first = queue.add(&keyed("one", "spring")).await.unwrap();
    assert_eq!(queue.add(&keyed("one", "spring")).await.unwrap(), first);
    let more = [keyed("one", "spring"), keyed("two", "spring")];
    let added = queue.add_many(&more).await.unwrap();
    assert_eq!(added.existing, [first]);
    let [second] = added.inserted[..] else {
        panic!("{added:?}")
    };

    // None of them, if one breaks a rule.
    let mut bad = keyed("four", "spring");
    bad.duration = 16;
    let refused = queue.add_many(&[keyed("three", "spring"), bad]).await;
    let refused = refused.unwrap_err();
    assert!(
        matches!(refused, QueueError::Rule { index: 1, .. }),
        "{refused}"
    );
    assert!(queue.get_by_key("three").await.unwrap().is_none());

    let waiting = queue.get(second).await.unwrap().unwrap();
    assert_eq!(waiting.state, State::Pending);
    assert_eq!(waiting.spec, keyed("two", "spring"));
    let by_key = queue.get_by_key("two").await.unwrap();
    assert_eq!(by_key.map(|job| job.id), Some(second));
    assert!(queue.get(second + 1).await.unwrap().is_none());
    let nobody = queue.wait(second + 1).await.unwrap_err();
    assert!(matches!(nobody, QueueError::Missing(id) if id == second + 1));
    assert_eq!(queue.wait_batch("autumn").await.unwrap().total(), 0);

    // Both waits begin before the daemon does, and end by what it does.
    let work = async {
        let daemon = Running::start(&settings).await;
        // It hears of a job that is added while it runs.
        let last = queue.add(&keyed("last", "summer")).await.unwrap();
        let job = queue.wait(last).await.unwrap();
        assert_eq!(job.state, State::Done);
        daemon
    };
    let all = async { tokio::join!(queue.wait(second), queue.wait_batch("spring"), work) };
    let (job, counts, daemon) = tokio::time::timeout(LIMIT, all).await.unwrap();
    let job = job.unwrap();
    assert_eq!((job.id, job.state), (second, State::Done));
    let file = job.file.unwrap();
    assert_eq!(std::fs::metadata(&file.path).unwrap().len(), file.bytes);
    let counts = counts.unwrap();
    assert_eq!((counts.of(State::Done), counts.total()), (2, 2));
    daemon.stop().await;
    queue.close().await;
    assert_eq!(sandbox.shutdown().await.accepted, 3);
}

/// A job that needs a person moves no more by itself.
#[tokio::test]
async fn a_wait_ends_with_a_job_that_needs_a_person() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox(Options {
        lose_rate: 1.0,
        ..Options::default()
    })
    .await;
    let settings = settings(dir.path(), &sandbox);
    let queue = Queue::open(&settings.database).await.unwrap();
    let id = queue.add(&keyed("one", "spring")).await.unwrap();
    let daemon = Running::start(&settings).await;
    let both = async { tokio::join!(queue.wait(id), queue.wait_batch("spring")) };
    let (job, counts) = tokio::time::timeout(LIMIT, both).await.unwrap();
    assert_eq!(job.unwrap().state, State::Unconfirmed);
    assert_eq!(counts.unwrap().of(State::Unconfirmed), 1);
    daemon.stop().await;
}
