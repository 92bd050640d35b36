//! Webhooks: a real receiver, a real outbox, a clock that is set by hand.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::http::{HeaderMap, StatusCode};
use axum::routing::post;
use reelq::clock::Clock;
use reelq::job::{Event, JobId, JobSpec};
use reelq::store::{Message, Open, Store};
use reelq::webhook::{self, KEPT, Webhooks};
use secrecy::SecretString;
use serde_json::Value;
use tempfile::TempDir;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;

use crate::http::{NOW, accepted, happen, unconfirmed};
use crate::rig::{LIMIT, nobody};

const SECRET: &str = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";

/// A message as it came.
#[derive(Debug)]
struct Got {
    headers: HeaderMap,
    text: String,
}

impl Got {
    fn header(&self, name: &str) -> &str {
        self.headers[name].to_str().unwrap()
    }

    fn body(&self) -> Value {
        serde_json::from_str(&self.text).unwrap()
    }

    /// `job.done 3` or `batch.completed spring`.
    fn words(&self) -> String {
        let body = self.body();
        let data = &body["data"];
        let subject = match data["job"]["id"].as_i64() {
            Some(id) => id.to_string(),
            None => data["batch"].as_str().unwrap().to_owned(),
        };
        format!("{} {subject}", body["type"].as_str().unwrap())
    }
}

