//! Bytes → a synced file at its final name, with its size and hash. The only
//! room that writes video files.
//!
//! # The files of one video
//!
//! Beside the target `NAME` (such as `videos/default/1.mp4`) stand, for a time,
//!
//! - `NAME.part`: the bytes so far. Whoever writes it holds a lock on it.
//! - `NAME.part.json`: what is needed to go on after a restart, see [`Origin`].
//! - `NAME.json`: the sidecar, for good, if it is wanted. It is appended to the
//!   whole name (`1.mp4.json`) because names that end in `.json` and `.part`
//!   are reserved: so no other video can ever have it as its own name.
//!
//! # What holds whatever crashes
//!
//! - [`Partial::finish`] returns only after: check, hash, fsync of the file,
//!   rename, fsync of the folder. Nothing is ever overwritten by the rename.
//! - A crash between the rename and the caller's commit is healed by
//!   [`Sink::already_there`]: the target was reserved for this job before its
//!   first byte was written, so a video there is this job's.
//! - After a mere crash of the process the partial file is as it was written.
//!   After a crash of the machine the end of a file that was not synced may
//!   read as zeros, which nothing in the video would show. So the bytes that
//!   were written under another boot count only as far as [`Partial::flush`]
//!   had synced them.
//! - A failed fsync is final: the kernel may have dropped the data and will not
//!   say so again. The partial is given up and the caller has to stop.
//! - A full disk (or quota, or file size limit) keeps what could be written.
//!
//! # Links
//!
//! The download folder itself may be a symbolic link, and links inside it may
//! lead to other places inside it. A folder that leads out of it is refused
//! before anything is created behind it. A target that was reserved under an
//! earlier `download.dir` is used as it is: the job must find its file again.

#![allow(clippy::disallowed_methods)] // this room writes the videos

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::job::{JobId, SavedFile};
use crate::mp4::{self, Defect, Movie};
use crate::naming::{self, Fields, Template};

/// How many names are tried for one job.
const MAX_NAMES: u32 = 1000;

/// The longest `NAME.part.json` that is read, in bytes.
const MAX_NOTE: u64 = 64 * 1024;

/// Read at once for hashing, in bytes.
const HASH_BUFFER: usize = 128 * 1024;

/// Folders that are remembered as synced.
const MAX_KNOWN: usize = 10_000;

/// Why a video could not be written. Every message names the path.
#[derive(Debug, thiserror::Error)]
pub enum SinkError {
    /// No space, quota or permitted file size is left. The partial file is
    /// kept, so the transfer can be resumed when there is.
    #[error("{}: there is no space left ({source})", .path.display())]
    Full {
        /// What could not be written.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// An fsync failed, so what is on disk is not known. Fatal: the daemon has
    /// to stop.
    #[error("{}: cannot be synced to disk ({source})", .path.display())]
    Fsync {
        /// The file or folder.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
    /// Another worker writes this file.
    #[error("{}: another worker is writing it", .path.display())]
    Locked {
        /// The partial file.
        path: PathBuf,
    },
    /// Something that is not this job's stands at the target. It is left alone;
    /// another name has to be reserved.
    #[error("{}: there is already a file of this name", .path.display())]
    Taken {
        /// The target, or the partial file.
        path: PathBuf,
    },
    /// A folder on the way leads out of the download folder.
    #[error("{}: leads out of the download folder, to {}", .path.display(), .real.display())]
    Outside {
        /// The folder.
        path: PathBuf,
        /// Where it leads.
        real: PathBuf,
    },
    /// The content is not a whole video.
    #[error("{}: {defect}", .path.display())]
    Invalid {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        defect: Defect,
    },
    /// There are more or fewer bytes than there should be.
    #[error("{}: has {got} bytes, {expected} were expected", .path.display())]
    Length {
        /// The partial file.
        path: PathBuf,
        /// In bytes.
        expected: u64,
        /// In bytes.
        got: u64,
    },
    /// Anything else that the file system says.
    #[error("{}: cannot {what}: {source}", .path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which path.
        path: PathBuf,
        /// The system's words.
        source: io::Error,
    },
}

impl SinkError {
    /// Wait for space and go on.
    pub fn is_full(&self) -> bool {
        matches!(self, SinkError::Full { .. })
    }

    /// The daemon has to stop.
    pub fn is_fatal(&self) -> bool {
        matches!(self, SinkError::Fsync { .. })
    }

