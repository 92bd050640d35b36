//! Jobs as JSON: one object, one a line, or an array of them.

use std::io::{self, BufRead};

use serde::de::{DeserializeSeed, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::fields::{Draft, Field, clip, complaint};
use super::input::{
    Input, Line, MARK, MAX_ENTRY, TOO_LONG, UTF16, count_lines, is_utf16, without_mark,
};
use super::{Defaults, Found, LineFault};
use crate::job::{FieldFault, JobSpec};

/// Reads one job from the text of one JSON object, with nothing but white
/// space around it. Names and types are judged strictly: an unknown or a
/// repeated name is refused, `null` is as good as nothing said. `metadata`
/// keeps its source text to the byte.
///
/// # Errors
/// All faults of the text, at least one. A fault of no single field, such as a
/// text that is not JSON, has an empty `field`.
pub fn spec_from_json(bytes: &[u8], defaults: &Defaults) -> Result<JobSpec, Vec<FieldFault>> {
    let whole = |reason: String| Err(vec![FieldFault::new("", reason)]);
    let text = match std::str::from_utf8(bytes) {
        Ok(text) => text.trim_matches([' ', '\t', '\r', '\n']),
        Err(error) => return whole(not_utf8(bytes, &error)),
    };
    if !text.starts_with('{') {
        return whole(format!(
            "a JSON object such as {{\"prompt\": …, \"image_url\": …}} is needed, found {}",
            if text.is_empty() {
                "nothing".to_owned()
            } else {
                clip(text)
            }
        ));
    }
    let mut draft = Draft::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let outcome = Object(&mut draft)
        .deserialize(&mut json)
        .and_then(|()| json.end());
    if let Err(error) = outcome {
        // What comes behind is unknown, so nothing can be missing.
        draft.excuse(Field::Prompt);
        draft.excuse(Field::ImageUrl);
        draft.fault("", syntax(text, &error));
    }
    draft.finish(defaults)
}

/// Hands every member of an object to a draft.
struct Object<'d>(&'d mut Draft);

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<(), D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some(name) = map.next_key_seed(Name)? {
            let value: &RawValue = map.next_value()?;
            match name {
                Ok(field) => self.0.set_json(field, value.get()),
                Err(name) => self.0.unknown(&name),
            }
        }
        Ok(())
    }
}

/// A member's name; only an unknown one is copied.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Result<Field, String>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_str(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Result<Field, String>;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a name")
    }

    fn visit_str<E: serde::de::Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Field::named(name).ok_or_else(|| name.to_owned()))
    }
}

fn not_utf8(bytes: &[u8], error: &std::str::Utf8Error) -> String {
    let good = error.valid_up_to();
    let before = String::from_utf8_lossy(&bytes[..good]);
    format!(
        "not UTF-8: byte 0x{:02X} after {}",
        bytes.get(good).copied().unwrap_or_default(),
        clip(tail(&before, 20)),
    )
}

/// At most the last so many characters.
fn tail(text: &str, letters: usize) -> &str {
    match text.char_indices().nth_back(letters.saturating_sub(1)) {
        Some((start, _)) => &text[start..],
        None => text,
    }
}

/// A parser's complaint with the place shown instead of counted: columns of an
/// element are not columns of its file.
fn syntax(text: &str, error: &serde_json::Error) -> String {
    let what = complaint(error);
    let start: usize = text
        .split_inclusive('\n')
        .take(error.line().saturating_sub(1))
        .map(str::len)
        .sum();
    let end = start.saturating_add(error.column()).min(text.len());
    // The column counts bytes, so the text may be cut inside of a letter.
    let before = String::from_utf8_lossy(&text.as_bytes()[..end]);
    let place = tail(before.trim_ascii_end(), 30);
    let further = match error.line() {
        0 | 1 => String::new(),
        line => format!(" {} lines further", line - 1),
    };
    format!("not valid JSON: {what}{further} near {}", clip(place))
}

/// One object a line.
pub(super) struct Lines<R> {
    input: Input<R>,
    pub(super) buffer: Vec<u8>,
    /// Something but blank lines was read.
    begun: bool,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Lines<R> {
        Lines {
            input: Input::new(input),
            buffer: Vec::new(),
            begun: false,
        }
    }

    pub(super) fn line(&self) -> u64 {
        self.input.line()
    }

