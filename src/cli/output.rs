//! Standard output that may be closed by its reader at any time, and the lines
//! on standard error.

use std::fmt;
use std::io::{self, BufWriter, ErrorKind, IsTerminal, Stdout, Write};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

use super::failure::Failure;

/// Standard output. Once its reader is gone (`reelq list | head`), what is
/// still written is dropped without a word: the exit status stays what the
/// command came to.
#[derive(Debug)]
pub struct Out {
    inner: Mutex<Inner>,
    terminal: bool,
}

#[derive(Debug)]
struct Inner {
    writer: BufWriter<Stdout>,
    closed: bool,
}

impl Out {
    /// The standard output of this process.
    pub fn new() -> Out {
        let stdout = io::stdout();
        Out {
            terminal: stdout.is_terminal(),
            inner: Mutex::new(Inner {
                writer: BufWriter::new(stdout),
                closed: false,
            }),
        }
    }

    /// A person is looking.
    pub fn is_terminal(&self) -> bool {
        self.terminal
    }

    /// Nobody reads any more: a long output may stop.
    pub fn is_closed(&self) -> bool {
        self.locked().closed
    }

    /// Writes one line.
    ///
    /// # Errors
    /// The output cannot be written, such as a file on a full disk.
    pub fn line(&self, text: impl fmt::Display) -> Result<(), Failure> {
        self.with(|writer| writeln!(writer, "{text}"))
    }

    /// Writes text as it is.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn text(&self, text: impl fmt::Display) -> Result<(), Failure> {
        self.with(|writer| write!(writer, "{text}"))
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn bytes(&self, bytes: &[u8]) -> Result<(), Failure> {
        self.with(|writer| writer.write_all(bytes))
    }

    /// Writes a JSON document on one line.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn json(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.json_item(value)?;
        self.text('\n')
    }

    /// Writes a JSON value with nothing around it.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn json_item(&self, value: &impl Serialize) -> Result<(), Failure> {
        self.with(|writer| serde_json::to_writer(writer, value).map_err(io::Error::from))
    }

    /// Sends what is written on its way.
    ///
    /// # Errors
    /// As [`Out::line`].
    pub fn flush(&self) -> Result<(), Failure> {
        self.with(|writer| writer.flush())
    }

    fn with(
        &self,
        write: impl FnOnce(&mut BufWriter<Stdout>) -> io::Result<()>,
    ) -> Result<(), Failure> {
        let mut inner = self.locked();
        if inner.closed {
            return Ok(());
        }
        match write(&mut inner.writer) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                inner.closed = true;
                Ok(())
            }
            Err(error) => Err(Failure::file("standard output", &error)),
        }
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Out {
    fn default() -> Out {
        Out::new()
    }
}

/// Writes lines to standard error, each behind the program's name. There is
/// nowhere to tell of a failure to.
pub fn complain(message: impl fmt::Display) {
    let mut stderr = io::stderr().lock();
    for line in message.to_string().lines() {
        let _ = writeln!(stderr, "reelq: {line}");
    }
}

/// Writes one line to standard error as it is.
pub fn aside(line: impl fmt::Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}
