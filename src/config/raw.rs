//! Raw settings: each key's value as it was written, and where that was. A key
//! is known here by its name alone; the typed readers below judge its value.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytesize::ByteSize;
use config::{FileFormat, Format, ValueKind};
use humantime::format_duration;
use strsim::osa_distance;
use url::Url;

use super::secret::SecretSource;
use super::{API_KEY_VARIABLE, CONFIG_VARIABLE, EXAMPLE, LOG_VARIABLE};
use crate::money::Money;
use crate::naming::Template;

/// The key that a secret is most likely put under by mistake.
const API_KEY: &str = "provider.api_key";

/// Floats from here on are too coarse to hold millionths.
const COARSE: f64 = 1e9;

/// The layers so far, the later over the earlier, and every fault found.
pub(super) struct Raw {
    entries: BTreeMap<String, Entry>,
    pub(super) faults: Vec<String>,
}

struct Entry {
    value: Value,
    place: String,
    from_env: bool,
}

/// A value with the type that its writer gave it.
enum Value {
    /// A string in a file.
    Text(String),
    /// A variable: it has no type of its own and may stand for any.
    Word(String),
    Whole(i64),
    Decimal(f64),
    Truth(bool),
    Other(&'static str),
}

impl From<ValueKind> for Value {
    fn from(kind: ValueKind) -> Value {
        match kind {
            ValueKind::String(text) => Value::Text(text),
            ValueKind::I64(number) => Value::Whole(number),
            ValueKind::Float(number) => Value::Decimal(number),
            ValueKind::Boolean(truth) => Value::Truth(truth),
            ValueKind::Table(_) => Value::Other("a table"),
            _ => Value::Other("a list"),
        }
    }
}

impl Value {
    fn text(&self) -> Option<&str> {
        match self {
            Value::Text(text) | Value::Word(text) => Some(text),
            _ => None,
        }
    }
}

/// As a fault shows it: on one line, and not more than a glance of it.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) | Value::Word(text) => {
                let glance: String = text.chars().take(60).collect();
                let more = if glance.len() < text.len() { "..." } else { "" };
                write!(f, "{glance:?}{more}")
            }
            Value::Whole(number) => write!(f, "{number}"),
            Value::Decimal(number) => write!(f, "{number:?}"),
            Value::Truth(truth) => write!(f, "{truth}"),
            Value::Other(kind) => f.write_str(kind),
        }
    }
}

impl Raw {
    /// The lowest layer. The documented defaults are the defaults, and the
    /// documented keys are the keys, because both are read from one text.
    pub(super) fn defaults() -> Raw {
        let mut raw = Raw {
            entries: BTreeMap::new(),
            faults: Vec::new(),
        };
        match parse(EXAMPLE) {
            Ok(leaves) => {
                for (key, kind) in leaves {
                    raw.set(format!("config.toml.example: {key}"), key, kind.into());
                }
            }
            Err(why) => raw.faults.push(format!("config.toml.example: {why}")),
        }
        raw
    }

    /// Lays the text of a file over what is there; a syntax error is returned.
    pub(super) fn layer_file(&mut self, path: &Path, text: &str) -> Result<(), String> {
        let path = path.display();
        let leaves = parse(text).map_err(|why| format!("{path}: {why}"))?;
        for (key, kind) in leaves {
            let place = format!("{path}: {key}");
            let is_table = matches!(kind, ValueKind::Table(_));
            if self.entries.contains_key(&key) {
                self.set(place, key, kind.into());
            } else if self.is_section(&key) {
                if !is_table {
                    let found = Value::from(kind);
                    self.fault(
                        &place,
                        format_args!("found {found}, allowed is a table: [{key}]"),
                    );
                }
            } else if key == API_KEY {
                self.fault(
                    &place,
                    format_args!(
                        "a key does not belong in this file; put it into a file of its own and name \
                         that in `provider.api_key_file`, or set {API_KEY_VARIABLE}"
                    ),
                );
            } else {
                let known: Vec<&str> = self.entries.keys().map(String::as_str).collect();
                let hint = match nearest(&key, &known) {
                    Some(meant) => format!("did you mean `{meant}`?"),
                    None => beside(&key, &known, |name, is_section| match is_section {
                        true => format!("[{name}]"),
                        false => last(name).to_owned(),
                    }),
                };
                self.fault(&place, format_args!("unknown setting; {hint}"));
            }
        }
        Ok(())
    }

