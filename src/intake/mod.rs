//! Reading jobs from text: JSON lines, a JSON array or CSV.
//!
//! Every entry is judged by itself, and all of its faults are told with the
//! line it begins on; a bad one does not stop the reading. Memory is constant:
//! no entry above [`MAX_ENTRY`] is ever held.
//!
//! Pure: nothing here opens a file or reads a clock. (A time with a zone's
//! name is looked up in the machine's time zone database.)

mod csv;
mod fields;
mod input;
mod json;
mod portion;
#[cfg(test)]
mod tests;

use std::fmt;
use std::io::{self, BufRead, Cursor, Read as _};
use std::path::Path;

use serde::Serialize;

use crate::job::{FieldFault, JobSpec, Millis, Size};

pub use fields::{FIELDS, MAX_FAULTS, parse_time};
pub use input::MAX_ENTRY;
pub use json::spec_from_json;
pub use portion::Portion;

/// How jobs are written in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// One JSON object a line.
    Jsonl,
    /// One JSON array of objects.
    Json,
    /// Comma-separated (or `;`, or tabs), with a header row.
    Csv,
}

impl Format {
    /// The format that a file's name says: `.jsonl`, `.ndjson`, `.json` or
    /// `.csv`, in any case. `None` for any other name.
    pub fn from_path(path: &Path) -> Option<Format> {
        let extension = path.extension()?.to_str()?.to_ascii_lowercase();
        match extension.as_str() {
            "jsonl" | "ndjson" => Some(Format::Jsonl),
            "json" => Some(Format::Json),
            "csv" => Some(Format::Csv),
            _ => None,
        }
    }

    /// The format that an input's first byte says, blanks and a byte-order
    /// mark aside: `[` is a JSON array, `{` JSON lines, all else CSV. Empty
    /// input is JSON lines, for it holds no job and no fault. Gives the input
    /// back with nothing missing.
    ///
    /// # Errors
    /// What the input's reader says.
    pub fn sniff<R: BufRead>(mut input: R) -> io::Result<(Format, impl BufRead)> {
        let mut seen = Vec::new();
        let format = loop {
            let mut byte = [0];
            match input.read(&mut byte) {
                Ok(0) => break Format::Jsonl,
                Ok(_) => seen.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            }
            if input::MARK.starts_with(&seen) {
                continue;
            }
            if byte[0].is_ascii_whitespace() {
                // Nobody means a megabyte of blanks: no more is held.
                if seen.len() < MAX_ENTRY {
                    continue;
                }
                break Format::Jsonl;
            }
            break match input::without_mark(&seen).trim_ascii_start() {
                [b'['] => Format::Json,
                [b'{'] => Format::Jsonl,
                _ => Format::Csv,
            };
        };
        Ok((format, Cursor::new(seen).chain(input)))
    }
}

/// What applies where an entry says nothing; the flags of `reelq add`.
///
/// The values are not judged here: a bad one is a fault of every entry that
/// takes it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Defaults {
    /// Instead of [`DEFAULT_BATCH`](crate::job::DEFAULT_BATCH).
    pub batch: Option<String>,
    /// Instead of 0.
    pub priority: Option<i64>,
    /// Instead of at once.
    pub not_before: Option<Millis>,
    /// Seconds, instead of [`DEFAULT_DURATION`](crate::job::DEFAULT_DURATION).
    pub duration: Option<u32>,
    /// Instead of [`Size::default`].
    pub size: Option<Size>,
}

/// One good job of an input.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The line on which it begins, from 1.
    pub line: u64,
    /// Which element of a JSON array it is, from 1; `None` in other formats.
    pub element: Option<u64>,
    /// The job; it breaks no rule.
    pub spec: JobSpec,
}

/// All that is wrong with one entry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LineFault {
    /// The line on which the entry begins, from 1.
    pub line: u64,
    /// Which element of a JSON array it is, from 1: a whole array may stand on
    /// one line. `None` in other formats, and for a fault of the array itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub element: Option<u64>,
    /// At least one; at most [`MAX_FAULTS`] and a count of the rest.
    pub faults: Vec<FieldFault>,
}

impl LineFault {
    /// A fault that is in no single field.
    fn whole(line: u64, reason: impl Into<String>) -> LineFault {
        LineFault {
            line,
            element: None,
            faults: vec![FieldFault::new("", reason)],
        }
    }

