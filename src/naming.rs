//! Where a video goes: the path template of `download.name`.
//!
//! Pure. A template is judged once, when the configuration is read; rendering
//! cannot fail. Whatever a producer puts into a key or a batch, a value never
//! makes a new path component and never leaves the folder: what is not safe as
//! a part of a file name on Linux, macOS and Windows becomes `_`.
//!
//! Names that end in `.part` or `.json` are reserved: beside `1.mp4` stand
//! `1.mp4.part` (the unfinished video), `1.mp4.part.json` (how to go on with
//! it) and, if wanted, `1.mp4.json` (the sidecar).

use std::fmt;

use crate::job::JobId;

/// The longest template, in bytes.
pub const MAX_TEMPLATE: usize = 512;

/// The most folders and files in a template.
pub const MAX_COMPONENTS: usize = 10;

/// The longest component of a rendered path, in bytes. File systems take 255;
/// the rest is for the suffix of a collision and for `.part.json.part`.
pub const MAX_COMPONENT: usize = 200;

/// Letters and digits after the last dot are an extension up to this length.
const MAX_EXTENSION: usize = 16;

/// Endings that belong to the files beside a video.
const RESERVED_ENDINGS: [&str; 2] = [".part", ".json"];

/// What a template can name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    Batch,
    Id,
    Key,
    TaskId,
    Date,
}

impl Slot {
    const ALL: [Slot; 5] = [Slot::Batch, Slot::Id, Slot::Key, Slot::TaskId, Slot::Date];

    const fn name(self) -> &'static str {
        match self {
            Slot::Batch => "batch",
            Slot::Id => "id",
            Slot::Key => "key",
            Slot::TaskId => "task_id",
            Slot::Date => "date",
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Slot(Slot),
}

/// The values of one job.
#[derive(Clone, Copy, Debug)]
pub struct Fields<'a> {
    /// Its batch.
    pub batch: &'a str,
    /// Its number.
    pub id: JobId,
    /// Its key; the number stands in where there is none.
    pub key: Option<&'a str>,
    /// The provider's id of its task.
    pub task_id: &'a str,
    /// The day of its submission in the configured time zone, `YYYY-MM-DD`.
    pub date: &'a str,
}

/// A checked path template.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    text: String,
    components: Vec<Vec<Piece>>,
}

impl Template {
    /// Reads a template such as `{batch}/{id}.mp4`. `{{` and `}}` stand for a
    /// brace.
    ///
    /// # Errors
    ///
    /// What is wrong and what is allowed, for the person who wrote it.
    pub fn parse(text: &str) -> Result<Template, String> {
        let fault = |what: &str| Err(format!("{text:?} is not a file name template: {what}"));
        if text.is_empty() {
            return fault("it is empty; use for example \"{batch}/{id}.mp4\"");
        }
        if text.len() > MAX_TEMPLATE {
            return fault(&format!("it is longer than {MAX_TEMPLATE} bytes"));
        }
        if text.starts_with('/') {
            return fault("it must be relative; download.dir says in which folder");
        }
        if text.starts_with("~/") {
            return fault("`~` is not expanded; it must be relative to download.dir");
        }
        let components = match pieces(text) {
            Ok(components) => components,
            Err(what) => return fault(&what),
        };
        if components.len() > MAX_COMPONENTS {
            return fault(&format!("it has more than {MAX_COMPONENTS} components"));
        }
        let last = components.len() - 1;
        for (nth, component) in components.iter().enumerate() {
            if let Err(what) = check(component) {
                let what = match nth == last && component.is_empty() {
                    true => "it must end in a file name, not in `/`".to_owned(),
                    false => what,
                };
                return fault(&what);
            }
        }
        Ok(Template {
            text: text.to_owned(),
            components,
        })
    }

