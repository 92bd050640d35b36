//! One daemon a queue: a lock on a file beside the database.
//!
//! Never on the database itself: closing any descriptor of it drops SQLite's
//! own locks in this process.

use std::ffi::OsString;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, ErrorKind, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Someone who only asks who holds the lock has it for an instant: a daemon
/// that starts just then tries again.
const TRIES: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// More than the longest process id.
const MAX_PID: u64 = 20;

/// The lock, held until this is dropped or the process ends, however it ends.
#[derive(Debug)]
pub struct Guard {
    _file: File,
}

/// Who holds the lock of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Holder {
    /// The process, where it could be read.
    pub pid: Option<u32>,
}

/// Why the lock was not to be had.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another daemon has it.
    #[error("{}: another reelq daemon{} works on this queue; stop it first, or use another --database", .database.display(), of_process(.holder))]
    Held {
        /// The queue.
        database: PathBuf,
        /// That daemon.
        holder: Holder,
    },
    /// The lock's file could not be made or locked.
    #[error("{}: the lock of the queue cannot be taken: {source}; check the owner and mode of the folder", .path.display())]
    Io {
        /// The lock's file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

fn of_process(holder: &Holder) -> String {
    holder
        .pid
        .map_or_else(String::new, |pid| format!(" (process {pid})"))
}

/// Takes the lock of a queue. The database must be there: a link to it and the
/// file itself then have one lock.
///
/// # Errors
/// [`LockError::Held`] while another process has it.
#[allow(clippy::disallowed_methods)] // not the database's own file
pub fn acquire(database: &Path) -> Result<Guard, LockError> {
    let path = path_of(database);
    let fault = |source| LockError::Io {
        path: path.clone(),
        source,
    };
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .open(&path)
        .map_err(fault)?;
    let mut tries = 0;
    loop {
        match file.try_lock() {
            Ok(()) => break,
            Err(TryLockError::WouldBlock) if tries < TRIES => {
                tries += 1;
                std::thread::sleep(PAUSE);
            }
            Err(TryLockError::WouldBlock) => {
                return Err(LockError::Held {
                    database: database.to_owned(),
                    holder: read_holder(&file),
                });
            }
            Err(TryLockError::Error(source)) => return Err(fault(source)),
        }
    }
    // The process id is for people: without it the lock is as good.
    let _ = file
        .set_len(0)
        .and_then(|()| file.rewind())
        .and_then(|()| writeln!(file, "{}", std::process::id()));
    Ok(Guard { _file: file })
}

/// Who holds the lock of a queue now, if anyone does.
///
/// # Errors
/// The lock's file is there but cannot be looked at.
#[allow(clippy::disallowed_methods)] // not the database's own file
pub fn holder(database: &Path) -> io::Result<Option<Holder>> {
    let file = match File::open(path_of(database)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(None),
        Err(TryLockError::WouldBlock) => Ok(Some(read_holder(&file))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

/// The lock's file: beside the database, whatever link led there.
fn path_of(database: &Path) -> PathBuf {
    let real = database.canonicalize().unwrap_or_else(|_| {
        // It is still to be made.
        let folder = match database.parent() {
            Some(folder) if !folder.as_os_str().is_empty() => folder,
            _ => Path::new("."),
        };
        match (folder.canonicalize(), database.file_name()) {
            (Ok(folder), Some(name)) => folder.join(name),
            _ => database.to_owned(),
        }
    });
    let mut path = OsString::from(real);
    path.push(".lock");
    PathBuf::from(path)
}

fn read_holder(mut file: &File) -> Holder {
    let mut text = String::new();
    let read = file
        .rewind()
        .and_then(|()| file.take(MAX_PID).read_to_string(&mut text));
    Holder {
        pid: read.ok().and_then(|_| text.trim().parse().ok()),
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods)] // a stand-in for the database
mod tests {
    use super::*;

    #[test]
    fn a_link_to_a_queue_has_the_queue_s_lock() {
        let folder = tempfile::tempdir().unwrap();
        let database = folder.path().join("q.db");
        let link = folder.path().join("link.db");
        std::fs::write(&database, "").unwrap();
        std::os::unix::fs::symlink(&database, &link).unwrap();
        assert_eq!(holder(&link).unwrap(), None);

        let guard = acquire(&database).unwrap();
        let pid = Some(std::process::id());
        assert_eq!(holder(&link).unwrap(), Some(Holder { pid }));
        let Err(LockError::Held { holder: held, .. }) = acquire(&link) else {
            panic!("two have one lock");
        };
        assert_eq!(held.pid, pid);

        drop(guard);
        assert_eq!(holder(&database).unwrap(), None);
        acquire(&link).unwrap();
    }
}
