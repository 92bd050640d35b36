//! The partial file of one video and its note: from the first byte to its name.

use std::fs::File;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::job::SavedFile;
use crate::mp4::{self, Defect, Movie};

use super::disk::{exists, fault, lock, remove, rename_new, replace, sync_fault, sync_folder};
use super::{Paths, Result, Shared, Sink, SinkError, blocking};

/// The longest `NAME.part.json` that is read, in bytes.
const MAX_NOTE: u64 = 64 * 1024;

/// Read at once for hashing, in bytes.
const HASH_BUFFER: usize = 128 * 1024;

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
    pub(super) sink: Sink,
    pub(super) target: PathBuf,
    pub(super) draft: Option<Draft>,
}

impl Partial {
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
pub(super) struct Draft {
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
    pub(super) fn open(shared: &Shared, paths: Paths) -> Result<Draft> {
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

pub(super) fn saved(target: &Path, bytes: u64, sha256: String) -> Result<SavedFile> {
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

pub(super) fn inspect(file: &mut File, len: u64, path: &Path) -> Result<Movie> {
    mp4::inspect(file, len).map_err(|defect| match defect {
        Defect::Unreadable(error) => fault("read", path)(error),
        defect => SinkError::Invalid {
            path: path.to_owned(),
            defect,
        },
    })
}

/// SHA-256 in hex of what is on disk, which must have `len` bytes.
pub(super) fn hash(file: &mut File, len: u64, path: &Path) -> Result<String> {
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

pub(super) fn length(file: &File, path: &Path) -> Result<u64> {
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