    /// Lays the `REELQ_*` variables over what is there.
    pub(super) fn layer_env(&mut self, env: &BTreeMap<String, String>) {
        let keys: HashMap<String, String> = self
            .entries
            .keys()
            .map(|key| (variable(key), key.clone()))
            .collect();
        for (name, text) in env {
            if [CONFIG_VARIABLE, LOG_VARIABLE, API_KEY_VARIABLE].contains(&name.as_str()) {
                continue;
            }
            let Some(rest) = name.strip_prefix("REELQ_") else {
                continue;
            };
            if let Some(key) = keys.get(name) {
                let entry = Entry {
                    value: Value::Word(text.clone()),
                    place: name.clone(),
                    from_env: true,
                };
                self.entries.insert(key.clone(), entry);
            } else {
                let dotted = rest.to_lowercase().replace("__", ".");
                let mut known: Vec<&str> = self.entries.keys().map(String::as_str).collect();
                known.push(API_KEY);
                let hint = match nearest(&dotted, &known) {
                    Some(meant) => format!("did you mean {}?", variable(meant)),
                    None => {
                        // $REELQ_CONFIG and $REELQ_LOG, which are no settings.
                        known.extend(["config", "log"]);
                        beside(&dotted, &known, |name, is_section| match is_section {
                            true => format!("{}__*", variable(name)),
                            false => variable(name),
                        })
                    }
                };
                self.fault(name, format_args!("unknown variable; {hint}"));
            }
        }
    }

    fn set(&mut self, place: String, key: String, value: Value) {
        let entry = Entry {
            value,
            place,
            from_env: false,
        };
        self.entries.insert(key, entry);
    }

    fn is_section(&self, name: &str) -> bool {
        self.entries
            .keys()
            .filter_map(|key| key.strip_prefix(name))
            .any(|rest| rest.starts_with('.'))
    }

    fn fault(&mut self, place: &str, problem: impl fmt::Display) {
        self.faults.push(format!("{place}: {problem}"));
    }

    /// A fault of this key's value that only shows beside other values.
    pub(super) fn fault_at(&mut self, key: &str, problem: impl fmt::Display) {
        let place = self.place(key);
        self.fault(&place, problem);
    }

    /// Where this key's value was written.
    fn place(&self, key: &str) -> String {
        self.entries
            .get(key)
            .map_or_else(|| key.to_owned(), |entry| entry.place.clone())
    }

