//! What is asked for, and the rules that it has to keep.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::Millis;

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

/// The last millisecond of the year 9999.
pub const MAX_TIME: Millis = 253_402_300_799_999;

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