    /// More bytes may make it a video: resume or repeat the transfer. `false`
    /// also for every error that is not about the content.
    pub fn is_truncation(&self) -> bool {
        match self {
            SinkError::Invalid { defect, .. } => defect.is_truncation(),
            SinkError::Length { expected, got, .. } => got < expected,
            _ => false,
        }
    }
}

type Result<T> = std::result::Result<T, SinkError>;

/// No file, or not even its folder.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// For `map_err`: what was tried on which path.
fn fault(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SinkError {
    let path = path.to_owned();
    move |source| match is_full(&source) {
        true => SinkError::Full { path, source },
        false => SinkError::Io { what, path, source },
    }
}

/// Where the bytes of a partial file come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// The `ETag` of the answer. Kept only if it is strong, see
    /// [`strong_validator`].
    pub validator: Option<String>,
    /// The length of the whole video in bytes, where the server gave it.
    pub total: Option<u64>,
    /// What they are of, so that nothing else is taken for it: the task. It is
    /// stored on disk, so it should not be a URL that carries a secret.
    pub source: String,
}

/// How a transfer can go on: `Range: bytes={offset}-` and `If-Range: {validator}`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Bytes that are there.
    pub offset: u64,
    /// A strong entity tag, with its quotes.
    pub validator: String,
    /// The length of the whole video in bytes, where the server gave it. When
    /// `offset` has reached it there is nothing to ask for: call
    /// [`Partial::finish`].
    pub total: Option<u64>,
}

/// An `ETag` that promises the same bytes: quoted and not weak.
pub fn strong_validator(etag: &str) -> Option<&str> {
    let etag = etag.trim();
    let inner = etag.strip_prefix('"')?.strip_suffix('"')?;
    let fits = |b: u8| b == 0x21 || (0x23..=0x7e).contains(&b) || b >= 0x80;
    (etag.len() <= 1024 && inner.bytes().all(fits)).then_some(etag)
}

/// The content of `NAME.part.json`.
#[derive(Serialize, Deserialize)]
struct Note {
    #[serde(flatten)]
    origin: Origin,
    /// The boot under which the bytes were written.
    boot: Option<String>,
    /// So many bytes are on disk whatever happens.
    synced: u64,
}

/// The files of one video.
#[derive(Clone, Debug)]
struct Paths {
    target: PathBuf,
    part: PathBuf,
    note: PathBuf,
    sidecar: PathBuf,
}

impl Paths {
    fn of(target: &Path) -> Result<Paths> {
        let strange = |why: &str| {
            fault("use as a target", target)(io::Error::new(ErrorKind::InvalidInput, why))
        };
        if !target.is_absolute() {
            return Err(strange("it is not absolute"));
        }
        if target.to_str().is_none() {
            return Err(strange("it is not UTF-8"));
        }
        let stray = |c: Component<'_>| matches!(c, Component::ParentDir | Component::CurDir);
        if target.file_name().is_none() || target.components().any(stray) {
            return Err(strange("it does not name a file"));
        }
        Ok(Paths {
            target: target.to_owned(),
            part: beside(target, ".part"),
            note: beside(target, ".part.json"),
            sidecar: beside(target, ".json"),
        })
    }

    /// The note, and the draft of one that a crash has left.
    fn remove_notes(&self) -> Result<()> {
        remove(&beside(&self.note, ".part"))?;
        remove(&self.note)
    }

    /// Absolute and with a file name, so there is one.
    fn folder(&self) -> &Path {
        self.target.parent().unwrap_or(Path::new("/"))
    }
}

fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(ending);
    PathBuf::from(name)
}

/// The download folder.
#[derive(Clone, Debug)]
pub struct Sink {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    dir: PathBuf,
    /// Tells a restart of the process from one of the machine.
    boot: Option<String>,
    /// Paths that were handed out and not yet written, in lower case, so that
    /// two jobs cannot be given one file while neither is stored or on disk.
    reserved: Mutex<HashMap<String, JobId>>,
    /// Folders whose own entry was synced by this process.
    known: Mutex<HashSet<PathBuf>>,
}

