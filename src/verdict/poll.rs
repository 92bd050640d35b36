//! The answer of a GET of a task: how far is it?

use serde_json::Value;

use super::fields::{code_words, layers, progress, said, urls};
use super::reply::{Answer, Reply, fault};
use crate::gate::{Cause, Fault, NOT_SENT};

/// What a task's answer means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PollVerdict {
    /// Queued or running, or a word that nobody knows.
    Running {
        /// 0 to 100.
        progress: Option<u8>,
    },
    /// Complete.
    Completed {
        /// Where the video is said to be, best first; may be empty.
        urls: Vec<String>,
    },
    /// Failed for good.
    Failed {
        /// The provider's words.
        message: String,
    },
    /// Expired at the provider.
    Expired {
        /// The provider's words.
        message: String,
    },
    /// The provider does not know it.
    NotFound {
        /// The provider's words.
        message: String,
    },
    /// The answer says nothing about the task.
    Trouble(Fault),
}

/// Judges the answer of a GET of a task, by its status word alone.
pub fn judge_poll(reply: Reply) -> PollVerdict {
    let answer = match reply {
        Reply::NotSent(error) => {
            return PollVerdict::Trouble(fault(Cause::Unreachable, NOT_SENT, error, None));
        }
        Reply::Lost { symptom, error } => {
            return PollVerdict::Trouble(fault(Cause::Unclear, symptom, error, None));
        }
        Reply::Answer(answer) => answer,
    };
    let json = answer.json();
    let words = answer.words(json.as_ref());
    let trouble = |cause| {
        PollVerdict::Trouble(fault(
            cause,
            &answer.status.to_string(),
            words.clone(),
            answer.retry_after,
        ))
    };
    match (answer.status, &json) {
        (200..300, Some(json @ Value::Object(_))) => judge_task(json, &answer),
        (401..=403, _) => trouble(Cause::KeyRefused),
        (429, _) => trouble(Cause::RateLimited),
        // Only words about the task count: a proxy's page or a missing route says nothing of it.
        (400 | 404 | 410, Some(json)) if is_not_found(json) => {
            PollVerdict::NotFound { message: words }
        }
        _ => trouble(Cause::Unclear),
    }
}

fn is_not_found(json: &Value) -> bool {
    let said = said(json).unwrap_or_default().to_lowercase();
    let words = format!("{} {said}", code_words(json)).replace(['_', '-'], " ");
    [
        "not exist",
        "not found",
        "notfound",
        "no longer exists",
        "no such task",
        "no such video",
        "不存在",
    ]
    .iter()
    .any(|word| words.contains(word))
}

fn judge_task(json: &Value, answer: &Answer) -> PollVerdict {
    let reason = || {
        answer
            .said(json)
            .unwrap_or_else(|| "no reason given".to_owned())
    };
    let layers = layers(json);
    let status = layers
        .iter()
        .filter_map(|layer| layer.get("status").and_then(Value::as_str))
        .map(|word| word.trim().to_lowercase().replace(['-', ' '], "_"))
        .find(|word| !word.is_empty())
        .unwrap_or_default();
    match status.as_str() {
        "completed" | "complete" | "succeeded" | "succeed" | "success" | "finished" | "done" => {
            PollVerdict::Completed { urls: urls(json) }
        }
        "failed" | "fail" | "failure" | "error" | "cancelled" | "canceled" | "rejected" => {
            PollVerdict::Failed { message: reason() }
        }
        "expired" => PollVerdict::Expired { message: reason() },
        _ => PollVerdict::Running {
            progress: layers
                .iter()
                .find_map(|layer| progress(layer.get("progress")?)),
        },
    }
}
