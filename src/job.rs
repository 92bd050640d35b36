//! A job: what was asked for, where it stands, and what can happen to it.
//!
//! Pure: nothing here reads a clock, a file or a socket.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use crate::money::Money;

/// Unix time in milliseconds.
pub type Millis = i64;

/// A job's number in the queue.
pub type JobId = i64;

/// Whether a text can be a task's id: one path segment without blanks, of any length.
pub fn is_task_id(text: &str) -> bool {
    let blank = |c: char| c.is_whitespace() || c.is_control();
    !matches!(text, "" | "." | "..") && !text.contains(blank)
}

/// The shortest and the longest clip that the provider makes, in seconds.
pub const DURATIONS: std::ops::RangeInclusive<u32> = 1..=15;

/// The duration of a clip when none is given, in seconds.
pub const DEFAULT_DURATION: u32 = 6;

/// The batch of a job that names none.
pub const DEFAULT_BATCH: &str = "default";

/// The longest `key` and `batch`, in bytes.
pub const MAX_NAME: usize = 200;

/// The longest `prompt`, in bytes.
pub const MAX_PROMPT: usize = 100_000;

/// The longest `image_url`, in bytes.
pub const MAX_URL: usize = 8_192;

/// The longest `metadata`, in bytes.
pub const MAX_METADATA: usize = 65_536;

/// The height of a clip, as the provider spells it.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum Size {
    /// 480 lines.
    #[serde(rename = "480p")]
    P480,
    /// 720 lines, the default.
    #[default]
    #[serde(rename = "720p")]
    P720,
    /// 1080 lines.
    #[serde(rename = "1080p")]
    P1080,
}

impl Size {
    /// Every size, smallest first.
    pub const ALL: [Size; 3] = [Size::P480, Size::P720, Size::P1080];

    /// The provider's spelling.
    pub const fn as_str(self) -> &'static str {
        match self {
            Size::P480 => "480p",
            Size::P720 => "720p",
            Size::P1080 => "1080p",
        }
    }

    /// The short side of the picture in pixels.
    pub const fn lines(self) -> u32 {
        match self {
            Size::P480 => 480,
            Size::P720 => 720,
            Size::P1080 => 1080,
        }
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for Size {
    type Err = String;
    fn from_str(text: &str) -> Result<Size, String> {
        Size::ALL
            .into_iter()
            .find(|size| size.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not a size: 480p, 720p or 1080p"))
    }
}

/// What a producer asks for. [`JobSpec::faults`] holds the same rules as the
/// database's own checks, so that a file can be judged before it is inserted.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct JobSpec {
    /// Unique where given; makes a repeated insert harmless.
    pub key: Option<String>,
    /// A group to wait for, list, and name folders by.
    pub batch: String,
    /// What the clip should show. Not blank.
    pub prompt: String,
    /// The http(s) URL of the input image.
    pub image_url: String,
    /// Seconds, within [`DURATIONS`].
    pub duration: u32,
    /// The height of the clip.
    pub size: Size,
    /// Higher goes first.
    pub priority: i64,
    /// Not submitted before this time.
    pub not_before: Option<Millis>,
    /// The text of a JSON object, handed through untouched.
    pub metadata: Option<String>,
}

impl JobSpec {
    /// Whether the two ask for the same video.
    pub fn is_same_video(&self, other: &JobSpec) -> bool {
        let video = |spec: &JobSpec| (spec.duration, spec.size);
        video(self) == video(other)
            && self.prompt == other.prompt
            && self.image_url == other.image_url
    }

    /// A job with every default.
    pub fn new(prompt: impl Into<String>, image_url: impl Into<String>) -> JobSpec {
        JobSpec {
            key: None,
            batch: DEFAULT_BATCH.to_owned(),
            prompt: prompt.into(),
            image_url: image_url.into(),
            duration: DEFAULT_DURATION,
            size: Size::default(),
            priority: 0,
            not_before: None,
            metadata: None,
        }
    }

    /// The metadata to be put into JSON, as it is but on one line: in JSON a line
    /// ends only where any blank may stand.
    pub fn metadata_json(&self) -> Option<Box<RawValue>> {
        let text = self.metadata.as_deref()?;
        RawValue::from_string(text.replace(['\n', '\r'], " "))
            // Somebody got round the table's rules: at least its text.
            .or_else(|_| to_raw_value(text))
            .ok()
    }

    /// Every rule that this job breaks; empty for a good one.
    pub fn faults(&self) -> Vec<FieldFault> {
        let mut faults = Vec::new();
        let mut check = |ok: bool, field: &'static str, rule: &str| {
            if !ok {
                faults.push(FieldFault::new(field, rule));
            }
        };
        let name = |text: &str| !is_blank(text) && text.len() <= MAX_NAME;
        check(
            self.key.as_deref().is_none_or(name),
            "key",
            "must not be blank and must be at most 200 bytes",
        );
        check(
            name(&self.batch),
            "batch",
            "must not be blank and must be at most 200 bytes",
        );
        check(
            !is_blank(&self.prompt) && self.prompt.len() <= MAX_PROMPT,
            "prompt",
            "must not be blank and must be at most 100000 bytes",
        );
        check(
            is_http_url(&self.image_url),
            "image_url",
            "must be an http:// or https:// URL without spaces, at most 8192 bytes",
        );
        check(
            DURATIONS.contains(&self.duration),
            "duration",
            "must be a whole number of seconds from 1 to 15",
        );
        check(
            self.not_before
                .is_none_or(|at| (0..=MAX_TIME).contains(&at)),
            "not_before",
            "must be a time in Unix milliseconds, from 1970 to 9999",
        );
        check(
            self.metadata.as_deref().is_none_or(is_json_object),
            "metadata",
            "must be a JSON object of at most 65536 bytes",
        );
        faults
    }
}

