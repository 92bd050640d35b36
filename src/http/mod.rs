//! The HTTP interface: an OpenAI-compatible front, operations, metrics and a
//! dashboard. It reads and writes the table like every other producer; nothing
//! in the daemon waits for it.

mod bulk;
mod conn;
mod content;
mod create;
mod dashboard;
mod error;
mod events;
mod form;
mod guard;
mod input;
mod jobs;
mod metrics;
mod openapi;
mod params;
mod pause;
mod slots;
mod status;
mod videos;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Method, Uri};
use axum::middleware;
use axum::routing::{get, post};
use jiff::tz::TimeZone;
use secrecy::SecretString;
use tokio::sync::{Mutex, Semaphore, watch};

use crate::clock::Clock;
use crate::config::Listen;
use crate::stats::Stats;
use crate::step::Policy;
use crate::store::{Store, StoreError};
pub use conn::LAST_ANSWERS;
use conn::Listener;
use error::ApiError;
use guard::Door;
use slots::Slots;

/// Connections at once.
const CONNECTIONS: usize = 512;

/// How often listeners to events are told of new ones.
const NEWS: Duration = Duration::from_millis(200);

/// Clients of `/api/events` at once.
const LISTENERS: usize = 64;

/// What the interface needs from the rest of the process.
pub struct Http {
    /// The queue.
    pub store: Arc<Store>,
    /// What the daemon counts.
    pub stats: Arc<Stats>,
    /// The time.
    pub clock: Arc<Clock>,
    /// By which a person's commands are judged.
    pub policy: Policy,
    /// Decides when the budget's calendar day began.
    pub timezone: TimeZone,
    /// The model of every job.
    pub model: String,
    /// `download.dir`: nothing outside of it is ever sent.
    pub downloads: PathBuf,
    /// What clients must know; `None`: nothing.
    pub token: Option<SecretString>,
}

/// Why the interface cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// There is nowhere to listen.
    #[error("http.listen is empty: the HTTP interface is off")]
    Off,
    /// Another program listens there.
    #[error(
        "http.listen = {place}: another program listens there; stop it or choose another address"
    )]
    InUse {
        /// The address or the socket's path.
        place: String,
    },
    /// The system refuses to listen there.
    #[error("http.listen = {place}: {reason}")]
    Bind {
        /// The address or the socket's path.
        place: String,
        /// The system's words.
        reason: String,
    },
    /// Everyone could spend the user's money.
    #[error("http.listen = {0} can be reached by other machines: set http.token_file")]
    Open(String),
}

/// A place that is listened at. Connections wait until [`serve`] answers them.
pub struct Bound(Listener);

impl Bound {
    /// Where clients find it: `http://127.0.0.1:8787` or `unix:/run/reelq.sock`.
    pub fn url(&self) -> String {
        match &self.0 {
            Listener::Tcp(_, address) => format!("http://{address}"),
            Listener::Unix(_, path) => format!("unix:{}", path.display()),
        }
    }
}

/// Starts to listen. A socket that a stopped process left behind is replaced.
///
/// # Errors
/// The place is taken or cannot be had.
pub async fn bind(listen: &Listen) -> Result<Bound, HttpError> {
    Listener::bind(listen).await.map(Bound)
}

/// Answers requests until `stop` ends; then lets the last answers out, which
/// takes at most [`LAST_ANSWERS`].
///
/// # Errors
/// [`HttpError::Open`] where other machines could come in without a token.
pub async fn serve(
    http: Http,
    bound: Bound,
    stop: impl Future<Output = ()>,
) -> Result<(), HttpError> {
    let door = match &bound.0 {
        Listener::Tcp(_, address) => Door::of(*address),
        Listener::Unix(..) => Door::Socket,
    };
    if door == Door::Network && http.token.is_none() {
        return Err(HttpError::Open(bound.url()));
    }
    let (closing, closed) = watch::channel(false);
    let (news, heard) = watch::channel(0);
    let app = Arc::new(App {
        http,
        door,
        closing: closed,
        news: heard,
        listeners: Arc::new(Semaphore::new(LISTENERS)),
        shown: Mutex::new(None),
    });
    let reporter = tokio::spawn(report(Arc::clone(&app), news));
    let slots = Slots::new(CONNECTIONS);
    conn::accept(bound.0, router(app), &slots, stop, closing).await;
    reporter.abort();
    Ok(())
}

