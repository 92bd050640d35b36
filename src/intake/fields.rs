//! The fields of a job: their names, their values, and what is said of them.

use std::borrow::Cow;
use std::collections::HashMap;

use jiff::civil::DateTime;
use jiff::{Timestamp, Zoned};
use serde::de::IgnoredAny;
use strsim::osa_distance;

use super::Defaults;
use crate::job::{
    DEFAULT_BATCH, DEFAULT_DURATION, DURATIONS, FieldFault, JobSpec, MAX_METADATA, MAX_TIME,
    Millis, Size,
};

/// The most faults that are told of one entry; further ones are counted.
pub const MAX_FAULTS: usize = 32;

/// SQLite reads no JSON that is nested deeper.
const MAX_DEPTH: usize = 1_000;

/// The names that an entry may use, in the order of the documentation.
pub const FIELDS: [&str; 9] = [
    "key",
    "batch",
    "prompt",
    "image_url",
    "duration",
    "size",
    "priority",
    "not_before",
    "metadata",
];

/// Names that other services use for the same thing.
const ELSEWHERE: [(&str, Field); 14] = [
    ("image", Field::ImageUrl),
    ("url", Field::ImageUrl),
    ("input_reference", Field::ImageUrl),
    ("resolution", Field::Size),
    ("seconds", Field::Duration),
    ("length", Field::Duration),
    ("text", Field::Prompt),
    ("description", Field::Prompt),
    ("id", Field::Key),
    ("idempotency_key", Field::Key),
    ("group", Field::Batch),
    ("start_at", Field::NotBefore),
    ("scheduled_at", Field::NotBefore),
    ("meta", Field::Metadata),
];

/// A field of [`FIELDS`], in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    Key,
    Batch,
    Prompt,
    ImageUrl,
    Duration,
    Size,
    Priority,
    NotBefore,
    Metadata,
}

impl Field {
    const ALL: [Field; 9] = [
        Field::Key,
        Field::Batch,
        Field::Prompt,
        Field::ImageUrl,
        Field::Duration,
        Field::Size,
        Field::Priority,
        Field::NotBefore,
        Field::Metadata,
    ];

    pub(super) const fn name(self) -> &'static str {
        FIELDS[self as usize]
    }

    pub(super) fn named(name: &str) -> Option<Field> {
        Field::ALL.into_iter().find(|field| field.name() == name)
    }

    const fn bit(self) -> u16 {
        1 << self as u16
    }
}

/// A job while it is read: what was said so far, and what was wrong with it.
#[derive(Default)]
pub(super) struct Draft {
    key: Option<String>,
    batch: Option<String>,
    prompt: Option<String>,
    image_url: Option<String>,
    duration: Option<u32>,
    size: Option<Size>,
    priority: Option<i64>,
    not_before: Option<Millis>,
    metadata: Option<String>,
    /// The fields that occurred.
    given: u16,
    /// The fields of which enough was said.
    judged: u16,
    faults: Vec<FieldFault>,
    /// Faults beyond [`MAX_FAULTS`].
    untold: usize,
}

impl Draft {
    /// Notes a fault under any name, or under none for the whole entry.
    pub(super) fn fault(&mut self, name: impl Into<Cow<'static, str>>, reason: impl Into<String>) {
        if self.faults.len() < MAX_FAULTS {
            self.faults.push(FieldFault::new(name, reason));
        } else {
            self.untold += 1;
        }
    }

    /// Notes a fault of a field; its value is not judged any further.
    pub(super) fn blame(&mut self, field: Field, reason: impl Into<String>) {
        self.excuse(field);
        self.fault(field.name(), reason);
    }

    /// Says nothing (more) of this field.
    pub(super) fn excuse(&mut self, field: Field) {
        self.judged |= field.bit();
    }

    /// Notes a name that is no field's.
    pub(super) fn unknown(&mut self, name: &str) {
        // An empty name would stand for the whole entry.
        let shown = if name.is_empty() {
            "\"\"".to_owned()
        } else {
            clip(name)
        };
        self.fault(shown, unknown(name));
    }

