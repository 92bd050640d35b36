//! `POST /api/jobs`: any number of jobs, all or none.
//!
//! The body goes to a file first, so that a slow client holds no lock of the
//! database, and is read from there twice: once to judge it, once to insert it.

use std::io::{BufRead, BufReader, Read, Seek, SeekFrom};
use std::path::Path;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use futures_util::StreamExt;
use serde::Serialize;
use serde_json::json;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::task::{JoinError, JoinHandle};

use super::App;
use super::error::{ApiError, ApiResult, ok};
use super::input::{broken_off, media_type, patient, wrong_type};
use crate::intake::{Defaults, Format, LineFault, Portion, ReadError, read};
use crate::job::{JobId, JobSpec};
use crate::sink::free_space;
use crate::store::{Insertion, StoreError, There};
use crate::view::{self, MAX_IDS};

/// The longest body: some ten million jobs.
const MAX_BODY: u64 = 8 << 30;

/// So much of the disk is left to the database.
const LEFT_FREE: u64 = 256 << 20;

/// How often free space is looked at, in bytes.
const LOOK: u64 = 16 << 20;

/// Bad lines and differing keys that are told; further ones are counted.
const TOLD: usize = 100;

/// Portions that wait for the database.
const WAITING: usize = 2;

const TYPES: &str = "application/x-ndjson (one JSON object a line) or application/json (an array)";

pub(super) async fn add(State(app): State<Arc<App>>, headers: HeaderMap, body: Body) -> ApiResult {
    let format = match media_type(&headers).as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines"
        | "application/json" => None,
        "text/csv" => Some(Format::Csv),
        other => return Err(wrong_type(other, TYPES)),
    };
    let spool = spool(app.store().path(), body).await?;
    let (format, source) = tokio::task::spawn_blocking(move || {
        let format = match format {
            Some(format) => format,
            None => sniff(&spool)?,
        };
        check(format, reopen(&spool)?)?;
        Ok::<_, ApiError>((format, reopen(&spool)?))
    })
    .await
    .map_err(|_| ApiError::internal())??;
    let store = Arc::clone(&app.http.store);
    let added: Result<Added, BulkError> = app
        .change(async move {
            let (sender, mut portions) = mpsc::channel(WAITING);
            let mut reading = tokio::task::spawn_blocking(move || hand_on(format, source, &sender));
            store
                .insert_with(async |insertion| insert(&mut portions, &mut reading, insertion).await)
                .await
        })
        .await?;
    Ok(ok(&added?))
}

/// Reads every job, one portion at a time, until nobody takes them any more.
fn hand_on(
    format: Format,
    source: impl BufRead,
    sender: &mpsc::Sender<Vec<JobSpec>>,
) -> Result<(), ReadError> {
    let mut portion = Portion::default();
    for entry in read(format, source, &Defaults::default()) {
        if let Some(full) = portion.push(entry?.spec)
            && sender.blocking_send(full).is_err()
        {
            return Ok(());
        }
    }
    let _ = sender.blocking_send(portion.take());
    Ok(())
}

/// What went in and what was there, in the words of `reelq add --json`.
#[derive(Serialize)]
struct Added {
    #[serde(flatten)]
    added: view::Added,
    /// The first of the keys whose jobs ask for another video.
    differing: Vec<Differing>,
}

/// A key whose job asks for another video, and that job.
#[derive(Serialize)]
struct Differing {
    key: Option<String>,
    id: JobId,
}

/// Inserts every portion that the reading hands on.
async fn insert(
    portions: &mut mpsc::Receiver<Vec<JobSpec>>,
    reading: &mut JoinHandle<Result<(), ReadError>>,
    insertion: &mut Insertion<'_>,
) -> Result<Added, BulkError> {
    let (mut there, mut differing, mut differing_keys) = (Vec::new(), Vec::new(), 0);
    while let Some(portion) = portions.recv().await {
        let note = |found: There<'_>| {
            if there.len() < MAX_IDS {
                there.push(found.id);
            }
            if found.is_same {
                return;
            }
            differing_keys += 1;
            if differing.len() < TOLD {
                let key = found.spec.key.clone();
                differing.push(Differing { key, id: found.id });
            }
        };
        insertion.push(&portion, note).await?;
    }
    // Whether that was the end.
    reading.await??;
    let ids = insertion.ids(MAX_IDS as u32).await?;
    let added = view::Added::new(
        (insertion.inserted(), &ids),
        insertion.last(),
        (insertion.existing(), &there),
        differing_keys,
    );
    Ok(Added { added, differing })
}

enum BulkError {
    Store(StoreError),
    /// What was judged good could not be read again.
    Changed(ReadError),
    /// The reading broke off: a bug.
    Broken(JoinError),
}

