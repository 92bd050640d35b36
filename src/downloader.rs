//! Acts on downloading jobs: bytes to a verified file.
//!
//! A job's video may be had from several places, tried one after the other:
//! the links that the task named, the links that it names when asked anew, and
//! the provider's own `/content`. Every byte is judged by the file itself.

use std::collections::{HashSet, VecDeque};
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde_json::value::RawValue;
use url::Url;

use crate::job::{Job, JobId, Millis, SavedFile, Size};
use crate::mp4::Movie;
use crate::provider::{Opened, Provider};
use crate::sink::{Origin, Partial, Resume, Sink, SinkError};
use crate::verdict::{self, Fetched, PollVerdict};

/// Redirects and JSON answers that are followed for one place.
const MAX_HOPS: usize = 10;

/// The most that is read of an answer that is not a video, in bytes.
const MAX_WORDS: usize = 64 * 1024;

/// A length within this much of what was asked is as asked, in milliseconds.
const DURATION_TOLERANCE: u64 = 1_000;

/// So many bytes may be stored between two looks at the free space.
const LOOK_AT_SPACE: u64 = 1024 * 1024;

/// Interrupted tries after which a partial file no longer keeps other places out.
const PATIENCE: u32 = 3;

/// Where videos go and within which limits.
pub struct Downloads {
    /// Writes the files.
    pub sink: Sink,
    /// A longer video is refused, in bytes.
    pub max_bytes: u64,
    /// Below this nothing is submitted; downloads may use three quarters of it.
    pub min_free_space: u64,
    /// Write a JSON file beside each video.
    pub sidecar: bool,
}

impl Downloads {
    /// Free bytes where the videos go; `None` if nobody can tell.
    pub fn free_space(&self) -> Option<u64> {
        self.sink.free_space().ok()
    }

    /// A video that was paid for may use most of the reserve: its link dies.
    fn has_room_for(&self, bytes: u64) -> bool {
        self.free_space()
            .is_none_or(|free| free >= bytes.saturating_add(self.min_free_space / 4))
    }
}

/// A place where the video may be.
enum Place {
    /// A link that the task named.
    Link(String),
    /// Ask the task where it is.
    Ask,
    /// The provider's own address of it.
    Content,
}

/// How one place answered.
enum Answer {
    Saved(SavedFile, Movie),
    /// It answered, and not with a usable video.
    Useless(String),
    /// No answer, or it broke off: it may be better later.
    Interrupted(String),
    /// No connection. An outage, unless other places can be reached.
    Unreachable(String),
    /// Something of another's lies at the target.
    Displaced(String),
    /// The disk has no room.
    Full(String),
    /// The disk failed.
    SyncFailed(String),
}