/// The last millisecond of the year 9999.
pub const MAX_TIME: Millis = 253_402_300_799_999;

/// Blank as SQLite's `trim(x, ' ' || tab, newline, return)` sees it.
fn is_blank(text: &str) -> bool {
    text.trim_matches([' ', '\t', '\n', '\r']).is_empty()
}

fn is_http_url(text: &str) -> bool {
    let lower = text.get(..8).unwrap_or(text).to_ascii_lowercase();
    let host = if lower.starts_with("https://") {
        &text[8..]
    } else if lower.starts_with("http://") {
        &text[7..]
    } else {
        return false;
    };
    !host.is_empty()
        && !host.starts_with(['/', '?', '#'])
        && text.len() <= MAX_URL
        && !text.contains([' ', '\t', '\n', '\r'])
}

/// An object as SQLite's `json_valid` sees it: its numbers may be beyond all range,
/// its texts half of a surrogate pair. How deep it may be the database says:
/// SQLite's limit has changed. This walk is not recursive.
fn is_json_object(text: &str) -> bool {
    text.len() <= MAX_METADATA
        && serde_json::from_str::<&RawValue>(text).is_ok_and(|json| json.get().starts_with('{'))
}

/// One field of a job that breaks a rule.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    /// The column's name, or the unknown name that was found in its place;
    /// empty where the fault is in no single field.
    pub field: Cow<'static, str>,
    /// What is allowed there, as a sentence that the field's name begins.
    pub reason: String,
}

impl FieldFault {
    /// A fault of this field, for this reason.
    pub fn new(field: impl Into<Cow<'static, str>>, reason: impl Into<String>) -> FieldFault {
        FieldFault {
            field: field.into(),
            reason: reason.into(),
        }
    }
}

impl fmt::Display for FieldFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.field.is_empty() {
            write!(f, "{} ", self.field)?;
        }
        f.write_str(&self.reason)
    }
}

/// Where a job stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// Waits for its turn, its `not_before`, or the end of a back-off.
    Pending,
    /// The intent to POST is committed; the request may be on the wire.
    Submitting,
    /// A POST may have been accepted and billed, but no task id came back.
    Unconfirmed,
    /// The task id is committed; the poller watches it.
    Generating,
    /// The video exists at the provider; it is not yet verified on disk.
    Downloading,
    /// The file is on disk.
    Done,
    /// Ended without a video; the error says why.
    Failed,
    /// A person withdrew it.
    Cancelled,
}

