//! How a download ended.

use crate::job::SavedFile;

/// How a download ended.
#[derive(Debug)]
pub enum Fetched {
    /// Verified, synced, in place.
    Saved {
        /// The file.
        file: SavedFile,
        /// What is unlike what was asked.
        note: Option<String>,
    },
    /// No bytes for a reason that passes.
    Interrupted {
        /// What happened.
        reason: String,
        /// Some bytes were stored.
        advanced: bool,
    },
    /// Every place answered, none with a usable video.
    Unusable {
        /// What they answered.
        reason: String,
    },
    /// Some places answered without a usable video, and to the others there is no way.
    Unreachable {
        /// What happened.
        reason: String,
    },
    /// Something of another's lies at its place.
    Displaced {
        /// What lies there.
        reason: String,
    },
    /// The disk did not confirm what was written: the daemon must stop.
    SyncFailed(String),
}