fn guard<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // The maps are whole between any two calls on them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Sink {
    /// Videos go below `dir`, which need not exist yet; a relative one counts
    /// from the present working directory.
    ///
    /// # Errors
    ///
    /// When `dir` is empty or not UTF-8, or there is no working directory.
    pub fn new(dir: PathBuf) -> io::Result<Sink> {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").ok();
        Sink::with_boot(dir, boot.map(|boot| boot.trim().to_owned()))
    }

    fn with_boot(dir: PathBuf, boot: Option<String>) -> io::Result<Sink> {
        let dir = std::path::absolute(dir)?;
        if dir.to_str().is_none() {
            let why = format!("{}: the name of a folder must be UTF-8", dir.display());
            return Err(io::Error::new(ErrorKind::InvalidInput, why));
        }
        Ok(Sink {
            shared: Arc::new(Shared {
                dir,
                boot,
                reserved: Mutex::default(),
                known: Mutex::default(),
            }),
        })
    }

    /// The download folder, absolute.
    pub fn dir(&self) -> &Path {
        &self.shared.dir
    }

    /// Makes the download folder and tries to write in it. A full disk passes:
    /// that is waited for, not refused.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn try_writing(&self) -> io::Result<()> {
        let tried = fs::create_dir_all(&self.shared.dir).and_then(|()| {
            tempfile::Builder::new()
                .prefix(".reelq-")
                .tempfile_in(&self.shared.dir)
        });
        match tried {
            Err(error) if is_full(&error) => Ok(()),
            other => other.map(drop),
        }
    }

    /// Free bytes for this user where the download folder is or will be.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub fn free_space(&self) -> io::Result<u64> {
        let mut last = io::Error::from(ErrorKind::NotFound);
        for folder in self.shared.dir.ancestors() {
            match rustix::fs::statvfs(folder) {
                Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
                Err(error @ (Errno::NOENT | Errno::NOTDIR)) => last = error.into(),
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    /// The absolute path for a job: the first by [`naming::with_suffix`] where
    /// neither the video nor a file beside it exists, that `taken` does not
    /// claim, and that this `Sink` has not handed to another job. A few calls
    /// of `lstat`; nothing is created.
    ///
    /// `taken` should say whether another job's target is the same, without
    /// regard to case where the file system has none. The path must be stored
    /// with the job before [`Sink::open`].
    ///
    /// # Errors
    ///
    /// What the file system says, with the path; `AlreadyExists` after 1000
    /// names.
    pub fn reserve(
        &self,
        template: &Template,
        fields: &Fields<'_>,
        taken: impl Fn(&Path) -> bool,
    ) -> io::Result<PathBuf> {
        let name = template.render(fields);
        for n in 0..MAX_NAMES {
            let name = naming::with_suffix(&name, fields.id, n);
            let target = self.shared.dir.join(&name);
            let endings = ["", ".part", ".part.json", ".json"];
            let mut free = true;
            for ending in endings {
                let path = beside(&target, ending);
                free &= !exists(&path).map_err(|error| {
                    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
                })?;
            }
            if !free || taken(&target) {
                continue;
            }
            let mut reserved = guard(&self.shared.reserved);
            let owner = reserved.entry(key(&target)).or_insert(fields.id);
            if *owner == fields.id {
                return Ok(target);
            }
        }
        let why = format!(
            "{}: {MAX_NAMES} names are taken",
            self.shared.dir.join(name).display()
        );
        Err(io::Error::new(ErrorKind::AlreadyExists, why))
    }

    /// Opens the partial file of `target` for this worker alone and creates the
    /// folders on the way. Ask [`Sink::already_there`] first.
    ///
    /// # Errors
    ///
    /// [`SinkError::Locked`] while another worker has it; [`SinkError::Taken`]
    /// when something stands at the target; [`SinkError::Outside`].
    pub async fn open(&self, target: &Path) -> Result<Partial> {
        let paths = Paths::of(target)?;
        let shared = Arc::clone(&self.shared);
        let draft = blocking(&paths.part.clone(), move || Draft::open(&shared, paths)).await?;
        Ok(Partial {
            sink: self.clone(),
            target: target.to_owned(),
            draft: Some(draft),
        })
    }

    /// The finished video of a job that was stopped between the rename and its
    /// commit: checked, hashed and synced again. `None` when there is no file.
    /// Leftovers beside it are removed.
    ///
    /// # Errors
    ///
    /// [`SinkError::Taken`] when there is something else than a file, or when
    /// the partial file is still there, which shows that the file came from
    /// elsewhere; [`SinkError::Invalid`] when it is not a whole video, which
    /// shows the same. The job then needs another name: [`Sink::reserve`].
    pub async fn already_there(&self, target: &Path) -> Result<Option<(SavedFile, Movie)>> {
        let paths = Paths::of(target)?;
        let found = blocking(target, move || already_there(&paths)).await?;
        if found.is_some() {
            self.release(target);
        }
        Ok(found)
    }

    /// Removes what was downloaded of `target`; never a finished video. Nothing
    /// to remove is not an error.
    ///
    /// # Errors
    ///
    /// [`SinkError::Locked`] while a worker writes it.
    pub async fn discard(&self, target: &Path) -> Result<()> {
        let paths = Paths::of(target)?;
        blocking(target, move || discard(&paths)).await?;
        self.release(target);
        Ok(())
    }

    /// Writes `NAME.json` beside a video, in place of an older one: the whole
    /// file or nothing, synced. Answers its path.
    ///
    /// # Errors
    ///
    /// [`SinkError::Full`], [`SinkError::Fsync`] or [`SinkError::Io`].
    pub async fn write_sidecar(&self, target: &Path, value: &serde_json::Value) -> Result<PathBuf> {
        let path = Paths::of(target)?.sidecar;
        let text = format!("{value:#}\n");
        blocking(target, move || {
            replace(&path, text.as_bytes(), true)?;
            Ok(path)
        })
        .await
    }

    fn release(&self, target: &Path) {
        guard(&self.shared.reserved).remove(&key(target));
    }
}

fn key(target: &Path) -> String {
    target.to_string_lossy().to_lowercase()
}

/// A link that leads nowhere exists as well.
fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Runs file work where it may block. `path` is for the error if the work is
/// lost, as when the runtime is shut down.
async fn blocking<T: Send + 'static>(
    path: &Path,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(result) => result,
        Err(error) => Err(fault("go on", path)(io::Error::other(error))),
    }
}

