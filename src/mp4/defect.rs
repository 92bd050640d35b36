//! Why a file is not a whole video.

use std::fmt;

use super::MAX_BOXES;

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
