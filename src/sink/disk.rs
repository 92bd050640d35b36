//! Locks, syncs and renames, and what their errors mean.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{CWD, OFlags, RenameFlags};
use rustix::io::Errno;

use super::{Result, SinkError, beside};

/// No file, or not even its folder.
pub(super) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory)
}

pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge
    )
}

/// For `map_err`: what was tried on which path.
pub(super) fn fault(what: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SinkError {
    let path = path.to_owned();
    move |source| match is_full(&source) {
        true => SinkError::Full { path, source },
        false => SinkError::Io { what, path, source },
    }
}

/// A link that leads nowhere exists as well.
pub(super) fn exists(path: &Path) -> io::Result<bool> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

pub(super) fn same_file(a: &fs::Metadata, b: &fs::Metadata) -> bool {
    (a.dev(), a.ino()) == (b.dev(), b.ino())
}

/// Takes the lock on an open file; `false`: another has it. Where the file
/// system has no locks there is only one daemon to a queue all the same, and
/// it gives no job to two workers.
pub(super) fn try_lock(file: &File, path: &Path) -> Result<bool> {
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
pub(super) fn no_follow() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.custom_flags(OFlags::NOFOLLOW.bits() as i32);
    options
}

/// Opens or creates the partial file and locks it.
pub(super) fn lock(path: &Path) -> Result<File> {
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

pub(super) fn remove(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absent(&error) => Err(fault("remove", path)(error)),
        _ => Ok(()),
    }
}

/// Puts a small file in place of an old one, whole or not at all.
pub(super) fn replace(path: &Path, bytes: &[u8], durable: bool) -> Result<()> {
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
pub(super) fn sync_fault(source: io::Error, path: &Path) -> SinkError {
    let path = path.to_owned();
    match is_full(&source) {
        true => SinkError::Full { path, source },
        false => SinkError::Fsync { path, source },
    }
}

pub(super) fn sync_folder(folder: &Path) -> Result<()> {
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
pub(super) fn rename_new(from: &Path, to: &Path) -> Result<()> {
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
pub(super) fn link_new(from: &Path, to: &Path) -> io::Result<()> {
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

pub(super) fn sync_parent(folder: &Path) -> Result<()> {
    folder.parent().map_or(Ok(()), sync_folder)
}

/// Like `create_dir_all`, with the syncs.
pub(super) fn make(folder: &Path) -> Result<()> {
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