/// An unfinished video that this worker has to itself. Dropping it keeps the
/// file and gives up the lock.
///
/// After a restart:
///
/// ```text
/// already_there(target)? → Some: done
/// open(target)           → finish_if_whole()? → Some: done
///                        → resume()? → Some: Range + If-Range → 206: append
///                                                             → 200: restart, append
///                                    → None: GET → restart, append
/// end of body            → finish(expected)
/// broken off             → flush(), drop
/// not a video            → clear(), drop, or discard() on the sink
/// ```
///
/// A method whose future is dropped before it is done leaves the partial
/// without its file: every later call fails, and it has to be opened again.
#[derive(Debug)]
pub struct Partial {
    sink: Sink,
    target: PathBuf,
    draft: Option<Draft>,
}

impl Partial {
    /// The final path.
    pub fn target(&self) -> &Path {
        &self.target
    }

    /// Bytes so far.
    pub fn len(&self) -> u64 {
        self.draft.as_ref().map_or(0, |draft| draft.len)
    }

    /// No bytes so far.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// [`Origin::source`] of what is there; `None` without a note.
    pub fn source(&self) -> Option<&str> {
        let draft = self.draft.as_ref()?;
        Some(draft.origin.as_ref()?.source.as_str())
    }

    /// How to go on where it broke off. `None` when there is nothing yet, or
    /// when no strong validator promises that the rest belongs to it.
    pub fn resume(&self) -> Option<Resume> {
        self.draft.as_ref().and_then(Draft::resume)
    }

    /// Starts from the first byte: forgets what is there and stores where the
    /// new bytes come from. Needed before the first [`Partial::append`], unless
    /// the transfer is resumed.
    ///
    /// # Errors
    ///
    /// [`SinkError::Full`], [`SinkError::Fsync`] or [`SinkError::Io`].
    pub async fn restart(&mut self, origin: Origin) -> Result<()> {
        self.with(move |draft| draft.restart(origin)).await
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    ///
    /// [`SinkError::Full`]: what could be written counts, see
    /// [`Partial::len`]. [`SinkError::Io`], also without a
    /// [`Partial::restart`].
    pub async fn append(&mut self, bytes: Bytes) -> Result<()> {
        self.with(move |draft| draft.append(&bytes)).await
    }

    /// Syncs the bytes so far, so that they count even after a power cut. For
    /// the end of a transfer that broke off.
    ///
    /// # Errors
    ///
    /// [`SinkError::Fsync`] is fatal.
    pub async fn flush(&mut self) -> Result<()> {
        self.with(Draft::flush).await
    }

    /// Forgets what is there: it was not a video, or not this one.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn clear(&mut self) -> Result<()> {
        self.with(Draft::clear).await
    }

    /// Judges the bytes so far, without a change.
    ///
    /// # Errors
    ///
    /// [`SinkError::Invalid`], or [`SinkError::Io`] when they cannot be read.
    pub async fn inspect(&mut self) -> Result<Movie> {
        self.with(Draft::inspect).await
    }

    /// Checks, hashes and syncs the file and gives it its final name. After
    /// that the partial is spent. After an error it is as before and can be
    /// resumed, cleared or dropped.
    ///
    /// `expected` is the length in bytes that the server gave; where it is
    /// `None`, that of [`Origin::total`] counts.
    ///
    /// # Errors
    ///
    /// [`SinkError::Length`] and [`SinkError::Invalid`] for the content;
    /// [`SinkError::Taken`] when something has come to stand at the target;
    /// [`SinkError::Fsync`] is fatal.
    pub async fn finish(&mut self, expected: Option<u64>) -> Result<(SavedFile, Movie)> {
        let done = self
            .with(move |draft| {
                let movie = draft.check(expected)?;
                Ok((draft.publish()?, movie))
            })
            .await?;
        self.spend();
        Ok(done)
    }