/// Fetches the video of a job whose task is complete.
pub async fn fetch(provider: &Provider, downloads: &Downloads, job: &Job) -> Fetched {
    let Some(target) = job.target.as_deref().map(PathBuf::from) else {
        // The table forbids a downloading row without one.
        return Fetched::Unusable {
            reason: "the row has no target".to_owned(),
        };
    };
    // Renamed into place, but stopped before the row said so.
    match downloads.sink.already_there(&target).await {
        Ok(Some((file, movie))) => return saved(downloads, job, file, &movie).await,
        Ok(None) => {}
        // No file of ours is ever renamed into place unfinished.
        Err(error @ SinkError::Invalid { .. }) => {
            return Fetched::Displaced {
                reason: error.to_string(),
            };
        }
        Err(error) => return failed(error),
    }
    let mut part = match downloads.sink.open(&target).await {
        Ok(part) => part,
        Err(error) => return failed(error),
    };
    // A job that was submitted again keeps its target: what lies there is of the task before.
    if part.source() != job.task_id.as_deref()
        && let Err(error) = part.clear().await
    {
        return failed(error);
    }
    match part.finish_if_whole().await {
        Ok(Some((file, movie))) => return saved(downloads, job, file, &movie).await,
        Ok(None) => {}
        Err(error) => return failed(error),
    }
    let mut fetch = Fetch {
        provider,
        downloads,
        job,
        had_some: part.resume().is_some(),
        part,
        advanced: false,
        answered: false,
        useless: Vec::new(),
        interrupted: Vec::new(),
        unreachable: Vec::new(),
    };
    let end = fetch.try_all().await;
    let Fetch {
        part,
        advanced,
        answered,
        useless,
        interrupted,
        unreachable,
        ..
    } = fetch;
    // A failed job keeps its partial file for a retry: one with nothing in it would only lie about.
    let is_empty = part.is_empty();
    drop(part);
    if is_empty && let Err(error) = downloads.sink.discard(&target).await {
        tracing::debug!(job = job.id, %error, "an empty partial file stays for now");
    }
    match end {
        Some(Answer::Saved(file, movie)) => saved(downloads, job, file, &movie).await,
        Some(Answer::SyncFailed(reason)) => Fetched::SyncFailed(reason),
        Some(Answer::Displaced(reason)) => Fetched::Displaced { reason },
        Some(Answer::Full(reason) | Answer::Interrupted(reason) | Answer::Unreachable(reason)) => {
            Fetched::Interrupted { reason, advanced }
        }
        Some(Answer::Useless(reason)) => Fetched::Unusable { reason },
        // One place that did not answer may still have it.
        None if !interrupted.is_empty() || !(answered || unreachable.is_empty()) => {
            Fetched::Interrupted {
                reason: [interrupted, unreachable].concat().join("; "),
                advanced,
            }
        }
        None if !unreachable.is_empty() => Fetched::Unreachable {
            reason: [unreachable, useless].concat().join("; "),
        },
        None => Fetched::Unusable {
            reason: useless.join("; "),
        },
    }
}

struct Fetch<'a> {
    provider: &'a Provider,
    downloads: &'a Downloads,
    job: &'a Job,
    part: Partial,
    /// An earlier try left bytes that can be gone on from.
    had_some: bool,
    /// This try has brought more of them.
    advanced: bool,
    /// A place answered, without a usable video.
    answered: bool,
    useless: Vec<String>,
    interrupted: Vec<String>,
    unreachable: Vec<String>,
}