    /// The path of one job's video, relative to the download folder, with `/`
    /// between the components. Each is at most [`MAX_COMPONENT`] bytes, is
    /// never `.` or `..`, and does not end in a reserved ending.
    pub fn render(&self, fields: &Fields<'_>) -> String {
        let components: Vec<String> = self
            .components
            .iter()
            .map(|pieces| {
                finish(pieces.iter().fold(String::new(), |mut out, piece| {
                    match piece {
                        Piece::Text(text) => out.push_str(text),
                        Piece::Slot(slot) => out.push_str(&value(*slot, fields)),
                    }
                    out
                }))
            })
            .collect();
        components.join("/")
    }
}

impl fmt::Display for Template {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.text)
    }
}

/// The path to try in the `n`th place where `path` is taken: itself for 0, then
/// `-{id}` and `-{id}-2`, `-{id}-3`, … before the extension.
pub fn with_suffix(path: &str, id: JobId, n: u32) -> String {
    let suffix = match n {
        0 => return path.to_owned(),
        1 => format!("-{id}"),
        _ => format!("-{id}-{n}"),
    };
    let name = path.rfind('/').map_or(0, |slash| slash + 1);
    let (stem, extension) = split_extension(&path[name..]);
    format!("{}{stem}{suffix}{extension}", &path[..name])
}

/// Splits at `/` and into text and slots.
fn pieces(text: &str) -> Result<Vec<Vec<Piece>>, String> {
    let mut components = vec![Vec::new()];
    let mut literal = String::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        let piece = match c {
            '{' | '}' if chars.peek() == Some(&c) => {
                chars.next();
                literal.push(c);
                continue;
            }
            '}' => return Err("`}` without `{`; write `}}` for a brace".to_owned()),
            '{' => {
                let name: String = std::iter::from_fn(|| chars.next_if(|c| *c != '}')).collect();
                if chars.next().is_none() {
                    return Err("`{` is not closed; write `{{` for a brace".to_owned());
                }
                Some(slot(&name)?)
            }
            '/' => None,
            _ => {
                literal.push(c);
                continue;
            }
        };
        // There is always one: it starts with one and only grows.
        if let Some(last) = components.last_mut() {
            if !literal.is_empty() {
                last.push(Piece::Text(std::mem::take(&mut literal)));
            }
            match piece {
                Some(slot) => last.push(Piece::Slot(slot)),
                None => components.push(Vec::new()),
            }
        }
    }
    if let Some(last) = components.last_mut()
        && !literal.is_empty()
    {
        last.push(Piece::Text(literal));
    }
    Ok(components)
}

fn slot(name: &str) -> Result<Slot, String> {
    Slot::ALL
        .into_iter()
        .find(|slot| slot.name() == name)
        .ok_or_else(|| {
            let all: Vec<_> = Slot::ALL
                .iter()
                .map(|s| format!("{{{}}}", s.name()))
                .collect();
            format!("{{{name}}} is not known; allowed are {}", all.join(" "))
        })
}

/// A component must come out as it was written, whatever the values are.
fn check(component: &[Piece]) -> Result<(), String> {
    if component.is_empty() {
        return Err("it has an empty component (`//`)".to_owned());
    }
    let mut sample = String::new();
    for piece in component {
        match piece {
            Piece::Text(text) => {
                if let Some(c) = text.chars().find(|c| is_unsafe(*c)) {
                    return Err(format!(
                        "{c:?} is not allowed, nor are control characters and any of \\ < > : \" | ? *"
                    ));
                }
                sample.push_str(text);
            }
            Piece::Slot(_) => sample.push('x'),
        }
    }
    if matches!(sample.as_str(), "." | "..") {
        return Err(format!("`{sample}` would leave the folder or name it"));
    }
    if sample.len() > MAX_COMPONENT {
        return Err(format!("a component is longer than {MAX_COMPONENT} bytes"));
    }
    if sample.ends_with(['.', ' ']) {
        return Err("a component must not end in a dot or a space".to_owned());
    }
    if let Some(ending) = reserved_ending(&sample) {
        return Err(format!(
            "{ending} is reserved for the files that stand beside a video"
        ));
    }
    if is_device(&sample) {
        return Err(format!("`{sample}` is the name of a device on Windows"));
    }
    Ok(())
}