    /// Like [`Partial::finish`] for a partial file that an earlier life left
    /// behind, if it is provably whole: it has the length that the server gave,
    /// or, where none was given, the video itself shows its end. Saves a video
    /// whose last byte came just before a crash and whose URL is dead by now.
    ///
    /// # Errors
    ///
    /// As [`Partial::finish`], but not for the content.
    pub async fn finish_if_whole(&mut self) -> Result<Option<(SavedFile, Movie)>> {
        let done = self
            .with(|draft| {
                let movie = match draft.check(None) {
                    Ok(movie) => movie,
                    Err(SinkError::Length { .. } | SinkError::Invalid { .. }) => return Ok(None),
                    Err(error) => return Err(error),
                };
                let total = draft.origin.as_ref().and_then(|origin| origin.total);
                if total.is_none() && movie.open_ended {
                    return Ok(None);
                }
                Ok(Some((draft.publish()?, movie)))
            })
            .await?;
        if done.is_some() {
            self.spend();
        }
        Ok(done)
    }

    /// The file has its final name: the lock goes, and so does the reservation.
    fn spend(&mut self) {
        self.draft = None;
        self.sink.release(&self.target);
    }

    /// Lends the draft to a blocking thread and takes it back.
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&mut Draft) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let Some(mut draft) = self.draft.take() else {
            let why = io::Error::other("the partial file is finished or was abandoned");
            return Err(fault("go on", &self.target)(why));
        };
        let (draft, result) = blocking(&self.target, move || {
            let result = work(&mut draft);
            Ok((draft, result))
        })
        .await?;
        self.draft = Some(draft);
        result
    }
}

/// A partial file, without the waiting.
#[derive(Debug)]
struct Draft {
    file: File,
    paths: Paths,
    boot: Option<String>,
    len: u64,
    origin: Option<Origin>,
    /// What the note on disk says is synced.
    synced: u64,
    /// Bytes may be added: they belong to `origin`.
    writable: bool,
}

impl Draft {
    fn open(shared: &Shared, paths: Paths) -> Result<Draft> {
        shared.make_folders(paths.folder())?;
        refuse_taken(&paths.target)?;
        let file = lock(&paths.part)?;
        let len = length(&file, &paths.part)?;
        // The worker that had it before may have finished it.
        if let Err(taken) = refuse_taken(&paths.target) {
            if len == 0 {
                remove(&paths.part)?;
            }
            return Err(taken);
        }
        let mut draft = Draft {
            file,
            boot: shared.boot.clone(),
            len,
            origin: None,
            synced: 0,
            writable: false,
            paths,
        };
        let mut trusted = 0;
        if let Some(note) = read_note(&draft.paths.note)? {
            let same_boot = note.boot.is_some() && note.boot == draft.boot;
            trusted = if same_boot { len } else { len.min(note.synced) };
            if note.origin.total.is_some_and(|total| trusted > total) {
                trusted = 0;
            }
            draft.synced = note.synced;
            draft.origin = Some(note.origin);
        }
        if trusted < len {
            draft.set_len(trusted)?;
        }
        draft.writable = draft.resume().is_some();
        Ok(draft)
    }

    fn resume(&self) -> Option<Resume> {
        let origin = self.origin.as_ref()?;
        let validator = strong_validator(origin.validator.as_deref()?)?;
        (self.len > 0).then(|| Resume {
            offset: self.len,
            validator: validator.to_owned(),
            total: origin.total,
        })
    }

    fn set_len(&mut self, len: u64) -> Result<()> {
        self.file
            .set_len(len)
            .map_err(fault("cut", &self.paths.part))?;
        self.len = len;
        Ok(())
    }

    fn restart(&mut self, mut origin: Origin) -> Result<()> {
        // An old note that vouches for synced bytes must not outlive them: it
        // would vouch for the new ones after a power cut.
        let durable = self.synced > 0;
        self.writable = false;
        self.set_len(0)?;
        origin.validator = origin
            .validator
            .as_deref()
            .and_then(strong_validator)
            .map(str::to_owned);
        self.origin = Some(origin);
        self.write_note(0, durable)?;
        self.writable = true;
        Ok(())
    }

    fn write_note(&mut self, synced: u64, durable: bool) -> Result<()> {
        let Some(origin) = self.origin.clone() else {
            return Ok(());
        };
        let note = Note {
            origin,
            boot: self.boot.clone(),
            synced,
        };
        let text = serde_json::to_vec(&note)
            .map_err(|error| fault("describe", &self.paths.note)(error.into()))?;
        replace(&self.paths.note, &text, durable)?;
        self.synced = synced;
        Ok(())
    }

