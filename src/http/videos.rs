//! Jobs as OpenAI's videos: list, retrieve, delete.

use std::sync::Arc;

use axum::extract::State;
use serde::Serialize;
use serde_json::{Value, json};

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{JobName, Query, beginning};
use crate::job::{Event, Job, Millis, Size, State as JobState};
use crate::step;
use crate::store::{Edited, StoreError};
use crate::view::JobView;

/// A page of a list, if nothing else is asked for; OpenAI's own.
const PAGE: i64 = 20;

/// The longest page.
const LONGEST_PAGE: i64 = 100;

/// A video in OpenAI's words, with the job that it is.
#[derive(Serialize)]
pub(super) struct Video<'a> {
    id: String,
    object: &'static str,
    status: &'static str,
    progress: u8,
    created_at: i64,
    completed_at: Option<i64>,
    expires_at: Option<i64>,
    model: &'a str,
    prompt: &'a str,
    seconds: String,
    size: Size,
    error: Value,
    remixed_from_video_id: Option<String>,
    reelq: JobView<'a>,
}

/// The video that a job stands for.
pub(super) fn object<'a>(job: &'a Job, model: &'a str) -> Video<'a> {
    let status = match job.state {
        // An SDK that polls goes on: a person's word moves an unconfirmed job.
        JobState::Pending | JobState::Submitting | JobState::Unconfirmed => "queued",
        JobState::Generating | JobState::Downloading => "in_progress",
        JobState::Done => "completed",
        JobState::Failed | JobState::Cancelled => "failed",
    };
    let error = match (job.state, &job.failure) {
        (JobState::Failed, Some(failure)) => {
            json!({ "code": failure.code.as_str(), "message": failure.message })
        }
        (JobState::Cancelled, _) => json!({
            "code": "cancelled",
            "message": job.note.as_deref().unwrap_or("a person cancelled it"),
        }),
        _ => Value::Null,
    };
    let done = job.state == JobState::Done;
    Video {
        id: name(job),
        object: "video",
        status,
        progress: if done { 100 } else { job.progress },
        created_at: seconds(job.created_at),
        completed_at: job.finished_at.filter(|_| done).map(seconds),
        expires_at: None,
        model,
        prompt: &job.spec.prompt,
        seconds: job.spec.duration.to_string(),
        size: job.spec.size,
        error,
        remixed_from_video_id: None,
        reelq: job.into(),
    }
}

/// `video_12`.
pub(super) fn name(job: &Job) -> String {
    format!("video_{}", job.id)
}

fn seconds(at: Millis) -> i64 {
    at.div_euclid(1_000)
}

/// The job that a video's id means, unless it was deleted.
pub(super) async fn find(app: &App, id: &JobName) -> ApiResult<Job> {
    let store = app.store();
    let unknown = || {
        let shown = beginning(&id.0);
        let message = format!("there is no video {shown:?}");
        ApiError::not_found("video_not_found", message).of("video_id")
    };
    let number = id.id(store).await?.ok_or_else(unknown)?;
    if store.is_hidden(number).await? {
        return Err(unknown());
    }
    store.job(number).await?.ok_or_else(unknown)
}

pub(super) async fn list(State(app): State<Arc<App>>, query: Query) -> ApiResult {
    query.only(&["limit", "after", "order"])?;
    let limit = query.whole("limit", 1..=LONGEST_PAGE)?.unwrap_or(PAGE);
    let newest_first = query.newest_first(true)?;
    let after = match query.text("after")? {
        None => None,
        Some(text) => {
            let after = JobName(text.to_owned()).id(app.store()).await?;
            Some(after.ok_or_else(|| {
                ApiError::param("after", "invalid_value", "after must be the id of a video")
            })?)
        }
    };
    let (jobs, more) = app
        .store()
        .videos(after, newest_first, limit as u32)
        .await?;
    let model = &app.http.model;
    Ok(ok(&Page {
        object: "list",
        data: jobs.iter().map(|job| object(job, model)).collect(),
        first_id: jobs.first().map(name),
        last_id: jobs.last().map(name),
        has_more: more,
    }))
}

#[derive(Serialize)]
struct Page<'a> {
    object: &'static str,
    data: Vec<Video<'a>>,
    first_id: Option<String>,
    last_id: Option<String>,
    has_more: bool,
}

pub(super) async fn get(State(app): State<Arc<App>>, id: JobName) -> ApiResult {
    let job = find(&app, &id).await?;
    Ok(ok(&object(&job, &app.http.model)))
}

/// Cancels a job that has not ended, and takes it off the list of videos. The
/// job, its ledger and its file stay: they are reelq's books.
pub(super) async fn delete(State(app): State<Arc<App>>, id: JobName) -> ApiResult {
    let job = find(&app, &id).await?;
    let store = Arc::clone(&app.http.store);
    let (number, now, policy) = (job.id, app.http.clock.now(), app.http.policy.clone());
    let edited = app
        .change(async move {
            let withdraw = |job: &Job| {
                let goes_on = !job.state.is_final();
                goes_on
                    .then(|| step::step(job, Event::Cancelled, now, &policy))
                    .transpose()
            };
            let edited = store.edit(&[number], withdraw).await?.pop();
            if matches!(edited, Some(Edited::Changed(_) | Edited::Kept(_))) {
                store.hide_video(number, now).await?;
            }
            Ok::<_, StoreError>(edited)
        })
        .await??;
    if let Some(Edited::Refused(illegal)) = edited {
        return Err(super::jobs::refused(&illegal));
    }
    Ok(ok(&json!({
        "id": name(&job),
        "object": "video.deleted",
        "deleted": true,
    })))
}

/// What OpenAI's API can do and the provider's model cannot.
pub(super) async fn unsupported() -> ApiError {
    ApiError::bad(
        "unsupported_operation",
        "the provider's model makes a video from one image; it does not edit, extend or remix videos",
    )
}
