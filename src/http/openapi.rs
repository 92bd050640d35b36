//! `GET /openapi.json`: what the interface takes and answers, exactly enough to
//! be tested by a program that reads it.

use std::sync::Arc;

use axum::extract::State;
use axum::response::Response;
use serde_json::{Map, Value, json};

use super::App;
use super::error::ok;
use super::params::OPENAI_MODELS;
use super::pause::MAX_REASON;
use crate::job::{
    MAX_METADATA, MAX_NAME, MAX_PROMPT, MAX_TIME, MAX_URL, Outcome, State as JobState,
};

// Patterns of texts: of ASCII, and of any letters.
const NO_NUL: [&str; 2] = ["^[\\u0001-\\u007f]*$", "^[^\\u0000]*$"];
const NOT_BLANK: [&str; 2] = [
    "^[\\u0001-\\u007f]*[!-~][\\u0001-\\u007f]*$",
    "^[^\\u0000]*[^\\u0000 \\t\\n\\r][^\\u0000]*$",
];
const URL: [&str; 2] = [
    "^[hH][tT][tT][pP][sS]?://[!\"$-.0->@-~][!-~]*$",
    "^[hH][tT][tT][pP][sS]?://[^/?#\\u0000 \\t\\n\\r][^\\u0000 \\t\\n\\r]*$",
];
const SECONDS: &str = "^([1-9]|1[0-5])$";
const WHOLE: &str = "^(0|-?[1-9][0-9]{0,17})$";
/// Unix milliseconds as a text.
const MILLIS: &str = "^(0|[1-9][0-9]{0,6}|[1-9][0-9]{11,13})$";
const VIDEO_ID: &str = "^(video_)?[1-9][0-9]{0,17}$";
const OBJECT: &str = "^\\{\\}$|^\\{\"[A-Za-z0-9_]{1,40}\":\"[A-Za-z0-9_ ]{0,40}\"\\}$";

/// What is behind it is taken off, as of any header.
const IDEMPOTENCY_KEY: &str = "^[!-~]([ -~]{0,198}[!-~])?[ \\t]*$";

pub(super) async fn get(State(app): State<Arc<App>>) -> Response {
    ok(&describe(&app.http.model, app.http.token.is_some()))
}

/// The description. With a token, everything but the public pages asks for it.
pub(super) fn describe(model: &str, with_token: bool) -> Value {
    let mut api = json!({
        "openapi": "3.1.0",
        "info": {
            "title": "reelq",
            "version": env!("CARGO_PKG_VERSION"),
            "summary": "A persistent queue for paid image-to-video jobs",
            "description": "The paths under /v1 are OpenAI's video API: an SDK works by changing its base URL. \
                The paths under /api are reelq's own operations. Events are at /api/events (see x-event-stream).",
        },
        "servers": [{ "url": "/" }],
        "paths": paths(),
        "components": { "schemas": schemas(model) },
        "webhooks": webhooks(),
        // An answer without end, which OpenAPI 3.1 cannot describe as a path.
        "x-event-stream": {
            "/api/events": {
                "summary": "What happens to jobs, as server-sent events, from now on or after an event",
                "parameters": [
                    { "name": "Last-Event-ID", "in": "header", "schema": { "type": "integer" } },
                    { "name": "after", "in": "query", "schema": { "type": "integer" } },
                    { "name": "batch", "in": "query", "schema": { "type": "string" } },
                ],
                "data": refer("Event"),
            },
        },
    });
    if with_token {
        api["components"]["securitySchemes"] =
            json!({ "token": { "type": "http", "scheme": "bearer" } });
        api["security"] = json!([{ "token": [] }]);
        for public in ["/healthz", "/"] {
            api["paths"][public]["get"]["security"] = json!([]);
        }
    }
    api
}