impl Fetch<'_> {
    /// The first answer that ends the search, if one does.
    async fn try_all(&mut self) -> Option<Answer> {
        let mut tried = HashSet::new();
        let mut places = self.places();
        while let Some(place) = places.pop_front() {
            let (name, answer) = match place {
                Place::Ask => {
                    let links = self.ask().await;
                    for link in links.into_iter().rev() {
                        places.push_front(Place::Link(link));
                    }
                    continue;
                }
                Place::Link(link) => {
                    if !tried.insert(link.clone()) {
                        continue;
                    }
                    match self.provider.video_address(&link, None) {
                        Ok(url) => {
                            let answer = self.try_place(url.clone(), false).await;
                            self.answered |= matches!(answer, Answer::Useless(_));
                            (name_of(&url), answer)
                        }
                        Err(refused) => ("the task's link".to_owned(), Answer::Useless(refused)),
                    }
                }
                Place::Content => {
                    let task_id = self.job.task_id.as_deref()?;
                    let url = self.provider.content_address(task_id);
                    let answer = self.try_place(url, true).await;
                    self.answered |= matches!(answer, Answer::Useless(_));
                    ("/content".to_owned(), answer)
                }
            };
            match answer {
                Answer::Useless(reason) => {
                    let reason = self.provider.without_key(reason);
                    tracing::debug!(job = self.job.id, place = %name, %reason, "no video there");
                    self.useless.push(format!("{name}: {reason}"));
                }
                Answer::Unreachable(reason) => {
                    let reason = self.provider.without_key(format!("{name}: {reason}"));
                    if self.part.resume().is_some() && self.job.faults < PATIENCE {
                        return Some(Answer::Interrupted(reason));
                    }
                    self.unreachable.push(reason);
                }
                Answer::Interrupted(reason) => {
                    let reason = self.provider.without_key(format!("{name}: {reason}"));
                    // What is stored already is worth more than another place's first byte,
                    // and what grows is given all the time that it takes.
                    let waits = self.advanced || self.job.faults < PATIENCE;
                    if self.part.resume().is_some() && waits {
                        return Some(Answer::Interrupted(reason));
                    }
                    self.interrupted.push(reason);
                }
                end => return Some(end),
            }
        }
        None
    }

    /// The links first; the task is asked anew only when its links turned out
    /// useless, or nothing came for long, so that it is not asked right after
    /// the poll that found it complete.
    fn places(&self) -> VecDeque<Place> {
        let links = self.job.video_urls.iter().cloned().map(Place::Link);
        let ask = match self.job.faults {
            0 => false,
            faults => self.job.video_urls.is_empty() || faults >= PATIENCE,
        };
        links
            .chain(ask.then_some(Place::Ask))
            .chain([Place::Content])
            .collect()
    }

    /// The links that the task names now.
    async fn ask(&mut self) -> Vec<String> {
        let Some(task_id) = self.job.task_id.as_deref() else {
            return Vec::new();
        };
        match verdict::judge_poll(self.provider.task(task_id).await) {
            PollVerdict::Completed { urls } => return urls,
            PollVerdict::Trouble(fault) => self
                .interrupted
                .push(format!("the task: {}", fault.message)),
            PollVerdict::Running { .. } => self
                .useless
                .push("the task: says that it still runs".to_owned()),
            PollVerdict::Failed { message }
            | PollVerdict::Expired { message }
            | PollVerdict::NotFound { message } => {
                self.useless.push(format!("the task: {message}"))
            }
        }
        Vec::new()
    }

    /// One place, with the redirects and JSON answers that lead on from it.
    async fn try_place(&mut self, mut url: Url, mut with_key: bool) -> Answer {
        let mut seen = HashSet::new();
        for _ in 0..MAX_HOPS {
            let resume = self.part.resume();
            // What could not be stored is not asked for.
            let rest = resume.as_ref().and_then(|r| r.total?.checked_sub(r.offset));
            if let Err(full) = self.has_room(rest.unwrap_or(1)) {
                return self.leave(full).await;
            }
            if !seen.insert((url.clone(), with_key, resume.is_some())) {
                return Answer::Useless("redirects in a circle".to_owned());
            }
            let range = resume.as_ref().map(|r| (r.offset, r.validator.as_str()));
            let mut opened = match self.provider.open(&url, with_key, range).await {
                Ok(opened) => opened,
                Err(error) if error.unreachable => return Answer::Unreachable(error.words),
                Err(error) => return Answer::Interrupted(error.words),
            };
            match opened.status {
                200 => match self.begin(&mut opened).await {
                    Begin::Video => {
                        // Where each answer begins anew, a longer one is luck and no progress.
                        let had = (!self.had_some).then_some(0);
                        return self.receive(&mut opened, had).await;
                    }
                    Begin::Elsewhere(link) => {
                        match self.provider.video_address(&link, Some(&url)) {
                            Ok(next) => {
                                with_key = false;
                                url = next;
                            }
                            Err(refused) => return Answer::Useless(refused),
                        }
                    }
                    Begin::End(answer) => return answer,
                },
                206 if resume.as_ref().is_some_and(|r| is_the_rest(r, &opened)) => {
                    let had = resume.map(|r| r.offset);
                    return self.receive(&mut opened, had).await;
                }
                // Not the rest that was asked for: from the beginning, once.
                206 | 416 => {
                    if let Err(error) = self.part.clear().await {
                        return failed_answer(error);
                    }
                }
                301 | 302 | 303 | 307 | 308 => {
                    let Some(location) = &opened.location else {
                        return Answer::Useless(format!(
                            "HTTP {} without an address",
                            opened.status
                        ));
                    };
                    match self.provider.video_address(location, Some(&url)) {
                        Ok(next) => {
                            with_key = with_key && self.provider.is_own(&next);
                            url = next;
                        }
                        Err(refused) => return Answer::Useless(refused),
                    }
                }
                401 | 403 if !with_key && self.provider.is_own(&url) => with_key = true,
                408 | 425 | 429 | 500.. => return Answer::Interrupted(words(&mut opened).await),
                _ => return Answer::Useless(words(&mut opened).await),
            }
        }
        Answer::Useless(format!("more than {MAX_HOPS} redirects"))
    }

    /// Looks at the first bytes of a whole answer.
    async fn begin(&mut self, opened: &mut Opened) -> Begin {
        let end = |answer| Begin::End(answer);
        if let Some(length) = opened.length {
            if length > self.downloads.max_bytes {
                return end(Answer::Useless(format!(
                    "{length} bytes, more than download.max_bytes = {}",
                    self.downloads.max_bytes
                )));
            }
            // What is there already makes room for it.
            if let Err(full) = self.has_room(length.saturating_sub(self.part.len())) {
                return end(self.leave(full).await);
            }
        }
        let mut head = Vec::new();
        while head.len() < 12 {
            match opened.chunk().await {
                Ok(Some(chunk)) => head.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return end(Answer::Interrupted(error.to_string())),
            }
        }
        if head.get(4..8) != Some(b"ftyp") {
            return self.not_a_video(head, opened).await;
        }
        let origin = Origin {
            validator: opened.validator.clone(),
            total: opened.length,
            source: self.job.task_id.clone().unwrap_or_default(),
        };
        let stored = match self.part.restart(origin).await {
            Ok(()) => self.part.append(head.into()).await,
            Err(error) => Err(error),
        };
        match stored {
            Ok(()) => Begin::Video,
            Err(error) => end(failed_answer(error)),
        }
    }

    /// JSON may say where the video is; anything else is shown as evidence.
    async fn not_a_video(&self, mut body: Vec<u8>, opened: &mut Opened) -> Begin {
        while body.len() < MAX_WORDS {
            match opened.chunk().await {
                Ok(Some(chunk)) => body.extend_from_slice(&chunk),
                Ok(None) => break,
                Err(error) => return Begin::End(Answer::Interrupted(error.to_string())),
            }
        }
        if let Ok(json) = serde_json::from_slice::<serde_json::Value>(&body)
            && let Some(link) = verdict::urls(&json).into_iter().next()
        {
            return Begin::Elsewhere(link);
        }
        let text = verdict::shorten(&String::from_utf8_lossy(&body), 120);
        Begin::End(Answer::Useless(format!("not a video, but {text:?}")))
    }

    /// Stores the rest of the answer and finishes the file. More than `had`
    /// bytes are progress.
    async fn receive(&mut self, opened: &mut Opened, had: Option<u64>) -> Answer {
        let mut looked_at = self.part.len();
        let broken = loop {
            if self.part.len() - looked_at >= LOOK_AT_SPACE {
                looked_at = self.part.len();
                if let Err(full) = self.has_room(1) {
                    break Some(full);
                }
            }
            match opened.chunk().await {
                Ok(Some(chunk)) => {
                    if self.part.len() + chunk.len() as u64 > self.downloads.max_bytes {
                        return match self.part.clear().await {
                            Ok(()) => Answer::Useless(format!(
                                "longer than download.max_bytes = {}",
                                self.downloads.max_bytes
                            )),
                            Err(error) => failed_answer(error),
                        };
                    }
                    if let Err(error) = self.part.append(chunk).await {
                        break Some(failed_answer(error));
                    }
                }
                Ok(None) => break None,
                Err(error) => break Some(Answer::Interrupted(error.to_string())),
            }
        };
        self.advanced =
            self.part.resume().is_some() && had.is_some_and(|had| self.part.len() > had);
        if let Some(answer) = broken {
            return self.leave(answer).await;
        }
        let total = opened.range.and_then(|(_, total)| total);
        if opened.length.or(total).is_none() && self.seems_cut().await {
            return self
                .cut("shorter than asked, and nothing shows that it is whole".to_owned())
                .await;
        }
        match self.part.finish(total).await {
            Ok((file, movie)) => Answer::Saved(file, movie),
            Err(error) if error.is_truncation() => self.cut(error.to_string()).await,
            Err(error @ (SinkError::Invalid { .. } | SinkError::Length { .. })) => {
                match self.part.clear().await {
                    Ok(()) => failed_answer(error),
                    Err(error) => failed_answer(error),
                }
            }
            Err(error) => failed_answer(error),
        }
    }

    /// The answer ended before the video did. Where that happens each time a bit
    /// later, the video is whole in the end; elsewhere the place has none.
    async fn cut(&mut self, reason: String) -> Answer {
        let answer = match self.advanced {
            true => Answer::Interrupted(reason),
            false => Answer::Useless(reason),
        };
        self.leave(answer).await
    }

    fn has_room(&self, bytes: u64) -> Result<(), Answer> {
        match self.downloads.has_room_for(bytes) {
            true => Ok(()),
            false => Err(Answer::Full(format!(
                "not enough free space: a quarter of download.min_free_space = {} stays free",
                bytesize::ByteSize(self.downloads.min_free_space)
            ))),
        }
    }

    /// Keeps what the next try can go on from; the rest only takes up room.
    async fn leave(&mut self, answer: Answer) -> Answer {
        let left = match self.part.resume() {
            Some(_) => self.part.flush().await,
            None => self.part.clear().await,
        };
        left.map_or_else(failed_answer, |()| answer)
    }
}