/// Answers with 200, or with what is set for some words.
#[derive(Default)]
struct Rules(Mutex<HashMap<String, (u16, Option<&'static str>)>>);

/// Words whose answer waits, and for what.
type Held = Arc<Mutex<HashMap<String, Arc<Notify>>>>;

struct Receiver {
    url: String,
    got: mpsc::UnboundedReceiver<Got>,
    rules: Arc<Rules>,
    held: Held,
}

impl Receiver {
    async fn start() -> Receiver {
        let (sender, got) = mpsc::unbounded_channel();
        let rules = Arc::new(Rules::default());
        let asked = Arc::clone(&rules);
        let held = Held::default();
        let waiting = Arc::clone(&held);
        let answer = move |headers: HeaderMap, text: String| {
            let got = Got { headers, text };
            let rules = asked.0.lock().unwrap().clone();
            // Not every message is a value to our parser.
            let rule = match rules.is_empty() {
                true => None,
                false => rules.get(&got.words()).copied(),
            };
            let held = waiting.lock().unwrap().clone();
            let held = match held.is_empty() {
                true => None,
                false => held.get(&got.words()).cloned(),
            };
            sender.send(got).unwrap();
            let (status, pause) = rule.unwrap_or((200, None));
            let mut headers = HeaderMap::new();
            if let Some(pause) = pause {
                headers.insert("retry-after", pause.parse().unwrap());
            }
            let status = StatusCode::from_u16(status).unwrap();
            async move {
                if let Some(held) = held {
                    held.notified().await;
                }
                (status, headers)
            }
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}/hook", listener.local_addr().unwrap());
        let app = Router::new().route("/hook", post(answer));
        tokio::spawn(async move { axum::serve(listener, app).await });
        Receiver {
            url,
            got,
            rules,
            held,
        }
    }

    /// The answer waits until it is told.
    fn hold(&self, words: &str) -> Arc<Notify> {
        let told = Arc::new(Notify::new());
        let mut held = self.held.lock().unwrap();
        held.insert(words.to_owned(), Arc::clone(&told));
        told
    }

    fn answer(&self, words: &str, status: u16, pause: Option<&'static str>) {
        let mut rules = self.rules.0.lock().unwrap();
        rules.insert(words.to_owned(), (status, pause));
    }

    async fn next(&mut self) -> Got {
        let next = tokio::time::timeout(LIMIT, self.got.recv());
        next.await.expect("no message came").unwrap()
    }

    /// The next messages in any order: they are sent at once.
    async fn words(&mut self, count: usize) -> Vec<String> {
        let mut words = Vec::new();
        for _ in 0..count {
            words.push(self.next().await.words());
        }
        words.sort();
        words
    }
}

struct Queue {
    store: Arc<Store>,
    clock: Arc<Clock>,
    running: Option<(oneshot::Sender<()>, JoinHandle<()>)>,
    _folder: TempDir,
}

impl Queue {
    async fn new() -> Queue {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let store = Store::open(&path, Open::Create);
        Queue {
            store: Arc::new(store.await.unwrap()),
            clock: Arc::new(Clock::manual(NOW)),
            running: None,
            _folder: folder,
        }
    }

    async fn send_to(&mut self, url: &str) {
        let secret = SecretString::from(SECRET);
        let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
        let webhooks = Webhooks::new(store, clock, url.parse().unwrap(), Some(&secret)).await;
        let (stop, stopped) = oneshot::channel::<()>();
        let task = tokio::spawn(webhooks.unwrap().run(async {
            let _ = stopped.await;
        }));
        self.running = Some((stop, task));
    }

    async fn stop(&mut self) {
        let (stop, task) = self.running.take().unwrap();
        drop(stop);
        task.await.unwrap();
    }

    async fn job(&self, batch: &str) -> JobId {
        let mut spec = JobSpec::new("p", "https://example.com/1.png");
        spec.batch = batch.to_owned();
        self.store.insert(&[spec]).await.unwrap().inserted[0]
    }

    async fn cancel(&self, id: JobId) {
        happen(&self.store, id, vec![Event::Cancelled]).await;
    }

    /// All in one look of the sender, as a new one.
    async fn cancel_at_once(&mut self, ids: &[JobId], url: &str) {
        self.stop().await;
        for id in ids {
            self.cancel(*id).await;
        }
        self.send_to(url).await;
    }

    /// The messages that would be due so much later.
    async fn due_in(&self, later: i64) -> Vec<Message> {
        let at = self.clock.now() + later;
        self.store
            .due_messages(at, 1_000, &[], false)
            .await
            .unwrap()
    }

    /// Until the outbox is as it should be.
    async fn until(&self, good: impl Fn(&[Message], &[Message]) -> bool) {
        let wait = async {
            while !good(&self.due_in(0).await, &self.due_in(10 * KEPT).await) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let waited = tokio::time::timeout(LIMIT, wait).await;
        assert!(waited.is_ok(), "{:?}", self.due_in(10 * KEPT).await);
    }

    /// Until so many messages wait, due or not.
    async fn waiting(&self, count: usize) {
        self.until(|_, all| all.len() == count).await;
    }

    /// Until so many tries have failed.
    async fn failures(&self, count: u32) {
        self.until(|_, all| all.iter().map(|message| message.attempts).sum::<u32>() == count)
            .await;
    }

    /// Until every failed try is written down.
    async fn put_off(&self) {
        self.until(|due, _| due.is_empty()).await;
    }
}

#[tokio::test]
async fn each_job_that_settles_and_each_batch_that_rests_is_told_and_signed() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let (a, b) = (queue.job("spring").await, queue.job("spring").await);
    let failed = Event::TaskFailed {
        message: "moderation".to_owned(),
    };
    let mut events = accepted(a);
    events.push(failed);
    happen(&queue.store, a, events).await;
    let got = receiver.next().await;
    assert_eq!(got.words(), format!("job.failed {a}"));
    let body = got.body();
    assert_eq!(body["timestamp"], "2025-10-09T08:53:20Z");
    assert_eq!(body["data"]["state"], "failed");
    assert_eq!(body["data"]["job"]["error_code"], "task_failed");
    assert_eq!(got.header("content-type"), "application/json");
    let id = got.header("webhook-id");
    assert!(
        id.starts_with(&format!("msg_{}_", queue.store.queue_id())),
        "{id}"
    );
    let seconds = (NOW / 1_000).to_string();
    assert_eq!(got.header("webhook-timestamp"), seconds);
    assert_eq!(
        got.header("webhook-signature"),
        signature(id, &seconds, &got.text)
    );

    happen(&queue.store, b, unconfirmed()).await;
    let words = receiver.words(2).await;
    assert_eq!(
        words,
        [
            "batch.completed spring".to_owned(),
            format!("job.unconfirmed {b}")
        ]
    );
    // It moves again, and comes to rest again.
    happen(&queue.store, b, vec![Event::WrittenOff]).await;
    let words = receiver.words(2).await;
    assert_eq!(
        words,
        [
            "batch.completed spring".to_owned(),
            format!("job.failed {b}")
        ]
    );
    queue.waiting(0).await;
}

/// By the specification, without the code that is tested.
fn signature(id: &str, seconds: &str, text: &str) -> String {
    use base64::Engine as _;
    use hmac::{KeyInit, Mac};
    let base64 = base64::engine::general_purpose::STANDARD;
    let key = base64
        .decode(SECRET.strip_prefix("whsec_").unwrap())
        .unwrap();
    let mut mac = hmac::Hmac::<sha2::Sha256>::new_from_slice(&key).unwrap();
    mac.update(format!("{id}.{seconds}.{text}").as_bytes());
    format!("v1,{}", base64.encode(mac.finalize().into_bytes()))
}

#[tokio::test]
async fn metadata_is_told_as_it_was_given() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    let mut spec = JobSpec::new("p", "https://example.com/1.png");
    spec.metadata = Some(r#"{"a":1e999}"#.to_owned());
    let id = queue.store.insert(&[spec]).await.unwrap().inserted[0];
    queue.send_to(&receiver.url).await;
    let _later = queue.job("default").await;
    queue.cancel(id).await;
    // Its words cannot be told from a value that no parser takes.
    let text = receiver.next().await.text;
    assert!(text.contains(r#""metadata":{"a":1e999},"#), "{text}");
    assert!(text.starts_with(r#"{"type":"job.cancelled","#), "{text}");
}

#[tokio::test]
async fn a_batch_of_hundreds_is_complete_once() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    let mut specs = vec![JobSpec::new("p", "https://example.com/1.png"); 450];
    specs
        .iter_mut()
        .for_each(|spec| spec.batch = "big".to_owned());
    let ids = queue.store.insert(&specs).await.unwrap().inserted;
    queue.send_to(&receiver.url).await;
    queue.stop().await;
    for id in &ids {
        queue.cancel(*id).await;
    }
    queue.send_to(&receiver.url).await;
    let words = receiver.words(451).await;
    let batches: Vec<_> = words
        .iter()
        .filter(|words| words.starts_with("batch"))
        .collect();
    assert_eq!(batches, ["batch.completed big"]);
    queue.waiting(0).await;
    assert!(receiver.got.try_recv().is_err(), "each is told once");
}

#[tokio::test]
async fn a_batch_is_told_to_be_complete_after_its_jobs() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    let (slow, other) = (queue.job("slow").await, queue.job("other").await);
    let slow_word = format!("job.cancelled {slow}");
    let answer = receiver.hold(&slow_word);
    queue.send_to(&receiver.url).await;
    queue.cancel(slow).await;
    assert_eq!(receiver.next().await.words(), slow_word);
    queue.cancel(other).await;
    let other_word = format!("job.cancelled {other}");
    assert_eq!(receiver.next().await.words(), other_word);
    assert_eq!(receiver.next().await.words(), "batch.completed other");
    // Its first try has no end yet; only then the batch follows.
    answer.notify_one();
    assert_eq!(receiver.next().await.words(), "batch.completed slow");
    queue.waiting(0).await;
}

#[tokio::test]
async fn a_message_is_kept_until_it_is_taken_and_blocks_no_other() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let (bad, good) = (queue.job("a").await, queue.job("b").await);
    let word = format!("job.cancelled {bad}");
    receiver.answer(&word, 500, None);
    queue.cancel(bad).await;
    // Once it was tried, it holds up no batch.
    assert_eq!(receiver.next().await.words(), word);
    assert_eq!(receiver.next().await.words(), "batch.completed a");
    queue.waiting(1).await;
    queue.put_off().await;
    queue.cancel(good).await;
    let words = receiver.words(2).await;
    assert_eq!(
        words,
        [
            "batch.completed b".to_owned(),
            format!("job.cancelled {good}")
        ]
    );

    // Not before its pause is over, and then as it was: the other side knows it by its id.
    let mut first = None;
    for pause in [6_000, 12_000, 24_000] {
        queue.clock.advance(pause);
        let again = receiver.next().await;
        assert_eq!(again.words(), word);
        let same = (again.header("webhook-id").to_owned(), again.text.clone());
        assert_eq!(*first.get_or_insert(same.clone()), same);
        queue.put_off().await;
        assert!(queue.due_in(pause - 1_000).await.is_empty(), "pauses grow");
    }
    receiver.answer(&word, 204, None);
    queue.clock.advance(60_000);
    assert_eq!(receiver.next().await.words(), word);
    queue.waiting(0).await;
}

const HOUR: i64 = 3_600_000;

#[tokio::test]
async fn a_message_that_is_not_wanted_is_tried_once_an_hour_and_delays_no_other() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let (bad, good) = (queue.job("a").await, queue.job("a").await);
    let _later = queue.job("a").await;
    let word = format!("job.cancelled {bad}");
    receiver.answer(&word, 410, None);
    queue.cancel(bad).await;
    assert_eq!(receiver.next().await.words(), word);
    queue.failures(1).await;
    queue.cancel(good).await;
    let other = format!("job.cancelled {good}");
    assert_eq!(receiver.next().await.words(), other);
    queue.waiting(1).await;
    for tries in 2..=3 {
        assert!(queue.due_in(HOUR - 1).await.is_empty());
        queue.clock.advance(HOUR);
        assert_eq!(receiver.next().await.words(), word);
        queue.failures(tries).await;
    }
}

#[tokio::test]
async fn a_message_that_always_meets_trouble_holds_no_other() {
    for pause in [None, Some("3600")] {
        let mut receiver = Receiver::start().await;
        let mut queue = Queue::new().await;
        queue.send_to(&receiver.url).await;
        let (bad, good) = (queue.job("a").await, queue.job("a").await);
        let _later = queue.job("a").await;
        let word = format!("job.cancelled {bad}");
        receiver.answer(&word, 500, pause);
        queue.cancel(bad).await;
        for tries in 1..=8 {
            assert_eq!(receiver.next().await.words(), word);
            queue.failures(tries).await;
            queue.clock.advance(if tries < 8 { HOUR } else { 0 });
        }
        // A pause that was asked for holds the others for a minute, not for an hour.
        queue.clock.advance(pause.map_or(0, |_| 60_000));
        queue.cancel(good).await;
        let other = format!("job.cancelled {good}");
        assert_eq!(receiver.next().await.words(), other);
        queue.waiting(1).await;
        queue.stop().await;
    }
}

#[tokio::test]
async fn a_pause_that_two_messages_are_asked_for_is_kept_by_all() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let ids: Vec<_> = futures_util::future::join_all((0..4).map(|_| queue.job("a"))).await;
    let words: Vec<_> = ids.iter().map(|id| format!("job.cancelled {id}")).collect();
    for word in &words[..2] {
        receiver.answer(word, 429, Some("600"));
    }
    queue.cancel(ids[0]).await;
    assert_eq!(receiver.next().await.words(), words[0]);
    queue.failures(1).await;
    queue.clock.advance(60_000);
    queue.cancel(ids[1]).await;
    assert_eq!(receiver.next().await.words(), words[1]);
    queue.failures(2).await;
    queue.cancel(ids[2]).await;
    queue.clock.advance(599_000);
    queue.until(|due, _| due.len() == 2).await;
    assert!(receiver.got.try_recv().is_err());
    queue.clock.advance(1_000);
    assert_eq!(receiver.next().await.words(), words[2]);
}

/// Many that meet trouble close the line; one that never failed opens it.
#[tokio::test]
async fn a_new_message_is_the_first_trial() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let ids: Vec<_> = futures_util::future::join_all((0..10).map(|_| queue.job("a"))).await;
    for bad in &ids[..8] {
        receiver.answer(&format!("job.cancelled {bad}"), 500, None);
    }
    queue.cancel_at_once(&ids[..8], &receiver.url).await;
    receiver.words(8).await;
    queue.failures(8).await;
    // They are due, but the line is held.
    queue.clock.advance(7_000);
    queue.cancel(ids[8]).await;
    queue.until(|due, _| due.len() == 9).await;
    queue.clock.advance(1_000);
    let good = format!("job.cancelled {}", ids[8]);
    assert_eq!(receiver.next().await.words(), good);
    receiver.words(8).await;
}

