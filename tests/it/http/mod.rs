//! The HTTP interface: a real server on loopback, over a real queue.

mod content;
mod guard;
mod keys;
mod limits;
mod operations;
mod refusals;
mod sdk;
mod stream;
mod videos;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use reelq::clock::Clock;
use reelq::config::Listen;
use reelq::http::{self, Http, HttpError};
use reelq::job::{Event, Evidence, JobId, SavedFile, State};
use reelq::stats::Stats;
use reelq::step::{self, Policy};
use reelq::store::{Edited, Open, Store};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

const MODEL: &str = "grok-video-1.5";

/// Any time that is not zero.
pub const NOW: i64 = 1_760_000_000_000;

/// A client without a proxy and without patience for a hanging server.
pub fn client() -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    Client::builder()
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .build()
        .unwrap()
}

pub struct Server {
    pub url: String,
    pub store: Arc<Store>,
    pub client: Client,
    pub folder: TempDir,
    stop: Option<oneshot::Sender<()>>,
    task: JoinHandle<Result<(), HttpError>>,
}

impl Server {
    pub async fn start() -> Server {
        Server::with(Listen::Tcp(([127, 0, 0, 1], 0).into()), None).await
    }

    pub async fn with(listen: Listen, token: Option<&str>) -> Server {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("q.db");
        let store = Store::open(&path, Open::Create);
        let store = Arc::new(store.await.unwrap());
        let http = Http {
            store: Arc::clone(&store),
            stats: Arc::new(Stats::default()),
            clock: Arc::new(Clock::system()),
            policy: Policy::default(),
            timezone: TimeZone::UTC,
            model: MODEL.to_owned(),
            downloads: folder.path().join("videos"),
            token: token.map(Into::into),
        };
        let bound = http::bind(&listen).await.unwrap();
        let url = bound.url();
        let (stop, stopped) = oneshot::channel();
        let task = tokio::spawn(http::serve(http, bound, async {
            let _ = stopped.await;
        }));
        Server {
            url,
            store,
            client: client(),
            folder,
            stop: Some(stop),
            task,
        }
    }

    pub async fn stop(&mut self) {
        let _ = self.stop.take().unwrap().send(());
        (&mut self.task).await.unwrap().unwrap();
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Answer {
        let request = self.request(Method::POST, path);
        let request = request.header("content-type", "application/json");
        answer(request.body(body.to_string())).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// Makes a video with these parameters beside the two that are needed.
    pub async fn create(&self, more: Value) -> Answer {
        self.post("/v1/videos", &wanted(more)).await
    }

    /// The number of a new job.
    pub async fn new_job(&self) -> JobId {
        let made = self.create(json!({})).await;
        made.body["reelq"]["id"].as_i64().unwrap()
    }

    /// Lets things happen to a job, as the daemon would.
    pub async fn happen(&self, id: JobId, events: Vec<Event>) -> State {
        happen(&self.store, id, events).await
    }

    /// Where the video of a job lies, with this content.
    pub fn video(&self, id: JobId, content: &[u8]) -> (PathBuf, SavedFile) {
        let folder = self.folder.path().join("videos");
        std::fs::create_dir_all(&folder).unwrap();
        let path = folder.join(format!("{id}.mp4"));
        std::fs::write(&path, content).unwrap();
        let hash = <sha2::Sha256 as sha2::Digest>::digest(content);
        let file = SavedFile {
            path: path.display().to_string(),
            bytes: content.len() as u64,
            sha256: hash.iter().map(|byte| format!("{byte:02x}")).collect(),
        };
        (path, file)
    }

    /// A job that is done, with this content.
    pub async fn done(&self, content: &[u8]) -> JobId {
        let id = self.new_job().await;
        let (_, file) = self.video(id, content);
        let mut events = accepted(id);
        events.extend(saved(file));
        assert_eq!(self.happen(id, events).await, State::Done);
        id
    }
}

pub async fn happen(store: &Store, id: JobId, events: Vec<Event>) -> State {
    let mut state = None;
    for event in events {
        let policy = Policy::default();
        let judged = store
            .edit(&[id], |job| step::step(job, event.clone(), NOW, &policy))
            .await;
        match judged.unwrap().pop() {
            Some(Edited::Changed(job)) => state = Some(job.state),
            other => panic!("{other:?}"),
        }
    }
    state.unwrap()
}

pub fn claimed() -> Event {
    Event::Claimed {
        cost: "0.60".parse().unwrap(),
        endpoint: "https://api.example.com/#key".to_owned(),
    }
}

/// Until it generates.
pub fn accepted(id: JobId) -> Vec<Event> {
    let task_id = format!("task_{id}");
    let evidence = Evidence::default();
    vec![claimed(), Event::Accepted { task_id, evidence }]
}

/// From there until it is done.
pub fn saved(file: SavedFile) -> Vec<Event> {
    vec![
        Event::Completed {
            urls: vec!["https://cdn.example.com/v.mp4".to_owned()],
            target: Some(file.path.clone()),
        },
        Event::Saved { file, note: None },
    ]
}

pub fn unconfirmed() -> Vec<Event> {
    let evidence = Evidence::default();
    vec![claimed(), Event::Unknown { evidence }]
}

/// The least of a video, and more.
pub fn wanted(more: Value) -> Value {
    let mut body =
        json!({ "prompt": "A harbour at dawn", "image_url": "https://example.com/1.png" });
    for (name, value) in more.as_object().unwrap() {
        body[name] = value.clone();
    }
    body
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    /// Null where the body is not JSON.
    pub body: Value,
    pub text: String,
}

impl Answer {
    pub fn error(&self, member: &str) -> &str {
        self.body["error"][member].as_str().unwrap_or("none")
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers
            .get(name)
            .map_or("none", |value| value.to_str().unwrap())
    }
}

pub async fn answer(request: RequestBuilder) -> Answer {
    take(request.send().await.unwrap()).await
}

pub async fn take(response: Response) -> Answer {
    let (status, headers) = (response.status(), response.headers().clone());
    let bytes = response.bytes().await.unwrap();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let body = serde_json::from_str(&text).unwrap_or_default();
    Answer {
        status,
        headers,
        body,
        text,
    }
}

/// Every error has the four members that SDKs read.
pub fn check_error(answer: &Answer, status: u16, code: &str) {
    assert_eq!(answer.status.as_u16(), status, "{answer:?}");
    assert_eq!(answer.error("code"), code, "{answer:?}");
    assert_eq!(answer.header("content-type"), "application/json");
    let error = answer.body["error"].as_object().unwrap();
    for member in ["message", "type", "code", "param"] {
        assert!(error.contains_key(member), "{answer:?}");
    }
    assert!(!answer.error("message").is_empty());
}