    pub(super) fn next(&mut self, defaults: &Defaults) -> io::Result<Found> {
        loop {
            let line = self.input.line();
            match self.input.read_line(&mut self.buffer)? {
                Line::End => return Ok(Found::End),
                Line::TooLong => return Ok(Found::Bad(LineFault::whole(line, TOO_LONG))),
                Line::Whole => {}
            }
            let mut text = &self.buffer[..];
            if line == 1 {
                if is_utf16(text) {
                    return Ok(Found::Last(LineFault::whole(line, UTF16)));
                }
                text = without_mark(text);
            }
            let text = text.trim_ascii();
            if text.is_empty() {
                continue;
            }
            if !self.begun && text.starts_with(b"[") {
                return Ok(Found::Last(LineFault::whole(
                    line,
                    "an object a line is needed, found an array: name it .json to have it read as one",
                )));
            }
            self.begun = true;
            return Ok(Found::judged(line, None, spec_from_json(text, defaults)));
        }
    }
}

/// The elements of one array, cut out one by one.
pub(super) struct Array<R> {
    input: Input<R>,
    pub(super) buffer: Vec<u8>,
    /// The brackets that the present element has open, as what closes them.
    pub(super) open: Vec<u8>,
    place: Place,
    /// The number of the last element that began.
    element: u64,
}

/// Where in the array the next byte is.
#[derive(Clone, Copy)]
enum Place {
    /// Before `[`.
    Outside,
    /// Behind `[`.
    First,
    /// Where an element must begin.
    Element,
    /// Behind an element.
    Separator,
    /// Behind `]`.
    Closed,
}

/// How cutting out an element ended.
enum Cut {
    /// It is in the buffer.
    Whole,
    /// It was skipped.
    TooLong,
    /// Nothing can be read behind this.
    Broken(LineFault),
}

impl<R: BufRead> Array<R> {
    pub(super) fn new(input: R) -> Array<R> {
        Array {
            input: Input::new(input),
            buffer: Vec::new(),
            open: Vec::new(),
            place: Place::Outside,
            element: 0,
        }
    }

    pub(super) fn line(&self) -> u64 {
        self.input.line()
    }

    pub(super) fn next(&mut self, defaults: &Defaults) -> io::Result<Found> {
        if matches!(self.place, Place::Outside) {
            for (index, &byte) in MARK.iter().enumerate() {
                if self.input.peek()? != Some(byte) {
                    if index > 0 {
                        let fault = LineFault::whole(1, "half a byte-order mark is no JSON");
                        return Ok(Found::Last(fault));
                    }
                    break;
                }
                self.input.take(1, 0);
            }
        }
        loop {
            let next = self.input.peek_past_blanks()?;
            let line = self.input.line();
            let last = |reason: &str| Ok(Found::Last(LineFault::whole(line, reason)));
            match (self.place, next) {
                (Place::Outside, Some(b'[')) => {
                    self.input.take(1, 0);
                    self.place = Place::First;
                }
                (Place::Outside, None) => {
                    return last("a JSON array is needed, found nothing");
                }
                (Place::Outside, Some(b'{')) => {
                    return last(
                        "a JSON array [{…}, {…}] is needed, found an object: \
                         name a file with one object a line .jsonl",
                    );
                }
                (Place::Outside, Some(0xFF | 0xFE)) => return last(UTF16),
                (Place::Outside, Some(byte)) => {
                    return last(&format!(
                        "a JSON array [{{…}}, {{…}}] is needed, found {}",
                        shown(byte)
                    ));
                }
                (Place::Closed, None) => return Ok(Found::End),
                (Place::Closed, Some(byte)) => {
                    return last(&format!(
                        "nothing may follow the array, found {}",
                        shown(byte)
                    ));
                }
                (_, None) => return last("the array is not closed: ] is missing at the end"),
                (Place::First | Place::Separator, Some(b']')) => {
                    self.input.take(1, 0);
                    self.place = Place::Closed;
                }
                (Place::Separator, Some(b',')) => {
                    self.input.take(1, 0);
                    self.place = Place::Element;
                }
                (_, Some(byte @ (b'}' | b':'))) => {
                    let behind = match self.element {
                        0 => String::new(),
                        element => format!(" behind job {element}"),
                    };
                    return last(&format!(
                        "not valid JSON: {} has no place here{behind}, nothing is read behind it",
                        shown(byte)
                    ));
                }
                (Place::Separator, Some(_)) => {
                    self.place = Place::Element;
                    let reason = "not valid JSON: a comma is missing before this element";
                    let fault = LineFault::whole(line, reason).of(self.element + 1);
                    return Ok(Found::Bad(fault));
                }
                (Place::Element, Some(b']')) => {
                    self.place = Place::Separator;
                    let reason = "not valid JSON: no comma may stand before the closing ]";
                    return Ok(Found::Bad(LineFault::whole(line, reason)));
                }
                (Place::First | Place::Element, Some(b',')) => {
                    self.input.take(1, 0);
                    self.place = Place::Element;
                    self.element += 1;
                    let reason = "not valid JSON: an element is missing before this comma";
                    let fault = LineFault::whole(line, reason).of(self.element);
                    return Ok(Found::Bad(fault));
                }
                (Place::First | Place::Element, Some(first)) => {
                    self.place = Place::Separator;
                    self.element += 1;
                    let element = self.element;
                    return Ok(match self.cut(first)? {
                        Cut::Whole => {
                            let spec = spec_from_json(&self.buffer, defaults);
                            Found::judged(line, Some(element), spec)
                        }
                        Cut::TooLong => Found::Bad(LineFault::whole(line, TOO_LONG).of(element)),
                        Cut::Broken(fault) => Found::Last(fault.of(element)),
                    });
                }
            }
        }
    }

