//! Serving the videos, by parts where asked, and losing some of them on purpose.

use std::convert::Infallible;
use std::io;

use axum::Extension;
use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures_util::{StreamExt, stream};

use super::check::Refusal;
use super::dice::Fate;
use super::links::Closed;
use super::range::{self, Part};
use super::reply::{Note, no_task};
use super::tasks::{Stage, Task};
use super::world::{Shared, World};

/// `GET /v1/videos/{id}/content`: the video, with the key.
///
/// # Errors
/// A refused key, an unknown task, or one that is not completed.
pub async fn content(
    State(world): Shared,
    method: Method,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    world.authorise(&headers)?;
    let task = world
        .book()
        .find(&id)
        .cloned()
        .ok_or_else(|| no_task(&id))?;
    let stage = task.stage(world.clock.now());
    if stage != Stage::Completed {
        let message = format!(
            "Task is not completed yet, current status: {}",
            stage.status()
        );
        return Err(Refusal::param("task_not_completed", "task_id", message));
    }
    video(&world, &method, &headers, &task).await
}

/// `GET /files/{link}.mp4`: the video without a key, as from a content network.
///
/// # Errors
/// An unknown or an expired link, or a task that was forgotten.
pub async fn file(
    State(world): Shared,
    method: Method,
    Path(name): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Refusal> {
    let unknown = || Refusal::request(404, "file_not_found", "There is no such file.");
    let link = name.strip_suffix(".mp4").ok_or_else(unknown)?;
    let number = world
        .links
        .open(link, world.clock.now())
        .map_err(|closed| match closed {
            Closed::Unknown => unknown(),
            Closed::Expired => Refusal::request(
                410,
                "link_expired",
                "This link has expired; ask the task for a new one.",
            ),
        })?;
    let task = world
        .book()
        .by_number(number)
        .cloned()
        .ok_or_else(unknown)?;
    video(&world, &method, &headers, &task).await
}

/// The video, or the part of it that was asked for.
async fn video(
    world: &World,
    method: &Method,
    headers: &HeaderMap,
    task: &Task,
) -> Result<Response, Refusal> {
    let film = world.films.get(task.number, &task.order, &task.id).await;
    let film = film.map_err(|error| Refusal::gateway(500, "internal_error", error.to_string()))?;
    // A task has one video for ever, so its id is as good a version as a hash of the bytes.
    let etag = format!("\"{}\"", task.id);
    let told = |name| headers.get(name).and_then(|value| value.to_str().ok());
    let common = [
        (header::CONTENT_TYPE, "video/mp4"),
        (header::ACCEPT_RANGES, "bytes"),
        (header::CACHE_CONTROL, "public, max-age=86400"),
        (header::ETAG, &etag),
    ];
    let part = match range::part(
        told(header::RANGE),
        told(header::IF_RANGE),
        &etag,
        film.len(),
    ) {
        // Ranges are defined for GET alone.
        Part::Bytes(_) | Part::Unsatisfiable if *method != Method::GET => Part::Whole,
        part => part,
    };
    let (status, bytes, place) = match part {
        Part::Unsatisfiable => {
            let place = [(header::CONTENT_RANGE, format!("bytes */{}", film.len()))];
            let refusal =
                Refusal::request(416, "range_not_satisfiable", "The file has no such bytes.");
            return Ok((place, refusal).into_response());
        }
        Part::Whole => (StatusCode::OK, film, None),
        Part::Bytes(part) => {
            let place = format!("bytes {}-{}/{}", part.start, part.end - 1, film.len());
            (
                StatusCode::PARTIAL_CONTENT,
                film.slice(part),
                Some([(header::CONTENT_RANGE, place)]),
            )
        }
    };
    let response = if *method == Method::GET {
        let turn = world.book().download(task.number);
        deliver(world, task.number, turn, bytes)
    } else {
        Body::from(bytes).into_response()
    };
    Ok((status, common, place, response).into_response())
}

/// The bytes, unless it is this download's fate to lose half of them. A single byte always
/// arrives, so that a client that resumes gets there in the end even at a rate of 1.
fn deliver(world: &World, number: u64, turn: u64, bytes: Bytes) -> Response {
    let (dice, options) = (&world.dice, &world.options);
    let half = bytes.slice(..bytes.len() / 2);
    if half.is_empty() {
        Body::from(bytes).into_response()
    } else if dice.hits(options.cut_rate, Fate::Cut, number, turn) {
        let length = [(header::CONTENT_LENGTH, bytes.len().to_string())];
        let body = stream::once(async { Ok(half) }).chain(stream::once(async {
            // Lets the half be sent before the connection goes.
            tokio::task::yield_now().await;
            Err(io::Error::other("cut on purpose"))
        }));
        (length, Extension(Note("cut")), Body::from_stream(body)).into_response()
    } else if dice.hits(options.truncate_rate, Fate::Truncated, number, turn) {
        let body = stream::once(async { Ok::<_, Infallible>(half) });
        (Extension(Note("truncated")), Body::from_stream(body)).into_response()
    } else {
        Body::from(bytes).into_response()
    }
}
