//! Acts on downloading jobs: bytes to a verified file.
//!
//! A job's video may be had from several places, tried one after the other:
//! the links that the task named, the links that it names when asked anew, and
//! the provider's own `/content`. Every byte is judged by the file itself.

mod place;
mod saved;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};

use url::Url;

use crate::job::{Job, JobId, SavedFile};
use crate::mp4::Movie;
use crate::provider::Provider;
use crate::sink::{Partial, Sink, SinkError};
use crate::verdict::{self, Fetched, PollVerdict};
use saved::saved;

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
    /// Of videos that may have been cut.
    pub cut_lengths: CutLengths,
}

/// How long each video was that may have been cut, in bytes. A restart forgets it, at the price
/// of one more transfer.
#[derive(Debug, Default)]
pub struct CutLengths(Mutex<HashMap<JobId, u64>>);

impl CutLengths {
    /// Keeps a length for the next time; true if it is not the one before. `None`: not cut.
    fn differs(&self, job: JobId, length: Option<u64>) -> bool {
        // Whole between any two calls on it.
        let mut lengths = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = lengths.remove(&job);
        match length {
            Some(length) if before != Some(length) => {
                lengths.insert(job, length);
                true
            }
            _ => false,
        }
    }
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
    /// No answer: it may be better later.
    Interrupted(String),
    /// A video began to come and broke off.
    Broken(String),
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
        // The engine gives each a place before it is fetched.
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
    // A failed job keeps its partial file for a retry; an empty one is of no use to it.
    let is_empty = part.is_empty();
    drop(part);
    if is_empty && let Err(error) = downloads.sink.discard(&target).await {
        tracing::debug!(job = job.id, %error, "an empty partial file stays for now");
    }
    match end {
        Some(Answer::Saved(file, movie)) => saved(downloads, job, file, &movie).await,
        Some(Answer::SyncFailed(reason)) => Fetched::SyncFailed(reason),
        Some(Answer::Displaced(reason)) => Fetched::Displaced { reason },
        Some(
            Answer::Full(reason)
            | Answer::Interrupted(reason)
            | Answer::Broken(reason)
            | Answer::Unreachable(reason),
        ) => Fetched::Interrupted { reason, advanced },
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
                    if self.waits() {
                        return Some(Answer::Interrupted(reason));
                    }
                    self.interrupted.push(reason);
                }
                Answer::Broken(reason) => {
                    let reason = self.provider.without_key(format!("{name}: {reason}"));
                    if self.waits() {
                        return Some(Answer::Interrupted(reason));
                    }
                    if self.job.faults < PATIENCE {
                        self.interrupted.push(reason);
                    } else {
                        // Where it breaks off each time, it is not to be had.
                        self.answered = true;
                        self.unreachable.push(reason);
                    }
                }
                end => return Some(end),
            }
        }
        None
    }

    /// What is stored already is worth more than another place's first byte, and what grows
    /// is given all the time that it takes.
    fn waits(&self) -> bool {
        self.part.resume().is_some() && (self.advanced || self.job.faults < PATIENCE)
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
}

/// Scheme and host: the rest of a link may be signed.
fn name_of(url: &Url) -> String {
    url.origin().ascii_serialization()
}

fn failed(error: SinkError) -> Fetched {
    match failed_answer(error) {
        Answer::SyncFailed(reason) => Fetched::SyncFailed(reason),
        Answer::Displaced(reason) => Fetched::Displaced { reason },
        Answer::Useless(reason) => Fetched::Unusable { reason },
        Answer::Interrupted(reason)
        | Answer::Broken(reason)
        | Answer::Unreachable(reason)
        | Answer::Full(reason) => Fetched::Interrupted {
            reason,
            advanced: false,
        },
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
