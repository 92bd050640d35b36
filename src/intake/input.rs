//! Bytes with line numbers, in bounded memory.

use std::io::{self, BufRead, Read as _};

/// The longest entry, in bytes: a line of JSON, an element of an array, a CSV
/// record. A longer one is refused and never held as a whole.
pub const MAX_ENTRY: usize = 1 << 20;

/// The byte-order mark that some editors put before UTF-8.
pub(super) const MARK: &[u8] = b"\xEF\xBB\xBF";

/// A text without the byte-order mark.
pub(super) fn without_mark(text: &[u8]) -> &[u8] {
    text.strip_prefix(MARK).unwrap_or(text)
}

/// The beginning of a file in UTF-16, as "Unicode text" is saved on Windows.
pub(super) fn is_utf16(text: &[u8]) -> bool {
    text.starts_with(b"\xFF\xFE") || text.starts_with(b"\xFE\xFF")
}

/// Why [`is_utf16`] ends the reading.
pub(super) const UTF16: &str = "the input is UTF-16: save it as UTF-8";

/// Why an entry above [`MAX_ENTRY`] is refused.
pub(super) const TOO_LONG: &str = "this is longer than 1 MiB, the most that one job may take";

/// A reader that counts lines.
pub(super) struct Input<R> {
    inner: R,
    line: u64,
}

/// What [`Input::read_line`] came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Line {
    /// Nothing is left.
    End,
    /// A whole line, with its end where it has one.
    Whole,
    /// The beginning of a line that is too long; the rest is skipped.
    TooLong,
}

impl<R: BufRead> Input<R> {
    pub(super) fn new(inner: R) -> Input<R> {
        Input { inner, line: 1 }
    }

    /// The line of the next byte, from 1.
    pub(super) fn line(&self) -> u64 {
        self.line
    }

    /// Puts the next line into `buffer`, in the place of what is there.
    pub(super) fn read_line(&mut self, buffer: &mut Vec<u8>) -> io::Result<Line> {
        // Two more than the limit, for the line's end.
        let room = MAX_ENTRY + 2;
        buffer.clear();
        let length = (&mut self.inner)
            .take(room as u64)
            .read_until(b'\n', buffer)?;
        if length == 0 {
            return Ok(Line::End);
        }
        self.line += 1;
        if buffer.ends_with(b"\n") || length < room {
            return Ok(Line::Whole);
        }
        self.inner.skip_until(b'\n')?;
        Ok(Line::TooLong)
    }

    /// The next bytes, without taking them; empty at the end.
    pub(super) fn chunk(&mut self) -> io::Result<&[u8]> {
        // Asked twice, because a borrow cannot leave a loop that may repeat.
        loop {
            match self.inner.fill_buf() {
                Ok(_) => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.inner.fill_buf()
    }

    /// Takes so many bytes of the last chunk, in which so many lines ended.
    pub(super) fn take(&mut self, bytes: usize, lines: u64) {
        self.inner.consume(bytes);
        self.line += lines;
    }

    /// The next byte, without taking it.
    pub(super) fn peek(&mut self) -> io::Result<Option<u8>> {
        Ok(self.chunk()?.first().copied())
    }

    /// The next byte that is no JSON white space, without taking it.
    pub(super) fn peek_past_blanks(&mut self) -> io::Result<Option<u8>> {
        loop {
            let chunk = self.chunk()?;
            if chunk.is_empty() {
                return Ok(None);
            }
            let blanks = chunk
                .iter()
                .take_while(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
                .count();
            let lines = count_lines(&chunk[..blanks]);
            let next = chunk.get(blanks).copied();
            self.take(blanks, lines);
            if next.is_some() {
                return Ok(next);
            }
        }
    }
}

/// How many lines end in a text.
pub(super) fn count_lines(text: &[u8]) -> u64 {
    text.iter().filter(|&&byte| byte == b'\n').count() as u64
}
