//! The parameters of a video, by the provider's names or OpenAI's, to a job.
//!
//! It is paid work, so nothing is guessed: what reelq does not know, and what
//! the provider forbids, is refused by name.

use serde_json::Value;
use serde_json::value::RawValue;

use super::error::ApiError;
use crate::intake::{Defaults, FIELDS, spec_from_json};
use crate::job::{DURATIONS, JobSpec, Size};

/// Names that a program written for OpenAI's own models sends. The job is made
/// by the configured model, and its answers say so.
pub(super) const OPENAI_MODELS: [&str; 5] = [
    "sora-2",
    "sora-2-pro",
    "sora-2-2025-10-06",
    "sora-2-pro-2025-10-06",
    "sora-2-2025-12-08",
];

const ONE_IMAGE: &str = "the provider's model takes exactly one input image: pass image_url";
const NO_VIDEO: &str =
    "the provider's model takes no video input: pass the URL of an image as image_url";
const NO_EDIT: &str =
    "the provider's model makes a video from one image; it neither edits nor extends";

/// What the provider forbids, and why.
const FORBIDDEN: [(&str, &str); 13] = [
    ("images", ONE_IMAGE),
    ("image_urls", ONE_IMAGE),
    ("reference_images", ONE_IMAGE),
    ("reference_image_urls", ONE_IMAGE),
    ("input_references", ONE_IMAGE),
    ("video", NO_VIDEO),
    ("video_url", NO_VIDEO),
    ("videos", NO_VIDEO),
    ("video_urls", NO_VIDEO),
    (
        "aspect_ratio",
        "landscape or portrait follows the input image: leave it out",
    ),
    ("operation", NO_EDIT),
    (
        "extra_body",
        "SDKs put its members beside the others: do that too",
    ),
    ("n", "a job is one video: send one request for each"),
];

/// One parameter as it was sent.
pub(super) struct Given {
    pub name: String,
    pub value: Value,
    /// Its text in JSON, kept where it is to be handed through untouched.
    pub source: Option<String>,
    /// From a form: every value is a text and stands for its type.
    pub loose: bool,
}

