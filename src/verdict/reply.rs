//! What came back from a request, and what of it may be kept and shown.

use serde_json::Value;

use super::fields::said;
use crate::gate::{Cause, Fault};
use crate::job::{Evidence, Millis};

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
    pub(super) fn json(&self) -> Option<Value> {
        if self.broken.is_some() {
            return None;
        }
        parse(&self.body)
    }

    pub(super) fn shown(&self) -> &[u8] {
        self.shown.as_deref().unwrap_or(&self.body)
    }

    /// What the body says is wrong, in words that may be kept.
    pub(super) fn said(&self, json: &Value) -> Option<String> {
        match &self.shown {
            Some(shown) => parse(shown).as_ref().and_then(said),
            None => said(json),
        }
    }

    pub(super) fn evidence(&self, error: Option<String>) -> Evidence {
        let shown = self.shown();
        let kept = &shown[..shown.len().min(EVIDENCE_BYTES)];
        Evidence {
            http_status: Some(self.status),
            request_id: self.request_id.clone(),
            answer: (!kept.is_empty()).then(|| readable(kept)),
            error,
        }
    }

    /// `HTTP 503: the provider's words`.
    pub(super) fn words(&self, json: Option<&Value>) -> String {
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

/// As text; what is none keeps its bytes, escaped, for they may hold an id.
fn readable(kept: &[u8]) -> String {
    match std::str::from_utf8(kept) {
        Ok(text) => text.to_owned(),
        // Cut in the middle of a character.
        Err(error) if error.error_len().is_none() => String::from_utf8_lossy(kept).into_owned(),
        Err(_) => kept.escape_ascii().to_string(),
    }
}

/// JSON, with or without the mark that some servers put first.
pub fn parse(body: &[u8]) -> Option<Value> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(text).ok()
}

pub(super) fn fault(
    cause: Cause,
    symptom: &str,
    message: String,
    retry_after: Option<Millis>,
) -> Fault {
    Fault {
        cause,
        symptom: symptom.to_owned(),
        message,
        retry_after,
    }
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
