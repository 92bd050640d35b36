//! A job: what was asked for, where it stands, and what can happen to it.
//!
//! Pure: nothing here reads a clock, a file or a socket.

mod event;
mod spec;
mod state;

use serde::Serialize;

use crate::money::Money;
pub use event::{Event, Evidence};
pub use spec::{
    DEFAULT_BATCH, DEFAULT_DURATION, DURATIONS, FieldFault, JobSpec, MAX_METADATA, MAX_NAME,
    MAX_PROMPT, MAX_TIME, MAX_URL, Size,
};
pub use state::{Failure, FailureCode, Outcome, State};

/// Unix time in milliseconds.
pub type Millis = i64;

/// A job's number in the queue.
pub type JobId = i64;

/// A verified video on disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SavedFile {
    /// Absolute path.
    pub path: String,
    /// Length in bytes.
    pub bytes: u64,
    /// SHA-256 of the content, 64 lower-case hex digits.
    pub sha256: String,
}

/// A row of the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// Rises with every change; fences late answers.
    pub version: i64,
    /// What was asked for.
    pub spec: JobSpec,
    /// Where it stands.
    pub state: State,
    /// Not looked at before this time; `None`: at once.
    pub due_at: Option<Millis>,
    /// Faulty tries in a row in this state.
    pub faults: u32,
    /// POSTs begun so far.
    pub attempt: u32,
    /// What its submission may cost; what the last claim reserved.
    pub cost: Money,
    /// A POST of unknown end was sent again by itself: `on_unconfirmed = "resubmit"` allows it once.
    pub resent: bool,
    /// 0 to 100, as the provider last said.
    pub progress: u8,
    /// The base URL and key, as a label, that its last POST went to.
    pub endpoint: Option<String>,
    /// The provider's id of the accepted task. It belongs to `endpoint`.
    pub task_id: Option<String>,
    /// When the present wait is given up.
    pub give_up_at: Option<Millis>,
    /// Where the video was last said to be, best first.
    pub video_urls: Vec<String>,
    /// The absolute path that is reserved for the file.
    pub target: Option<String>,
    /// The file, once done.
    pub file: Option<SavedFile>,
    /// What is unlike what was asked, or why it waits.
    pub note: Option<String>,
    /// Why it failed.
    pub failure: Option<Failure>,
    /// When it was inserted.
    pub created_at: Millis,
    /// When its last POST was begun.
    pub submitted_at: Option<Millis>,
    /// When the provider was first heard to have finished.
    pub completed_at: Option<Millis>,
    /// When it came to a final state.
    pub finished_at: Option<Millis>,
}

/// Whether a text can be a task's id: one path segment without blanks, of any length.
pub fn is_task_id(text: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    !matches!(text, "" | "." | "..") && !text.contains(blank)
}