    /// Whether this key's value comes from the environment.
    pub(super) fn is_from_env(&self, key: &str) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.from_env)
    }

    /// The value of `key`. A value that `judge` does not take becomes a fault,
    /// and an empty one stands in so that the remaining keys are judged, too.
    fn read<T: Default>(
        &mut self,
        key: &str,
        allowed: impl fmt::Display,
        judge: impl FnOnce(&Value) -> Option<T>,
    ) -> T {
        let found = match self.entries.get(key) {
            Some(entry) => match judge(&entry.value) {
                Some(value) => return value,
                None => entry.value.to_string(),
            },
            None => "nothing".to_owned(),
        };
        self.fault_at(key, format_args!("found {found}, allowed is {allowed}"));
        T::default()
    }

    /// A whole number within `range`.
    pub(super) fn whole<T: TryFrom<u64> + Default>(
        &mut self,
        key: &str,
        range: RangeInclusive<u64>,
    ) -> T {
        let (low, high) = (range.start(), range.end());
        let allowed = if *high >= i64::MAX as u64 {
            format!("a whole number from {low} on")
        } else {
            format!("a whole number from {low} to {high}")
        };
        self.read(key, allowed, |value| {
            let number: u64 = match value {
                Value::Whole(number) => (*number).try_into().ok()?,
                Value::Word(text) => text.parse().ok()?,
                _ => return None,
            };
            range.contains(&number).then(|| T::try_from(number).ok())?
        })
    }

    /// `true` or `false`.
    pub(super) fn truth(&mut self, key: &str) -> bool {
        self.read(key, "true or false", |value| match value {
            Value::Truth(truth) => Some(*truth),
            Value::Word(text) => text.parse().ok(),
            _ => None,
        })
    }

    /// A duration with its unit, within `range`.
    pub(super) fn duration(&mut self, key: &str, range: RangeInclusive<Duration>) -> Duration {
        let allowed = format!(
            "a duration from {} to {}, with its unit",
            format_duration(*range.start()),
            format_duration(*range.end())
        );
        self.read(key, allowed, |value| {
            let text = value.text()?;
            // The only number that humantime takes without a unit.
            let duration = (text != "0").then(|| humantime::parse_duration(text).ok())??;
            range.contains(&duration).then_some(duration)
        })
    }

    /// A number of bytes, at least `low`.
    pub(super) fn bytes(&mut self, key: &str, low: u64) -> u64 {
        let allowed = format!("a size from {low} bytes on, such as \"2GiB\" or 2147483648");
        self.read(key, allowed, |value| {
            let bytes = match value {
                Value::Whole(number) => (*number).try_into().ok()?,
                value => value.text()?.parse::<ByteSize>().ok()?.as_u64(),
            };
            (low..=i64::MAX as u64).contains(&bytes).then_some(bytes)
        })
    }

    /// An exact amount of money.
    pub(super) fn amount(&mut self, key: &str) -> Money {
        let allowed = "an amount from 0 with at most six decimals, such as 0.60 \
                       (a billion and more as a whole number or in quotes)";
        self.read(key, allowed, |value| match value {
            Value::Text(text) | Value::Word(text) => text.parse().ok(),
            Value::Whole(number) => number.to_string().parse().ok(),
            // The shortest decimal that reads back as this float is what was
            // written, as long as floats lie closer than millionths.
            Value::Decimal(number) if *number < COARSE => number.to_string().parse().ok(),
            _ => None,
        })
    }

    /// A text of 1 to 200 bytes, without control characters.
    pub(super) fn line(&mut self, key: &str) -> String {
        let allowed = "a text of 1 to 200 bytes without control characters";
        self.read(key, allowed, |value| {
            let text = value.text()?;
            let good = (1..=200).contains(&text.len()) && !text.contains(char::is_control);
            good.then(|| text.to_owned())
        })
    }

    /// The template of a file's name; `None` stands for a faulty one.
    pub(super) fn template(&mut self, key: &str) -> Option<Template> {
        let allowed = "a file name template such as \"{batch}/{id}.mp4\"";
        let text = self.text(key, allowed, |text| {
            let good = !text.is_empty() && !text.contains(char::is_control);
            good.then(|| text.to_owned())
        })?;
        Template::parse(&text)
            .map_err(|why| self.fault_at(key, format_args!("found {why}; allowed is {allowed}")))
            .ok()
    }

    /// One of several words.
    pub(super) fn choice<T: Copy + Default>(&mut self, key: &str, words: &[(&str, T)]) -> T {
        let all: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
        self.read(key, all.join(" or "), |value| {
            let text = value.text()?;
            let (_, choice) = words.iter().find(|(word, _)| *word == text)?;
            Some(*choice)
        })
    }

    /// A path, made absolute.
    pub(super) fn path(&mut self, key: &str, folder: &Path) -> PathBuf {
        let allowed = "a path; not empty, and \"~\" is not expanded";
        self.read(key, allowed, |value| path(folder, value.text()?))
    }

    /// What `judge` makes of a text; `None` stands for a faulty one.
    pub(super) fn text<T>(
        &mut self,
        key: &str,
        allowed: &str,
        judge: impl FnOnce(&str) -> Option<T>,
    ) -> Option<T> {
        self.read(key, allowed, |value| judge(value.text()?).map(Some))
    }

    /// The file that holds a secret.
    pub(super) fn secret_file(&mut self, key: &str, folder: &Path) -> SecretSource {
        let place = self.place(key);
        let allowed = "a path, or \"\" for none; \"~\" is not expanded";
        self.text(key, allowed, |text| match text {
            "" => Some(SecretSource::none()),
            text => path(folder, text).map(|path| SecretSource::file(place, folder, text, path)),
        })
        .unwrap_or_else(SecretSource::none)
    }

    /// Whether this key's value is the empty text.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        let value = self.entries.get(key).map(|entry| &entry.value);
        value.and_then(Value::text) == Some("")
    }

    /// An http(s) URL; `None` stands for a faulty one. The fault does not repeat
    /// it, because URLs carry passwords and tokens.
    pub(super) fn url(&mut self, key: &str, query: bool) -> Option<Url> {
        let text = self.text(key, "a URL in quotes", |text| Some(text.to_owned()))?;
        let rule = if query { "" } else { ", query" };
        url(&text, query)
            .map_err(|why| {
                self.fault_at(
                    key,
                    format_args!(
                        "found {why}, allowed is an http:// or https:// URL such as \
                         \"https://example.com\", without user name{rule} or fragment"
                    ),
                );
            })
            .ok()
    }
}