impl From<JoinError> for BulkError {
    fn from(error: JoinError) -> BulkError {
        BulkError::Broken(error)
    }
}

impl From<StoreError> for BulkError {
    fn from(error: StoreError) -> BulkError {
        BulkError::Store(error)
    }
}

impl From<ReadError> for BulkError {
    fn from(error: ReadError) -> BulkError {
        BulkError::Changed(error)
    }
}

impl From<BulkError> for ApiError {
    fn from(error: BulkError) -> ApiError {
        match error {
            BulkError::Store(error) => error.into(),
            BulkError::Changed(error) => {
                tracing::error!(%error, "a body that was stored cannot be read again");
                ApiError::internal()
            }
            BulkError::Broken(error) => {
                tracing::error!(%error, "the reading of a body broke off: a bug");
                ApiError::internal()
            }
        }
    }
}

/// Stores the body beside the database, in a file without a name.
async fn spool(database: &Path, body: Body) -> ApiResult<std::fs::File> {
    let folder = database
        .parent()
        .filter(|folder| !folder.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    let file = tempfile::tempfile_in(folder).map_err(unstored)?;
    let mut file = tokio::io::BufWriter::new(tokio::fs::File::from_std(file));
    let mut stream = body.into_data_stream();
    let (mut length, mut looked) = (0, 0);
    while let Some(chunk) = patient(stream.next()).await? {
        let chunk = chunk.map_err(|_| broken_off())?;
        length += chunk.len() as u64;
        if length > MAX_BODY {
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "body_too_large",
                "the body is longer than 8 GiB: send it in parts",
            ));
        }
        if length >= looked {
            looked = length + LOOK;
            if free_space(folder).is_ok_and(|free| free < LEFT_FREE) {
                return Err(no_room());
            }
        }
        file.write_all(&chunk).await.map_err(unstored)?;
    }
    file.flush().await.map_err(unstored)?;
    Ok(file.into_inner().into_std().await)
}

fn no_room() -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "disk_full",
        "the disk has no room for the body; nothing was inserted",
    )
    .again_in(30)
}

fn unstored(error: std::io::Error) -> ApiError {
    if error.kind() == std::io::ErrorKind::StorageFull {
        return no_room();
    }
    tracing::error!(%error, "a body could not be stored beside the database");
    ApiError::internal()
}

/// From its beginning, with a position of its own only as long as nobody else reads.
fn reopen(spool: &std::fs::File) -> ApiResult<BufReader<std::fs::File>> {
    let mut file = spool.try_clone().map_err(unstored)?;
    file.seek(SeekFrom::Start(0)).map_err(unstored)?;
    Ok(BufReader::with_capacity(128 * 1024, file))
}

/// An array or lines, whatever the type says: both are sent as application/json.
fn sniff(spool: &std::fs::File) -> ApiResult<Format> {
    let (format, _) = Format::sniff(reopen(spool)?).map_err(unstored)?;
    Ok(match format {
        Format::Json => Format::Json,
        // What is neither is told as a bad line.
        Format::Jsonl | Format::Csv => Format::Jsonl,
    })
}

/// Every bad line, before anything is inserted.
fn check(format: Format, source: impl Read) -> ApiResult<()> {
    let mut told: Vec<LineFault> = Vec::new();
    let mut bad = 0_usize;
    for entry in read(format, BufReader::new(source), &Defaults::default()) {
        match entry {
            Ok(_) => {}
            Err(ReadError::Line(fault)) => {
                bad += 1;
                if told.len() < TOLD {
                    told.push(fault);
                }
            }
            Err(ReadError::Io { source, .. }) => return Err(unstored(source)),
        }
    }
    if bad == 0 {
        return Ok(());
    }
    let first = told.first().map(ToString::to_string).unwrap_or_default();
    let message = match bad {
        1 => format!("{first}; nothing was inserted"),
        _ => format!(
            "{first}; and {} more bad lines; nothing was inserted",
            bad - 1
        ),
    };
    let error = ApiError::bad("invalid_jobs", message);
    Err(error.with("lines", json!(told)).of("jobs"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_jobs_are_read_a_few_at_a_time() {
        let prompt = "p".repeat(100_000);
        let line = format!("{{\"prompt\":\"{prompt}\",\"image_url\":\"https://example.com/1\"}}\n");
        let (sender, mut portions) = mpsc::channel(10);
        hand_on(Format::Jsonl, line.repeat(50).as_bytes(), &sender).unwrap();
        drop(sender);
        let mut lengths = Vec::new();
        while let Some(portion) = portions.blocking_recv() {
            lengths.push(portion.len());
        }
        assert_eq!(lengths, [21, 21, 8]);
    }
}
