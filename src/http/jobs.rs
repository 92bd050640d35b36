//! Operations on jobs, by their own names.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::HeaderMap;
use serde::Serialize;

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{JobName, Query, beginning, command, surplus, value};
use crate::job::{Event, Job, JobId, State as JobState, is_task_id};
use crate::step::{self, Illegal};
use crate::store::{Edited, Filter};
use crate::view::{Detail, JobView};

/// A page of a list, if nothing else is asked for.
const PAGE: i64 = 100;

/// The longest page.
const LONGEST_PAGE: i64 = 1_000;

/// 409 for a command that a job does not take in its state.
pub(super) fn refused(illegal: &Illegal) -> ApiError {
    let error = ApiError::conflict("wrong_state", illegal.to_string());
    match illegal.state {
        // Its request is answered within minutes, mostly within seconds.
        JobState::Submitting => error.again_in(2),
        _ => error,
    }
}

async fn number(app: &App, id: &JobName) -> ApiResult<JobId> {
    id.id(app.store()).await?.ok_or_else(|| unknown(id))
}

fn unknown(id: &JobName) -> ApiError {
    let shown = beginning(&id.0);
    ApiError::not_found("job_not_found", format!("there is no job {shown:?}")).of("id")
}

pub(super) async fn list(State(app): State<Arc<App>>, query: Query) -> ApiResult {
    query.only(&["state", "batch", "key", "limit", "after", "order"])?;
    let limit = query.whole("limit", 1..=LONGEST_PAGE)?.unwrap_or(PAGE);
    let newest_first = query.newest_first(false)?;
    let after = query.whole("after", 0..=i64::MAX)?;
    let filter = Filter {
        state: query.word("state")?,
        batch: query.text("batch")?.map(str::to_owned),
        key: query.text("key")?.map(str::to_owned),
        after: after.filter(|_| !newest_first),
        before: after.filter(|_| newest_first),
        newest_first,
        limit: Some(limit as u32 + 1),
    };
    let mut jobs = app.store().list(&filter).await?;
    let more = jobs.len() > limit as usize;
    jobs.truncate(limit as usize);
    Ok(ok(&Page {
        jobs: jobs.iter().map(JobView::from).collect(),
        last_id: jobs.last().map(|job| job.id),
        has_more: more,
    }))
}

#[derive(Serialize)]
struct Page<'a> {
    jobs: Vec<JobView<'a>>,
    last_id: Option<JobId>,
    has_more: bool,
}

pub(super) async fn get(State(app): State<Arc<App>>, id: JobName) -> ApiResult {
    let number = number(&app, &id).await?;
    let store = app.store();
    let job = store.job(number).await?.ok_or_else(|| unknown(&id))?;
    let ledger = store.ledger(Some(number), None, None).await?;
    let history = store.history(number).await?;
    Ok(ok(&Detail::new(&job, &ledger, &history)))
}

pub(super) async fn retry(
    State(app): State<Arc<App>>,
    id: JobName,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    if let Some((name, _)) = command(&headers, body).await?.first() {
        return Err(surplus(name, "retry takes nothing"));
    }
    edit(&app, &id, |_| Some(Event::Retried)).await
}

/// With `keep`, a task that is paid for goes on and its video is fetched.
pub(super) async fn cancel(
    State(app): State<Arc<App>>,
    id: JobName,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    let mut keep = false;
    for (name, raw) in command(&headers, body).await? {
        match name.as_str() {
            "keep" => keep = value("keep", &raw, "true or false")?,
            _ => return Err(surplus(&name, "cancel takes keep: true or false")),
        }
    }
    edit(&app, &id, move |job| {
        let kept = keep && job.state.has_open_task();
        (!kept).then_some(Event::Cancelled)
    })
    .await
}

pub(super) async fn resolve(
    State(app): State<Arc<App>>,
    id: JobName,
    headers: HeaderMap,
    body: Body,
) -> ApiResult {
    const ONE_OF: &str =
        "resolve takes one of {\"adopt\": TASK_ID}, {\"resubmit\": true} and {\"write_off\": true}";
    let mut events = Vec::new();
    for (name, raw) in command(&headers, body).await? {
        let is_true = |what: &'static str| match value::<bool>(what, &raw, "true")? {
            true => Ok(()),
            false => Err(ApiError::param(
                what,
                "invalid_value",
                format!("{what} must be true"),
            )),
        };
        events.push(match name.as_str() {
            "adopt" => {
                let task_id: String = value("adopt", &raw, "the id of the provider's task")?;
                if !is_task_id(&task_id) {
                    let message = "adopt must be what the provider calls the task, without blanks";
                    return Err(ApiError::param("adopt", "invalid_value", message));
                }
                Event::Adopted { task_id }
            }
            "resubmit" => {
                is_true("resubmit")?;
                Event::Resubmitted
            }
            "write_off" => {
                is_true("write_off")?;
                Event::WrittenOff
            }
            _ => return Err(surplus(&name, ONE_OF)),
        });
    }
    match (events.pop(), events.is_empty()) {
        (Some(event), true) => edit(&app, &id, move |_| Some(event.clone())).await,
        _ => Err(ApiError::bad("invalid_value", ONE_OF)),
    }
}

/// Applies a person's command and answers with the job as it is then. No event:
/// the job stays as it is.
async fn edit(
    app: &App,
    id: &JobName,
    decide: impl Fn(&Job) -> Option<Event> + Send + Sync + 'static,
) -> ApiResult {
    let number = number(app, id).await?;
    let store = Arc::clone(&app.http.store);
    let (now, policy) = (app.http.clock.now(), app.http.policy.clone());
    let edited = app
        .change(async move {
            let judge = |job: &Job| {
                decide(job)
                    .map(|event| step::step(job, event, now, &policy))
                    .transpose()
            };
            store.edit(&[number], judge).await
        })
        .await??;
    match edited.first() {
        Some(Edited::Changed(job) | Edited::Kept(job)) => Ok(ok(&JobView::from(&**job))),
        Some(Edited::Refused(illegal)) => Err(refused(illegal)),
        Some(Edited::Missing(_)) | None => Err(unknown(id)),
    }
}
