//! `GET /api/events`: what happens to jobs, as it happens, by server-sent events.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::json;
use tokio::sync::{OwnedSemaphorePermit, watch};

use super::App;
use super::error::{ApiError, ApiResult};
use super::input::{Query, number};

/// Events that are read at once.
const PAGE: u32 = 500;

/// A sign of life for proxies and clients.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// How soon a client should come back.
const RETRY: Duration = Duration::from_secs(2);

pub(super) async fn get(
    State(app): State<Arc<App>>,
    query: Query,
    headers: HeaderMap,
) -> ApiResult {
    query.only(&["after", "batch"])?;
    let from = match headers.get("last-event-id") {
        Some(value) => Some(
            value
                .to_str()
                .ok()
                .and_then(|text| if text == "0" { Some(0) } else { number(text) })
                .ok_or_else(|| {
                    let message = "Last-Event-ID must be the id of an event";
                    ApiError::param("Last-Event-ID", "invalid_value", message)
                })?,
        ),
        None => query.whole("after", 0..=i64::MAX)?,
    };
    let batch = query.text("batch")?.map(str::to_owned);
    let place = Arc::clone(&app.listeners)
        .try_acquire_owned()
        .map_err(|_| {
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "too_many_listeners",
                "too many clients listen to events already",
            )
            .again_in(5)
        })?;
    let after = match from {
        Some(after) => after,
        None => app.store().last_event().await?,
    };
    let listener = Listener {
        news: app.news.clone(),
        closing: app.closing.clone(),
        app,
        batch,
        after,
        ready: VecDeque::new(),
        greeted: false,
        _place: place,
    };
    let events = stream::unfold(listener, |mut listener| async move {
        let event = listener.next().await?;
        Some((Ok::<_, Infallible>(event), listener))
    });
    let alive = KeepAlive::new().interval(HEARTBEAT);
    let mut response: Response = Sse::new(events).keep_alive(alive).into_response();
    let unbuffered = HeaderValue::from_static("no");
    response
        .headers_mut()
        .insert("x-accel-buffering", unbuffered);
    let fresh = HeaderValue::from_static("no-store");
    response.headers_mut().insert(header::CACHE_CONTROL, fresh);
    Ok(response)
}

struct Listener {
    app: Arc<App>,
    news: watch::Receiver<i64>,
    closing: watch::Receiver<bool>,
    batch: Option<String>,
    /// The last event that was looked at.
    after: i64,
    ready: VecDeque<Event>,
    greeted: bool,
    _place: OwnedSemaphorePermit,
}

impl Listener {
    /// The next event; `None` ends the answer.
    async fn next(&mut self) -> Option<Event> {
        if !self.greeted {
            self.greeted = true;
            // Its id is where a client goes on that never saw an event.
            let hello = Event::default().retry(RETRY).comment("reelq");
            return Some(hello.id(self.after.to_string()));
        }
        loop {
            if *self.closing.borrow() {
                return None;
            }
            if let Some(event) = self.ready.pop_front() {
                return Some(event);
            }
            self.news.borrow_and_update();
            match self.read().await {
                Ok(true) => continue,
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "a listener is sent away");
                    return None;
                }
            }
            tokio::select! {
                _ = self.closing.changed() => {}
                news = self.news.changed() => news.ok()?,
            }
        }
    }

    /// True if something was there.
    async fn read(&mut self) -> Result<bool, crate::store::StoreError> {
        let batch = self.batch.as_deref();
        let page = self
            .app
            .store()
            .events_page(self.after, batch, PAGE)
            .await?;
        let moved = page.end > self.after;
        self.after = page.end;
        self.ready
            .extend(page.events.into_iter().map(|(event, batch)| {
                let data = json!({
                    "id": event.id,
                    "job_id": event.job_id,
                    "batch": batch,
                    "at": event.at,
                    "event": event.event,
                    "state": event.state,
                    "detail": event.detail,
                });
                Event::default()
                    .id(event.id.to_string())
                    .data(data.to_string())
            }));
        Ok(moved)
    }
}