    /// The same fault, of this element of an array.
    fn of(self, element: u64) -> LineFault {
        LineFault {
            element: Some(element),
            ..self
        }
    }
}

/// `line 7: prompt is missing; promt is not a field of a job: did you mean prompt?`,
/// or `line 1, job 7: ...` in an array.
impl fmt::Display for LineFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "line {}", self.line)?;
        if let Some(element) = self.element {
            write!(f, ", job {element}")?;
        }
        f.write_str(": ")?;
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("; ")?;
            }
            fault.fmt(f)?;
        }
        Ok(())
    }
}

/// Why an entry could not be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The text is wrong; reading goes on with the next entry.
    #[error("{0}")]
    Line(LineFault),
    /// The input itself broke; nothing follows.
    #[error("line {line}: {source}")]
    Io {
        /// The line that was being read, from 1.
        line: u64,
        /// What the input's reader said.
        source: io::Error,
    },
}

/// Reads every job of an input, in order, one at a time. A blank line is no
/// entry. After a fault that nothing can be read behind (a JSON array that
/// breaks off) that fault is the last item.
///
/// A `key` that occurs twice in one input is not noticed here.
///
/// ```
/// use reelq::intake::{Defaults, Format, read};
///
/// let text = "prompt,image_url\nA harbour at dawn,https://example.com/1.png\n";
/// for entry in read(Format::Csv, text.as_bytes(), &Defaults::default()) {
///     let entry = entry?;
///     assert_eq!((entry.line, entry.spec.prompt.as_str()), (2, "A harbour at dawn"));
/// }
/// # Ok::<(), reelq::intake::ReadError>(())
/// ```
pub fn read<R: BufRead>(format: Format, input: R, defaults: &Defaults) -> Reader<R> {
    let source = match format {
        Format::Jsonl => Source::Jsonl(json::Lines::new(input)),
        Format::Json => Source::Json(json::Array::new(input)),
        Format::Csv => Source::Csv(csv::Table::new(input)),
    };
    Reader {
        source: Some(source),
        defaults: defaults.clone(),
    }
}

/// The entries of an input, good and bad. Made by [`read`].
pub struct Reader<R> {
    /// `None` once the input is over.
    source: Option<Source<R>>,
    defaults: Defaults,
}

enum Source<R> {
    Jsonl(json::Lines<R>),
    Json(json::Array<R>),
    Csv(csv::Table<R>),
}

/// What a format's reader found next.
enum Found {
    /// A good entry.
    Entry(Entry),
    /// A bad one.
    Bad(LineFault),
    /// A bad one, behind which nothing can be read.
    Last(LineFault),
    /// The end.
    End,
}

impl Found {
    /// A judged entry that begins on this line, and its number in an array.
    fn judged(line: u64, element: Option<u64>, spec: Result<JobSpec, Vec<FieldFault>>) -> Found {
        match spec {
            Ok(spec) => Found::Entry(Entry {
                line,
                element,
                spec,
            }),
            Err(faults) => Found::Bad(LineFault {
                line,
                element,
                faults,
            }),
        }
    }
}

impl<R: BufRead> Iterator for Reader<R> {
    type Item = Result<Entry, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        let found = match self.source.as_mut()? {
            Source::Jsonl(lines) => lines.next(&self.defaults),
            Source::Json(array) => array.next(&self.defaults),
            Source::Csv(table) => table.next(&self.defaults),
        };
        match found {
            Ok(Found::Entry(entry)) => Some(Ok(entry)),
            Ok(Found::Bad(fault)) => Some(Err(ReadError::Line(fault))),
            Ok(Found::Last(fault)) => {
                self.source = None;
                Some(Err(ReadError::Line(fault)))
            }
            Ok(Found::End) => {
                self.source = None;
                None
            }
            Err(source) => {
                let line = match self.source.take()? {
                    Source::Jsonl(lines) => lines.line(),
                    Source::Json(array) => array.line(),
                    Source::Csv(table) => table.line(),
                };
                Some(Err(ReadError::Io { line, source }))
            }
        }
    }
}

impl<R: BufRead> std::iter::FusedIterator for Reader<R> {}