fn value(slot: Slot, fields: &Fields<'_>) -> String {
    match slot {
        Slot::Batch => clean(fields.batch),
        Slot::Id => fields.id.to_string(),
        Slot::Key => fields.key.map_or_else(|| fields.id.to_string(), clean),
        Slot::TaskId => clean(fields.task_id),
        Slot::Date => clean(fields.date),
    }
}

/// Separators, what Windows forbids, and what a terminal does not show as it
/// is: control characters, line separators and marks that turn the text around.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '/' | '\\' | '<' | '>' | ':' | '"' | '|' | '?' | '*')
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// A value as a part of a component: never empty, nothing unsafe, no dot at the
/// start, no dot or space at the end.
fn clean(value: &str) -> String {
    if value.is_empty() {
        return "_".to_owned();
    }
    let start = value.len() - value.trim_start_matches('.').len();
    let end = value.trim_end_matches(['.', ' ']).len();
    value
        .char_indices()
        .map(|(at, c)| match at < start || at >= end || is_unsafe(c) {
            true => '_',
            false => c,
        })
        .collect()
}

/// What cannot be judged value by value.
fn finish(mut component: String) -> String {
    if is_device(&component) {
        component.insert(0, '_');
    }
    if component.len() > MAX_COMPONENT {
        // The extension says what the file is, so the stem gives way.
        let (stem, extension) = split_extension(&component);
        let most = MAX_COMPONENT - extension.len();
        let cut = (0..=most).rev().find(|at| stem.is_char_boundary(*at));
        component = format!("{}{extension}", &stem[..cut.unwrap_or(0)]);
    }
    let end = component.trim_end_matches(['.', ' ']).len();
    let trailing = component.len() - end;
    component.truncate(end);
    component.extend(std::iter::repeat_n('_', trailing));
    if let Some(ending) = reserved_ending(&component) {
        let dot = component.len() - ending.len();
        component.replace_range(dot..=dot, "_");
    }
    component
}

fn reserved_ending(component: &str) -> Option<&'static str> {
    RESERVED_ENDINGS.into_iter().find(|ending| {
        component
            .len()
            .checked_sub(ending.len())
            .and_then(|at| component.get(at..))
            .is_some_and(|end| end.eq_ignore_ascii_case(ending))
    })
}

/// The name of a file and its extension with the dot, empty if there is none.
fn split_extension(name: &str) -> (&str, &str) {
    match name.rsplit_once('.') {
        Some((stem, extension))
            if !stem.is_empty()
                && (1..=MAX_EXTENSION).contains(&extension.len())
                && extension.bytes().all(|b| b.is_ascii_alphanumeric()) =>
        {
            name.split_at(stem.len())
        }
        _ => (name, ""),
    }
}

/// Windows opens the device whatever the extension is.
fn is_device(component: &str) -> bool {
    let base = component.split('.').next().unwrap_or_default();
    let base = base.trim_end_matches(' ').to_ascii_uppercase();
    if matches!(
        base.as_str(),
        "CON" | "PRN" | "AUX" | "NUL" | "CONIN$" | "CONOUT$"
    ) {
        return true;
    }
    let number = base.strip_prefix("COM").or(base.strip_prefix("LPT"));
    number.is_some_and(|n| {
        let mut chars = n.chars();
        matches!(chars.next(), Some('1'..='9' | '¹' | '²' | '³')) && chars.next().is_none()
    })
}

#[cfg(test)]
mod tests {
    use std::path::{Component, Path};

    use proptest::prelude::*;

    use super::*;

    fn render(template: &str, batch: &str, key: Option<&str>) -> String {
        let fields = Fields {
            batch,
            id: 7,
            key,
            task_id: "task_9",
            date: "2026-11-22",
        };
        Template::parse(template).unwrap().render(&fields)
    }

