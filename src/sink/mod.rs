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

mod disk;
mod partial;

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::io::Errno;

use crate::job::{JobId, SavedFile};
use crate::mp4::{Defect, Movie};
use crate::naming::{self, Fields, Template};

use disk::{
    exists, fault, is_absent, is_full, make, no_follow, remove, replace, same_file, sync_fault,
    sync_folder, sync_parent, try_lock,
};
use partial::{Draft, hash, inspect, length, saved};
pub use partial::{Origin, Partial, Resume, strong_validator};

/// How many names are tried for one job.
const MAX_NAMES: u32 = 1000;

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
        free_space(&self.shared.dir)
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

    /// Whether a finished video of this job stands at `target`, going by the
    /// files alone: [`Sink::already_there`] looks into it.
    ///
    /// # Errors
    ///
    /// What the file system says.
    pub async fn is_finished(&self, target: &Path) -> Result<bool> {
        let paths = Paths::of(target)?;
        blocking(target, move || is_finished(&paths)).await
    }

    /// Removes what was downloaded of `target`; never a finished video. `true`:
    /// one stands there, as [`Sink::is_finished`] has it. Nothing to remove is
    /// not an error.
    ///
    /// # Errors
    ///
    /// [`SinkError::Locked`] while a worker writes it.
    pub async fn discard(&self, target: &Path) -> Result<bool> {
        let paths = Paths::of(target)?;
        let finished = blocking(target, move || discard(&paths)).await?;
        self.release(target);
        Ok(finished)
    }

    /// Writes `NAME.json` with this text beside a video, in place of an older
    /// one: the whole file or nothing, synced. Answers its path.
    ///
    /// # Errors
    ///
    /// [`SinkError::Full`], [`SinkError::Fsync`] or [`SinkError::Io`].
    pub async fn write_sidecar(&self, target: &Path, text: String) -> Result<PathBuf> {
        let path = Paths::of(target)?.sidecar;
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

/// Free bytes for this user where a folder is or will be.
///
/// # Errors
///
/// What the file system says.
pub fn free_space(folder: &Path) -> io::Result<u64> {
    let mut last = io::Error::from(ErrorKind::NotFound);
    for folder in folder.ancestors() {
        match rustix::fs::statvfs(folder) {
            Ok(stat) => return Ok(stat.f_bavail.saturating_mul(stat.f_frsize)),
            Err(error @ (Errno::NOENT | Errno::NOTDIR)) => last = error.into(),
            Err(error) => return Err(error.into()),
        }
    }
    Err(last)
}

fn key(target: &Path) -> String {
    target.to_string_lossy().to_lowercase()
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

/// Whether a finished video stands at the target, going by the files alone.
///
/// # Errors
/// [`SinkError::Taken`]: something that came from elsewhere.
fn finished(paths: &Paths) -> Result<bool> {
    let taken = || SinkError::Taken {
        path: paths.target.clone(),
    };
    let there = match fs::symlink_metadata(&paths.target) {
        Ok(there) => there,
        Err(error) if is_absent(&error) => return Ok(false),
        Err(error) => return Err(fault("look at", &paths.target)(error)),
    };
    if !there.is_file() {
        return Err(taken());
    }
    match fs::symlink_metadata(&paths.part) {
        // An empty one is from an `open` that was stopped; the same file under
        // two names from a `rename_new` that was.
        Ok(part) if part.is_file() && (part.len() == 0 || same_file(&part, &there)) => Ok(true),
        Ok(_) => Err(taken()),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(true),
        Err(error) => Err(fault("look at", &paths.part)(error)),
    }
}

fn is_finished(paths: &Paths) -> Result<bool> {
    match finished(paths) {
        Err(SinkError::Taken { .. }) => Ok(false),
        other => other,
    }
}

fn already_there(paths: &Paths) -> Result<Option<(SavedFile, Movie)>> {
    if !finished(paths)? {
        return Ok(None);
    }
    let mut file = no_follow()
        .read(true)
        .open(&paths.target)
        .map_err(fault("open", &paths.target))?;
    let len = length(&file, &paths.target)?;
    let movie = inspect(&mut file, len, &paths.target)?;
    let sha256 = hash(&mut file, len, &paths.target)?;
    file.sync_all()
        .map_err(|source| sync_fault(source, &paths.target))?;
    remove(&paths.part)?;
    paths.remove_notes()?;
    sync_folder(paths.folder())?;
    Ok(Some((saved(&paths.target, len, sha256)?, movie)))
}

fn discard(paths: &Paths) -> Result<bool> {
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
    // Before the partial file goes, which tells whose the file at the target is.
    let finished = is_finished(paths)?;
    if held.is_some() {
        remove(&paths.part)?;
    }
    paths.remove_notes()?;
    remove(&beside(&paths.sidecar, ".part"))?;
    Ok(finished)
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

#[cfg(test)]
mod tests;
