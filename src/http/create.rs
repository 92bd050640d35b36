//! `POST /v1/videos`: a job by the provider's parameter names or OpenAI's.
//!
//! It is paid work, so nothing is guessed: what reelq does not know, and what
//! the provider forbids, is refused by name.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue};
use axum::response::Response;
use serde_json::Value;

use super::error::{ApiError, ApiResult, ok};
use super::input::{body, media_type, members, wrong_type};
use super::{App, form, videos};
use crate::intake::{Defaults, FIELDS, spec_from_json};
use crate::job::{DURATIONS, Job, JobId, JobSpec, Millis, Size};

/// Names that a program written for OpenAI's own models sends. The job is made
/// by the configured model, and its answers say so.
pub(super) const OPENAI_MODELS: [&str; 5] = [
    "sora-2",
    "sora-2-pro",
    "sora-2-2025-10-06",
    "sora-2-pro-2025-10-06",
    "sora-2-2025-12-08",
];

/// OpenAI's SDKs send a request again by themselves within this time.
const RETRIES: Millis = 15 * 60_000;

const ONE_IMAGE: &str = "the provider's model takes exactly one input image: pass image_url";
const NO_VIDEO: &str =
    "the provider's model takes no video input: pass the URL of an image as image_url";
const NO_EDIT: &str =
    "the provider's model makes a video from one image; it neither edits nor extends";

/// What the provider forbids, and why.
const FORBIDDEN: [(&str, &str); 13] = [
    ("images", ONE_IMAGE),
    ("image_urls", ONE_IMAGE),
    ("reference_images", ONE_IMAGE),
    ("reference_image_urls", ONE_IMAGE),
    ("input_references", ONE_IMAGE),
    ("video", NO_VIDEO),
    ("video_url", NO_VIDEO),
    ("videos", NO_VIDEO),
    ("video_urls", NO_VIDEO),
    (
        "aspect_ratio",
        "landscape or portrait follows the input image: leave it out",
    ),
    ("operation", NO_EDIT),
    (
        "extra_body",
        "SDKs put its members beside the others: do that too",
    ),
    ("n", "a job is one video: send one request for each"),
];

/// One parameter as it was sent.
pub(super) struct Given {
    pub name: String,
    pub value: Value,
    /// Its text in JSON, kept where it is to be handed through untouched.
    pub source: Option<String>,
    /// From a form: every value is a text and stands for its type.
    pub loose: bool,
}

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
            // Only half of a surrogate pair or a number beyond all range fails here.
            let value = serde_json::from_str(raw.get()).map_err(|error| {
                let message = format!("{name} cannot be read: {error}");
                ApiError::param(name.clone(), "invalid_value", message)
            })?;
            Ok(Given {
                value,
                source: Some(raw.get().to_owned()),
                loose: false,
                name,
            })
        })
        .collect()
}

fn idempotency_key(headers: &HeaderMap) -> ApiResult<Option<String>> {
    let Some(value) = headers.get("idempotency-key") else {
        return Ok(None);
    };
    let text = std::str::from_utf8(value.as_bytes()).map_err(|_| {
        let message = "Idempotency-Key is not UTF-8 text";
        ApiError::param("Idempotency-Key", "invalid_value", message)
    })?;
    Ok(Some(text.to_owned()))
}