fn refer(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn content(kind: &str, schema: Value) -> Value {
    json!({ kind: { "schema": schema } })
}

/// An operation that answers 200 with this content, or an error.
fn operation(id: &str, summary: &str, answer: Value) -> Value {
    let error = |text: &str| json!({ "description": text, "content": content("application/json", refer("Error")) });
    json!({
        "operationId": id,
        "summary": summary,
        "responses": {
            "200": { "description": "Done", "content": answer },
            "400": error("The request is wrong; param names what"),
            "default": error("An error"),
        },
    })
}

fn of_json(id: &str, summary: &str, schema: &str) -> Value {
    operation(id, summary, content("application/json", refer(schema)))
}

fn taking(mut operation: Value, required: bool, content: Value) -> Value {
    operation["requestBody"] = json!({ "required": required, "content": content });
    operation
}

fn asking(mut operation: Value, parameters: Value) -> Value {
    operation["parameters"] = parameters;
    operation
}

fn query(name: &str, schema: Value) -> Value {
    json!({ "name": name, "in": "query", "schema": schema })
}

fn named(name: &str, what: &str) -> Value {
    json!([{ "name": name, "in": "path", "required": true, "description": what, "schema": { "type": "string", "minLength": 1 } }])
}

fn paths() -> Value {
    let video = "video_12, 12 or key:NAME";
    let job = "12, video_12 or key:NAME";
    let order = query("order", json!({ "enum": ["asc", "desc"] }));
    let key = json!({
        "name": "Idempotency-Key",
        "in": "header",
        "description": "Becomes the job's key: the same request gives the same job again, another one 409. \
            Printable ASCII; any other key goes into the body. Blanks around it are not part of it",
        "schema": { "type": "string", "pattern": IDEMPOTENCY_KEY },
    });
    let new_video = json!({
        "application/json": { "schema": refer("NewVideo") },
        "multipart/form-data": { "schema": refer("NewVideoForm") },
    });
    let content_of_video = content("video/mp4", json!({ "type": "string", "format": "binary" }));
    let mut download = asking(
        operation(
            "downloadVideo",
            "The video itself",
            content_of_video.clone(),
        ),
        json!([query("variant", json!({ "enum": ["video"] })),]),
    );
    download["responses"]["206"] =
        json!({ "description": "A part of it", "content": content_of_video });
    download["responses"]["304"] = json!({ "description": "If-None-Match names it" });
    let event_page = content("text/html", json!({ "type": "string" }));
    let line = json!({ "type": "string" });
    let metrics = json!({ "text/plain": { "schema": line }, "application/openmetrics-text": { "schema": line } });
    let jobs = json!({
        "application/json": { "schema": { "type": "array", "items": refer("NewJob") } },
        "application/x-ndjson": {
            "schema": { "type": "string", "description": "One NewJob a line, as many as there are" },
        },
    });
    let reason = nullable(text(MAX_REASON, NO_NUL));
    json!({
        "/v1/videos": {
            "get": asking(of_json("listVideos", "Videos, newest first", "VideoList"), json!([
                query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 100 })),
                query("after", json!({ "type": "string", "pattern": VIDEO_ID })),
                order.clone(),
            ])),
            "post": asking(taking(of_json("createVideo", "Puts a job into the queue", "Video"), true, new_video), json!([key])),
        },
        "/v1/videos/{video_id}": {
            "parameters": named("video_id", video),
            "get": of_json("retrieveVideo", "One video", "Video"),
            "delete": of_json("deleteVideo", "Cancels the job if it has not ended, and takes it off the list. The file and the ledger stay", "VideoDeleted"),
        },
        "/v1/videos/{video_id}/content": { "parameters": named("video_id", video), "get": download },
        "/api/jobs": {
            "get": asking(of_json("listJobs", "Jobs, oldest first", "JobList"), json!([
                query("state", refer("State")),
                query("batch", json!({ "type": "string" })),
                query("key", json!({ "type": "string" })),
                query("limit", json!({ "type": "integer", "minimum": 1, "maximum": 1000 })),
                query("after", json!({ "type": "integer", "minimum": 0, "maximum": i64::MAX })),
                order,
            ])),
            "post": taking(of_json("addJobs", "Any number of jobs, all or none. A job whose key is there already is left out", "Added"), true, jobs),
        },
        "/api/jobs/{id}": {
            "parameters": named("id", job),
            "get": of_json("getJob", "One job with its ledger and history", "JobDetail"),
        },
        "/api/jobs/{id}/retry": {
            "parameters": named("id", job),
            "post": of_json("retryJob", "Another try of a failed or cancelled job; what is paid for is only asked for and fetched", "Job"),
        },
        "/api/jobs/{id}/cancel": {
            "parameters": named("id", job),
            "post": taking(of_json("cancelJob", "Withdraws a job. keep: a task that is paid for goes on and is fetched", "Job"), false,
                content("application/json", object(json!({ "keep": { "type": "boolean" } }), &[]))),
        },
        "/api/jobs/{id}/resolve": {
            "parameters": named("id", job),
            "post": taking(of_json("resolveJob", "Settles an unconfirmed job", "Job"), true, content("application/json", json!({
                "oneOf": [
                    object(json!({ "adopt": { "type": "string", "pattern": "^[!-~]{1,1000}$" } }), &["adopt"]),
                    object(json!({ "resubmit": { "const": true } }), &["resubmit"]),
                    object(json!({ "write_off": { "const": true } }), &["write_off"]),
                ],
            }))),
        },
        "/api/batches/{name}": {
            "parameters": named("name", "A batch"),
            "get": of_json("getBatch", "How far a batch is, and what it cost", "Batch"),
        },
        "/api/status": { "get": of_json("getStatus", "Counts, batches, what is paused and why, spend", "Status") },
        "/api/pause": {
            "post": taking(of_json("pause", "Stops submitting; polling and downloads go on", "Paused"), false,
                content("application/json", object(json!({ "reason": reason }), &[]))),
        },
        "/api/resume": { "post": of_json("resume", "Submitting goes on", "Paused") },
        "/openapi.json": { "get": operation("describe", "This description", content("application/json", json!({ "type": "object" }))) },
        "/healthz": { "get": of_json("health", "The process answers", "Health") },
        "/readyz": { "get": of_json("ready", "The database answers", "Health") },
        "/metrics": { "get": operation("metrics", "For Prometheus", metrics) },
        "/": { "get": operation("dashboard", "A page for people", event_page) },
    })
}