impl Fetch<'_> {
    /// A fragmented video may be cut between two fragments and look whole. Where
    /// nobody said how long it is, a short one is fetched again, but in the end kept.
    async fn seems_cut(&mut self) -> bool {
        if self.job.faults >= PATIENCE {
            return false;
        }
        let asked = u64::from(self.job.spec.duration) * 1_000;
        self.part.inspect().await.is_ok_and(|movie| {
            movie.open_ended
                && movie
                    .duration_ms
                    .is_some_and(|is| is + DURATION_TOLERANCE < asked)
        })
    }
}

/// Whether a partial answer begins where the partial file ends, in the same
/// content: not every server that sends a range has looked at `If-Range`.
fn is_the_rest(resume: &Resume, opened: &Opened) -> bool {
    let same_content = opened.validator.as_deref() == Some(resume.validator.as_str());
    same_content
        && opened.range.is_some_and(|(first, total)| {
            first == resume.offset
                && (total.is_none() || resume.total.is_none() || total == resume.total)
        })
}

/// What the beginning of a whole answer shows.
enum Begin {
    Video,
    Elsewhere(String),
    End(Answer),
}

/// `HTTP 404: the server's words`.
async fn words(opened: &mut Opened) -> String {
    let mut body = Vec::new();
    while body.len() < 2_048 {
        match opened.chunk().await {
            Ok(Some(chunk)) => body.extend_from_slice(&chunk),
            _ => break,
        }
    }
    let text = verdict::shorten(String::from_utf8_lossy(&body).trim(), 200);
    format!("HTTP {} {text}", opened.status)
        .trim_end()
        .to_owned()
}

