//! What can happen to a job.

use serde::Serialize;

use super::{Millis, SavedFile};
use crate::money::Money;

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