/// An object with these members and no others.
fn object(properties: Value, required: &[&str]) -> Value {
    json!({ "type": "object", "properties": properties, "required": required, "additionalProperties": false })
}

/// An object of which all of these members are there, and more may come.
fn answer(properties: Value) -> Value {
    let names: Vec<&String> = properties
        .as_object()
        .map(Map::keys)
        .into_iter()
        .flatten()
        .collect();
    json!({ "type": "object", "required": names, "properties": properties })
}

/// A text of at most so many bytes. JSON Schema counts characters: what it
/// promises is an ASCII text of that length, or a quarter of it in any letters.
fn text(bytes: usize, [ascii, any]: [&str; 2]) -> Value {
    json!({
        "description": format!("At most {bytes} bytes of UTF-8, whatever the letters"),
        "anyOf": [
            { "type": "string", "maxLength": bytes, "pattern": ascii },
            { "type": "string", "maxLength": bytes / 4, "pattern": any },
        ],
    })
}

fn nullable(mut schema: Value) -> Value {
    match schema.get("type") {
        Some(Value::String(kind)) => {
            schema["type"] = json!([kind, "null"]);
            schema
        }
        _ => json!({ "anyOf": [schema, { "type": "null" }] }),
    }
}

/// `480p`, or two sides of which the shorter one is 480, 720 or 1080.
fn size_pattern() -> String {
    let longer = [
        (480, "48[0-9]|49[0-9]|[5-9][0-9]{2}|[1-9][0-9]{3}"),
        (720, "7[2-9][0-9]|[89][0-9]{2}|[1-9][0-9]{3}"),
        (1080, "10[89][0-9]|1[1-9][0-9]{2}|[2-9][0-9]{3}"),
    ];
    let sides = longer.map(|(short, long)| format!("{short}[xX]({long})|({long})[xX]{short}"));
    format!("^((480|720|1080)[pP]|{})$", sides.join("|"))
}

