//! Jobs as CSV by RFC 4180, with what spreadsheets make of it.

use std::io::{self, BufRead};

use super::fields::{Draft, FIELDS, Field, clip, meant, quote, unknown};
use super::input::{Input, Line, MAX_ENTRY, TOO_LONG, UTF16, is_utf16, without_mark};
use super::{Defaults, Found, LineFault};
use crate::job::FieldFault;

/// What a column of the header holds.
enum Column {
    Field(Field),
    /// `metadata.NAME`, a member of the metadata.
    Member(String),
    /// Refused with the header.
    Unknown,
}

/// A table with a header row.
pub(super) struct Table<R> {
    input: Input<R>,
    /// One line of the input.
    buffer: Vec<u8>,
    record: Record,
    header: Option<Header>,
}

struct Header {
    columns: Vec<Column>,
    /// A table with a bad header is checked to its end, but gives no job: a
    /// column that nobody understood must not be left out of a paid one.
    is_good: bool,
}

/// How reading a record ended.
enum Row {
    /// The cells are in the record.
    Whole,
    /// Something is wrong with its quotes or its length.
    Faulty(String),
    /// Nothing is left.
    End,
}

impl<R: BufRead> Table<R> {
    pub(super) fn new(input: R) -> Table<R> {
        Table {
            input: Input::new(input),
            buffer: Vec::new(),
            record: Record::default(),
            header: None,
        }
    }

    /// How many bytes its buffers take.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        let ends = self.record.ends.capacity() * size_of::<usize>();
        self.buffer.capacity() + self.record.bytes.capacity() + ends
    }

    pub(super) fn line(&self) -> u64 {
        self.input.line()
    }

    pub(super) fn next(&mut self, defaults: &Defaults) -> io::Result<Found> {
        loop {
            let (line, row) = self.read_record()?;
            let Some(header) = &self.header else {
                let fault = match row {
                    Row::Whole => match self.read_header() {
                        Ok(faults) if faults.is_empty() => continue,
                        Ok(faults) => {
                            return Ok(Found::Bad(LineFault {
                                line,
                                element: None,
                                faults,
                            }));
                        }
                        Err(reason) => LineFault::whole(line, reason),
                    },
                    Row::Faulty(reason) => LineFault::whole(line, reason),
                    Row::End => LineFault::whole(
                        1,
                        "a header row with the names of the columns is needed, found nothing",
                    ),
                };
                return Ok(Found::Last(fault));
            };
            match row {
                Row::End => return Ok(Found::End),
                Row::Faulty(reason) => return Ok(Found::Bad(LineFault::whole(line, reason))),
                Row::Whole => {}
            }
            match header.judge(line, &self.record, defaults) {
                Found::Entry(_) if !header.is_good => {}
                found => return Ok(found),
            }
        }
    }

    /// Reads the next record that is not blank, with its first line's number.
    fn read_record(&mut self) -> io::Result<(u64, Row)> {
        let record = &mut self.record;
        loop {
            let begins = self.input.line();
            record.clear();
            let mut length = 0;
            loop {
                let line = self.input.line();
                let read = self.input.read_line(&mut self.buffer)?;
                let mut text = &self.buffer[..];
                if line == 1 {
                    if is_utf16(text) {
                        return Ok((line, Row::Faulty(UTF16.to_owned())));
                    }
                    text = without_mark(text);
                }
                if self.header.is_none() && length == 0 {
                    record.delimiter = delimiter(text);
                }
                match read {
                    Line::End if record.is_open() => {
                        let reason = "a quote is opened and never closed";
                        return Ok((begins, Row::Faulty(reason.to_owned())));
                    }
                    Line::End => return Ok((begins, Row::End)),
                    // Where its quotes stand is unknown: start afresh behind it.
                    Line::TooLong => return Ok((begins, Row::Faulty(TOO_LONG.to_owned()))),
                    Line::Whole => {}
                }
                length += text.len();
                record.is_kept = length <= MAX_ENTRY + 2;
                if record.feed(text) {
                    break;
                }
            }
            if !record.is_kept {
                let reason = format!("{TOO_LONG} (is a quote not closed?)");
                return Ok((begins, Row::Faulty(reason)));
            }
            if let Some(reason) = record.fault.take() {
                return Ok((begins, Row::Faulty(reason)));
            }
            if !record.is_blank() {
                return Ok((begins, Row::Whole));
            }
        }
    }

    /// Learns the columns from the record; gives what is wrong with them, or
    /// why there is no sense in reading on.
    fn read_header(&mut self) -> Result<Vec<FieldFault>, String> {
        let mut draft = Draft::default();
        let mut columns = Vec::new();
        let mut names: Vec<String> = Vec::new();
        for (index, cell) in self.record.cells().enumerate() {
            let Ok(name) = std::str::from_utf8(cell) else {
                return Err(not_utf8(cell));
            };
            let name = name.trim();
            if name.contains('\r') {
                return Err(
                    "the lines end with a carriage return alone: save it with line feeds"
                        .to_owned(),
                );
            }
            let column = match Field::named(name) {
                Some(field) => Column::Field(field),
                None if name.is_empty() => {
                    draft.fault(
                        format!("column {}", index + 1),
                        "has no name in the header row",
                    );
                    Column::Unknown
                }
                None => match name.strip_prefix("metadata.") {
                    Some(member) if !member.is_empty() => Column::Member(member.to_owned()),
                    _ => {
                        let reason = format!("in the header row {}", unknown(name));
                        draft.fault(clip(name), reason);
                        Column::Unknown
                    }
                },
            };
            if !name.is_empty() && names.iter().any(|earlier| earlier == name) {
                draft.fault(clip(name), "is the name of two columns");
            }
            // A header of a megabyte must not be compared with itself.
            if names.len() == MAX_COLUMNS {
                return Err(format!("at most {MAX_COLUMNS} columns are allowed"));
            }
            names.push(name.to_owned());
            columns.push(column);
        }
        let is_data = |name: &String| Field::named(name).or_else(|| meant(name)).is_none();
        if names.iter().all(is_data) {
            return Err(format!(
                "a header row with the names of the columns is needed (prompt and image_url, and of \
                 the rest what is used: {}), found {}",
                FIELDS.join(", "),
                clip(&names.join(", ")),
            ));
        }
        for field in [Field::Prompt, Field::ImageUrl] {
            draft.excuse(field);
            // A slip in its name is told already.
            let is_there = |name: &String| *name == field.name() || meant(name) == Some(field);
            if !names.iter().any(is_there) {
                draft.fault(field.name(), "is missing in the header row");
            }
        }
        let faults = draft.finish(&Defaults::default()).err().unwrap_or_default();
        self.header = Some(Header {
            columns,
            is_good: faults.is_empty(),
        });
        Ok(faults)
    }
}

