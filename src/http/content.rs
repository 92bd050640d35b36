//! The video itself: `GET /v1/videos/{id}/content`, whole or in part.

use std::io::SeekFrom;
use std::sync::Arc;

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use tokio::fs::File;
use tokio::io::{AsyncReadExt, AsyncSeekExt};

use super::error::{ApiError, ApiResult};
use super::input::{JobName, Query};
use super::{App, videos};
use crate::job::{Job, SavedFile, State as JobState};

/// Bytes that are read and sent at once.
const CHUNK: usize = 256 * 1024;

pub(super) async fn get(
    State(app): State<Arc<App>>,
    id: JobName,
    query: Query,
    method: Method,
    headers: HeaderMap,
) -> ApiResult {
    match query.text("variant")? {
        None | Some("video") => {}
        Some(_) => {
            let message = "variant must be video: reelq keeps the video and nothing made from it";
            return Err(ApiError::param("variant", "invalid_value", message));
        }
    }
    let job = videos::find(&app, &id).await?;
    let saved = match (&job.state, &job.file) {
        (JobState::Done, Some(saved)) => saved,
        _ => return Err(not_ready(&job)),
    };
    let mut file = open(&app, saved).await?;
    let tag = format!("\"{}\"", saved.sha256);
    if matches_tag(&headers, header::IF_NONE_MATCH, &tag) {
        let tag = [(header::ETAG, tag)];
        return Ok((StatusCode::NOT_MODIFIED, tag).into_response());
    }
    let part = match range(&headers, &tag) {
        Some(range) => match cut(range, saved.bytes) {
            Some(part) => Some(part),
            None => return Ok(beyond(saved.bytes)),
        },
        None => None,
    };
    let (first, length) = part.unwrap_or((0, saved.bytes));
    let content = match method == Method::HEAD {
        true => Body::empty(),
        false => {
            file.seek(SeekFrom::Start(first))
                .await
                .map_err(|error| gone(saved, &error.to_string()))?;
            stream_of(file, length)
        }
    };
    let name = format!("inline; filename=\"{}.mp4\"", videos::name(&job));
    let mut response = (
        [
            (header::CONTENT_TYPE, "video/mp4".to_owned()),
            (header::CONTENT_LENGTH, length.to_string()),
            (header::ACCEPT_RANGES, "bytes".to_owned()),
            (header::ETAG, tag),
            (header::CONTENT_DISPOSITION, name),
            (header::CACHE_CONTROL, "private, no-cache".to_owned()),
        ],
        content,
    )
        .into_response();
    if part.is_some() {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        let text = format!("bytes {first}-{}/{}", first + length - 1, saved.bytes);
        if let Ok(value) = HeaderValue::from_str(&text) {
            response.headers_mut().insert(header::CONTENT_RANGE, value);
        }
    }
    Ok(response)
}

fn not_ready(job: &Job) -> ApiError {
    let id = videos::name(job);
    match &job.failure {
        Some(failure) if job.state == JobState::Failed => ApiError::not_found(
            "video_failed",
            format!("{id} has no video: {}", failure.message),
        ),
        _ if job.state == JobState::Cancelled => {
            ApiError::not_found("video_cancelled", format!("{id} was cancelled"))
        }
        _ => ApiError::conflict(
            "video_not_ready",
            format!("{id} is not ready: it is {}", job.state),
        ),
    }
    .of("video_id")
}

/// Opens the file if it is still the one that was saved. The table can be
/// written by other programs: it must not be a way to read other files.
async fn open(app: &App, saved: &SavedFile) -> ApiResult<File> {
    let fault = |error: std::io::Error| gone(saved, &error.to_string());
    let path = tokio::fs::canonicalize(&saved.path).await.map_err(fault)?;
    let folder = tokio::fs::canonicalize(&app.http.downloads)
        .await
        .map_err(fault)?;
    if !path.starts_with(&folder) {
        return Err(gone(saved, "it is outside of download.dir"));
    }
    let file = File::open(&path).await.map_err(fault)?;
    let meta = file.metadata().await.map_err(fault)?;
    if !meta.is_file() || meta.len() != saved.bytes {
        return Err(gone(saved, "it is no longer the file that was saved"));
    }
    Ok(file)
}

fn gone(saved: &SavedFile, why: &str) -> ApiError {
    let message = format!("{} cannot be sent: {why}", saved.path);
    ApiError::not_found("file_not_available", message).of("video_id")
}