/// A time by RFC 3339, of 1980 to 2999.
fn time_pattern() -> String {
    let year = "(19[89][0-9]|2[0-9]{3})";
    let leap_year = "(19(8[048]|9[26])|2[0-9](0[48]|[2468][048]|[13579][26])|2[048]00)";
    let day = "(0[1-9]|1[0-2])-(0[1-9]|1[0-9]|2[0-8])|(0[13-9]|1[0-2])-(29|30)|(0[13578]|1[02])-31";
    let time = "([01][0-9]|2[0-3]):[0-5][0-9]:([0-5][0-9]|60)(\\.[0-9]{1,9})?";
    let offset = "([Zz]|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
    format!("^({year}-({day})|{leap_year}-02-29)[Tt ]{time}{offset}$")
}

fn not_before() -> Value {
    json!({
        "description": "Unix milliseconds, or a time of 1980 to 2999 by RFC 3339. A text may also be a time in a named zone, \
            such as 2026-01-31T18:00[Asia/Shanghai]",
        "anyOf": [
            { "type": "integer", "minimum": 0, "maximum": 9_999_999 },
            { "type": "integer", "minimum": 100_000_000_000_i64, "maximum": MAX_TIME },
            { "type": "string", "pattern": time_pattern() },
            { "type": "string", "pattern": MILLIS },
            { "type": "null" },
        ],
    })
}

/// What a job of any kind may have beside what it asks for.
fn common() -> Map<String, Value> {
    let mut members = Map::new();
    let priority = json!({ "type": ["integer", "null"], "minimum": i64::MIN, "maximum": i64::MAX });
    let metadata = json!({
        "type": ["object", "null"],
        "description": format!("Handed through. At most {MAX_METADATA} bytes, numbers within the range of a double"),
    });
    for (name, schema) in [
        ("key", nullable(text(MAX_NAME, NOT_BLANK))),
        ("batch", nullable(text(MAX_NAME, NOT_BLANK))),
        ("prompt", text(MAX_PROMPT, NOT_BLANK)),
        ("priority", priority),
        ("not_before", not_before()),
        ("metadata", metadata),
    ] {
        members.insert(name.to_owned(), schema);
    }
    members
}

fn schemas(model: &str) -> Value {
    let mut models = vec![model];
    models.extend(OPENAI_MODELS.into_iter().filter(|name| *name != model));
    let url = text(MAX_URL, URL);
    let duration = json!({ "type": "integer", "minimum": 1, "maximum": 15 });

    let mut new_job = common();
    new_job.insert("image_url".into(), url.clone());
    new_job.insert("duration".into(), nullable(duration.clone()));
    new_job.insert(
        "size".into(),
        json!({ "enum": ["480p", "720p", "1080p", null] }),
    );

    let seconds = json!({ "anyOf": [duration, { "type": "string", "pattern": SECONDS }, { "type": "null" }] });
    let size = json!({
        "type": ["string", "null"],
        "description": "480p, 720p or 1080p, or WIDTHxHEIGHT, of which the shorter side counts",
        "pattern": size_pattern(),
    });
    let model_or_none = |none: Option<Value>| {
        let all = models.iter().map(|name| json!(name)).chain(none);
        json!({ "enum": all.collect::<Vec<_>>() })
    };
    let mut new_video = common();
    for (name, schema) in [
        ("model", model_or_none(Some(Value::Null))),
        ("image_url", nullable(url.clone())),
        ("image", nullable(url.clone())),
        (
            "input_reference",
            json!({ "anyOf": [url, object(json!({ "image_url": url }), &["image_url"]), { "type": "null" }] }),
        ),
        ("seconds", seconds.clone()),
        ("duration", seconds),
        ("size", size.clone()),
        ("resolution", size),
    ] {
        new_video.insert(name.to_owned(), schema);
    }
    let mut new_video = object(Value::Object(new_video), &["prompt"]);
    let given = |name: &str| json!({ "required": [name], "properties": { name: { "not": { "type": "null" } } } });
    new_video["oneOf"] = json!([given("image_url"), given("image"), given("input_reference")]);
    let absent = |name: &str| json!({ "properties": { name: { "type": "null" } } });
    new_video["allOf"] = json!([
        { "anyOf": [absent("seconds"), absent("duration")] },
        { "anyOf": [absent("size"), absent("resolution")] },
    ]);
    let mut new_video_form = object(
        json!({
            "prompt": text(MAX_PROMPT, NOT_BLANK),
            "image_url": url,
            "model": model_or_none(None),
            "seconds": { "type": "string", "pattern": SECONDS },
            "size": { "type": "string", "pattern": size_pattern() },
            "key": text(MAX_NAME, NOT_BLANK),
            "batch": text(MAX_NAME, NOT_BLANK),
            "priority": { "type": "string", "pattern": WHOLE },
            "not_before": { "type": "string", "pattern": format!("{}|{MILLIS}", time_pattern()) },
            "metadata": { "type": "string", "pattern": OBJECT, "description": "The text of a JSON object, or metadata[NAME] for each member" },
        }),
        &["prompt", "image_url"],
    );
    new_video_form["description"] =
        "The other names of NewVideo are taken too, and in the place of image_url \
        input_reference[image_url] or input_reference as the text of a JSON object"
            .into();
    let mut schemas = answers();
    schemas["NewJob"] = object(Value::Object(new_job), &["prompt", "image_url"]);
    schemas["NewVideo"] = new_video;
    schemas["NewVideoForm"] = new_video_form;
    schemas
}