    fn append(&mut self, mut bytes: &[u8]) -> Result<()> {
        let failed = fault("write", &self.paths.part);
        if !self.writable {
            let why = "neither restarted nor resumable";
            return Err(failed(io::Error::new(ErrorKind::InvalidInput, why)));
        }
        // Reading moves the position, and a failed write leaves it anywhere.
        if let Err(error) = self.file.seek(SeekFrom::Start(self.len)) {
            return Err(failed(error));
        }
        while !bytes.is_empty() {
            match self.file.write(bytes) {
                Ok(0) => return Err(failed(ErrorKind::WriteZero.into())),
                Ok(count) => {
                    self.len += count as u64;
                    bytes = &bytes[count..];
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(failed(error)),
            }
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<()> {
        if self.synced == self.len {
            return Ok(());
        }
        self.sync()?;
        self.write_note(self.len, true)
    }

    /// The kernel may have dropped what it could not write, and the next fsync
    /// would not say so: after an error nothing of it may be used again.
    fn sync(&mut self) -> Result<()> {
        self.file.sync_all().map_err(|source| {
            // Best effort: the error that counts is the first one.
            let _ = self.clear();
            sync_fault(source, &self.paths.part)
        })
    }

    fn clear(&mut self) -> Result<()> {
        let durable = self.synced > 0;
        self.writable = false;
        self.origin = None;
        self.synced = 0;
        let cut = self.set_len(0);
        self.paths.remove_notes()?;
        if durable {
            sync_folder(self.paths.folder())?;
        }
        cut
    }

    fn inspect(&mut self) -> Result<Movie> {
        inspect(&mut self.file, self.len, &self.paths.part)
    }

    fn check(&mut self, expected: Option<u64>) -> Result<Movie> {
        let total = self.origin.as_ref().and_then(|origin| origin.total);
        if let Some(expected) = expected.or(total)
            && expected != self.len
        {
            return Err(SinkError::Length {
                path: self.paths.part.clone(),
                expected,
                got: self.len,
            });
        }
        self.inspect()
    }

    fn publish(&mut self) -> Result<SavedFile> {
        let sha256 = hash(&mut self.file, self.len, &self.paths.part)?;
        self.sync()?;
        rename_new(&self.paths.part, &self.paths.target)?;
        // A leftover does no harm, and the video is safe: no reason to fail.
        let _ = self.paths.remove_notes();
        sync_folder(self.paths.folder())?;
        saved(&self.paths.target, self.len, sha256)
    }
}

fn saved(target: &Path, bytes: u64, sha256: String) -> Result<SavedFile> {
    let path = target.to_str().ok_or_else(|| {
        let why = io::Error::new(ErrorKind::InvalidInput, "it is not UTF-8");
        fault("use as a target", target)(why)
    })?;
    Ok(SavedFile {
        path: path.to_owned(),
        bytes,
        sha256,
    })
}

fn inspect(file: &mut File, len: u64, path: &Path) -> Result<Movie> {
    mp4::inspect(file, len).map_err(|defect| match defect {
        Defect::Unreadable(error) => fault("read", path)(error),
        defect => SinkError::Invalid {
            path: path.to_owned(),
            defect,
        },
    })
}

/// SHA-256 in hex of what is on disk, which must have `len` bytes.
fn hash(file: &mut File, len: u64, path: &Path) -> Result<String> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; HASH_BUFFER];
    let mut left = len;
    file.seek(SeekFrom::Start(0)).map_err(fault("read", path))?;
    while left > 0 {
        let most = left.min(HASH_BUFFER as u64) as usize;
        match file.read(&mut buffer[..most]) {
            Ok(0) => return Err(fault("read", path)(ErrorKind::UnexpectedEof.into())),
            Ok(count) => {
                hasher.update(&buffer[..count]);
                left -= count as u64;
            }
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(fault("read", path)(error)),
        }
    }
    Ok(hasher
        .finalize()
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect())
}

fn length(file: &File, path: &Path) -> Result<u64> {
    Ok(file.metadata().map_err(fault("look at", path))?.len())
}

/// An unreadable note is none: the transfer starts over.
fn read_note(path: &Path) -> Result<Option<Note>> {
    let mut text = Vec::new();
    match File::open(path).and_then(|file| file.take(MAX_NOTE).read_to_end(&mut text)) {
        Ok(_) => Ok(serde_json::from_slice(&text).ok()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(fault("read", path)(error)),
    }
}

fn refuse_taken(target: &Path) -> Result<()> {
    match exists(target).map_err(fault("look at", target))? {
        true => Err(SinkError::Taken {
            path: target.to_owned(),
        }),
        false => Ok(()),
    }
}

fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Takes the lock on an open file; `false`: another has it. Where the file
/// system has no locks there is only one daemon to a queue all the same, and
/// it gives no job to two workers.
fn try_lock(file: &File, path: &Path) -> Result<bool> {
    match file.try_lock() {
        Ok(()) => Ok(true),
        Err(TryLockError::WouldBlock) => Ok(false),
        Err(TryLockError::Error(error)) => match Errno::from_io_error(&error) {
            Some(Errno::NOSYS | Errno::OPNOTSUPP | Errno::NOLCK | Errno::INVAL) => Ok(true),
            _ => Err(fault("lock", path)(error)),
        },
    }
}

/// Never through a link: it could lead anywhere.
fn no_follow() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Opens or creates the partial file and locks it.
fn lock(path: &Path) -> Result<File> {
    // The worker before may rename or remove it between our open and our lock:
    // then the lock is on a file that is no longer the partial one.
    for _ in 0..16 {
        let file = no_follow()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(fault("open", path))?;
        if !try_lock(&file, path)? {
            break;
        }
        let mine = file.metadata().map_err(fault("look at", path))?;
        if !mine.is_file() {
            return Err(SinkError::Taken {
                path: path.to_owned(),
            });
        }
        match fs::symlink_metadata(path) {
            Ok(there) if same_file(&mine, &there) => return Ok(file),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(fault("look at", path)(error)),
        }
    }
    Err(SinkError::Locked {
        path: path.to_owned(),
    })
}

fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(fault("remove", path)(error)),
        _ => Ok(()),
    }
}