/// Once for an outage, not for a try.
#[tokio::test]
async fn the_log_says_when_messages_are_not_taken_and_when_they_are_again() {
    let log = tempfile::NamedTempFile::new().unwrap();
    let _listens = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_writer(Mutex::new(log.reopen().unwrap()))
            .finish(),
    );
    // With one subscriber alone, a line that another test's thread reaches first is off for all.
    let _second = tracing::Dispatch::new(tracing_subscriber::fmt().finish());
    let said = |what: &str| {
        let text = std::fs::read_to_string(log.path()).unwrap();
        text.lines().filter(|line| line.contains(what)).count()
    };
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let ids: Vec<_> = futures_util::future::join_all((0..10).map(|_| queue.job("a"))).await;
    let word = format!("job.cancelled {}", ids[0]);
    receiver.answer(&word, 404, None);
    queue.cancel(ids[0]).await;
    for tries in 1..=3 {
        assert_eq!(receiver.next().await.words(), word);
        queue.failures(tries).await;
        assert_eq!((said("WARN"), said("INFO")), (1, 0));
        if tries == 3 {
            receiver.answer(&word, 200, None);
        }
        queue.clock.advance(60_000);
    }
    assert_eq!(receiver.next().await.words(), word);
    queue.waiting(0).await;
    assert_eq!((said("WARN"), said("is taken now")), (1, 1));

    // All of them, for a while: one line for the first, one for all.
    for id in &ids[1..9] {
        receiver.answer(&format!("job.cancelled {id}"), 503, None);
    }
    queue.cancel_at_once(&ids[1..9], &receiver.url).await;
    receiver.words(8).await;
    queue.failures(8).await;
    for tries in 9..12 {
        queue.clock.advance(60_000);
        receiver.next().await;
        queue.failures(tries).await;
    }
    assert_eq!((said("WARN"), said("one at a time")), (3, 1));
    assert_eq!(said("well again"), 0);
    receiver.rules.0.lock().unwrap().clear();
    queue.clock.advance(HOUR);
    receiver.words(8).await;
    queue.waiting(0).await;
    assert_eq!((said("WARN"), said("well again")), (3, 1));
    assert_eq!(said("is taken now"), 2);
}

