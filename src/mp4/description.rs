//! What the file says of itself: its tracks, their lengths, their fragments.

/// What `moov` says, and what the fragments add to it.
#[derive(Default)]
pub(super) struct Description {
    /// From `mvhd`; `None` for zero and "unknown".
    pub duration_ms: Option<u64>,
    /// From `mehd`.
    pub promised_ms: Option<u64>,
    /// There is an `mvex`: fragments may follow.
    pub extends: bool,
    pub has_track: bool,
    pub tracks: Vec<Track>,
    pub defaults: Vec<Defaults>,
    /// One `sidx` covers several fragments. (Some encoders write one for each.)
    pub has_index: bool,
    /// Some fragment could not be timed, so nothing follows from the sum.
    pub unsure: bool,
}

/// One `trak`, and what the fragments add to it.
#[derive(Default)]
pub(super) struct Track {
    pub id: u32,
    pub handler: [u8; 4],
    pub width: u32,
    pub height: u32,
    pub timescale: u32,
    /// From `mdhd`, in units of the time scale.
    pub duration: Option<u64>,
    /// It has chunks in `moov` itself.
    pub has_chunks: bool,
    /// The samples may be in another file.
    pub external: bool,
    /// The sum of the fragments' samples, in units of the time scale.
    pub fragments: u64,
    /// The latest end of a fragment by `tfdt`, in units of the time scale.
    pub latest: u64,
}

impl Track {
    pub fn name(&self) -> &'static str {
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
pub(super) struct Defaults {
    pub track: u32,
    pub duration: u32,
    pub size: u32,
}

impl Description {
    fn longest(&self, ticks: impl Fn(&Track) -> u64) -> Option<u64> {
        self.tracks
            .iter()
            .filter_map(|track| millis(ticks(track), track.timescale))
            .max()
    }

    pub fn longest_track_ms(&self) -> Option<u64> {
        self.longest(|track| track.duration.unwrap_or(0))
    }

    pub fn summed_ms(&self) -> Option<u64> {
        self.longest(Track::total).or(self.duration_ms)
    }

    /// The most that the samples can be said to hold; `None` if that is not
    /// known well enough to call a file cut.
    pub fn held_ms(&self) -> Option<u64> {
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
pub(super) fn millis(ticks: u64, timescale: u32) -> Option<u64> {
    if ticks == 0 || timescale == 0 {
        return None;
    }
    let ms = u128::from(ticks) * 1000 / u128::from(timescale);
    Some(u64::try_from(ms).unwrap_or(u64::MAX))
}
