//! Is this MP4 whole, and what does it show?
//!
//! Pure: it reads through `Read + Seek` and touches nothing else. Memory is a
//! few fixed buffers, work is linear in the file and capped by [`MAX_BOXES`]
//! and [`MAX_ENTRIES`], so a hostile file costs no more than an honest one.
//!
//! A body that was cut can end without any error on the wire, so the file
//! itself has to show that it is whole:
//!
//! - it begins with `ftyp`, its boxes walk exactly to the last byte, and there
//!   is a `moov` and an `mdat` that is not empty;
//! - every chunk of the picture and the sound (`stco`/`co64`, `stsc`, `stsz`)
//!   and every run of a fragment (`trun`) lies inside the file;
//! - no segment index (`sidx`) covers more bytes than there are;
//! - the fragments hold what `mehd` promises, give or take half a second.
//!
//! A whole video that was paid for must never be refused, so whatever is odd
//! but does not prove a cut is accepted: a `moov` of written size without a
//! track ([`Movie::has_track`]), tables that end early or are too long to read, boxes that overrun a parent of known size, unknown boxes, eight or
//! more zero bytes at the end (they read as a box "to the end of the file"),
//! four to seven zero bytes there, and bytes after the last box whose size
//! field makes no sense (2 to 7). Any other one to seven trailing bytes are
//! refused: they are how the next box would begin. A file with an `mfra` has
//! its end, so there a larger `mehd` is only odd.
//!
//! What stays invisible: a cut exactly between two boxes when nothing that was
//! kept refers to what was lost. That is either no loss (a trailing `free`) or
//! the later fragments of a file without `mehd` and `sidx`: such a file is
//! marked as [`Movie::open_ended`], and its duration is the sum of what is left.

mod fragments;
mod tracks;

use std::fmt;
use std::io::{Read, Seek, SeekFrom};

use fragments::read_fragments;
use tracks::read_moov;

/// The most boxes that are looked at in one file, over both passes. A clip of
/// 15 seconds with a fragment for every frame has some twenty thousand.
pub const MAX_BOXES: u32 = 1 << 18;

/// The most table entries that are read in one file; what lies beyond is taken
/// on trust.
pub const MAX_ENTRIES: u64 = 1 << 22;

/// How far the fragments may stay behind `mehd`, in milliseconds: edit lists
/// and encoder delay make it differ a little in whole files.
const SLACK_MS: u64 = 500;

/// What a whole file shows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Movie {
    /// Playing time in milliseconds; `None` where the file does not say.
    pub duration_ms: Option<u64>,
    /// Display width of the first video track in pixels.
    pub width: Option<u32>,
    /// Display height of the first video track in pixels.
    pub height: Option<u32>,
    /// There is a track: something that a player could show.
    pub has_track: bool,
    /// The samples are (also) in movie fragments.
    pub fragmented: bool,
    /// Nothing in the file says where it should end: fragments could be missing
    /// after the last one. Only the length that the server gave, or a duration
    /// like the one that was asked for, can show that it is whole.
    pub open_ended: bool,
}

/// The four letters of a box.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Kind(pub [u8; 4]);

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.escape_ascii())
    }
}