    #[test]
    fn templates_render() {
        for (template, expected) in [
            ("{batch}/{id}.mp4", "b/7.mp4"),
            ("{key}.mp4", "k.mp4"),
            ("{date}/{batch}-{task_id}.mp4", "2026-11-22/b-task_9.mp4"),
            ("video", "video"),
            (".hidden/{id}.mp4", ".hidden/7.mp4"),
            ("..{id}/x", "..7/x"),
            ("{{{id}}}.mp4", "{7}.mp4"),
            ("{id}{id}.mp4", "77.mp4"),
            ("ä ö/{id}.mp4", "ä ö/7.mp4"),
        ] {
            assert_eq!(render(template, "b", Some("k")), expected, "{template}");
        }
        assert_eq!(render("{key}.mp4", "b", None), "7.mp4");
    }

    #[test]
    fn templates_are_refused_with_the_reason() {
        let long = "x".repeat(MAX_TEMPLATE + 1);
        for (template, reason) in [
            ("", "it is empty"),
            (&long[..], "longer than 512 bytes"),
            (&long[..201], "longer than 200 bytes"),
            ("/videos/{id}.mp4", "must be relative"),
            ("~/{id}.mp4", "`~` is not expanded"),
            (
                "{name}.mp4",
                "{name} is not known; allowed are {batch} {id} {key} {task_id} {date}",
            ),
            ("{}.mp4", "{} is not known"),
            ("{Id}.mp4", "{Id} is not known"),
            ("{id.mp4", "`{` is not closed"),
            ("id}.mp4", "`}` without `{`"),
            ("{batch}//{id}.mp4", "empty component"),
            ("{batch}/", "must end in a file name"),
            ("../{id}.mp4", "`..`"),
            ("a/../{id}.mp4", "`..`"),
            ("./{id}.mp4", "`.`"),
            ("a/..", "`..`"),
            (r"a\{id}.mp4", r"'\\' is not allowed"),
            ("a\0{id}.mp4", r"'\0' is not allowed"),
            ("a\n{id}.mp4", r"'\n' is not allowed"),
            ("c:{id}.mp4", "':' is not allowed"),
            ("{id}.", "must not end in a dot"),
            ("{batch} /{id}.mp4", "must not end in a dot"),
            ("{id}.mp4.part", ".part is reserved"),
            ("{id}.PART.JSON", ".json is reserved"),
            ("aux/{id}.mp4", "device on Windows"),
            ("a/b/c/d/e/f/g/h/i/j/{id}.mp4", "more than 10 components"),
        ] {
            let fault = Template::parse(template).unwrap_err();
            assert!(fault.contains(reason), "{template:?}: {fault}");
        }
    }