    /// Moves one element, of which this is the first byte, to the buffer. Only
    /// brackets and quotes are looked at, so that the next element is found
    /// behind a faulty one.
    fn cut(&mut self, first: u8) -> io::Result<Cut> {
        let begins = self.input.line();
        self.buffer.clear();
        self.open.clear();
        let is_scalar = !matches!(first, b'{' | b'[' | b'"');
        let mut too_long = false;
        let (mut in_string, mut escaped) = (false, false);
        loop {
            let line = self.input.line();
            let chunk = self.input.chunk()?;
            if chunk.is_empty() {
                // A number or a word may well be the last thing there is.
                if is_scalar {
                    break;
                }
                return Ok(Cut::Broken(LineFault::whole(
                    begins,
                    "not valid JSON: this element is not closed",
                )));
            }
            let mut used = 0;
            let mut complete = false;
            let mut broken = None;
            while let Some(&byte) = chunk.get(used) {
                if escaped {
                    escaped = false;
                } else if in_string {
                    match byte {
                        b'\\' => escaped = true,
                        b'"' => {
                            in_string = false;
                            complete = self.open.is_empty();
                        }
                        _ => {}
                    }
                } else {
                    match byte {
                        b',' | b']' | b'}' | b' ' | b'\t' | b'\r' | b'\n' if is_scalar => {
                            complete = true;
                            break;
                        }
                        _ if is_scalar => {}
                        b'"' => in_string = true,
                        b'{' => self.open.push(b'}'),
                        b'[' => self.open.push(b']'),
                        b'}' | b']' => {
                            if self.open.pop() != Some(byte) {
                                broken = Some(format!("{} closes nothing", shown(byte)));
                                break;
                            }
                            complete = self.open.is_empty();
                        }
                        _ => {}
                    }
                    if self.open.len() > MAX_ENTRY {
                        broken = Some("brackets are nested too deep".to_owned());
                        break;
                    }
                }
                // JSON has no line ends in strings, so this one is not closed
                // and all quotes behind it would be taken the wrong way round.
                if byte == b'\n' && in_string {
                    broken = Some("a text is not closed at the end of its line".to_owned());
                    break;
                }
                used += 1;
                if complete {
                    break;
                }
            }
            let taken = &chunk[..used];
            let lines = count_lines(taken);
            if self.buffer.len() + used > MAX_ENTRY {
                too_long = true;
            }
            if !too_long {
                self.buffer.extend_from_slice(taken);
            }
            self.input.take(used, lines);
            if let Some(what) = broken {
                let place = match line + lines - begins {
                    0 => String::new(),
                    _ => format!(" (line {})", line + lines),
                };
                return Ok(Cut::Broken(LineFault::whole(
                    begins,
                    format!("not valid JSON: {what}{place}, nothing is read behind it"),
                )));
            }
            if complete {
                break;
            }
        }
        Ok(if too_long { Cut::TooLong } else { Cut::Whole })
    }
}

/// A byte for a message.
fn shown(byte: u8) -> String {
    if byte.is_ascii_graphic() {
        char::from(byte).to_string()
    } else {
        format!("byte 0x{byte:02X}")
    }
}
