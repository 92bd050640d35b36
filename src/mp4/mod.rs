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
//! track ([`Movie::has_track`]), tables that end early or are too long to
//! read, boxes that overrun a parent of known size, unknown boxes, eight or
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

mod boxes;
mod defect;
mod description;
mod fragments;
mod outline;
#[cfg(test)]
pub(crate) mod sample;
#[cfg(test)]
mod tests;
mod tracks;

use std::io::{Read, Seek};

use boxes::Source;
pub use defect::{Defect, Kind};
use fragments::read_fragments;
use outline::{check_start, walk};
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
