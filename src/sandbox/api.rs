//! The routes, and the faults that are put into them on purpose.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures_util::StreamExt;
use serde_json::{Value, json};

use super::check::{self, MAX_BODY, Refusal};
use super::delivery;
use super::dice::{Dice, Fate};
use super::order::MODEL;
use super::reply::{Note, no_answer, no_task, slow_down};
use super::tasks::{Bill, Stage};
use super::world::{Shared, World};

/// A client that sends too much hears so only if it is listened to; but not for ever.
const MAX_DRAINED: usize = 16 * MAX_BODY;

const GUIDE: &str = "\
This is a reelq sandbox: the documented video API at no cost.

POST /v1/videos                create a task
GET  /v1/videos/{id}           ask for it; also /v1/videos/generations/{id}
GET  /v1/videos/{id}/content   its MP4
GET  /v1/models                the one model
GET  /_bill                    what was accepted, refused and served, and what it would have cost
";

/// All routes over `world`.
pub fn router(world: Arc<World>) -> Router {
    Router::new()
        .route("/", get(GUIDE))
        .route("/_bill", get(bill))
        .route("/v1/models", get(models))
        .route("/v1/images/generations", post(image_generation))
        .route("/v1/videos", post(create))
        .route("/v1/videos/{id}", get(query))
        .route("/v1/videos/generations/{id}", get(query))
        .route("/v1/videos/{id}/content", get(delivery::content))
        .route("/files/{name}", get(delivery::file))
        .fallback(|| async { Refusal::request(404, "not_found", "There is nothing here.") })
        .method_not_allowed_fallback(|| async {
            Refusal::request(405, "method_not_allowed", "Not with this method.")
        })
        .layer(middleware::from_fn_with_state(Arc::clone(&world), around))
        .with_state(world)
}

/// What every request gets: an id, a line in the log, and the set delay.
async fn around(State(world): Shared, request: Request, next: Next) -> Response {
    let begun = world.clock.now();
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let mut response = next.run(request).await;

    let id = world.request_id();
    tracing::info!(
        %method,
        path,
        status = response.status().as_u16(),
        ms = (world.clock.now() - begun).as_millis() as u64,
        request_id = id,
        note = response.extensions().get::<Note>().map(|note| note.0),
    );
    if let Ok(value) = HeaderValue::from_str(&id) {
        response
            .headers_mut()
            .insert(HeaderName::from_static("x-oneapi-request-id"), value);
    }
    // After the work: a client that hangs up now leaves a task behind, as with the real provider.
    let latency = world.options.latency;
    if !latency.is_zero() && path != "/_bill" {
        tokio::time::sleep(latency).await;
    }
    response
}

async fn bill(State(world): Shared) -> Json<Bill> {
    Json(world.bill())
}

async fn models(State(world): Shared, headers: HeaderMap) -> Result<Json<Value>, Refusal> {
    world.authorise(&headers)?;
    let model = json!({"id": MODEL, "object": "model", "created": 1_780_000_000, "owned_by": "reelq-sandbox"});
    Ok(Json(json!({"object": "list", "data": [model]})))
}

async fn image_generation(State(world): Shared, headers: HeaderMap, body: Body) -> Refusal {
    let body = read(body).await;
    let checked = world
        .authorise(&headers)
        .and_then(|()| json_body(&headers, body));
    checked.map_or_else(|refusal| refusal, |body| check::image_generation(&body))
}

async fn create(State(world): Shared, headers: HeaderMap, body: Body) -> Response {
    // Read first, whatever the answer: who still sends may not hear it.
    let body = read(body).await;
    match accept(&world, &headers, body) {
        Ok(response) => response,
        Err(refusal) => {
            world.book().refuse(refusal.status);
            refusal.into_response()
        }
    }
}