#[tokio::test]
async fn a_pause_that_the_receiver_asks_for_is_kept() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let id = queue.job("a").await;
    let _later = queue.job("a").await;
    let word = format!("job.cancelled {id}");
    receiver.answer(&word, 429, Some("600"));
    queue.cancel(id).await;
    assert_eq!(receiver.next().await.words(), word);
    queue.put_off().await;
    assert!(queue.due_in(599_000).await.is_empty());
    receiver.answer(&word, 200, None);
    queue.clock.advance(600_000);
    assert_eq!(receiver.next().await.words(), word);
}

/// Set back, on or off, the clock makes no pause longer and nobody's message old.
#[tokio::test]
async fn a_message_keeps_its_time_when_the_clock_is_set() {
    let day = 24 * 3_600_000;
    for by in [-day, 4 * day] {
        let mut receiver = Receiver::start().await;
        let mut queue = Queue::new().await;
        queue.send_to(&receiver.url).await;
        let (id, _later) = (queue.job("a").await, queue.job("a").await);
        let word = format!("job.cancelled {id}");
        receiver.answer(&word, 429, Some("600"));
        queue.cancel(id).await;
        assert_eq!(receiver.next().await.words(), word);
        queue.put_off().await;
        queue.clock.set_ahead(by);
        // Once it was followed: due as before.
        queue
            .until(|due, all| {
                due.is_empty() && all.iter().all(|message| message.created_at == NOW + by)
            })
            .await;
        assert!(queue.due_in(599_000).await.is_empty());
        queue.clock.advance(600_000);
        assert_eq!(receiver.next().await.words(), word);
        queue.put_off().await;
        assert_eq!(queue.due_in(10 * KEPT).await.len(), 1, "it is kept");

        // Over a restart nobody can tell by how much: it is not waited for long.
        queue.stop().await;
        queue.clock.set_ahead(-2 * day);
        queue.send_to(&receiver.url).await;
        receiver.answer(&word, 200, None);
        queue.clock.advance(3_600_000);
        assert_eq!(receiver.next().await.words(), word);
        queue.waiting(0).await;
        queue.stop().await;
    }
}