impl fmt::Debug for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{self}`")
    }
}

/// Why a file is not a whole video. Offsets and sizes are in bytes.
#[derive(Debug, thiserror::Error)]
pub enum Defect {
    /// No bytes at all.
    #[error("empty: not one byte came")]
    Empty,
    /// Something else: a web page, JSON, an image.
    #[error("not an MP4: begins with `{beginning}`")]
    NotMp4 {
        /// The first bytes, made printable.
        beginning: String,
    },
    /// It ends before the first box has said what it is.
    #[error("cut off: there are only {length} bytes")]
    TooShort {
        /// The file's length.
        length: u64,
    },
    /// A box claims more than there is.
    #[error(
        "cut off: box `{kind}` at offset {offset} claims {claims} bytes, the file ends {missing} bytes earlier"
    )]
    CutBox {
        /// Which box.
        kind: Kind,
        /// Where it begins.
        offset: u64,
        /// Its size by its header.
        claims: u64,
        /// How much of that is not there.
        missing: u64,
    },
    /// The file ends inside the header of a box.
    #[error("cut off: the file ends {left} bytes into the header of the box at offset {offset}")]
    CutHeader {
        /// Where the header begins.
        offset: u64,
        /// How much of it is there.
        left: u64,
    },
    /// A sample lies outside the file.
    #[error(
        "cut off: the {table} of the {track} refers to bytes up to {needs}, the file has {length}"
    )]
    CutSamples {
        /// The table that says so.
        table: &'static str,
        /// "picture", "sound" or "track".
        track: &'static str,
        /// The length that the file would need.
        needs: u64,
        /// The length that it has.
        length: u64,
    },
    /// The segment index covers more than there is.
    #[error("cut off: the segment index covers bytes up to {needs}, the file has {length}")]
    CutIndex {
        /// The length that the file would need.
        needs: u64,
        /// The length that it has.
        length: u64,
    },
    /// Fragments are missing at the end.
    #[error("cut off: the movie promises {promised_ms} ms, its fragments hold {held_ms} ms")]
    CutFragments {
        /// What `mehd` says.
        promised_ms: u64,
        /// What the fragments add up to.
        held_ms: u64,
    },
    /// The boxes end without a `moov`.
    #[error("no `moov` box: the file holds no description of the movie")]
    NoMoov,
    /// The boxes end without an `mdat`.
    #[error("no `mdat` box: the file holds no picture data")]
    NoMdat,
    /// There is an `mdat`, but nothing in it.
    #[error("no picture data: `mdat` is empty")]
    EmptyMdat,
    /// A `moov` that runs to the end of the file ends before its first track.
    #[error("cut off: the file ends inside `moov`, before its first track")]
    NoTrack,
    /// A size that no box can have.
    #[error(
        "broken: the box `{kind}` at offset {offset} claims {size} bytes, fewer than its header"
    )]
    BrokenBox {
        /// Which box.
        kind: Kind,
        /// Where it begins.
        offset: u64,
        /// Its size by its header.
        size: u64,
    },
    /// More than [`MAX_BOXES`].
    #[error("not a usable MP4: it has more than {MAX_BOXES} boxes")]
    TooManyBoxes,
    /// The file could not be read, which says nothing about the video.
    #[error("cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
}

impl Defect {
    /// What is there may be the beginning of a whole video: the transfer is
    /// worth going on with or repeating. `false`: this is something else.
    pub fn is_truncation(&self) -> bool {
        match self {
            Defect::Empty
            | Defect::TooShort { .. }
            | Defect::CutBox { .. }
            | Defect::CutHeader { .. }
            | Defect::CutSamples { .. }
            | Defect::CutIndex { .. }
            | Defect::CutFragments { .. }
            | Defect::NoMoov
            | Defect::NoMdat
            | Defect::EmptyMdat
            | Defect::NoTrack => true,
            Defect::NotMp4 { .. }
            | Defect::BrokenBox { .. }
            | Defect::TooManyBoxes
            | Defect::Unreadable(_) => false,
        }
    }
}

/// Judges a file of `length` bytes; the module's text has the rules. The
/// position of `input` afterwards is anywhere.
///
/// # Errors
///
/// The first [`Defect`] found; [`Defect::Unreadable`] when `input` fails or
/// ends before `length`.
pub fn inspect(input: &mut (impl Read + Seek), length: u64) -> Result<Movie, Defect> {
    let mut source = Source {
        input,
        length,
        boxes: MAX_BOXES,
        entries: MAX_ENTRIES,
    };
    check_start(&mut source)?;
    let outline = walk(&mut source)?;
    let (Some(moov), true) = (outline.moov, outline.has_mdat) else {
        return Err(match outline.moov {
            None => Defect::NoMoov,
            Some(_) => Defect::NoMdat,
        });
    };
    if outline.mdat_bytes == 0 {
        return Err(Defect::EmptyMdat);
    }
    let mut movie = read_moov(&mut source, &moov)?;
    if outline.has_fragments || outline.has_index {
        read_fragments(&mut source, &mut movie, outline.end)?;
    }
    let fragmented = outline.has_fragments || movie.extends;
    let held = movie.held_ms();
    let mut has_end = outline.has_random_access || movie.has_index;
    if let (false, Some(promised_ms), Some(held_ms)) =
        (outline.has_random_access, movie.promised_ms, held)
    {
        has_end = true;
        if promised_ms > held_ms.saturating_add(SLACK_MS + promised_ms / 100) {
            return Err(Defect::CutFragments {
                promised_ms,
                held_ms,
            });
        }
    }
    let duration_ms = if fragmented {
        movie.promised_ms.or(movie.summed_ms())
    } else {
        movie.duration_ms.or(movie.longest_track_ms())
    };
    let size = movie
        .tracks
        .iter()
        .find(|track| track.handler == *b"vide" && track.width > 0 && track.height > 0);
    Ok(Movie {
        duration_ms,
        width: size.map(|track| track.width),
        height: size.map(|track| track.height),
        has_track: movie.has_track,
        fragmented,
        open_ended: fragmented && !has_end,
    })
}

/// The input with its limits.
struct Source<'a, R> {
    input: &'a mut R,
    length: u64,
    boxes: u32,
    entries: u64,
}

/// A box whose header has been read and lies inside its parent.
#[derive(Clone, Copy)]
struct Header {
    kind: [u8; 4],
    start: u64,
    body: u64,
    end: u64,
    /// Its end is the end of the file, not a number that was written down.
    open: bool,
}

/// What stands at an offset.
enum Found {
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
    fn read(&mut self, at: u64, buffer: &mut [u8]) -> Result<(), Defect> {
        self.input
            .seek(SeekFrom::Start(at))
            .and_then(|_| self.input.read_exact(buffer))
            .map_err(Defect::Unreadable)
    }

    /// The first `N` bytes of a body, if it has as many.
    fn head<const N: usize>(&mut self, of: &Header) -> Result<Option<[u8; N]>, Defect> {
        if of.end - of.body < N as u64 {
            return Ok(None);
        }
        let mut bytes = [0; N];
        self.read(of.body, &mut bytes)?;
        Ok(Some(bytes))
    }

    fn look(&mut self, at: u64, end: u64, open: bool) -> Result<Found, Defect> {
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
    fn child(&mut self, at: u64, parent: &Header) -> Result<Option<Header>, Defect> {
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
    fn is_padding(&mut self, at: u64, left: u64) -> Result<bool, Defect> {
        if !(4..8).contains(&left) {
            return Ok(false);
        }
        let mut bytes = [0; 8];
        let bytes = &mut bytes[..left as usize];
        self.read(at, bytes)?;
        Ok(bytes.iter().all(|byte| *byte == 0))
    }
}

fn check_start<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<(), Defect> {
    if source.length == 0 {
        return Err(Defect::Empty);
    }
    let mut bytes = [0; 48];
    let bytes = &mut bytes[..source.length.min(48) as usize];
    source.read(0, bytes)?;
    // No real `ftyp` has 16 MiB, so the first byte of its size is 0.
    let letters = bytes.get(4..8.min(bytes.len())).unwrap_or_default();
    if bytes[0] != 0 || !b"ftyp".starts_with(letters) {
        return Err(Defect::NotMp4 {
            beginning: printable(bytes),
        });
    }
    if source.length < 8 {
        return Err(Defect::TooShort {
            length: source.length,
        });
    }
    Ok(())
}

/// The first bytes in a form that fits into a log line: text as text, anything
/// else escaped.
fn printable(bytes: &[u8]) -> String {
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text,
        // A character that the excerpt cuts in two.
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&bytes[..error.valid_up_to()]).unwrap_or_default()
        }
        Err(_) => "",
    };
    if text.is_empty() || text.contains('\0') {
        return bytes[..bytes.len().min(16)].escape_ascii().to_string();
    }
    let mut out = String::new();
    for c in text.trim_start_matches('\u{feff}').trim().chars().take(40) {
        if c.is_control() {
            out.extend(c.escape_default());
        } else {
            out.push(c);
        }
    }
    out
}

/// What the first pass finds.
struct Outline {
    moov: Option<Header>,
    has_mdat: bool,
    mdat_bytes: u64,
    has_fragments: bool,
    has_index: bool,
    has_random_access: bool,
    /// Where the last box ends.
    end: u64,
}

/// Walks the top-level boxes to the end of the file.
fn walk<R: Read + Seek>(source: &mut Source<'_, R>) -> Result<Outline, Defect> {
    let mut outline = Outline {
        moov: None,
        has_mdat: false,
        mdat_bytes: 0,
        has_fragments: false,
        has_index: false,
        has_random_access: false,
        end: 0,
    };
    loop {
        let at = outline.end;
        match source.look(at, source.length, true)? {
            Found::Box(header) => {
                match &header.kind {
                    b"moov" if outline.moov.is_none() => outline.moov = Some(header),
                    b"mdat" => {
                        outline.has_mdat = true;
                        outline.mdat_bytes += header.end - header.body;
                    }
                    b"moof" => outline.has_fragments = true,
                    b"sidx" => outline.has_index = true,
                    b"mfra" => outline.has_random_access = true,
                    _ => {}
                }
                outline.end = header.end;
            }
            Found::End => return Ok(outline),
            Found::Overrun(kind, claims, missing) => {
                return Err(Defect::CutBox {
                    kind: Kind(kind),
                    offset: at,
                    claims,
                    missing,
                });
            }
            Found::Stub(left) => {
                if source.is_padding(at, left)? {
                    return Ok(outline);
                }
                return Err(Defect::CutHeader { offset: at, left });
            }
            // A cut leaves headers as they were: this is something appended.
            Found::Senseless(..) if outline.moov.is_some() && outline.has_mdat => {
                return Ok(outline);
            }
            Found::Senseless(kind, size) => {
                return Err(Defect::BrokenBox {
                    kind: Kind(kind),
                    offset: at,
                    size,
                });
            }
        }
    }
}

/// What `moov` says, and what the fragments add to it.
#[derive(Default)]
struct Description {
    /// From `mvhd`; `None` for zero and "unknown".
    duration_ms: Option<u64>,
    /// From `mehd`.
    promised_ms: Option<u64>,
    /// There is an `mvex`: fragments may follow.
    extends: bool,
    has_track: bool,
    tracks: Vec<Track>,
    defaults: Vec<Defaults>,
    /// One `sidx` covers several fragments. (Some encoders write one for each.)
    has_index: bool,
    /// Some fragment could not be timed, so nothing follows from the sum.
    unsure: bool,
}

/// One `trak`, and what the fragments add to it.
#[derive(Default)]
struct Track {
    id: u32,
    handler: [u8; 4],
    width: u32,
    height: u32,
    timescale: u32,
    /// From `mdhd`, in units of the time scale.
    duration: Option<u64>,
    /// It has chunks in `moov` itself.
    has_chunks: bool,
    /// The samples may be in another file.
    external: bool,
    /// The sum of the fragments' samples, in units of the time scale.
    fragments: u64,
    /// The latest end of a fragment by `tfdt`, in units of the time scale.
    latest: u64,
}

impl Track {
    fn name(&self) -> &'static str {
        match &self.handler {
            b"vide" => "picture",
            b"soun" => "sound",
            _ => "track",
        }
    }

    /// In `moov` and in the fragments together.
    fn total(&self) -> u64 {
        let here = if self.has_chunks {
            self.duration.unwrap_or(0)
        } else {
            0
        };
        here.saturating_add(self.fragments)
    }
}

/// One `trex`: what a fragment's samples are like if it does not say.
struct Defaults {
    track: u32,
    duration: u32,
    size: u32,
}

impl Description {
    fn longest(&self, ticks: impl Fn(&Track) -> u64) -> Option<u64> {
        self.tracks
            .iter()
            .filter_map(|track| millis(ticks(track), track.timescale))
            .max()
    }

    fn longest_track_ms(&self) -> Option<u64> {
        self.longest(|track| track.duration.unwrap_or(0))
    }

    fn summed_ms(&self) -> Option<u64> {
        self.longest(Track::total).or(self.duration_ms)
    }

    /// The most that the samples can be said to hold; `None` if that is not
    /// known well enough to call a file cut.
    fn held_ms(&self) -> Option<u64> {
        if self.unsure || self.tracks.iter().any(|track| track.timescale == 0) {
            return None;
        }
        Some(
            self.longest(|track| track.total().max(track.latest))
                .unwrap_or(0),
        )
    }
}

/// `None` for nothing and for a scale of zero.
fn millis(ticks: u64, timescale: u32) -> Option<u64> {
    if ticks == 0 || timescale == 0 {
        return None;
    }
    let ms = u128::from(ticks) * 1000 / u128::from(timescale);
    Some(u64::try_from(ms).unwrap_or(u64::MAX))
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes
        .get(at..at + 4)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u32::from_be_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes
        .get(at..at + 8)
        .and_then(|bytes| bytes.try_into().ok())
        .map_or(0, u64::from_be_bytes)
}

#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