/// The most columns of a table.
const MAX_COLUMNS: usize = 1_000;

impl Header {
    fn judge(&self, line: u64, record: &Record, defaults: &Defaults) -> Found {
        let (cells, columns) = (record.ends.len(), self.columns.len());
        if cells != columns {
            let hint = if cells > columns {
                ": a cell with a separator, a quote or a line end in it must be in quotes"
            } else {
                ""
            };
            return Found::Bad(LineFault::whole(
                line,
                format!("the header row has {columns} columns, this row {cells}{hint}"),
            ));
        }
        let mut draft = Draft::default();
        let mut members = Vec::new();
        if !self.is_good {
            // Told with the header, not once a row.
            for field in [Field::Prompt, Field::ImageUrl] {
                let has = |column: &Column| matches!(column, Column::Field(f) if *f == field);
                if !self.columns.iter().any(has) {
                    draft.excuse(field);
                }
            }
        }
        for (column, cell) in self.columns.iter().zip(record.cells()) {
            let fault = match std::str::from_utf8(cell) {
                Err(_) => not_utf8(cell),
                Ok(text) if text.contains('\0') => {
                    format!("must not hold a NUL byte, found {}", quote(text))
                }
                Ok(text) => {
                    match column {
                        Column::Field(field) => draft.set_text(*field, text),
                        Column::Member(name) if !text.is_empty() => {
                            members.push((name.as_str(), text));
                        }
                        Column::Member(_) | Column::Unknown => {}
                    }
                    continue;
                }
            };
            match column {
                Column::Field(field) => draft.blame(*field, fault),
                Column::Member(name) => draft.fault(clip(&format!("metadata.{name}")), fault),
                Column::Unknown => {}
            }
        }
        draft.add_members(&members);
        Found::judged(line, None, draft.finish(defaults))
    }
}

fn not_utf8(cell: &[u8]) -> String {
    format!(
        "is not UTF-8, found {}: save the file as UTF-8",
        quote(&String::from_utf8_lossy(cell))
    )
}