    /// Takes a value from JSON; `raw` is its valid source text.
    pub(super) fn set_json(&mut self, field: Field, raw: &str) {
        if self.given & field.bit() != 0 {
            self.blame(field, "is given twice");
            return;
        }
        self.given |= field.bit();
        if raw == "null" {
            return;
        }
        match field {
            Field::Key | Field::Batch | Field::Prompt | Field::ImageUrl => match string(raw) {
                Some(Ok(text)) => self.set_string(field, text.into_owned()),
                Some(Err(reason)) => self.blame(field, reason),
                None => self.blame(
                    field,
                    format!("must be a text in quotes, found {}", clip(raw)),
                ),
            },
            Field::Duration | Field::Priority => {
                let hint = match string(raw) {
                    Some(Ok(text)) if whole(&text).is_some() => ": write it without quotes",
                    _ => "",
                };
                self.set_number(field, whole(raw), || format!("{}{hint}", clip(raw)));
            }
            Field::Size => match string(raw) {
                Some(Ok(text)) => self.set_size(&text),
                Some(Err(reason)) => self.blame(field, reason),
                None => self.blame(field, size_rule(&clip(raw))),
            },
            Field::NotBefore => match string(raw) {
                Some(Ok(text)) => self.set_time(parse_time(&text)),
                Some(Err(reason)) => self.blame(field, reason),
                None => self.set_time(match whole(raw) {
                    Some(millis) => time_of_millis(millis),
                    None => Err(time_rule(&clip(raw))),
                }),
            },
            Field::Metadata => {
                if raw.starts_with('{') {
                    self.metadata = Some(raw.to_owned());
                } else {
                    let hint = match string(raw) {
                        Some(Ok(text)) if text.trim_start().starts_with('{') => {
                            ": write the object itself, not a text of it"
                        }
                        _ => "",
                    };
                    self.blame(
                        field,
                        format!("must be a JSON object, found {}{hint}", clip(raw)),
                    );
                }
            }
        }
    }

    /// Takes a value from a text without types, such as a cell of a table.
    /// An empty one says nothing.
    pub(super) fn set_text(&mut self, field: Field, text: &str) {
        // Only what is handed on as it is keeps the blanks around it.
        let trimmed = match field {
            Field::Key | Field::Batch | Field::Prompt => text,
            _ => text.trim(),
        };
        if trimmed.is_empty() {
            return;
        }
        match field {
            Field::Key | Field::Batch | Field::Prompt | Field::ImageUrl => {
                self.set_string(field, trimmed.to_owned());
            }
            Field::Duration | Field::Priority => {
                self.set_number(field, whole(trimmed), || quote(trimmed));
            }
            Field::Size => self.set_size(trimmed),
            Field::NotBefore => self.set_time(parse_time(trimmed)),
            Field::Metadata => self.metadata = Some(trimmed.to_owned()),
        }
    }

    fn set_string(&mut self, field: Field, text: String) {
        // SQLite would keep it, and every C program would see half of it.
        if text.contains('\0') {
            self.blame(
                field,
                format!("must not hold a NUL byte, found {}", quote(&text)),
            );
            return;
        }
        match field {
            Field::Key => self.key = Some(text),
            Field::Batch => self.batch = Some(text),
            Field::Prompt => self.prompt = Some(text),
            Field::ImageUrl => self.image_url = Some(text),
            _ => {}
        }
    }

    fn set_number(&mut self, field: Field, value: Option<i64>, found: impl Fn() -> String) {
        if field == Field::Priority {
            match value {
                Some(_) => self.priority = value,
                None => self.blame(
                    field,
                    format!("must be a whole number of 64 bits, found {}", found()),
                ),
            }
            return;
        }
        match value.and_then(|value| u32::try_from(value).ok()) {
            Some(seconds) if DURATIONS.contains(&seconds) => self.duration = Some(seconds),
            _ => self.blame(
                field,
                format!(
                    "must be a whole number of seconds from {} to {}, found {}",
                    DURATIONS.start(),
                    DURATIONS.end(),
                    found()
                ),
            ),
        }
    }

    fn set_size(&mut self, text: &str) {
        match text.parse() {
            Ok(size) => self.size = Some(size),
            Err(_) => self.blame(Field::Size, size_rule(&quote(text))),
        }
    }

    fn set_time(&mut self, time: Result<Millis, String>) {
        match time {
            Ok(time) => self.not_before = Some(time),
            Err(reason) => self.blame(Field::NotBefore, reason),
        }
    }

    /// Puts `"name":"value"` into the metadata for each pair; the metadata's
    /// own text stays as it is. A name that is there already is a fault.
    pub(super) fn add_members(&mut self, added: &[(&str, &str)]) {
        if added.is_empty() {
            return;
        }
        let mut text = self.metadata.take().unwrap_or_else(|| "{}".to_owned());
        let there: HashMap<String, IgnoredAny> = match serde_json::from_str(&text) {
            Ok(there) => there,
            Err(error) => {
                // What is no JSON at all `finish` refuses in its own words.
                if error.is_syntax() && serde_json::from_str::<IgnoredAny>(&text).is_ok() {
                    let what = complaint(&error);
                    let reason = format!("has a name that a column's may equal: {what}");
                    self.blame(Field::Metadata, reason);
                }
                self.metadata = Some(text);
                return;
            }
        };
        text.truncate(text.trim_end().len());
        text.pop();
        let mut comma = !there.is_empty();
        for (name, value) in added {
            if there.contains_key(*name) {
                self.fault(
                    clip(&format!("metadata.{name}")),
                    "is given twice: the metadata column has this name too",
                );
                continue;
            }
            if comma {
                text.push(',');
            }
            comma = true;
            // The Display of a JSON value cannot fail as its serializer may.
            text.push_str(&serde_json::Value::from(*name).to_string());
            text.push(':');
            text.push_str(&serde_json::Value::from(*value).to_string());
        }
        text.push('}');
        self.metadata = Some(text);
    }