impl State {
    /// Every state, in the order of a job's life.
    pub const ALL: [State; 8] = [
        State::Pending,
        State::Submitting,
        State::Unconfirmed,
        State::Generating,
        State::Downloading,
        State::Done,
        State::Failed,
        State::Cancelled,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            State::Pending => "pending",
            State::Submitting => "submitting",
            State::Unconfirmed => "unconfirmed",
            State::Generating => "generating",
            State::Downloading => "downloading",
            State::Done => "done",
            State::Failed => "failed",
            State::Cancelled => "cancelled",
        }
    }

    /// Nothing moves it any more but a person.
    pub const fn is_final(self) -> bool {
        matches!(self, State::Done | State::Failed | State::Cancelled)
    }

    /// The provider has its task, which is paid for, and its video is still to come.
    pub const fn has_open_task(self) -> bool {
        matches!(self, State::Generating | State::Downloading)
    }

    /// Nothing moves it by itself: final, or waiting for a person's word.
    pub const fn is_settled(self) -> bool {
        self.is_final() || matches!(self, State::Unconfirmed)
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for State {
    type Err = String;
    fn from_str(text: &str) -> Result<State, String> {
        State::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| {
                let all: Vec<_> = State::ALL.iter().map(|s| s.as_str()).collect();
                format!("{text:?} is not a state: {}", all.join(", "))
            })
    }
}

/// Why a job failed, or what it waits for a person about; the word in `error_code`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FailureCode {
    /// The provider refused this job for good; nothing was charged.
    Refused,
    /// The provider accepted the task and then said that it failed.
    TaskFailed,
    /// The provider says that the task expired.
    TaskExpired,
    /// The provider no longer knows the task.
    TaskLost,
    /// Still not finished at `poll.deadline`.
    Deadline,
    /// The task completed, but no usable video was to be had.
    VideoUnavailable,
    /// A POST that may have been accepted and charged; a person has to say.
    Unconfirmed,
    /// An unconfirmed submission that a person wrote off.
    WrittenOff,
    /// The row holds something that reelq cannot read.
    CorruptRow,
}

impl FailureCode {
    /// Every code.
    pub const ALL: [FailureCode; 9] = [
        FailureCode::Refused,
        FailureCode::TaskFailed,
        FailureCode::TaskExpired,
        FailureCode::TaskLost,
        FailureCode::Deadline,
        FailureCode::VideoUnavailable,
        FailureCode::Unconfirmed,
        FailureCode::WrittenOff,
        FailureCode::CorruptRow,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            FailureCode::Refused => "refused",
            FailureCode::TaskFailed => "task_failed",
            FailureCode::TaskExpired => "task_expired",
            FailureCode::TaskLost => "task_lost",
            FailureCode::Deadline => "deadline",
            FailureCode::VideoUnavailable => "video_unavailable",
            FailureCode::Unconfirmed => "unconfirmed",
            FailureCode::WrittenOff => "written_off",
            FailureCode::CorruptRow => "corrupt_row",
        }
    }
}

impl FromStr for FailureCode {
    type Err = String;
    fn from_str(text: &str) -> Result<FailureCode, String> {
        FailureCode::ALL
            .into_iter()
            .find(|code| code.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not an error code"))
    }
}

/// Why a job failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The class of the failure.
    pub code: FailureCode,
    /// What happened and what a person can do.
    pub message: String,
}

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

/// How a POST ended; the word in `submissions.outcome`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// Begun; no answer is recorded.
    InFlight,
    /// A task id came back.
    Accepted,
    /// Refused for good.
    Rejected,
    /// Surely not accepted; another try is safe.
    NotAccepted,
    /// It may have been accepted and billed.
    Unknown,
}

impl Outcome {
    /// Every outcome.
    pub const ALL: [Outcome; 5] = [
        Outcome::InFlight,
        Outcome::Accepted,
        Outcome::Rejected,
        Outcome::NotAccepted,
        Outcome::Unknown,
    ];

    /// The word in the database.
    pub const fn as_str(self) -> &'static str {
        match self {
            Outcome::InFlight => "in_flight",
            Outcome::Accepted => "accepted",
            Outcome::Rejected => "rejected",
            Outcome::NotAccepted => "not_accepted",
            Outcome::Unknown => "unknown",
        }
    }
}

impl FromStr for Outcome {
    type Err = String;
    fn from_str(text: &str) -> Result<Outcome, String> {
        Outcome::ALL
            .into_iter()
            .find(|outcome| outcome.as_str() == text)
            .ok_or_else(|| format!("{text:?} is not an outcome"))
    }
}

