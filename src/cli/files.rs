//! The files that commands read and write. Never the database: closing any
//! descriptor of it drops SQLite's locks in this process.

#![allow(clippy::disallowed_methods)] // this is the commands' room for files

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Seek, SeekFrom, Write};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use super::failure::Failure;
use crate::intake::Format;

/// What is read at once.
const BUFFER: usize = 256 * 1024;

/// An input that can be read again: a file, or what came in by a pipe.
#[derive(Debug)]
pub struct Input {
    /// For the messages.
    pub name: String,
    /// What its name says; `None`: its content has to say it.
    format: Option<Format>,
    file: File,
    start: u64,
    length: u64,
}

impl Input {
    /// Opens a file, or standard input for `-`. What cannot be read twice is
    /// copied first: a slow pipe must not keep the database locked.
    ///
    /// # Errors
    /// It cannot be read, with its name.
    pub fn open(path: &Path) -> Result<Input, Failure> {
        let is_stdin = path == Path::new("-");
        let name = if is_stdin {
            "stdin".to_owned()
        } else {
            path.display().to_string()
        };
        let opened = if is_stdin {
            io::stdin().as_fd().try_clone_to_owned().map(File::from)
        } else {
            File::open(path)
        };
        let format = Format::from_path(path).filter(|_| !is_stdin);
        opened
            .and_then(|file| Input::of_file(name.clone(), format, file))
            .map_err(|error| Failure::file(name, &error))
    }

    fn of_file(name: String, format: Option<Format>, mut file: File) -> io::Result<Input> {
        let meta = file.metadata()?;
        if meta.is_dir() {
            return Err(ErrorKind::IsADirectory.into());
        }
        let (start, end) = if meta.is_file() {
            // A shell may have read the beginning.
            (file.stream_position()?, meta.len())
        } else {
            let mut copy = tempfile::tempfile()?;
            let length = io::copy(&mut file, &mut copy)?;
            file = copy;
            (0, length)
        };
        Ok(Input {
            name,
            format,
            file,
            start,
            length: end.saturating_sub(start),
        })
    }

    /// Its length in bytes.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// Reads it from its beginning: `wrap` sees the bytes, `read` the text.
    ///
    /// # Errors
    /// Of the reading, or `read`'s own.
    pub fn read<'a, W: Read>(
        &'a self,
        wrap: impl FnOnce(&'a File) -> W,
        read: impl InputVisitor,
    ) -> io::Result<()> {
        let mut file = &self.file;
        file.seek(SeekFrom::Start(self.start))?;
        let reader = BufReader::with_capacity(BUFFER, wrap(file));
        match self.format {
            Some(format) => read.visit(format, reader),
            None => {
                let (format, reader) = Format::sniff(reader)?;
                read.visit(format, reader);
            }
        }
        Ok(())
    }
}

/// What reads an [`Input`]: a closure cannot take readers of several types.
pub trait InputVisitor {
    /// Reads the text in this format.
    fn visit(self, format: Format, reader: impl BufRead);
}

/// The nearest folder of a path that is there: the path itself or one above it.
pub fn nearest_folder(path: &Path) -> &Path {
    path.ancestors()
        .find(|folder| folder.is_dir())
        .unwrap_or(Path::new("/"))
}

/// Makes a file in a folder, writes to it, and removes it.
///
/// # Errors
/// What the system says.
pub fn try_writing(folder: &Path) -> io::Result<()> {
    let mut file = tempfile::Builder::new()
        .prefix(".reelq-check-")
        .tempfile_in(folder)?;
    file.write_all(b"reelq")?;
    file.flush()
}

/// The length of a file, 0 where there is none. Does not open it.
pub fn length_of(path: &Path) -> u64 {
    fs::metadata(path).map_or(0, |meta| meta.len())
}

/// Writes a file of the program's own making.
///
/// # Errors
/// What the system says.
pub fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    fs::write(path, content)
}

/// Makes a folder with those above it.
///
/// # Errors
/// What the system says.
pub fn make_folder(path: &Path) -> io::Result<()> {
    fs::create_dir_all(path)
}

/// A file that gets its name only when it is complete and on disk.
#[derive(Debug)]
pub struct Staged {
    folder: tempfile::TempDir,
    target: PathBuf,
}

impl Staged {
    /// Prepares to write `target`, which must not be there.
    ///
    /// # Errors
    /// It is there, or its folder cannot be written to.
    pub fn new(target: &Path) -> io::Result<Staged> {
        let target = std::path::absolute(target)?;
        if fs::symlink_metadata(&target).is_ok() {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let above = target.parent().unwrap_or(Path::new("/"));
        let folder = tempfile::Builder::new()
            .prefix(".reelq-backup-")
            .tempdir_in(above)?;
        Ok(Staged { folder, target })
    }

    /// Where it is to be written.
    pub fn path(&self) -> PathBuf {
        self.folder.path().join("copy")
    }

    /// Puts what was written in place, where it survives a power cut.
    ///
    /// # Errors
    /// What the system says; `AlreadyExists` where the name was taken meanwhile.
    pub fn finish(self) -> io::Result<u64> {
        let path = self.path();
        let file = File::open(&path)?;
        file.sync_all()?;
        let length = file.metadata()?.len();
        // A link never replaces a file; where the disk has no links, a look has to do.
        match fs::hard_link(&path, &self.target) {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::AlreadyExists => return Err(error),
            Err(_) if fs::symlink_metadata(&self.target).is_ok() => {
                return Err(ErrorKind::AlreadyExists.into());
            }
            Err(_) => fs::rename(&path, &self.target)?,
        }
        let above = self.target.parent().unwrap_or(Path::new("/"));
        File::open(above)?.sync_all()?;
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_staged_file_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let target = folder.path().join("copy.db");
        let staged = Staged::new(&target).unwrap();
        fs::write(staged.path(), "new").unwrap();
        fs::write(&target, "old").unwrap();
        assert_eq!(
            staged.finish().unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        assert_eq!(fs::read(&target).unwrap(), b"old");
        assert_eq!(
            Staged::new(&target).unwrap_err().kind(),
            ErrorKind::AlreadyExists
        );
        // Nothing is left beside it.
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}