    /// The job, or all of its faults.
    pub(super) fn finish(mut self, defaults: &Defaults) -> Result<JobSpec, Vec<FieldFault>> {
        for (field, is_there) in [
            (Field::Prompt, self.prompt.is_some()),
            (Field::ImageUrl, self.image_url.is_some()),
        ] {
            if !is_there && self.judged & field.bit() == 0 {
                self.blame(field, "is missing");
            }
        }
        if self
            .metadata
            .as_deref()
            .is_some_and(|text| depth(text) > MAX_DEPTH)
        {
            let reason = format!("must not be nested deeper than {MAX_DEPTH}");
            self.blame(Field::Metadata, reason);
        }
        let spec = JobSpec {
            key: self.key.take(),
            batch: self
                .batch
                .take()
                .or_else(|| defaults.batch.clone())
                .unwrap_or_else(|| DEFAULT_BATCH.to_owned()),
            prompt: self.prompt.take().unwrap_or_default(),
            image_url: self.image_url.take().unwrap_or_default(),
            duration: self
                .duration
                .or(defaults.duration)
                .unwrap_or(DEFAULT_DURATION),
            size: self.size.or(defaults.size).unwrap_or_default(),
            priority: self.priority.or(defaults.priority).unwrap_or(0),
            not_before: self.not_before.or(defaults.not_before),
            metadata: self.metadata.take(),
        };
        for fault in spec.faults() {
            match Field::named(&fault.field) {
                Some(field) if self.judged & field.bit() != 0 => {}
                Some(field) => {
                    let found = found(&spec, field);
                    self.fault(fault.field, format!("{}, found {found}", fault.reason));
                }
                None => self.fault(fault.field, fault.reason),
            }
        }
        if self.untold > 0 {
            let rest = format!("and {} more faults", self.untold);
            self.faults.push(FieldFault::new("", rest));
        }
        if self.faults.is_empty() {
            Ok(spec)
        } else {
            Err(self.faults)
        }
    }
}

/// The value of a field, for a person who has to find it.
fn found(spec: &JobSpec, field: Field) -> String {
    let text = |text: &str| {
        if text.len() > 150 {
            format!("{} of {} bytes", quote(text), text.len())
        } else {
            quote(text)
        }
    };
    match field {
        Field::Key => text(spec.key.as_deref().unwrap_or_default()),
        Field::Batch => text(&spec.batch),
        Field::Prompt => text(&spec.prompt),
        Field::ImageUrl => text(&spec.image_url),
        Field::Duration => spec.duration.to_string(),
        Field::Size => spec.size.to_string(),
        Field::Priority => spec.priority.to_string(),
        Field::NotBefore => spec.not_before.unwrap_or_default().to_string(),
        Field::Metadata => {
            let text = spec.metadata.as_deref().unwrap_or_default();
            if text.len() > MAX_METADATA {
                return format!("{} of {} bytes", clip(text), text.len());
            }
            let why = match serde_json::from_str::<IgnoredAny>(text) {
                Err(error) if text.starts_with('{') => format!(": {}", complaint(&error)),
                _ => String::new(),
            };
            format!("{}{why}", clip(text))
        }
    }
}

/// What a parser says, without the place: it counts from a value's beginning.
pub(super) fn complaint(error: &serde_json::Error) -> String {
    let full = error.to_string();
    let place = format!(" at line {} column {}", error.line(), error.column());
    full.strip_suffix(&place).unwrap_or(&full).to_owned()
}

/// How deep the brackets of a JSON text are nested.
fn depth(json: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = true,
            b'"' => in_text = !in_text,
            _ if in_text => {}
            b'{' | b'[' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn size_rule(found: &str) -> String {
    format!("must be \"480p\", \"720p\" or \"1080p\", found {found}")
}

/// The string that a JSON text is, `None` if it is something else.
fn string(raw: &str) -> Option<Result<Cow<'_, str>, String>> {
    let inner = raw.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Ok(Cow::Borrowed(inner)));
    }
    Some(match serde_json::from_str::<String>(raw) {
        Ok(text) => Ok(Cow::Owned(text)),
        // All else was judged when the source text was cut out.
        Err(_) => Err(format!(
            "has half of a surrogate pair (\\uD800 to \\uDFFF), found {}",
            clip(raw)
        )),
    })
}

