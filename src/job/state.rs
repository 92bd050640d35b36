//! Where a job stands, how its POSTs ended, and why it failed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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
