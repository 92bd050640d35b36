//! The answer of a POST: was it accepted, and charged?

use serde_json::Value;

use super::fields::{code_words, said, task_id};
use super::reply::{Reply, fault};
use crate::gate::{Cause, Fault, NOT_SENT};
use crate::job::Evidence;

/// What a POST's answer means for the money.
#[derive(Clone, Debug)]
pub enum PostVerdict {
    /// Accepted, and charged: here is the task.
    Accepted {
        /// The provider's id.
        task_id: String,
        /// The answer.
        evidence: Evidence,
    },
    /// Refused because of this job; another try would be refused as well.
    RefusedJob {
        /// The answer.
        evidence: Evidence,
    },
    /// Surely not accepted, for no fault of the job: the gate closes.
    NotAccepted {
        /// The answer or the error.
        evidence: Evidence,
        /// What closes the gate.
        fault: Fault,
        /// The provider says that it has too many tasks of ours.
        crowded: bool,
    },
    /// It may have been accepted and charged.
    Unknown {
        /// All that is known.
        evidence: Evidence,
        /// What closes the gate.
        fault: Fault,
    },
}

/// The classes of the POST table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PostClass {
    /// The job is wrong.
    Job,
    /// The account, the key or the provider's capacity: the gate closes.
    Gate(Cause),
    /// Nobody can tell.
    Unknown,
}

/// The status codes of a POST that prove that it was not accepted, each with its
/// reason. Every other status, but for a 2xx with an id, is unknown.
pub const POST_TABLE: &[(u16, PostClass, &str)] = &[
    (400, PostClass::Job, "a parameter is wrong"),
    (
        401,
        PostClass::Gate(Cause::KeyRefused),
        "the key is wrong or revoked",
    ),
    (
        402,
        PostClass::Gate(Cause::AccountRefused),
        "the key's or the account's limit is used up",
    ),
    (
        403,
        PostClass::Gate(Cause::AccountRefused),
        "balance empty, model or address not allowed",
    ),
    (
        404,
        PostClass::Job,
        "the model or the address is not served",
    ),
    (405, PostClass::Job, "the address takes no POST"),
    (413, PostClass::Job, "the request is too large"),
    (415, PostClass::Job, "the encoding is not taken"),
    (422, PostClass::Job, "a parameter is wrong"),
    (
        429,
        PostClass::Gate(Cause::RateLimited),
        "too many requests or tasks",
    ),
];

/// Words in `error.code` or `error.type` that say more than the status does.
const POST_WORDS: &[(&str, PostClass)] = &[
    ("invalid_api_key", PostClass::Gate(Cause::KeyRefused)),
    ("insufficient", PostClass::Gate(Cause::AccountRefused)),
    ("quota", PostClass::Gate(Cause::AccountRefused)),
    ("billing", PostClass::Gate(Cause::AccountRefused)),
    ("moderation", PostClass::Job),
    ("content_policy", PostClass::Job),
    ("content_filter", PostClass::Job),
    ("sensitive", PostClass::Job),
];

/// Judges the answer of a POST. Every reply falls into exactly one class.
pub fn judge_post(reply: Reply) -> PostVerdict {
    let answer = match reply {
        Reply::NotSent(error) => {
            let evidence = Evidence {
                error: Some(error.clone()),
                ..Evidence::default()
            };
            return PostVerdict::NotAccepted {
                evidence,
                fault: fault(Cause::Unreachable, NOT_SENT, error, None),
                crowded: false,
            };
        }
        Reply::Lost { symptom, error } => {
            let evidence = Evidence {
                error: Some(error.clone()),
                ..Evidence::default()
            };
            return PostVerdict::Unknown {
                evidence,
                fault: fault(Cause::Unclear, symptom, error, None),
            };
        }
        Reply::Answer(answer) => answer,
    };
    let json = answer.json();
    if (200..300).contains(&answer.status) {
        if let Some(task_id) = json.as_ref().and_then(task_id) {
            return PostVerdict::Accepted {
                task_id,
                evidence: answer.evidence(None),
            };
        }
        let error = match &answer.broken {
            Some(broken) => format!("HTTP {}, but the answer broke off: {broken}", answer.status),
            None => format!(
                "{}, but no task id could be read",
                answer.words(json.as_ref())
            ),
        };
        return PostVerdict::Unknown {
            fault: fault(Cause::Unclear, "no task id", error.clone(), None),
            evidence: answer.evidence(Some(error)),
        };
    }
    let words = answer.words(json.as_ref());
    let evidence = answer.evidence(Some(words.clone()));
    match classify_post(answer.status, json.as_ref()) {
        PostClass::Job => PostVerdict::RefusedJob { evidence },
        PostClass::Gate(cause) => PostVerdict::NotAccepted {
            evidence,
            crowded: cause == Cause::RateLimited && is_crowded(&words),
            fault: fault(cause, &answer.status.to_string(), words, answer.retry_after),
        },
        PostClass::Unknown => PostVerdict::Unknown {
            evidence,
            fault: fault(
                Cause::Unclear,
                &answer.status.to_string(),
                words,
                answer.retry_after,
            ),
        },
    }
}

fn classify_post(status: u16, json: Option<&Value>) -> PostClass {
    let Some((_, class, _)) = POST_TABLE.iter().find(|(code, ..)| *code == status) else {
        // new-api's own 503 comes before anything is sent upstream.
        let own = json
            .and_then(|json| json.pointer("/error/type"))
            .and_then(Value::as_str)
            == Some("new_api_error");
        return if status == 503 && own {
            PostClass::Gate(Cause::Busy)
        } else {
            PostClass::Unknown
        };
    };
    if status == 429 {
        return *class;
    }
    let code_words = json.map(code_words).unwrap_or_default();
    if let Some((_, class)) = POST_WORDS
        .iter()
        .find(|(word, _)| code_words.contains(word))
    {
        return *class;
    }
    // LiteLLM's words for a key it does not know.
    if json
        .and_then(said)
        .is_some_and(|said| said.contains("No connected db"))
    {
        return PostClass::Gate(Cause::KeyRefused);
    }
    *class
}

fn is_crowded(words: &str) -> bool {
    let words = words.to_lowercase();
    [
        "concurren",
        "parallel",
        "simultaneous",
        "at once",
        "in progress",
        "running tasks",
        "并发",
    ]
    .iter()
    .any(|word| words.contains(word))
}