/// A whole number of 64 bits; `6.0` is one, as spreadsheets and data frames
/// write it. No exponents: `1.76723E+12` has lost its last digits.
fn whole(text: &str) -> Option<i64> {
    let (digits, zeros) = text.split_once('.').unwrap_or((text, "0"));
    if zeros.is_empty() || !zeros.bytes().all(|byte| byte == b'0') {
        return None;
    }
    digits.parse().ok()
}

/// Numbers in this range are no milliseconds of our days (they are of 1970 to
/// 1973) but seconds, or a date written as `20260131`.
const SUSPECT: std::ops::Range<Millis> = 10_000_000..100_000_000_000;

fn time_rule(found: &str) -> String {
    format!(
        "must be Unix milliseconds or a time with an offset such as \
         2026-01-31T18:00:00+08:00, found {found}"
    )
}

fn time_of_millis(millis: Millis) -> Result<Millis, String> {
    if SUSPECT.contains(&millis) {
        return Err(time_rule(&format!(
            "{millis}, which is in 1970 to 1973: seconds are not milliseconds"
        )));
    }
    if !(0..=MAX_TIME).contains(&millis) {
        return Err(time_rule(&format!(
            "{millis}, which is not within 1970 to 9999"
        )));
    }
    Ok(millis)
}

/// A point in time as a person or a program writes it: Unix milliseconds, an
/// RFC 3339 time (`2026-01-31T18:00:00+08:00`), or a time in a named zone
/// (`2026-01-31T18:00[Asia/Shanghai]`). Fractions of a millisecond are rounded
/// up, for "not before" must hold.
///
/// # Errors
/// A sentence that begins with "must be" and says what was found: a time
/// without an offset, one outside of 1970 to 9999, or seconds in the place of
/// milliseconds.
pub fn parse_time(text: &str) -> Result<Millis, String> {
    let text = text.trim();
    if let Some(millis) = whole(text) {
        return time_of_millis(millis);
    }
    let rule = |more: &str| time_rule(&format!("{}{more}", quote(text)));
    let time = if text.ends_with(']') {
        match text.parse::<Zoned>() {
            Ok(zoned) => zoned.timestamp(),
            Err(error) => return Err(rule(&format!(": {}", clip(&error.to_string())))),
        }
    } else {
        match text.parse::<Timestamp>() {
            Ok(time) => time,
            Err(_) if text.parse::<DateTime>().is_ok() => {
                return Err(rule(
                    ": a time without an offset could be any zone's, add Z or +08:00",
                ));
            }
            Err(_) => return Err(rule("")),
        }
    };
    let nanos = time.as_nanosecond();
    let up = i128::from(nanos.rem_euclid(1_000_000) != 0);
    Millis::try_from(nanos.div_euclid(1_000_000) + up)
        .ok()
        .filter(|millis| (0..=MAX_TIME).contains(millis))
        .ok_or_else(|| rule(", which is not within 1970 to 9999"))
}

/// The most characters of what was found that a message repeats.
const SHOWN: usize = 60;

/// A text's beginning with nothing in it that could disturb a terminal.
pub(super) fn clip(text: &str) -> String {
    let mut shown = String::new();
    for (index, letter) in text.chars().enumerate() {
        if index == SHOWN {
            shown.push('…');
            break;
        }
        match letter {
            '"' | '\'' | '\\' => shown.push(letter),
            _ => shown.extend(letter.escape_debug()),
        }
    }
    shown
}

/// A text's beginning in quotes.
pub(super) fn quote(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{:?}…", &text[..end]),
        None => format!("{text:?}"),
    }
}

/// Why a name is refused, with the known one that may have been meant.
pub(super) fn unknown(name: &str) -> String {
    match meant(name) {
        Some(field) => format!("is not a field of a job: did you mean {}?", field.name()),
        None => format!("is not a field of a job, which are: {}", FIELDS.join(", ")),
    }
}

/// The field that an unknown name may stand for.
pub(super) fn meant(name: &str) -> Option<Field> {
    // Longer than any known name with any number of slips in it.
    if name.len() > 64 {
        return None;
    }
    let name = name.trim().to_lowercase();
    if let Some((_, field)) = ELSEWHERE.iter().find(|(other, _)| *other == name) {
        return Some(*field);
    }
    if name.starts_with("metadata") {
        return Some(Field::Metadata);
    }
    Field::ALL
        .into_iter()
        .map(|field| (osa_distance(&name, field.name()), field))
        .filter(|(slips, field)| *slips <= 1 + field.name().len() / 5)
        .min_by_key(|(slips, _)| *slips)
        .map(|(_, field)| field)
}