/// Scheme and host: the rest of a link may be signed.
fn name_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

async fn saved(downloads: &Downloads, job: &Job, file: SavedFile, movie: &Movie) -> Fetched {
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

fn failed(error: SinkError) -> Fetched {
    match failed_answer(error) {
        Answer::SyncFailed(reason) => Fetched::SyncFailed(reason),
        Answer::Displaced(reason) => Fetched::Displaced { reason },
        Answer::Useless(reason) => Fetched::Unusable { reason },
        Answer::Interrupted(reason) | Answer::Unreachable(reason) | Answer::Full(reason) => {
            Fetched::Interrupted {
                reason,
                advanced: false,
            }
        }
        Answer::Saved(file, _) => Fetched::Saved { file, note: None },
    }
}

/// The machine's faults delay; a wrong content is the place's fault.
fn failed_answer(error: SinkError) -> Answer {
    let words = error.to_string();
    match error {
        SinkError::Fsync { .. } => Answer::SyncFailed(words),
        SinkError::Full { .. } => Answer::Full(words),
        SinkError::Taken { .. } => Answer::Displaced(words),
        SinkError::Invalid { .. } | SinkError::Length { .. } => Answer::Useless(words),
        SinkError::Locked { .. } | SinkError::Outside { .. } | SinkError::Io { .. } => {
            Answer::Interrupted(words)
        }
    }
}