fn matches_tag(headers: &HeaderMap, name: header::HeaderName, tag: &str) -> bool {
    headers
        .get_all(name)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|text| text.split(','))
        .map(|given| given.trim())
        .any(|given| given == "*" || given.strip_prefix("W/").unwrap_or(given) == tag)
}

/// What `Range` asks for. A header that is not understood asks for nothing, and
/// so does one whose `If-Range` means another file (or a date: the tag is surer).
fn range(headers: &HeaderMap, tag: &str) -> Option<Range> {
    if let Some(value) = headers.get(header::IF_RANGE)
        && value.as_bytes() != tag.as_bytes()
    {
        return None;
    }
    let text = headers.get(header::RANGE)?.to_str().ok()?;
    let (unit, set) = text.split_once('=')?;
    let (first, last) = set.trim().split_once('-')?;
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return None;
    }
    match (number(first), number(last)) {
        (Some(first), _) if last.is_empty() => Some(Range::From(first)),
        (Some(first), Some(last)) if first <= last => Some(Range::Between(first, last)),
        (None, Some(last)) if first.is_empty() => Some(Range::Last(last)),
        _ => None,
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Range {
    From(u64),
    Between(u64, u64),
    Last(u64),
}

fn number(digits: &str) -> Option<u64> {
    let all = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    // More digits than fit are beyond the end of every file.
    all.then(|| digits.parse().unwrap_or(u64::MAX))
}

/// Where a range begins in a file and how long it is; `None`: outside.
fn cut(range: Range, bytes: u64) -> Option<(u64, u64)> {
    let (first, last) = match range {
        Range::From(first) => (first, bytes.checked_sub(1)?),
        Range::Between(first, last) => (first, last.min(bytes.checked_sub(1)?)),
        Range::Last(0) => return None,
        Range::Last(length) => (bytes.saturating_sub(length), bytes.checked_sub(1)?),
    };
    (first <= last).then(|| (first, last - first + 1))
}

fn beyond(bytes: u64) -> Response {
    let error = ApiError::new(
        StatusCode::RANGE_NOT_SATISFIABLE,
        "range_not_satisfiable",
        format!("the video has {bytes} bytes"),
    );
    let mut response = error.of("Range").into_response();
    if let Ok(value) = HeaderValue::from_str(&format!("bytes */{bytes}")) {
        response.headers_mut().insert(header::CONTENT_RANGE, value);
    }
    response
}

/// The next bytes of a file, portion by portion.
fn stream_of(file: File, length: u64) -> Body {
    let portions = stream::try_unfold((file, length), |(mut file, left)| async move {
        if left == 0 {
            return Ok::<_, std::io::Error>(None);
        }
        let mut portion = vec![0; CHUNK.min(usize::try_from(left).unwrap_or(CHUNK))];
        let read = file.read(&mut portion).await?;
        if read == 0 {
            // Cut while it was sent: the client sees that it is not whole.
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        portion.truncate(read);
        Ok(Some((Bytes::from(portion), (file, left - read as u64))))
    });
    Body::from_stream(portions)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Option<Range> {
        let mut headers = HeaderMap::new();
        headers.insert(header::RANGE, HeaderValue::from_str(text).unwrap());
        range(&headers, "\"t\"")
    }

    #[test]
    fn ranges_are_cut_as_rfc_9110_says() {
        for (text, cutting) in [
            ("bytes=0-", Some((0, 10))),
            ("bytes=0-0", Some((0, 1))),
            ("bytes=9-", Some((9, 1))),
            ("bytes=3-5", Some((3, 3))),
            ("bytes=3-99999999999999999999999", Some((3, 7))),
            ("bytes=-4", Some((6, 4))),
            ("bytes=-40", Some((0, 10))),
            ("BYTES=1-1", Some((1, 1))),
            ("bytes=10-", None),
            ("bytes=-0", None),
            ("bytes=99999999999999999999999-", None),
        ] {
            assert_eq!(cut(of(text).unwrap(), 10), cutting, "{text}");
        }
        for unread in [
            "bytes=5-3",
            "bytes=a-b",
            "bytes=",
            "bytes=-",
            "lines=0-1",
            "bytes",
            "bytes=0-1,3-4",
            "bytes=+1-2",
        ] {
            assert_eq!(of(unread), None, "{unread}");
        }
        assert_eq!(cut(Range::From(0), 0), None);
    }
}