/// The separator that a header row uses: a comma, else what spreadsheets write
/// where the comma is the decimal point, else what they put on the clipboard.
fn delimiter(header: &[u8]) -> u8 {
    let has = |wanted: u8| {
        let mut quoted = false;
        header.iter().any(|&byte| {
            quoted ^= byte == b'"';
            byte == wanted && !quoted
        })
    };
    [b',', b';', b'\t']
        .into_iter()
        .find(|&byte| has(byte))
        .unwrap_or(b',')
}

/// The cells of one record.
struct Record {
    delimiter: u8,
    /// All cells in a row, without quotes.
    bytes: Vec<u8>,
    /// Where each cell ends in `bytes`.
    ends: Vec<usize>,
    place: Place,
    /// What is wrong with its quotes.
    fault: Option<String>,
    /// False when it is too long: its end is looked for, its cells are lost.
    is_kept: bool,
}

/// Where in a cell the next byte is.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    /// At its beginning.
    Start,
    /// Inside, without quotes.
    Bare,
    /// Inside quotes.
    Quoted,
    /// Behind a quote that closes the cell, or is the first of a pair.
    Quote,
}

impl Default for Record {
    fn default() -> Record {
        Record {
            delimiter: b',',
            bytes: Vec::new(),
            ends: Vec::new(),
            place: Place::Start,
            fault: None,
            is_kept: true,
        }
    }
}

impl Record {
    fn clear(&mut self) {
        self.bytes.clear();
        self.ends.clear();
        self.place = Place::Start;
        self.fault = None;
        self.is_kept = true;
    }

    /// The record goes on in the next line.
    fn is_open(&self) -> bool {
        self.place == Place::Quoted
    }

    fn cells(&self) -> impl Iterator<Item = &[u8]> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let cell = &self.bytes[start..end];
            start = end;
            cell
        })
    }

    /// Nothing but blanks and separators, as spreadsheets save empty rows.
    fn is_blank(&self) -> bool {
        self.bytes.trim_ascii().is_empty()
    }

    fn keep(&mut self, bytes: &[u8]) {
        if self.is_kept {
            self.bytes.extend_from_slice(bytes);
        }
    }

    fn end_cell(&mut self) {
        if self.is_kept {
            self.ends.push(self.bytes.len());
        }
        self.place = Place::Start;
    }

    /// Nothing but blanks are in the present cell yet.
    fn at_blank(&self) -> bool {
        let start = self.ends.last().copied().unwrap_or_default();
        self.bytes
            .get(start..)
            .is_some_and(|cell| cell.trim_ascii().is_empty())
    }

    /// Takes the next line, with its end. True when the record is complete.
    fn feed(&mut self, line: &[u8]) -> bool {
        let body = line.strip_suffix(b"\n").unwrap_or(line);
        let body = body.strip_suffix(b"\r").unwrap_or(body);
        let mut rest = body;
        while let Some(&byte) = rest.first() {
            match self.place {
                Place::Start if byte == b'"' => {
                    self.place = Place::Quoted;
                    rest = &rest[1..];
                }
                Place::Start | Place::Bare => {
                    let length = rest
                        .iter()
                        .position(|&byte| byte == self.delimiter || byte == b'"')
                        .unwrap_or(rest.len());
                    self.place = Place::Bare;
                    self.keep(&rest[..length]);
                    rest = &rest[length..];
                    match rest.first() {
                        None => break,
                        Some(b'"') => {
                            if self.at_blank() {
                                self.complain("a blank stands before an opening quote");
                            }
                            self.keep(b"\"");
                        }
                        Some(_) => self.end_cell(),
                    }
                    rest = &rest[1..];
                }
                Place::Quoted => {
                    let length = rest
                        .iter()
                        .position(|&byte| byte == b'"')
                        .unwrap_or(rest.len());
                    self.keep(&rest[..length]);
                    rest = &rest[length..];
                    if !rest.is_empty() {
                        self.place = Place::Quote;
                        rest = &rest[1..];
                    }
                }
                Place::Quote if byte == b'"' => {
                    self.keep(b"\"");
                    self.place = Place::Quoted;
                    rest = &rest[1..];
                }
                Place::Quote => {
                    if byte != self.delimiter {
                        self.complain("text stands behind a closing quote");
                        self.place = Place::Bare;
                        continue;
                    }
                    self.end_cell();
                    rest = &rest[1..];
                }
            }
        }
        if self.place == Place::Quoted {
            self.keep(&line[body.len()..]);
            return false;
        }
        self.end_cell();
        true
    }

    fn complain(&mut self, what: &str) {
        let cell = self.ends.len() + 1;
        self.fault.get_or_insert_with(|| {
            format!("cell {cell}: {what}; a quote inside of quotes is written twice")
        });
    }
}
