//! Boxes: read one at a time, within their parents and within limits.

use std::io::{Read, Seek, SeekFrom};

use super::{Defect, Kind};

/// The input with its limits.
pub(super) struct Source<'a, R> {
    pub input: &'a mut R,
    pub length: u64,
    pub boxes: u32,
    pub entries: u64,
}

/// A box whose header has been read and lies inside its parent.
#[derive(Clone, Copy)]
pub(super) struct Header {
    pub kind: [u8; 4],
    pub start: u64,
    pub body: u64,
    pub end: u64,
    /// Its end is the end of the file, not a number that was written down.
    pub open: bool,
}

/// What stands at an offset.
pub(super) enum Found {
    Box(Header),
    End,
    /// Fewer bytes than a header.
    Stub(u64),
    /// More than the parent holds: claimed, and missing of that.
    Overrun([u8; 4], u64, u64),
    /// A size smaller than the header.
    Senseless([u8; 4], u64),
}

impl<R: Read + Seek> Source<'_, R> {
    pub fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Defect> {
        self.input
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.input.read_exact(buffer))
            .map_err(Defect::Unreadable)
    }

    /// The first `N` bytes of a body, if it has as many.
    pub fn head<const N: usize>(&mut self, of: &Header) -> Result<Option<[u8; N]>, Defect> {
        if of.end - of.body < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.read(of.body, &mut bytes)?;
        Ok(Some(bytes))
    }

    pub fn look(&mut self, at: u64, end: u64, open: bool) -> Result<Found, Defect> {
        let left = end.saturating_sub(at);
        if left == 0 {
            return Ok(Found::End);
        }
        self.boxes = self.boxes.checked_sub(1).ok_or(Defect::TooManyBoxes)?;
        if left < 8 {
            return Ok(Found::Stub(left));
        }
        let mut bytes = [0; 8];
        self.read(at, &mut bytes)?;
        let [a, b, c, d, kind @ ..] = bytes;
        let (size, header) = match u32::from_be_bytes([a, b, c, d]) {
            0 => (left, 8),
            1 if left < 16 => return Ok(Found::Stub(left)),
            1 => {
                let mut wide = [0; 8];
                self.read(at + 8, &mut wide)?;
                (u64::from_be_bytes(wide), 16)
            }
            size => (u64::from(size), 8),
        };
        if size < header {
            return Ok(Found::Senseless(kind, size));
        }
        if size > left {
            return Ok(Found::Overrun(kind, size, size - left));
        }
        Ok(Found::Box(Header {
            kind,
            start: at,
            body: at + header,
            end: at + size,
            open: open && size == left && [a, b, c, d] == [0; 4],
        }))
    }

    /// The box at `at` within `parent`. Where the parent's size is written
    /// down, whatever makes no sense ends the list; where it merely runs to
    /// the end of the file, the same is a cut.
    pub fn child(&mut self, at: u64, parent: &Header) -> Result<Option<Header>, Defect> {
        match self.look(at, parent.end, parent.open)? {
            Found::Box(header) => Ok(Some(header)),
            Found::Overrun(kind, claims, missing) if parent.open => Err(Defect::CutBox {
                kind: Kind(kind),
                offset: at,
                claims,
                missing,
            }),
            Found::Stub(left) if parent.open && !self.is_padding(at, left)? => {
                Err(Defect::CutHeader { offset: at, left })
            }
            Found::End | Found::Stub(_) | Found::Overrun(..) | Found::Senseless(..) => Ok(None),
        }
    }

    /// Four to seven zero bytes cannot be the start of a box with a size; up
    /// to three can.
    pub fn is_padding(&mut self, at: u64, left: u64) -> Result<bool, Defect> {
        if !(4..8).contains(&left) {
            return Ok(false);
        }
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..left as usize];
        self.read(at, bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}
