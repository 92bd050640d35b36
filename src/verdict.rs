//! What an answer means: for the money, for the task, for the video. Pure.
//!
//! One table a question. What a table does not list is the careful answer:
//! a POST is unknown, a task still runs.

use serde_json::Value;

use crate::gate::{Cause, Fault, NOT_SENT};
use crate::job::{Evidence, Millis, SavedFile, is_task_id};

/// How much of an answer is kept as evidence, in bytes.
pub const EVIDENCE_BYTES: usize = 2_048;

/// What came back from a request.
#[derive(Clone, Debug)]
pub enum Reply {
    /// A status line and what there was of the body.
    Answer(Answer),
    /// No byte of the request left this machine.
    NotSent(String),
    /// It was sent, or partly, and no status line came back.
    Lost {
        /// `timeout` or `broken`.
        symptom: &'static str,
        /// What happened, in words.
        error: String,
    },
}

/// An HTTP answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// The body, whole or up to where it broke off.
    pub body: Vec<u8>,
    /// The body as it may be kept and shown, where it repeats the key.
    pub shown: Option<Vec<u8>>,
    /// Why the body is not whole.
    pub broken: Option<String>,
    /// The pause that `Retry-After` asks for.
    pub retry_after: Option<Millis>,
    /// The request ids in the headers.
    pub request_id: Option<String>,
}

impl Answer {
    fn json(&self) -> Option<Value> {
        if self.broken.is_some() {
            return None;
        }
        parse(&self.body)
    }

    fn shown(&self) -> &[u8] {
        self.shown.as_deref().unwrap_or(&self.body)
    }

    /// What the body says is wrong, in words that may be kept.
    fn said(&self, json: &Value) -> Option<String> {
        match &self.shown {
            Some(shown) => parse(shown).as_ref().and_then(said),
            None => said(json),
        }
    }

    fn evidence(&self, error: Option<String>) -> Evidence {
        let shown = self.shown();
        let kept = &shown[..shown.len().min(EVIDENCE_BYTES)];
        Evidence {
            http_status: Some(self.status),
            request_id: self.request_id.clone(),
            answer: (!kept.is_empty()).then(|| String::from_utf8_lossy(kept).into_owned()),
            error,
        }
    }

    /// `HTTP 503: the provider's words`.
    fn words(&self, json: Option<&Value>) -> String {
        let said = json.and_then(|json| self.said(json)).or_else(|| {
            let text = String::from_utf8_lossy(self.shown());
            let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
            (!line.is_empty()).then_some(line)
        });
        match said {
            Some(said) => format!("HTTP {}: {}", self.status, shorten(&said, 300)),
            None => format!("HTTP {} without a word", self.status),
        }
    }
}

fn parse(body: &[u8]) -> Option<Value> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(text).ok()
}

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

fn fault(cause: Cause, symptom: &str, message: String, retry_after: Option<Millis>) -> Fault {
    Fault {
        cause,
        symptom: symptom.to_owned(),
        message,
        retry_after,
    }
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

/// Whether a free request shows that the provider is there and takes the key.
pub fn judge_probe(reply: Reply) -> Result<(), Fault> {
    match reply {
        Reply::NotSent(error) => Err(fault(Cause::Unreachable, NOT_SENT, error, None)),
        Reply::Lost { symptom, error } => Err(fault(Cause::Unreachable, symptom, error, None)),
        Reply::Answer(answer) => {
            let words = answer.words(answer.json().as_ref());
            let cause = match answer.status {
                401 => Cause::KeyRefused,
                402 => Cause::AccountRefused,
                429 => Cause::RateLimited,
                500.. => Cause::Unreachable,
                // 403 and 404 tell of this address, not of the key: a trial has to.
                _ => return Ok(()),
            };
            Err(fault(
                cause,
                &answer.status.to_string(),
                words,
                answer.retry_after,
            ))
        }
    }
}

/// The object that speaks of the task, innermost first: gateways wrap it in
/// `data`, some in a list of one there.
fn layers(json: &Value) -> Vec<&Value> {
    let mut layers = vec![json];
    while let Some(inner) = layers.last().and_then(|layer| layer.get("data")) {
        let inner = match inner.as_array().map(Vec::as_slice) {
            Some([only]) => only,
            _ => inner,
        };
        if !inner.is_object() || layers.len() >= 3 {
            break;
        }
        layers.push(inner);
    }
    layers.reverse();
    layers
}

/// The id to poll with: the POST's `id`, else `task_id`; a number is the
/// gateway's row, so a text beside it goes first.
fn task_id(json: &Value) -> Option<String> {
    let text = |layer: &Value, name: &str| match layer.get(name) {
        Some(Value::String(id)) => Some(id.trim().to_owned()),
        _ => None,
    };
    let number = |layer: &Value, name: &str| match layer.get(name) {
        Some(Value::Number(id)) => Some(id.to_string()),
        _ => None,
    };
    // A sentence where an id should be says something else.
    let usable = |id: &String| is_task_id(id);
    let mut layers = layers(json);
    layers.reverse();
    let found = layers.iter().find_map(|layer| {
        text(layer, "id")
            .filter(usable)
            .or_else(|| text(layer, "task_id").filter(usable))
            .or_else(|| number(layer, "id"))
            .or_else(|| number(layer, "task_id"))
    });
    let complains = ["/error/message", "/error"].iter().any(|place| {
        let words = json.pointer(place).and_then(Value::as_str);
        words.is_some_and(|words| !words.trim().is_empty())
    });
    // What else may name a task, if it is not the id of a request that failed.
    if found.is_some() || complains || !layers.iter().all(|layer| has_good_code(layer)) {
        return found;
    }
    text(json, "data").filter(usable).or_else(|| {
        layers.iter().find_map(|layer| {
            text(layer, "request_id")
                .filter(usable)
                .or_else(|| text(layer, "video_id").filter(usable))
        })
    })
}

/// `code` says nothing, or that it went well.
fn has_good_code(layer: &Value) -> bool {
    let code = match layer.get("code") {
        None | Some(Value::Null) => return true,
        Some(Value::String(code)) => code.trim().to_lowercase(),
        Some(code) => code.to_string(),
    };
    ["", "0", "200", "20000", "success", "ok"].contains(&code.as_str())
}

fn progress(value: &Value) -> Option<u8> {
    let number = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.trim().trim_end_matches('%').trim().parse().ok()?,
        _ => return None,
    };
    number.is_finite().then(|| number.clamp(0.0, 100.0) as u8)
}