/// The parameters under the names of the table, and what is wrong with them.
#[derive(Default)]
struct Draft {
    /// Column, the name that the client used, the value's JSON text.
    columns: Vec<(&'static str, String, String)>,
    faults: Vec<(String, &'static str, String)>,
}

impl Draft {
    fn fault(&mut self, name: &str, code: &'static str, message: String) {
        self.faults.push((name.to_owned(), code, message));
    }

    fn invalid(&mut self, name: &str, rule: &str) {
        self.fault(name, "invalid_value", format!("{name} {rule}"));
    }

    /// Several names stand for one column. Programs that send two of them to be sure are
    /// served if they agree; the image is given once, as the provider demands.
    fn set(&mut self, column: &'static str, name: &str, json: String) {
        match self.columns.iter().find(|(there, ..)| *there == column) {
            None => self.columns.push((column, name.to_owned(), json)),
            Some((_, _, same)) if *same == json && column != "image_url" => {}
            Some((_, other, _)) => {
                let rule = format!("and {other} mean the same: send one of them");
                self.invalid(name, &rule);
            }
        }
    }

    fn take(&mut self, given: &Given, model: &str) {
        let name = given.name.as_str();
        if given.value.is_null() && !given.loose && is_known(name) {
            return;
        }
        match name {
            // The header says the same.
            "key" if self.columns.iter().any(|(there, ..)| *there == "key") => {}
            "prompt" | "batch" | "key" => self.set(column(name), name, given.json()),
            "image_url" | "image" => self.image(name, &given.value),
            "input_reference" => self.reference(given),
            "duration" | "seconds" => self.seconds(given),
            "size" | "resolution" => self.size(name, &given.value),
            "priority" => self.priority(given),
            "not_before" => self.set("not_before", name, given.json()),
            "metadata" => self.metadata(given),
            "model" => match given.value.as_str() {
                Some(text) if text == model || OPENAI_MODELS.contains(&text) => {}
                _ => self.invalid(
                    name,
                    &format!("must be {model:?}, the model that is configured"),
                ),
            },
            _ => self.other(given),
        }
    }

    fn image(&mut self, name: &str, value: &Value) {
        if value.as_str().is_some_and(|text| text.starts_with("data:")) {
            return self.invalid(
                name,
                "is a data: URL, but the provider fetches the image itself: put the image where the \
                 provider can reach it and pass that http(s) URL",
            );
        }
        self.set("image_url", name, value.to_string());
    }

    fn reference(&mut self, given: &Given) {
        let parsed = match given.object_text().map(serde_json::from_str) {
            None => None,
            Some(Ok(value)) => Some(value),
            Some(Err(error)) => return self.not_an_object(&given.name, &error),
        };
        let value: &Value = parsed.as_ref().unwrap_or(&given.value);
        let Some(object) = value.as_object() else {
            return self.image("input_reference", value);
        };
        for name in object.keys().filter(|name| *name != "image_url") {
            let rule = match name.as_str() {
                "file_id" => "names an uploaded file, which reelq does not keep: pass image_url",
                _ => "is not known: pass image_url",
            };
            let name = format!("input_reference.{name}");
            self.fault(&name, "unknown_parameter", format!("{name} {rule}"));
        }
        match object.get("image_url") {
            Some(url) => self.image("input_reference.image_url", url),
            None if object.is_empty() => {
                self.invalid("input_reference", "must be a URL or {\"image_url\": URL}");
            }
            None => {}
        }
    }

    /// OpenAI's `seconds` is a text, the provider's `duration` a number.
    fn seconds(&mut self, given: &Given) {
        let json = match &given.value {
            Value::String(text) => match DURATIONS.clone().find(|n| n.to_string() == *text) {
                Some(seconds) => seconds.to_string(),
                None => {
                    let (low, high) = (DURATIONS.start(), DURATIONS.end());
                    let rule = format!(
                        "must be a whole number of seconds from {low} to {high}, found {}",
                        glance(text)
                    );
                    return self.invalid(&given.name, &rule);
                }
            },
            // 6.0 and 6e0 are whole numbers too.
            Value::Number(number) => match number.as_f64() {
                Some(n) if n.fract() == 0.0 && n.abs() < 1e6 => (n as i64).to_string(),
                _ => number.to_string(),
            },
            other => other.to_string(),
        };
        self.set("duration", &given.name, json);
    }

    fn size(&mut self, name: &str, value: &Value) {
        if let Some(size) = value.as_str().and_then(size_of) {
            return self.set("size", name, Value::from(size.as_str()).to_string());
        }
        let found = value.as_str().map_or_else(|| value.to_string(), glance);
        let short = value.as_str().and_then(shorter_side);
        let why = short.map_or_else(String::new, |short| {
            format!(": the provider makes no video of {short} lines")
        });
        let rule = format!(
            "must be 480p, 720p or 1080p, or WIDTHxHEIGHT with a shorter side of 480, 720 or 1080, \
             found {found}{why}"
        );
        self.invalid(name, &rule);
    }

    fn priority(&mut self, given: &Given) {
        let json = match &given.value {
            Value::String(text) if given.loose => match text.parse::<i64>() {
                Ok(number) if number.to_string() == *text => text.clone(),
                _ => {
                    let rule = format!("must be a whole number of 64 bits, found {}", glance(text));
                    return self.invalid(&given.name, &rule);
                }
            },
            _ => given.json(),
        };
        self.set("priority", &given.name, json);
    }

    fn metadata(&mut self, given: &Given) {
        let json = match given.object_text() {
            None => given.json(),
            Some(text) => match serde_json::from_str::<&RawValue>(text) {
                Ok(_) => text.to_owned(),
                Err(error) => return self.not_an_object(&given.name, &error),
            },
        };
        self.set("metadata", &given.name, json);
    }

    fn not_an_object(&mut self, name: &str, error: &serde_json::Error) {
        self.invalid(name, &format!("must be a JSON object: {error}"));
    }

    fn other(&mut self, given: &Given) {
        let name = given.name.as_str();
        if name == "extra_body" && given.value.get("operation").is_some() {
            let name = "extra_body.operation";
            return self.fault(name, "unsupported_parameter", format!("{name}: {NO_EDIT}"));
        }
        match FORBIDDEN.iter().find(|(forbidden, _)| *forbidden == name) {
            Some((_, why)) => {
                self.fault(name, "unsupported_parameter", format!("{name}: {why}"));
            }
            // The intake knows what may have been meant.
            None => self.columns.push(("", name.to_owned(), "null".to_owned())),
        }
    }

    /// The job, by the same rules as in every other way in.
    fn finish(mut self) -> Result<JobSpec, ApiError> {
        let mut text = String::from("{");
        for (index, (column, name, json)) in self.columns.iter().enumerate() {
            let field = if column.is_empty() {
                name.as_str()
            } else {
                column
            };
            if index > 0 {
                text.push(',');
            }
            text.push_str(&Value::from(field).to_string());
            text.push(':');
            text.push_str(json);
        }
        text.push('}');
        let spec = match spec_from_json(text.as_bytes(), &Defaults::default()) {
            Ok(spec) if self.faults.is_empty() => return Ok(spec),
            Ok(_) => Vec::new(),
            Err(faults) => faults,
        };
        for fault in spec {
            let column = fault.field.as_ref();
            let name = self
                .columns
                .iter()
                .find(|(there, ..)| !there.is_empty() && *there == column)
                .map_or(column, |(_, name, _)| name.as_str())
                .to_owned();
            let excused = match column {
                "image_url" => self.faults.iter().any(|(name, ..)| {
                    name.starts_with("image") || name.starts_with("input_reference")
                }),
                _ => false,
            };
            let is_missing = fault.reason == "is missing";
            if is_missing && excused {
                continue;
            }
            let code = match () {
                () if is_missing => "missing_required_parameter",
                () if FIELDS.contains(&column) => "invalid_value",
                () => "unknown_parameter",
            };
            let message = format!("{name} {}", fault.reason);
            self.faults.push((name, code, message));
        }
        let message: Vec<&str> = self
            .faults
            .iter()
            .map(|(_, _, text)| text.as_str())
            .collect();
        let message = message.join("; ");
        match self.faults.into_iter().next() {
            Some((name, code, _)) => Err(ApiError::param(name, code, message)),
            None => Err(ApiError::bad("invalid_value", message)),
        }
    }
}

impl Given {
    /// In a form an object is written as its text, or taken apart into names.
    fn object_text(&self) -> Option<&str> {
        let text = self.value.as_str().filter(|_| self.loose)?;
        text.trim_start().starts_with('{').then_some(text)
    }

    fn json(&self) -> String {
        self.source
            .clone()
            .unwrap_or_else(|| self.value.to_string())
    }
}

/// The job that is asked for. `key`: the request's `Idempotency-Key`.
pub(super) fn judge(
    given: Vec<Given>,
    key: Option<String>,
    model: &str,
) -> Result<JobSpec, ApiError> {
    let mut draft = Draft::default();
    if let Some(key) = key {
        let named = given.iter().find(|given| given.name == "key");
        if named.is_some_and(|named| !named.value.is_null() && named.value != key.as_str()) {
            let message = "Idempotency-Key and key say two different things: send one of them";
            let error = ApiError::conflict("two_keys", message);
            return Err(error.of("key"));
        }
        let json = Value::from(key).to_string();
        draft
            .columns
            .push(("key", "Idempotency-Key".to_owned(), json));
    }
    for given in &given {
        draft.take(given, model);
    }
    draft.finish()
}

fn column(name: &str) -> &'static str {
    FIELDS
        .into_iter()
        .find(|field| *field == name)
        .unwrap_or("")
}

fn is_known(name: &str) -> bool {
    FIELDS.contains(&name)
        || ["image", "input_reference", "seconds", "resolution", "model"].contains(&name)
}

/// `720p`, or two sides of which the shorter one counts.
fn size_of(text: &str) -> Option<Size> {
    if let Ok(size) = text.to_ascii_lowercase().parse() {
        return Some(size);
    }
    let short = shorter_side(text)?;
    Size::ALL.into_iter().find(|size| size.lines() == short)
}

/// 720 of `1280x720`.
fn shorter_side(text: &str) -> Option<u32> {
    let (width, height) = text.split_once(['x', 'X'])?;
    let side = |text: &str| {
        let side: u32 = text.parse().ok()?;
        (side <= 9_999 && side.to_string() == text).then_some(side)
    };
    Some(side(width)?.min(side(height)?))
}

/// At most the beginning of what was found.
fn glance(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_height_or_two_sides_of_which_the_shorter_counts() {
        for (text, size) in [
            ("480p", Some(Size::P480)),
            ("720p", Some(Size::P720)),
            ("720P", Some(Size::P720)),
            ("1280x720", Some(Size::P720)),
            ("1280X720", Some(Size::P720)),
            ("720x1280", Some(Size::P720)),
            ("720x720", Some(Size::P720)),
            ("1920x1080", Some(Size::P1080)),
            ("854x480", Some(Size::P480)),
            ("1024x1792", None),
            ("1792x1024", None),
            ("4k", None),
            ("720", None),
            ("0720x1280", None),
            ("+720x1280", None),
            ("720x99999", None),
            ("720x", None),
            ("x720", None),
            ("1280xx720", None),
            ("", None),
        ] {
            assert_eq!(size_of(text), size, "{text:?}");
        }
    }
}