/// The keys of a TOML text by their dotted names, or what is wrong on which line.
fn parse(text: &str) -> Result<Vec<(String, ValueKind)>, String> {
    let table = FileFormat::Toml
        .parse(None, text)
        .map_err(|error| located(text, &error.to_string()))?;
    let mut leaves = Vec::new();
    flatten("", table, &mut leaves);
    leaves.sort_by(|(a, _), (b, _)| a.cmp(b));
    Ok(leaves)
}

/// A syntax error on one line. Its own middle lines quote the file, and with it
/// perhaps a secret.
fn located(text: &str, error: &str) -> String {
    let what = error.lines().next_back().unwrap_or("this is not TOML");
    let place = error
        .lines()
        .next()
        .and_then(|first| first.strip_prefix("TOML parse error at "));
    if let Some(place) = place {
        let line = place
            .strip_prefix("line ")
            .and_then(|rest| rest.split(',').next());
        let key = line.and_then(|line| key_at(text, line.parse().ok()?));
        return format!("{place}: {}{what}", named(key));
    }
    // A number beyond 64 bits comes without its line: it is the last of the
    // fewest lines that fail in the same way.
    let ends = text.split_inclusive('\n').scan(0, |end, line| {
        *end += line.len();
        Some(*end)
    });
    let line = ends.enumerate().find_map(|(above, end)| {
        let again = FileFormat::Toml.parse(None, &text[..end]).err()?;
        (again.to_string() == error).then_some(above + 1)
    });
    line.map_or_else(
        || what.to_owned(),
        |line| format!("line {line}: {}{what}", named(key_at(text, line))),
    )
}

fn named(key: Option<String>) -> String {
    key.map_or_else(String::new, |key| format!("{key}: "))
}

/// The dotted name of the key that a line sets, counted from 1. What stands after `=` is not
/// looked at: it may be a secret.
fn key_at(text: &str, line: usize) -> Option<String> {
    let bare = |name: &str| {
        let name = name.trim().replace('"', "");
        let fits = |c: char| c.is_ascii_alphanumeric() || "_-.".contains(c);
        (!name.is_empty() && name.chars().all(fits)).then_some(name)
    };
    let (name, _) = text.lines().nth(line.checked_sub(1)?)?.split_once('=')?;
    let section = text.lines().take(line).filter_map(|line| {
        let inner = line.trim().strip_prefix('[')?.split(']').next()?;
        bare(inner)
    });
    let name = bare(name)?;
    Some(match section.last() {
        Some(section) => format!("{section}.{name}"),
        None => name,
    })
}

/// An empty table counts as a value, so that no name in the file goes unseen.
fn flatten(
    section: &str,
    table: HashMap<String, config::Value>,
    leaves: &mut Vec<(String, ValueKind)>,
) {
    for (name, value) in table {
        let bare = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
        let name = if !name.is_empty() && name.chars().all(bare) {
            name
        } else {
            format!("{name:?}")
        };
        let key = if section.is_empty() {
            name
        } else {
            format!("{section}.{name}")
        };
        match value.kind {
            ValueKind::Table(inner) if !inner.is_empty() => flatten(&key, inner, leaves),
            kind => leaves.push((key, kind)),
        }
    }
}