/// Every place where a finished video's URL was seen, best first. Only http(s)
/// and relative ones; anything else is never fetched.
pub fn urls(json: &Value) -> Vec<String> {
    const PLACES: &[&str] = &[
        "/video_url",
        "/result/video_url",
        "/result/outputs",
        "/result/url",
        "/result_url",
        "/url",
        "/video/url",
        "/output/url",
        "/output/video_url",
        "/output",
        "/outputs",
        "/output_url",
        "/metadata/url",
        "/content/video_url",
        "/content/url",
        "/fail_reason",
    ];
    let mut found: Vec<String> = Vec::new();
    let mut take = |value: &Value| {
        if let Some(url) = value.as_str().map(str::trim)
            && is_fetchable(url)
            && !found.iter().any(|known| known == url)
        {
            found.push(url.to_owned());
        }
    };
    for layer in layers(json) {
        for place in PLACES {
            match layer.pointer(place) {
                Some(Value::Array(items)) => {
                    for item in items {
                        take(item);
                        for name in ["url", "video_url"] {
                            item.get(name).into_iter().for_each(&mut take);
                        }
                    }
                }
                Some(value) => take(value),
                None => {}
            }
        }
    }
    found
}

fn is_fetchable(url: &str) -> bool {
    let lower = url.to_ascii_lowercase();
    (lower.starts_with("http://") || lower.starts_with("https://") || lower.starts_with('/'))
        && url.len() <= 8_192
}

/// The provider's own words about what is wrong.
fn said(json: &Value) -> Option<String> {
    const PLACES: &[&str] = &[
        "/error/message",
        "/error",
        "/fail_reason",
        "/error_message",
        "/message",
        "/msg",
        "/detail",
    ];
    let layers = layers(json);
    let message = layers.iter().find_map(|layer| {
        PLACES.iter().find_map(|place| {
            let text = match layer.pointer(place)? {
                Value::String(text) => text.trim().to_owned(),
                value @ Value::Array(_) => value.to_string(),
                _ => return None,
            };
            (!text.is_empty()).then_some(text)
        })
    })?;
    let code = layers.iter().find_map(|layer| {
        let code = layer.pointer("/error/code")?.as_str()?.trim();
        (!code.is_empty() && !message.contains(code)).then(|| code.to_owned())
    });
    Some(shorten(
        &match code {
            Some(code) => format!("{message} ({code})"),
            None => message,
        },
        500,
    ))
}

fn code_words(json: &Value) -> String {
    ["/error/code", "/error/type", "/code", "/type"]
        .iter()
        .filter_map(|place| json.pointer(place)?.as_str())
        .map(str::to_lowercase)
        .collect::<Vec<_>>()
        .join(" ")
}

/// At most so many characters, on one line.
pub fn shorten(text: &str, most: usize) -> String {
    let line: String = text
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .take(most)
        .collect();
    if text.chars().count() > most {
        format!("{line}…")
    } else {
        line
    }
}