/// What is kept of an answer, for the person who has to judge it later.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Evidence {
    /// The HTTP status, where an answer came.
    pub http_status: Option<u16>,
    /// The request ids that the answer carried.
    pub request_id: Option<String>,
    /// At most the first 2 KiB of the answer.
    pub answer: Option<String>,
    /// What happened, in words.
    pub error: Option<String>,
}

/// What can happen to a job.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The scheduler takes it: the intent to POST, with what it may cost.
    Claimed {
        /// The reservation.
        cost: Money,
        /// Where the POST goes.
        endpoint: String,
    },
    /// The POST was accepted.
    Accepted {
        /// The provider's id.
        task_id: String,
        /// The answer.
        evidence: Evidence,
    },
    /// The POST was refused for good because of this job.
    Refused {
        /// The answer.
        evidence: Evidence,
    },
    /// The POST was surely not accepted, for no fault of the job.
    NotAccepted {
        /// The answer or the error.
        evidence: Evidence,
        /// Nothing is submitted before this time, for any job.
        closed_until: Option<Millis>,
    },
    /// There is no way to tell whether the POST was accepted.
    Unknown {
        /// All that is known.
        evidence: Evidence,
    },
    /// The task runs.
    Running {
        /// 0 to 100, where the provider said so.
        progress: Option<u8>,
    },
    /// The provider does not know the task.
    TaskNotFound {
        /// The provider's words.
        message: String,
    },
    /// The task is complete.
    Completed {
        /// Where the video is said to be, best first.
        urls: Vec<String>,
        /// The absolute path reserved for the file; `None` while its folder cannot be looked at.
        target: Option<String>,
    },
    /// The provider says that the task failed.
    TaskFailed {
        /// The provider's words.
        message: String,
    },
    /// The provider says that the task expired.
    TaskExpired {
        /// The provider's words.
        message: String,
    },
    /// The verified file is in place.
    Saved {
        /// The file.
        file: SavedFile,
        /// What is unlike what was asked.
        note: Option<String>,
    },
    /// Bytes did not come for a reason that passes: outage, stall, full disk.
    FetchInterrupted {
        /// What happened.
        reason: String,
        /// Something new was stored, so the next try follows soon.
        advanced: bool,
    },
    /// Some places answered, none with a usable video, and to the others no
    /// connection can be made.
    VideoUnreachable {
        /// What happened.
        reason: String,
    },
    /// Its file goes to another place: something of another's lies at the first, or there was none.
    Placed {
        /// Why.
        reason: String,
        /// The absolute path reserved now.
        target: String,
    },
    /// Every known place answered, and none with a usable video.
    VideoUnusable {
        /// What the places answered.
        reason: String,
    },
    /// A person asks for another try.
    Retried,
    /// A person withdraws it.
    Cancelled,
    /// A person names the task that an unconfirmed POST made.
    Adopted {
        /// The provider's id.
        task_id: String,
    },
    /// A person says that an unconfirmed POST was not charged: send again.
    Resubmitted,
    /// A person takes the loss of an unconfirmed POST.
    WrittenOff,
}

impl Event {
    /// The word in the job's history.
    pub const fn name(&self) -> &'static str {
        match self {
            Event::Claimed { .. } => "claimed",
            Event::Accepted { .. } => "accepted",
            Event::Refused { .. } => "refused",
            Event::NotAccepted { .. } => "not_accepted",
            Event::Unknown { .. } => "unknown",
            Event::Running { .. } => "running",
            Event::TaskNotFound { .. } => "task_not_found",
            Event::Completed { .. } => "completed",
            Event::TaskFailed { .. } => "task_failed",
            Event::TaskExpired { .. } => "task_expired",
            Event::Saved { .. } => "saved",
            Event::FetchInterrupted { .. } => "fetch_interrupted",
            Event::Placed { .. } => "placed",
            Event::VideoUnusable { .. } => "video_unusable",
            Event::VideoUnreachable { .. } => "video_unreachable",
            Event::Retried => "retried",
            Event::Cancelled => "cancelled",
            Event::Adopted { .. } => "adopted",
            Event::Resubmitted => "resubmitted",
            Event::WrittenOff => "written_off",
        }
    }
}