/// The parameters under the names of the table, and what is wrong with them.
#[derive(Default)]
struct Draft {
    /// Column, the name that the client used, the value's JSON text.
    columns: Vec<(&'static str, String, String)>,
    faults: Vec<(String, &'static str, String)>,
}

impl Draft {
    fn fault(&mut self, name: &str, code: &'static str, message: String) {
        self.faults.push((name.to_owned(), code, message));
    }

    fn invalid(&mut self, name: &str, rule: &str) {
        self.fault(name, "invalid_value", format!("{name} {rule}"));
    }

    /// Two names may stand for one column if they say the same.
    fn set(&mut self, column: &'static str, name: &str, json: String) {
        match self.columns.iter().find(|(there, ..)| *there == column) {
            None => self.columns.push((column, name.to_owned(), json)),
            Some((_, _, same)) if *same == json => {}
            Some((_, other, _)) => {
                let rule = format!("and {other} say two different things");
                self.invalid(name, &rule);
            }
        }
    }

    fn take(&mut self, given: &Given, model: &str) {
        let name = given.name.as_str();
        if given.value.is_null() && !given.loose && is_known(name) {
            return;
        }
        match name {
            "prompt" | "batch" | "key" => self.set(column(name), name, given.json()),
            "image_url" | "image" => self.image(name, &given.value),
            "input_reference" => self.reference(&given.value),
            "duration" | "seconds" => self.seconds(given),
            "size" | "resolution" => self.size(name, &given.value),
            "priority" => self.priority(given),
            "not_before" => self.set("not_before", name, given.json()),
            "metadata" => self.metadata(given),
            "model" => match given.value.as_str() {
                Some(text) if text == model || OPENAI_MODELS.contains(&text) => {}
                _ => self.invalid(
                    name,
                    &format!("must be {model:?}, the model that is configured"),
                ),
            },
            _ => self.other(given),
        }
    }

    fn image(&mut self, name: &str, value: &Value) {
        if value.as_str().is_some_and(|text| text.starts_with("data:")) {
            return self.invalid(
                name,
                "is a data: URL, but the provider fetches the image itself: put the image where the \
                 provider can reach it and pass that http(s) URL",
            );
        }
        if let Some((_, other, _)) = self
            .columns
            .iter()
            .find(|(there, ..)| *there == "image_url")
        {
            let rule = format!("and {other} are both given: pass the input image once");
            return self.invalid(name, &rule);
        }
        self.set("image_url", name, value.to_string());
    }

    fn reference(&mut self, value: &Value) {
        let Some(object) = value.as_object() else {
            return self.image("input_reference", value);
        };
        for name in object.keys().filter(|name| *name != "image_url") {
            let rule = match name.as_str() {
                "file_id" => "names an uploaded file, which reelq does not keep: pass image_url",
                _ => "is not known: pass image_url",
            };
            let name = format!("input_reference.{name}");
            self.fault(&name, "unknown_parameter", format!("{name} {rule}"));
        }
        match object.get("image_url") {
            Some(url) => self.image("input_reference.image_url", url),
            None if object.is_empty() => {
                self.invalid("input_reference", "must be a URL or {\"image_url\": URL}");
            }
            None => {}
        }
    }

    /// OpenAI's `seconds` is a text, the provider's `duration` a number.
    fn seconds(&mut self, given: &Given) {
        let json = match &given.value {
            Value::String(text) => match DURATIONS.clone().find(|n| n.to_string() == *text) {
                Some(seconds) => seconds.to_string(),
                None => {
                    let (low, high) = (DURATIONS.start(), DURATIONS.end());
                    let rule = format!(
                        "must be a whole number of seconds from {low} to {high}, found {}",
                        glance(text)
                    );
                    return self.invalid(&given.name, &rule);
                }
            },
            // Whole numbers in any spelling, such as 6.0, are compared as numbers.
            Value::Number(number) => match number.as_f64() {
                Some(n) if n.fract() == 0.0 && n.abs() < 1e6 => (n as i64).to_string(),
                _ => number.to_string(),
            },
            other => other.to_string(),
        };
        self.set("duration", &given.name, json);
    }

    fn size(&mut self, name: &str, value: &Value) {
        match value.as_str().and_then(size_of) {
            Some(size) => self.set("size", name, Value::from(size.as_str()).to_string()),
            None => self.invalid(
                name,
                &format!(
                    "must be 480p, 720p or 1080p, or WIDTHxHEIGHT with a shorter side of 480, 720 or 1080, \
                     found {}",
                    glance(&value.to_string())
                ),
            ),
        }
    }

    fn priority(&mut self, given: &Given) {
        let json = match &given.value {
            Value::String(text) if given.loose => match text.parse::<i64>() {
                Ok(number) if number.to_string() == *text => text.clone(),
                _ => {
                    let rule = format!("must be a whole number of 64 bits, found {}", glance(text));
                    return self.invalid(&given.name, &rule);
                }
            },
            _ => given.json(),
        };
        self.set("priority", &given.name, json);
    }

    fn metadata(&mut self, given: &Given) {
        let json = match &given.value {
            // In a form an object is written as its text, or taken apart into names.
            Value::String(text) if given.loose && text.trim_start().starts_with('{') => {
                match serde_json::from_str::<Value>(text) {
                    Ok(_) => text.clone(),
                    Err(error) => {
                        let rule = format!("must be a JSON object: {error}");
                        return self.invalid(&given.name, &rule);
                    }
                }
            }
            _ => given.json(),
        };
        self.set("metadata", &given.name, json);
    }

    fn other(&mut self, given: &Given) {
        let name = given.name.as_str();
        if name == "extra_body" && given.value.get("operation").is_some() {
            let name = "extra_body.operation";
            return self.fault(name, "unsupported_parameter", format!("{name}: {NO_EDIT}"));
        }
        match FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
            Some((_, why)) => {
                self.fault(name, "unsupported_parameter", format!("{name}: {why}"));
            }
            // The intake knows what may have been meant.
            None => self.columns.push(("", name.to_owned(), "null".to_owned())),
        }
    }

    /// The job, by the same rules as in every other way in.
    fn finish(mut self) -> Result<JobSpec, ApiError> {
        let mut text = String::from("{");
        for (index, (column, name, json)) in self.columns.iter().enumerate() {
            let field = if column.is_empty() {
                name.as_str()
            } else {
                column
            };
            if index > 0 {
                text.push(',');
            }
            text.push_str(&Value::from(field).to_string());
            text.push(':');
            text.push_str(json);
        }
        text.push('}');
        let spec = match spec_from_json(text.as_bytes(), &Defaults::default()) {
            Ok(spec) if self.faults.is_empty() => return Ok(spec),
            Ok(_) => Vec::new(),
            Err(faults) => faults,
        };
        for fault in spec {
            let column = fault.field.as_ref();
            let name = self
                .columns
                .iter()
                .find(|(there, ..)| !there.is_empty() && *there == column)
                .map_or(column, |(_, name, _)| name.as_str())
                .to_owned();
            let excused = match column {
                "image_url" => self.faults.iter().any(|(name, ..)| {
                    name.starts_with("image") || name.starts_with("input_reference")
                }),
                _ => false,
            };
            let is_missing = fault.reason == "is missing";
            if is_missing && excused {
                continue;
            }
            let code = match () {
                () if is_missing => "missing_required_parameter",
                () if FIELDS.contains(&column) => "invalid_value",
                () => "unknown_parameter",
            };
            let message = format!("{name} {}", fault.reason);
            self.faults.push((name, code, message));
        }
        let message: Vec<&str> = self
            .faults
            .iter()
            .map(|(_, _, text)| text.as_str())
            .collect();
        let message = message.join("; ");
        match self.faults.into_iter().next() {
            Some((name, code, _)) => Err(ApiError::param(name, code, message)),
            None => Err(ApiError::bad("invalid_value", message)),
        }
    }
}

impl Given {
    fn json(&self) -> String {
        self.source
            .clone()
            .unwrap_or_else(|| self.value.to_string())
    }
}

fn judge(given: Vec<Given>, key: Option<String>, model: &str) -> Result<JobSpec, ApiError> {
    let mut draft = Draft::default();
    if let Some(key) = key {
        draft.set("key", "Idempotency-Key", Value::from(key).to_string());
    }
    for given in &given {
        draft.take(given, model);
    }
    draft.finish()
}

fn column(name: &str) -> &'static str {
    FIELDS
        .into_iter()
        .find(|field| *field == name)
        .unwrap_or("")
}