#[tokio::test]
async fn what_settles_while_nobody_sends_is_told_later() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    // What lies before the first start is history, not news.
    let old = queue.job("old").await;
    queue.cancel(old).await;
    queue.send_to("http://127.0.0.1:9/nobody").await;
    let first = queue.job("a").await;
    queue.cancel(first).await;
    queue.waiting(2).await;
    queue.stop().await;
    let second = queue.job("b").await;
    queue.cancel(second).await;

    queue.clock.advance(3_600_000);
    queue.send_to(&receiver.url).await;
    let words = receiver.words(4).await;
    let jobs = [first, second].map(|id| format!("job.cancelled {id}"));
    let mut wanted = vec![
        "batch.completed a".to_owned(),
        "batch.completed b".to_owned(),
    ];
    wanted.extend(jobs);
    assert_eq!(words, wanted);
    queue.waiting(0).await;
    queue.stop().await;

    // Switched off, then on: what happened in between is nobody's business.
    webhook::off(&queue.store).await.unwrap();
    let third = queue.job("c").await;
    queue.cancel(third).await;
    queue.send_to(&receiver.url).await;
    let fourth = queue.job("d").await;
    queue.cancel(fourth).await;
    let words = receiver.words(2).await;
    assert_eq!(
        words,
        [
            "batch.completed d".to_owned(),
            format!("job.cancelled {fourth}")
        ]
    );
}