    #[test]
    fn values_stay_in_their_component() {
        for (value, expected) in [
            ("../../etc/passwd", "___.._etc_passwd".to_owned()),
            ("..", "__".to_owned()),
            (".", "_".to_owned()),
            ("...", "___".to_owned()),
            ("", "_".to_owned()),
            (" ", "_".to_owned()),
            (".env", "_env".to_owned()),
            ("a.", "a_".to_owned()),
            ("a. .", "a___".to_owned()),
            ("a/b", "a_b".to_owned()),
            (r"a\b", "a_b".to_owned()),
            ("a\0b\nc\u{7f}\u{85}", "a_b_c__".to_owned()),
            (r#"<>:"|?*"#, "_______".to_owned()),
            ("\u{202e}4pm.exe", "_4pm.exe".to_owned()),
            ("{id}", "{id}".to_owned()),
            ("日本語", "日本語".to_owned()),
            ("clip.part", "clip_part".to_owned()),
            ("clip.Part.Json", "clip.Part_Json".to_owned()),
            ("CON", "_CON".to_owned()),
            ("nul.txt", "_nul.txt".to_owned()),
            ("com1", "_com1".to_owned()),
            ("LPT³.x", "_LPT³.x".to_owned()),
            ("com10", "com10".to_owned()),
            ("console", "console".to_owned()),
        ] {
            assert_eq!(render("{key}", "b", Some(value)), expected, "{value:?}");
            assert_eq!(render("{batch}/x", value, None), format!("{expected}/x"));
        }
        assert_eq!(render("{key}.mp4", "b", Some("aux")), "_aux.mp4");
        assert_eq!(render("{key}.mp4", "b", Some("a.json")), "a.json.mp4");
    }

    #[test]
    fn long_components_are_cut_before_the_extension() {
        let name = render(
            "{batch}-{key}.mp4",
            "b",
            Some(&format!("{}x", "é".repeat(99))),
        );
        // The cut falls into a character.
        assert_eq!(name, format!("b-{}.mp4", "é".repeat(97)));
        let name = render("{key}", "b", Some(&"日".repeat(66)));
        assert_eq!(name.len(), 198);
        let name = render("{key}{key}", "b", Some(&"日".repeat(66)));
        assert_eq!(name.len(), 198);
        // A cut must not uncover what was refused before.
        let name = render(
            "{key}{key}",
            "b",
            Some(&format!("{}.part", "x".repeat(195))),
        );
        assert!(name.ends_with("x_part"));
        let name = render("{key}{key}", "b", Some(&format!("{}. x", "x".repeat(198))));
        assert_eq!(&name[198..], "__");
    }

    #[test]
    fn suffixes_go_before_the_extension() {
        for (path, n, expected) in [
            ("b/clip.mp4", 0, "b/clip.mp4"),
            ("b/clip.mp4", 1, "b/clip-7.mp4"),
            ("b/clip.mp4", 2, "b/clip-7-2.mp4"),
            ("b.c/clip", 1, "b.c/clip-7"),
            ("b/.clip", 1, "b/.clip-7"),
            ("a.tar.gz", 3, "a.tar-7-3.gz"),
        ] {
            assert_eq!(with_suffix(path, 7, n), expected);
        }
    }

    fn texts() -> impl Strategy<Value = String> {
        let nasty = prop::sample::select(vec![
            "/", "\\", ".", "..", "../", " ", "\0", "\n", "con", ".part", ".json", "é", "日", "{",
            "x",
        ]);
        let mixed = prop::collection::vec(nasty, 0..40).prop_map(|parts| parts.concat());
        prop_oneof![mixed, ".{0,300}", any::<String>()]
    }

    proptest! {
        #[test]
        fn a_rendered_path_stays_in_the_folder(
            template in prop::sample::select(vec![
                "{batch}/{id}.mp4", "{batch}/{key}", "{key}{task_id}/.{key}/{batch}.mp4", "..{key}", "{date}",
            ]),
            batch in texts(), key in prop::option::of(texts()), task_id in texts(), date in texts(),
            id in any::<i64>(), n in 0_u32..3,
        ) {
            let template = Template::parse(template).unwrap();
            let fields = Fields { batch: &batch, id, key: key.as_deref(), task_id: &task_id, date: &date };
            let path = template.render(&fields);
            prop_assert_eq!(&path, &template.render(&fields));
            for component in path.split('/') {
                prop_assert!(!component.is_empty() && component.len() <= MAX_COMPONENT);
                prop_assert!(!component.chars().any(is_unsafe));
                prop_assert!(!component.ends_with(['.', ' ']));
                prop_assert!(reserved_ending(component).is_none() && !is_device(component));
            }
            let path = with_suffix(&path, id, n);
            prop_assert!(reserved_ending(&path).is_none());
            let full = Path::new("/videos").join(&path);
            prop_assert!(full.starts_with("/videos"));
            prop_assert_eq!(full.components().count(), 2 + template.components.len());
            prop_assert!(full.components().skip(1).all(|c| matches!(c, Component::Normal(_))));
            prop_assert!(full.file_name().unwrap().len() <= 240);
        }

        /// Whatever is accepted as a template keeps the same promise.
        #[test]
        fn an_accepted_template_stays_in_the_folder(text in texts(), key in texts()) {
            let text = text.replace('x', "{key}");
            if let Ok(template) = Template::parse(&text) {
                let fields = Fields { batch: "b", id: 1, key: Some(&key), task_id: "t", date: "d" };
                let path = Path::new("/videos").join(template.render(&fields));
                prop_assert!(path.components().skip(1).all(|c| matches!(c, Component::Normal(_))));
                prop_assert_eq!(path.components().count(), 2 + template.components.len());
            }
        }
    }
}