fn is_known(name: &str) -> bool {
    FIELDS.contains(&name)
        || ["image", "input_reference", "seconds", "resolution", "model"].contains(&name)
}

/// `720p`, or two sides of which the shorter one counts.
pub(super) fn size_of(text: &str) -> Option<Size> {
    if let Ok(size) = text.parse() {
        return Some(size);
    }
    let (width, height) = text.split_once('x')?;
    let side = |text: &str| {
        let side: u32 = text.parse().ok()?;
        (side <= 9_999 && side.to_string() == text).then_some(side)
    };
    let short = side(width)?.min(side(height)?);
    Size::ALL.into_iter().find(|size| size.lines() == short)
}

/// At most the beginning of what was found.
fn glance(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Puts the job into the queue. False: it was there already.
async fn insert(app: &Arc<App>, spec: JobSpec, headers: &HeaderMap) -> ApiResult<(Job, bool)> {
    if spec.key.is_none()
        && is_repeat(headers)
        && let Some(id) = app
            .store()
            .twin(&spec, app.http.clock.now() - RETRIES)
            .await?
    {
        return Ok((find(app, id).await?, false));
    }
    let store = Arc::clone(&app.http.store);
    let wanted = spec.clone();
    let added = app
        .change(async move { store.insert(std::slice::from_ref(&wanted)).await })
        .await??;
    match (added.inserted.first(), added.existing.first()) {
        (Some(id), _) => Ok((find(app, *id).await?, true)),
        (None, Some(id)) => {
            let job = find(app, *id).await?;
            check_same(app, &job, &spec).await?;
            Ok((job, false))
        }
        (None, None) => Err(ApiError::internal()),
    }
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
    let object = |text: &Option<String>| {
        text.as_deref()
            .and_then(|text| serde_json::from_str::<Value>(text).ok())
    };
    let same = object(&job.spec.metadata) == object(&spec.metadata)
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