fn already_there(paths: &Paths) -> Result<Option<(SavedFile, Movie)>> {
    let taken = |path: &Path| SinkError::Taken {
        path: path.to_owned(),
    };
    let there = match fs::symlink_metadata(&paths.target) {
        Ok(there) => there,
        Err(error) if is_absent(&error) => {
            return Ok(None);
        }
        Err(error) => return Err(fault("look at", &paths.target)(error)),
    };
    if !there.is_file() {
        return Err(taken(&paths.target));
    }
    let leftover = match fs::symlink_metadata(&paths.part) {
        // An empty one is from an `open` that was stopped; the same file under
        // two names from a `rename_new` that was.
        Ok(part) if part.is_file() && (part.len() == 0 || same_file(&part, &there)) => true,
        Ok(_) => return Err(taken(&paths.target)),
        Err(error) if error.kind() == ErrorKind::NotFound => false,
        Err(error) => return Err(fault("look at", &paths.part)(error)),
    };
    let mut file = no_follow()
        .read(true)
        .open(&paths.target)
        .map_err(fault("open", &paths.target))?;
    let len = length(&file, &paths.target)?;
    let movie = inspect(&mut file, len, &paths.target)?;
    let sha256 = hash(&mut file, len, &paths.target)?;
    file.sync_all()
        .map_err(|source| sync_fault(source, &paths.target))?;
    if leftover {
        remove(&paths.part)?;
    }
    paths.remove_notes()?;
    sync_folder(paths.folder())?;
    Ok(Some((saved(&paths.target, len, sha256)?, movie)))
}

fn discard(paths: &Paths) -> Result<()> {
    // The lock is held until the files are gone.
    let held = match no_follow().read(true).write(true).open(&paths.part) {
        Ok(file) => Some(file),
        Err(error) if is_absent(&error) => None,
        Err(error) => return Err(fault("open", &paths.part)(error)),
    };
    if let Some(file) = &held
        && !try_lock(file, &paths.part)?
    {
        return Err(SinkError::Locked {
            path: paths.part.clone(),
        });
    }
    if held.is_some() {
        remove(&paths.part)?;
    }
    paths.remove_notes()?;
    remove(&beside(&paths.sidecar, ".part"))
}

/// Puts a small file in place of an old one, whole or not at all.
fn replace(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
    let draft = beside(path, ".part");
    let write = || {
        // A leftover of ours, or a link that must not be followed.
        remove(&draft)?;
        let mut file = no_follow()
            .write(true)
            .create_new(true)
            .open(&draft)
            .map_err(fault("create", &draft))?;
        file.write_all(bytes).map_err(fault("write", &draft))?;
        if durable {
            file.sync_all()
                .map_err(|source| sync_fault(source, &draft))?;
        }
        fs::rename(&draft, path).map_err(fault("rename", &draft))
    };
    if let Err(error) = write() {
        // The error that counts is the first one.
        let _ = remove(&draft);
        return Err(error);
    }
    match (durable, path.parent()) {
        (true, Some(folder)) => sync_folder(folder),
        _ => Ok(()),
    }
}

