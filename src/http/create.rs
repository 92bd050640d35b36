//! `POST /v1/videos`: one job, and the same job again for a repeated request.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde_json::Value;

use super::error::{ApiError, ApiResult, ok};
use super::input::{body, media_type, members, wrong_type};
use super::params::{Given, judge};
use super::{App, form, videos};
use crate::job::{Job, JobId, JobSpec, MAX_NAME, Millis};
use crate::store::{Store, StoreError};

/// OpenAI's SDKs send a request again by themselves within this time.
const RETRIES: Millis = 15 * 60_000;

pub(super) async fn create(State(app): State<Arc<App>>, request: Request) -> ApiResult {
    let headers = request.headers().clone();
    let given = match media_type(&headers).as_str() {
        "application/json" => from_json(&body(request.into_body()).await?)?,
        "multipart/form-data" => form::read(request).await?,
        other => {
            return Err(wrong_type(other, "application/json or multipart/form-data"));
        }
    };
    let spec = judge(given, idempotency_key(&headers)?, &app.http.model)?;
    let (job, is_new) = insert(&app, spec, &headers).await?;
    let mut response: Response = ok(&videos::object(&job, &app.http.model));
    if !is_new {
        let replayed = HeaderValue::from_static("true");
        response
            .headers_mut()
            .insert("idempotent-replayed", replayed);
    }
    Ok(response)
}

fn from_json(bytes: &[u8]) -> ApiResult<Vec<Given>> {
    members(bytes)?
        .into_iter()
        .map(|(name, raw)| {
            let value = match serde_json::from_str(raw.get()) {
                Ok(value) => value,
                // Half of a surrogate pair, a number beyond all range, or deep: it is
                // only handed through.
                Err(_) if name == "metadata" => Value::from(raw.get()),
                Err(error) => {
                    let message = format!("{name} cannot be read: {error}");
                    return Err(ApiError::param(name, "invalid_value", message));
                }
            };
            Ok(Given {
                value,
                source: Some(raw.get().to_owned()),
                loose: false,
                name,
            })
        })
        .collect()
}

/// The key of the header. A header's other bytes mean different letters to
/// different clients, and a key that is misread is a video that is paid twice.
fn idempotency_key(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let is_good = |text: &&str| (1..=MAX_NAME).contains(&text.len()) && !text.contains('\t');
    match value.to_str().ok().filter(is_good) {
        Some(text) => Ok(Some(text.to_owned())),
        None => {
            let message = format!(
                "Idempotency-Key must be 1 to {MAX_NAME} printable ASCII characters; any other key goes into \
                 the body, as key"
            );
            Err(ApiError::param("Idempotency-Key", "invalid_value", message))
        }
    }
}

/// Puts the job into the queue. False: it was there already.
async fn insert(app: &Arc<App>, spec: JobSpec, headers: &HeaderMap) -> ApiResult<(Job, bool)> {
    let repeats = spec.key.is_none() && is_repeat(headers);
    let since = repeats.then(|| app.http.clock.now() - RETRIES);
    let store = Arc::clone(&app.http.store);
    let wanted = spec.clone();
    let (id, is_new) = app
        .change(async move { insert_once(&store, &wanted, since).await })
        .await??;
    let job = find(app, id.ok_or_else(ApiError::internal)?).await?;
    if !is_new && spec.key.is_some() {
        check_same(app, &job, &spec).await?;
    }
    Ok((job, is_new))
}

/// The job's id, and whether it is new. `since`: it is a repeat, whose first
/// may still have been waiting for the lock when the client gave it up. So its
/// twin is looked for with the lock in hand.
async fn insert_once(
    store: &Store,
    spec: &JobSpec,
    since: Option<Millis>,
) -> Result<(Option<JobId>, bool), StoreError> {
    store
        .insert_with(async |insertion| {
            if let Some(since) = since
                && let Some(twin) = insertion.twin(spec, since).await?
            {
                return Ok((Some(twin), false));
            }
            let mut of_key = None;
            insertion
                .push(std::slice::from_ref(spec), |there| of_key = Some(there.id))
                .await?;
            let new = insertion.last();
            Ok((new.or(of_key), new.is_some()))
        })
        .await
}

/// OpenAI's SDKs count their own repeats of a request and give it no key of
/// its own. The first one may have been inserted though its answer was lost.
fn is_repeat(headers: &HeaderMap) -> bool {
    headers
        .get("x-stainless-retry-count")
        .and_then(|count| count.to_str().ok())
        .and_then(|count| count.parse::<u32>().ok())
        .is_some_and(|count| count > 0)
}

async fn find(app: &Arc<App>, id: JobId) -> ApiResult<Job> {
    app.store().job(id).await?.ok_or_else(|| {
        ApiError::conflict(
            "job_pruned",
            "the job of this key has just been pruned; ask again",
        )
        .again_in(1)
    })
}

async fn check_same(app: &Arc<App>, job: &Job, spec: &JobSpec) -> ApiResult<()> {
    let id = job.id;
    if app.store().is_hidden(id).await? {
        let message = format!("the key belongs to video_{id}, which was deleted; use another key");
        return Err(ApiError::conflict("key_of_deleted_video", message).of("key"));
    }
    let object = |spec: &JobSpec| serde_json::from_str::<Value>(spec.metadata.as_deref()?).ok();
    let same_metadata = job.spec.metadata == spec.metadata
        || object(&job.spec).is_some_and(|was| object(spec) == Some(was));
    let same = same_metadata
        && JobSpec {
            metadata: None,
            ..job.spec.clone()
        } == JobSpec {
            metadata: None,
            ..spec.clone()
        };
    if same {
        return Ok(());
    }
    let message = format!(
        "the key was used before, for a different request: it is video_{id}'s; use another key for another video"
    );
    Err(ApiError::conflict("idempotency_key_reused", message).of("key"))
}