fn accept(
    world: &World,
    headers: &HeaderMap,
    body: Result<Vec<u8>, Refusal>,
) -> Result<Response, Refusal> {
    world.authorise(headers)?;
    let (dice, options) = (&world.dice, &world.options);
    let turn = world.book().post();
    if dice.hits(options.error_rate, Fate::SubmitError, turn, 0) {
        let message = format!("No available channel for {MODEL}.");
        let refusals = [
            slow_down(),
            Refusal::gateway(503, "no_available_channel", message),
        ];
        return Err(dice.pick(&refusals, turn, 0).clone());
    }
    let order = check::order(&json_body(headers, body)?)?;
    let lost = dice.hits(options.lose_rate, Fate::AnswerLost, turn, 0);
    let key = headers
        .get("idempotency-key")
        .map(|key| String::from_utf8_lossy(key.as_bytes()).into_owned());
    let mut book = world.book();
    let task = book.accept(order, key, lost, world.clock.now())?;
    if lost {
        return Ok(no_answer());
    }
    let answer = json!({
        "id": task.id,
        "task_id": task.id,
        "object": "video.generation.job",
        "model": MODEL,
        "status": "queued",
        "progress": 0,
        "created_at": task.accepted_at / 1000,
    });
    Ok(Json(answer).into_response())
}

/// The request's body up to [`MAX_BODY`].
async fn read(body: Body) -> Result<Vec<u8>, Refusal> {
    let mut chunks = body.into_data_stream();
    let (mut bytes, mut total) = (Vec::new(), 0);
    while let Some(chunk) = chunks.next().await {
        let chunk =
            chunk.map_err(|error| Refusal::request(400, "incomplete_body", error.to_string()))?;
        total += chunk.len();
        if total <= MAX_BODY {
            bytes.extend_from_slice(&chunk);
        } else if total > MAX_DRAINED {
            break;
        }
    }
    if total > MAX_BODY {
        let message = format!("The body is larger than {MAX_BODY} bytes: pass the image as a URL.");
        return Err(Refusal::request(413, "body_too_large", message));
    }
    Ok(bytes)
}

/// The body of a request that says it is JSON.
fn json_body(headers: &HeaderMap, body: Result<Vec<u8>, Refusal>) -> Result<Vec<u8>, Refusal> {
    let kind = headers
        .get(header::CONTENT_TYPE)
        .and_then(|kind| kind.to_str().ok())
        .unwrap_or_default();
    let essence = kind.split(';').next().unwrap_or_default().trim();
    if !essence.eq_ignore_ascii_case("application/json") {
        let message = "The body must be sent with Content-Type: application/json.";
        return Err(Refusal::request(415, "unsupported_media_type", message));
    }
    body
}

async fn query(
    State(world): Shared,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    world.authorise(&headers)?;
    let mut book = world.book();
    let (task, turn) = book.poll(&id).ok_or_else(|| no_task(&id))?;
    if world.dice.hits(
        world.options.poll_error_rate,
        Fate::PollError,
        task.number,
        turn,
    ) {
        return Ok(poll_error(&world.dice, task.number, turn));
    }
    let stage = task.stage(world.clock.now());
    let mut answer = json!({
        "id": task.id,
        "object": "video.generation.job",
        "model": MODEL,
        "status": stage.status(),
    });
    match stage {
        Stage::Queued | Stage::InProgress(_) => {
            let percent = if let Stage::InProgress(percent) = stage {
                percent
            } else {
                0
            };
            answer["progress"] = json!(percent);
            answer["created_at"] = json!(task.accepted_at / 1000);
        }
        Stage::Failed(code, message) => {
            answer["progress"] = json!(100);
            answer["created_at"] = json!(task.accepted_at / 1000);
            answer["error"] = json!({"message": message, "code": code});
        }
        Stage::Completed => {
            let url = world.video_url(&headers, task.number);
            answer["progress"] = json!(100);
            answer["video_url"] = json!(url);
            answer["result"] = json!({"video_url": url, "outputs": [url]});
        }
    }
    Ok(Json(answer).into_response())
}

/// An outage, as one of the layers between here and the upstream service would tell of it.
fn poll_error(dice: &Dice, number: u64, turn: u64) -> Response {
    let layers: [fn() -> Response; 4] = [
        || slow_down().into_response(),
        || Refusal::gateway(500, "internal_error", "The task could not be read.").into_response(),
        || {
            Refusal::gateway(503, "service_unavailable", "The service is overloaded.")
                .into_response()
        },
        || {
            let page = "<html>\n<head><title>502 Bad Gateway</title></head>\n<body>502 Bad Gateway</body>\n</html>\n";
            (
                StatusCode::BAD_GATEWAY,
                [(header::CONTENT_TYPE, "text/html")],
                page,
            )
                .into_response()
        },
    ];
    dice.pick(&layers, number, turn)()
}