/// Some file systems find out about a lack of space only here. The data is
/// lost then as well, but the disk is not broken.
fn sync_fault(source: io::Error, path: &Path) -> SinkError {
    let path = path.to_owned();
    match is_full(&source) {
        true => SinkError::Full { path, source },
        false => SinkError::Fsync { path, source },
    }
}

fn sync_folder(folder: &Path) -> Result<()> {
    let open = File::open(folder).map_err(fault("open", folder))?;
    match open.sync_all() {
        Ok(()) => Ok(()),
        Err(error) => match Errno::from_io_error(&error) {
            // There is no such thing on this file system.
            Some(Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            _ => Err(sync_fault(error, folder)),
        },
    }
}

/// Renames, but never onto something.
fn rename_new(from: &Path, to: &Path) -> Result<()> {
    let result = match rustix::fs::renameat_with(CWD, from, CWD, to, RenameFlags::NOREPLACE) {
        // Not every file system can; then there are two steps.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => link_new(from, to),
        other => other.map_err(io::Error::from),
    };
    result.map_err(|error| match error.kind() {
        ErrorKind::AlreadyExists => SinkError::Taken {
            path: to.to_owned(),
        },
        _ => fault("rename", from)(error),
    })
}

/// A link cannot overwrite either. Where there are no links, a look beforehand
/// has to do: the names are reserved, so only a stranger could come between.
fn link_new(from: &Path, to: &Path) -> io::Result<()> {
    match fs::hard_link(from, to) {
        Ok(()) => fs::remove_file(from),
        Err(error) => match Errno::from_io_error(&error) {
            Some(Errno::PERM | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => {
                match exists(to)? {
                    true => Err(ErrorKind::AlreadyExists.into()),
                    false => fs::rename(from, to),
                }
            }
            _ => Err(error),
        },
    }
}

impl Shared {
    /// Creates the folder of a target and all above it, and sees to it that
    /// each one's entry in its parent is on disk.
    fn make_folders(&self, folder: &Path) -> Result<()> {
        let Ok(below) = folder.strip_prefix(&self.dir) else {
            // Reserved under an earlier `download.dir`.
            return make(folder);
        };
        make(&self.dir)?;
        self.settle(&self.dir, false)?;
        let root = fs::canonicalize(&self.dir).map_err(fault("resolve", &self.dir))?;
        let mut here = self.dir.clone();
        for component in below.components() {
            here.push(component);
            let created = match fs::create_dir(&here) {
                Ok(()) => true,
                Err(error) if error.kind() == ErrorKind::AlreadyExists => false,
                Err(error) => return Err(fault("create the folder", &here)(error)),
            };
            let real = match fs::canonicalize(&here) {
                // A link that leads nowhere.
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    fs::read_link(&here).map_err(fault("resolve", &here))?
                }
                other => other.map_err(fault("resolve", &here))?,
            };
            if !real.starts_with(&root) {
                return Err(SinkError::Outside { path: here, real });
            }
            self.settle(&here, created)?;
        }
        Ok(())
    }

    /// A folder that exists may have been created a moment ago, by a process
    /// that was killed before it could sync it.
    fn settle(&self, folder: &Path, created: bool) -> Result<()> {
        if !created && guard(&self.known).contains(folder) {
            return Ok(());
        }
        match sync_parent(folder) {
            // A parent that we may not read is not one that we write to.
            Err(SinkError::Io { source, .. })
                if !created && source.kind() == ErrorKind::PermissionDenied => {}
            other => other?,
        }
        let mut known = guard(&self.known);
        if known.len() >= MAX_KNOWN {
            known.clear();
        }
        known.insert(folder.to_owned());
        Ok(())
    }
}

fn sync_parent(folder: &Path) -> Result<()> {
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Like `create_dir_all`, with the syncs.
fn make(folder: &Path) -> Result<()> {
    match fs::metadata(folder) {
        Ok(there) if there.is_dir() => return Ok(()),
        Ok(_) => {
            return Err(fault("use as a folder", folder)(
                ErrorKind::NotADirectory.into(),
            ));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        Err(error) => return Err(fault("look at", folder)(error)),
    }
    if let Some(parent) = folder.parent() {
        make(parent)?;
    }
    match fs::create_dir(folder) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => {
            Err(fault("create the folder", folder)(error))
        }
        // Also when another worker was faster: it may not have synced yet.
        _ => sync_parent(folder),
    }
}

#[cfg(test)]
mod tests;