/// What every request shares.
struct App {
    http: Http,
    door: Door,
    /// True once the server stops.
    closing: watch::Receiver<bool>,
    /// The newest event, as far as anyone listens.
    news: watch::Receiver<i64>,
    listeners: Arc<Semaphore>,
    /// The last answer of `/api/status`.
    shown: Mutex<Option<status::Shown>>,
}

impl App {
    fn store(&self) -> &Store {
        &self.http.store
    }

    /// Runs a change of the queue to its end, even if the client has gone. The
    /// daemon sees its commit as it sees any other program's.
    async fn change<T: Send + 'static>(
        &self,
        change: impl Future<Output = T> + Send + 'static,
    ) -> Result<T, ApiError> {
        tokio::spawn(change).await.map_err(|error| {
            tracing::error!(%error, "a change of the queue broke off: a bug");
            ApiError::internal()
        })
    }
}

/// Looks for new events while somebody listens.
async fn report(app: Arc<App>, news: watch::Sender<i64>) {
    loop {
        tokio::time::sleep(NEWS).await;
        if app.listeners.available_permits() == LISTENERS {
            continue;
        }
        match app.store().last_event().await {
            Ok(last) => {
                news.send_if_modified(|seen| std::mem::replace(seen, last) != last);
            }
            Err(StoreError::Busy { .. }) => {}
            Err(error) => tracing::debug!(%error, "no news of events"),
        }
    }
}

fn router(app: Arc<App>) -> Router {
    Router::new()
        .route("/v1/videos", get(videos::list).post(create::create))
        .route("/v1/videos/{id}", get(videos::get).delete(videos::delete))
        .route("/v1/videos/{id}/content", get(content::get))
        .route("/v1/videos/edits", post(videos::unsupported))
        .route("/v1/videos/extensions", post(videos::unsupported))
        .route("/v1/videos/characters", post(videos::unsupported))
        .route("/v1/videos/{id}/remix", post(videos::unsupported))
        .route("/api/jobs", get(jobs::list).post(bulk::add))
        .route("/api/jobs/{id}", get(jobs::get))
        .route("/api/jobs/{id}/retry", post(jobs::retry))
        .route("/api/jobs/{id}/cancel", post(jobs::cancel))
        .route("/api/jobs/{id}/resolve", post(jobs::resolve))
        .route("/api/batches/{name}", get(status::batch))
        .route("/api/status", get(status::status))
        .route("/api/pause", post(pause::pause))
        .route("/api/resume", post(pause::resume))
        .route("/api/events", get(events::get))
        .route("/openapi.json", get(openapi::get))
        .route("/healthz", get(status::health))
        .route("/readyz", get(status::ready))
        .route("/metrics", get(metrics::metrics))
        .route("/", get(dashboard::get))
        .fallback(no_route)
        .method_not_allowed_fallback(no_method)
        .layer(middleware::from_fn_with_state(
            Arc::clone(&app),
            guard::guard,
        ))
        .layer(DefaultBodyLimit::disable())
        .with_state(app)
}

async fn no_route(uri: Uri) -> ApiError {
    let path = input::beginning(uri.path());
    ApiError::not_found(
        "unknown_url",
        format!("there is nothing at {path}; /openapi.json lists what there is"),
    )
}

async fn no_method(method: Method, uri: Uri) -> ApiError {
    let path = input::beginning(uri.path());
    ApiError::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "method_not_allowed",
        format!("{path} does not take {method}"),
    )
}