fn answers() -> Value {
    let number = json!({ "type": "integer" });
    let amount = json!({ "type": "number", "minimum": 0 });
    let line = json!({ "type": "string" });
    let maybe = json!({ "type": ["string", "null"] });
    let time = json!({ "type": ["integer", "null"], "description": "Unix milliseconds" });
    let maybe_amount = json!({ "type": ["number", "null"], "minimum": 0 });
    let maybe_number = json!({ "type": ["integer", "null"] });
    let ids = |text: &str| json!({ "type": ["array", "null"], "items": number, "maxItems": 10_000, "description": text });
    let yes = json!({ "type": "boolean" });
    let list = |name: &str| json!({ "type": "array", "items": refer(name) });
    let mut counts = Map::new();
    for state in JobState::ALL {
        counts.insert(state.to_string(), number.clone());
    }
    counts.insert("total".into(), number.clone());
    let job = json!({
        "id": number, "key": maybe, "batch": line, "state": refer("State"),
        "progress": { "type": "integer", "minimum": 0, "maximum": 100 },
        "task_id": maybe, "path": maybe, "bytes": maybe_number, "sha256": maybe,
        "error_code": maybe, "error_message": maybe,
        "created_at": number, "submitted_at": time, "completed_at": time, "finished_at": time,
    });
    let mut spend = Map::new();
    for outcome in Outcome::ALL {
        let entry = answer(json!({ "submissions": number, "cost": amount }));
        spend.insert(outcome.as_str().to_owned(), entry);
    }
    let batch = json!({
        "name": line, "jobs": refer("Counts"), "settled": yes,
        "max_cost": maybe_amount, "spent": maybe_amount,
    });
    let mut one_batch = batch.clone();
    one_batch["spend"] = refer("Spend");
    let mut detail = job.clone();
    detail["endpoint"] = maybe.clone();
    detail["submissions"] = json!({ "type": "array", "items": answer(json!({
        "job_id": number, "key": maybe, "batch": line, "state": line,
        "attempt": number, "started_at": number, "finished_at": time, "cost": amount, "task_id": maybe,
        "outcome": { "enum": Outcome::ALL.map(Outcome::as_str) }, "resolution": maybe,
        "http_status": maybe_number, "error": maybe, "request_id": maybe, "answer": maybe, "endpoint": line,
    })) });
    detail["events"] = list("Event");
    let paused = json!({ "anyOf": [answer(json!({ "reason": line, "since": number })), { "type": "null" }] });
    json!({
        "Error": answer(json!({ "error": answer(json!({
            "message": line, "type": line, "code": maybe, "param": maybe,
        })) })),
        "State": { "enum": JobState::ALL.map(JobState::as_str) },
        "Counts": answer(Value::Object(counts)),
        "Video": answer(json!({
            "id": { "type": "string", "pattern": "^video_[1-9][0-9]*$" },
            "object": { "const": "video" },
            "status": { "enum": ["queued", "in_progress", "completed", "failed"] },
            "progress": { "type": "integer", "minimum": 0, "maximum": 100 },
            "created_at": number, "completed_at": time, "expires_at": { "type": "null" },
            "model": line, "prompt": line,
            "seconds": { "type": "string", "pattern": SECONDS },
            "size": { "enum": ["480p", "720p", "1080p"] },
            "error": { "anyOf": [answer(json!({ "code": line, "message": line })), { "type": "null" }] },
            "remixed_from_video_id": { "type": "null" },
            "reelq": refer("Job"),
        })),
        "VideoList": answer(json!({
            "object": { "const": "list" }, "data": list("Video"), "first_id": maybe, "last_id": maybe, "has_more": yes,
        })),
        "VideoDeleted": answer(json!({ "id": line, "object": { "const": "video.deleted" }, "deleted": { "const": true } })),
        "Job": answer(job),
        "JobDetail": answer(detail),
        "JobList": answer(json!({ "jobs": list("Job"), "last_id": maybe_number, "has_more": yes })),
        "Event": answer(json!({ "id": number, "job_id": number, "at": number, "event": line, "state": refer("State"), "detail": maybe })),
        "Added": answer(json!({
            "inserted": number, "existing": number,
            "ids": ids("Of the new jobs, in the order of the request; null if they are more than 10,000"),
            "first_id": maybe_number, "last_id": maybe_number,
            "existing_ids": ids("Of the jobs that had the key of a left out one; null if they are more than 10,000"),
            "differing_keys": { "type": "integer", "description": "How many of those jobs ask for another video" },
            "differing": {
                "type": "array", "maxItems": 100, "description": "The first of those keys and their jobs",
                "items": answer(json!({ "key": line, "id": number })),
            },
        })),
        "Batch": answer(one_batch),
        "Paused": answer(json!({ "paused": paused.clone() })),
        "Health": answer(json!({ "status": line })),
        "Spend": answer(Value::Object(spend)),
        "Status": answer(json!({
            "version": line, "now": number, "paused": paused, "jobs": refer("Counts"),
            "held": { "type": "array", "items": answer(json!({
                "name": line, "since": number, "until": time, "cause": line, "message": line, "advice": line,
            })) },
            "unconfirmed": { "type": "array", "items": number, "maxItems": 100 },
            "spend": answer(json!({ "today": refer("Spend"), "total": refer("Spend") })),
            "batches": { "type": "array", "items": answer(batch) },
            "batches_total": number, "webhooks_waiting": number,
        })),
    })
}

/// What is POSTed to `webhook.url`.
fn webhooks() -> Value {
    let message = |summary: &str, kinds: &[&str], data: Value| {
        let body = answer(json!({
            "type": { "enum": kinds },
            "timestamp": { "type": "string", "format": "date-time" },
            "data": data,
        }));
        json!({ "post": {
            "summary": summary,
            "requestBody": { "content": content("application/json", body) },
            "responses": { "2XX": { "description": "Taken; anything else is tried again for three days" } },
        } })
    };
    let number = json!({ "type": "integer" });
    let kinds = ["job.done", "job.failed", "job.cancelled", "job.unconfirmed"];
    let job = answer(json!({ "event_id": number, "state": refer("State"), "job": refer("Job") }));
    let batch = answer(
        json!({ "event_id": number, "batch": { "type": "string" }, "total": number, "counts": { "type": "object" } }),
    );
    json!({
        "job": message("A job settled", &kinds, job),
        "batch": message("Nothing moves in a batch any more", &["batch.completed"], batch),
    })
}