/// The environment variable of a key.
fn variable(key: &str) -> String {
    format!("REELQ_{}", key.to_uppercase().replace('.', "__"))
}

/// `text` seen from `folder`.
pub(super) fn path(folder: &Path, text: &str) -> Option<PathBuf> {
    let good = !text.is_empty() && !text.contains('\0') && text != "~" && !text.starts_with("~/");
    // By its components, because that drops the `.` and the doubled slashes.
    good.then(|| folder.join(text).components().collect())
}

fn url(text: &str, query: bool) -> Result<Url, String> {
    // The parser would quietly drop them.
    if text.contains(|c: char| c.is_whitespace() || c.is_control()) {
        return Err("a blank or a control character".to_owned());
    }
    let url = Url::parse(text).map_err(|why| format!("no URL ({why})"))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err("another scheme than http".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("a user name or a password".to_owned());
    }
    if url.query().is_some() && !query {
        return Err("a query".to_owned());
    }
    if url.fragment().is_some() {
        return Err("a fragment".to_owned());
    }
    Ok(url)
}

/// The known key that was probably meant: a slip of the pen, a part of the
/// name, or a right name in a wrong section.
fn nearest<'a>(unknown: &str, known: &[&'a str]) -> Option<&'a str> {
    let unknown = unknown.to_lowercase();
    let wrong = last(&unknown);
    known
        .iter()
        .map(|&key| {
            let whole = osa_distance(&unknown, key);
            let name = last(key);
            let mut slips = osa_distance(wrong, name).min(whole);
            if wrong.len() >= 3 && name.contains(wrong) {
                slips = 0;
            }
            (slips, whole, key)
        })
        .min()
        .filter(|(slips, ..)| *slips <= (wrong.len() / 3).max(2))
        .map(|(.., key)| key)
}

/// The name of a key within its section.
fn last(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or_default()
}

/// The names that are allowed where an unknown one was found: those of the
/// innermost section around it that there is.
fn beside(unknown: &str, known: &[&str], shown: impl Fn(&str, bool) -> String) -> String {
    let within = |section: &str, key: &str| -> bool {
        section.is_empty()
            || key
                .strip_prefix(section)
                .is_some_and(|rest| rest.starts_with('.'))
    };
    let mut section = unknown;
    loop {
        section = section.rsplit_once('.').map_or("", |(outer, _)| outer);
        if known.iter().any(|key| within(section, key)) {
            break;
        }
    }
    let start = if section.is_empty() {
        0
    } else {
        section.len() + 1
    };
    // Names before the sections that lie further in.
    let names: BTreeSet<(bool, &str)> = known
        .iter()
        .filter(|key| within(section, key))
        .map(|key| match key[start..].find('.') {
            Some(length) => (true, &key[..start + length]),
            None => (false, *key),
        })
        .collect();
    let names: Vec<String> = names
        .into_iter()
        .map(|(is_section, name)| shown(name, is_section))
        .collect();
    let place = match section {
        "" => "allowed are".to_owned(),
        section => format!("allowed in {}:", shown(section, true)),
    };
    format!("{place} {}", names.join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_key_is_what_was_meant() {
        let raw = Raw::defaults();
        for (unknown, meant) in [
            ("submit.max_inflight", Some("submit.max_in_flight")),
            ("max_in_flight", Some("submit.max_in_flight")),
            ("sumbit.max_in_flight", Some("submit.max_in_flight")),
            ("submit_max_in_flight", Some("submit.max_in_flight")),
            ("poll.request_timout", Some("poll.request_timeout")),
            ("submit.request_timout", Some("submit.request_timeout")),
            ("http.token", Some("http.token_file")),
            ("webhook.secret", Some("webhook.secret_file")),
            ("Database", Some("database")),
            ("provider.url", Some("provider.base_url")),
            ("entirely.something_else", None),
        ] {
            let known: Vec<&str> = raw.entries.keys().map(String::as_str).collect();
            assert_eq!(nearest(unknown, &known), meant, "{unknown}");
        }
    }
}