#[tokio::test]
async fn after_three_days_a_message_is_given_up() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let (bad, _other) = (queue.job("a").await, queue.job("a").await);
    let word = format!("job.cancelled {bad}");
    receiver.answer(&word, 410, None);
    queue.cancel(bad).await;
    assert_eq!(receiver.next().await.words(), word);
    queue.put_off().await;
    queue.clock.advance(KEPT - 1_000);
    assert_eq!(
        receiver.next().await.words(),
        word,
        "and once more after a long stop"
    );
    queue.put_off().await;
    queue.clock.advance(2 * 3_600_000);
    assert_eq!(receiver.next().await.words(), word);
    queue.waiting(0).await;
}

/// `run --until-idle` ends right after the last job.
#[tokio::test]
async fn what_settles_last_is_told_before_the_end() {
    let mut receiver = Receiver::start().await;
    let mut queue = Queue::new().await;
    queue.send_to(&receiver.url).await;
    let ids = [queue.job("a").await, queue.job("a").await];
    for id in ids {
        queue.cancel(id).await;
    }
    queue.stop().await;
    assert_eq!(receiver.words(3).await.len(), 3);
    queue.waiting(0).await;
}

/// A dead receiver costs one try at a time, and everything goes out when it is back.
#[tokio::test]
async fn a_dead_receiver_is_not_flooded_when_it_comes_back() {
    let mut queue = Queue::new().await;
    let (_socket, link) = nobody();
    queue.send_to(&link).await;
    let ids: Vec<_> = futures_util::future::join_all((0..30).map(|_| queue.job("a"))).await;
    for id in &ids {
        queue.cancel(*id).await;
    }
    // The batch's own waits for theirs.
    queue.waiting(30).await;
    let tries = |all: &[Message]| all.iter().map(|message| message.attempts).sum::<u32>();
    queue.until(|_, all| tries(all) >= 5).await;
    let first = tries(&queue.due_in(10 * KEPT).await);
    assert!(
        first <= 31,
        "as many as go at once, not one for each in turn: {first}"
    );
    for trial in 1..=5 {
        queue.clock.advance(61_000);
        queue.until(|_, all| tries(all) >= first + trial).await;
    }
    let last = tries(&queue.due_in(10 * KEPT).await);
    assert!(last <= first + 5 + 8, "one at a time: {first}, then {last}");
    queue.stop().await;

    let mut receiver = Receiver::start().await;
    queue.clock.advance(3_600_000);
    queue.send_to(&receiver.url).await;
    assert_eq!(receiver.words(31).await.len(), 31);
    queue.waiting(0).await;
}
