//! A video that is in place: what is unlike what was asked, and the file beside it.

use std::path::Path;

use serde::Serialize;
use serde_json::value::RawValue;

use super::{Downloads, failed};
use crate::job::{Job, JobId, Millis, SavedFile, Size};
use crate::mp4::Movie;
use crate::sink::SinkError;
use crate::verdict::Fetched;

/// A length within this much of what was asked is as asked, in milliseconds.
const DURATION_TOLERANCE: u64 = 1_000;

pub(super) async fn saved(
    downloads: &Downloads,
    job: &Job,
    file: SavedFile,
    movie: &Movie,
) -> Fetched {
    let mut notes = unlike_asked(job, movie);
    if downloads.sidecar
        && let Err(error) = downloads
            .sink
            .write_sidecar(Path::new(&file.path), sidecar(job, &file, movie))
            .await
    {
        // The folder's disk fails: the video beside it is no safer.
        if let SinkError::Fsync { .. } = error {
            return failed(error);
        }
        tracing::warn!(job = job.id, %error, "the file beside the video could not be written");
        notes.push(format!("no sidecar: {error}"));
    }
    Fetched::Saved {
        file,
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    }
}

/// What stands in the file beside a video: enough to know it by without the queue.
fn sidecar(job: &Job, file: &SavedFile, movie: &Movie) -> String {
    #[derive(Serialize)]
    struct Sidecar<'a> {
        id: JobId,
        key: Option<&'a str>,
        batch: &'a str,
        prompt: &'a str,
        image_url: &'a str,
        duration: u32,
        size: Size,
        metadata: Option<Box<RawValue>>,
        task_id: Option<&'a str>,
        created_at: Millis,
        submitted_at: Option<Millis>,
        completed_at: Option<Millis>,
        file: &'a SavedFile,
        video: serde_json::Value,
    }
    let spec = &job.spec;
    let sidecar = Sidecar {
        id: job.id,
        key: spec.key.as_deref(),
        batch: &spec.batch,
        prompt: &spec.prompt,
        image_url: &spec.image_url,
        duration: spec.duration,
        size: spec.size,
        metadata: spec.metadata_json(),
        task_id: job.task_id.as_deref(),
        created_at: job.created_at,
        submitted_at: job.submitted_at,
        completed_at: job.completed_at,
        file,
        video: serde_json::json!({
            "duration_ms": movie.duration_ms,
            "width": movie.width,
            "height": movie.height,
        }),
    };
    // Texts, numbers and members: nothing of it can fail to be JSON.
    serde_json::to_string_pretty(&sidecar).unwrap_or_default() + "\n"
}

/// What is unlike what was asked. The video is kept all the same: it is paid for.
fn unlike_asked(job: &Job, movie: &Movie) -> Vec<String> {
    let mut notes = Vec::new();
    if !movie.has_track {
        notes.push("names no track: players may show nothing".to_owned());
    }
    let asked = u64::from(job.spec.duration) * 1_000;
    if let Some(is) = movie.duration_ms
        && is.abs_diff(asked) > DURATION_TOLERANCE
    {
        notes.push(format!(
            "lasts {}.{} s, asked for {} s",
            is / 1_000,
            is % 1_000 / 100,
            job.spec.duration
        ));
    }
    if let (Some(width), Some(height)) = (movie.width, movie.height) {
        let short = width.min(height);
        // Encoders round to multiples of sixteen.
        if short.abs_diff(job.spec.size.lines()) > 16 {
            notes.push(format!("is {width}x{height}, asked for {}", job.spec.size));
        }
    }
    notes
}
