//! The house rules, as tests. They look at the text of `src/`; what a rule means
//! stands in ARCHITECTURE.md.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// A source file: its room, and its text without the tests that stand in it.
struct Source {
    name: String,
    /// `step` for `step.rs`, `store` for `store/due.rs`.
    room: String,
    whole: String,
    code: String,
}

impl Source {
    fn read(root: &Path, path: &Path) -> Source {
        let name = path
            .strip_prefix(root)
            .unwrap()
            .to_string_lossy()
            .into_owned();
        let room = name
            .split('/')
            .next()
            .unwrap()
            .trim_end_matches(".rs")
            .to_owned();
        let whole = std::fs::read_to_string(path).unwrap();
        let code = without_tests(&whole);
        Source {
            name,
            room,
            whole,
            code,
        }
    }

    /// The rooms that the code names.
    fn uses(&self) -> BTreeSet<String> {
        rooms_in(&self.code)
    }
}

/// Every room that a text names after `crate::`, also in braces.
fn rooms_in(code: &str) -> BTreeSet<String> {
    let mut rooms = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let line_start = code[..at].rfind('\n').map_or(0, |start| start + 1);
        if code[line_start..at].contains("//") || code[..at].ends_with('$') {
            continue;
        }
        let rest = &code[at + "crate::".len()..];
        let names: Vec<&str> = match rest.strip_prefix('{') {
            // `crate::{poller, verdict::{self, X}}`: the names on the first level.
            Some(list) => {
                let mut depth = 1;
                let end = list.find(|c| {
                    depth += i32::from(c == '{') - i32::from(c == '}');
                    depth == 0
                });
                let mut depth = 0;
                list[..end.unwrap_or(list.len())]
                    .split(|c| {
                        depth += i32::from(c == '{') - i32::from(c == '}');
                        c == ',' && depth == 0
                    })
                    .collect()
            }
            None => vec![rest],
        };
        rooms.extend(names.into_iter().map(|name| {
            let name = name.trim();
            let end = name.find(|c: char| !c.is_alphanumeric() && c != '_');
            name[..end.unwrap_or(name.len())].to_owned()
        }));
    }
    rooms.remove("");
    rooms
}

/// What is left when items behind `#[cfg(test)]` are cut out, to their closing brace.
fn without_tests(text: &str) -> String {
    let mut left = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("#[cfg(test)]") {
        left += &rest[..at];
        let item = &rest[at..];
        let body = item.find('{').unwrap_or(item.len());
        let end = match item.find(';') {
            // `#[cfg(test)] mod tests;`
            Some(semicolon) if semicolon < body => semicolon + 1,
            // rustfmt puts an item's closing brace where the item begins.
            _ => item.find("\n}").map_or(item.len(), |end| end + 2),
        };
        rest = &item[end..];
    }
    left + rest
}

fn sources() -> Vec<Source> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path: PathBuf = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ext| ext == "rs") {
                found.push(Source::read(&root, &path));
            }
        }
    }
    assert!(found.len() > 20, "where are they?");
    // Files for tests alone, brought in behind `#[cfg(test)]`.
    found.retain(|source| {
        !["/tests.rs", "/sample.rs"]
            .iter()
            .any(|end| source.name.ends_with(end))
    });
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// Rooms that decide and never read or write.
const PURE: [&str; 10] = [
    "job", "money", "budget", "step", "gate", "schedule", "verdict", "intake", "mp4", "naming",
];

/// What does I/O, or lets others do it.
const IO: [&str; 10] = [
    "sqlx",
    "reqwest",
    "tokio",
    "hyper",
    "axum",
    "rustix",
    "tempfile",
    "std::fs",
    "std::net",
    "std::process",
];

#[test]
fn the_pure_rooms_do_no_io() {
    for source in sources().iter().filter(|s| PURE.contains(&s.room.as_str())) {
        for name in IO {
            let lines = source.code.lines().enumerate();
            for (nth, line) in lines.filter(|(_, line)| !is_comment(line)) {
                let named = line.match_indices(name).any(|(at, _)| {
                    let before = line[..at].chars().next_back();
                    let after = line[at + name.len()..].chars().next();
                    let part = |c: char| c.is_alphanumeric() || c == '_';
                    !before.is_some_and(part) && !after.is_some_and(part)
                });
                assert!(!named, "{}:{}: {name} in a pure room", source.name, nth + 1);
            }
        }
        for room in source.uses() {
            assert!(
                PURE.contains(&room.as_str()),
                "{} names {room}, which is not pure",
                source.name
            );
        }
    }
}

/// Who may never name whom, and why.
#[rustfmt::skip]
const NEVER: [(&[&str], &[&str], &str); 6] = [
    (&["store"], &["provider", "sink"], "the three rims do not know each other"),
    (&["provider"], &["store", "sink"], "the three rims do not know each other"),
    (&["sink"], &["store", "provider"], "the three rims do not know each other"),
    (&["scheduler", "poller", "downloader"], &["store", "engine", "scheduler", "poller", "downloader"],
     "a stage acts; the loop claims, judges and commits"),
    (&["engine"], &["provider", "scheduler", "poller", "downloader", "daemon", "clock"],
     "the engine decides; it does no network and reads no clock"),
    (&["sandbox"], &["provider", "verdict", "mp4", "store", "engine"],
     "it shares no code with the client that could hide a mistake in both"),
];

#[test]
fn imports_go_one_way() {
    for source in sources() {
        for (rooms, others, why) in NEVER {
            if !rooms.contains(&source.room.as_str()) {
                continue;
            }
            for other in others.iter().filter(|other| **other != source.room) {
                assert!(
                    !source.uses().contains(*other),
                    "{} names {other}: {why}",
                    source.name
                );
            }
        }
    }
}

/// The outermost rooms, and who may name them.
#[rustfmt::skip]
const OUTER: [(&str, &[&str]); 4] = [
    ("cli", &["main", "lib"]),
    ("http", &["main", "lib", "cli", "service"]),
    ("service", &["main", "lib", "cli"]),
    ("daemon", &["main", "lib", "cli", "http", "service"]),
];

#[test]
fn nothing_names_what_lies_further_out() {
    for source in sources() {
        for (outer, inside) in OUTER {
            if source.room != outer && !inside.contains(&source.room.as_str()) {
                assert!(
                    !source.uses().contains(outer),
                    "{} names {outer}, which lies further out",
                    source.name
                );
            }
        }
    }
}

/// No way round: what each room needs, directly or through others, names it not again.
#[test]
fn no_room_needs_itself() {
    let mut needs: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for source in sources()
        .iter()
        .filter(|s| s.room != "lib" && s.room != "main")
    {
        let rooms = needs.entry(source.room.clone()).or_default();
        rooms.extend(
            source
                .uses()
                .into_iter()
                .filter(|room| *room != source.room),
        );
    }
    for room in needs.keys() {
        let mut seen = BTreeSet::new();
        let mut next: Vec<&String> = needs[room].iter().collect();
        while let Some(need) = next.pop() {
            if seen.insert(need) {
                next.extend(needs.get(need).into_iter().flatten());
            }
        }
        assert!(!seen.contains(room), "{room} needs itself: {seen:?}");
    }
}

#[test]
fn only_the_sink_the_store_and_the_rims_touch_files() {
    for source in sources() {
        let allowed = [
            "sink", "store", "config", "intake", "cli", "daemon", "main", "service", "sandbox",
            "http", "lock", "queue",
        ];
        if !allowed.contains(&source.room.as_str()) {
            assert!(!source.code.contains("std::fs"), "{}", source.name);
        }
        if source.room != "store" {
            let names_sql = source
                .code
                .lines()
                .any(|line| !is_comment(line) && line.contains("sqlx::"));
            assert!(
                !names_sql,
                "{} names sqlx: all SQL is the store's",
                source.name
            );
        }
    }
}

#[test]
fn nothing_gives_up_by_panicking() {
    for source in sources() {
        for (nth, line) in source.code.lines().enumerate() {
            if is_comment(line) {
                continue;
            }
            for call in [
                ".unwrap()",
                ".expect(",
                "panic!(",
                "todo!(",
                "unimplemented!(",
                "unreachable!(",
            ] {
                assert!(!line.contains(call), "{}: {line}", place(&source, nth));
            }
        }
    }
}

#[test]
fn nothing_differs_under_test() {
    for source in sources() {
        for form in [
            "cfg!(test)",
            "cfg(not(test))",
            "cfg_attr(test",
            "cfg(any(test",
        ] {
            assert!(!source.whole.contains(form), "{}: {form}", source.name);
        }
        // Behind `#[cfg(test)]` stand tests and what they look at, not other code.
        for (at, _) in source.whole.match_indices("#[cfg(test)]") {
            let item = source.whole[at..].lines().nth(1).unwrap_or_default().trim();
            let looks = [
                "#[allow(clippy::disallowed_methods)]",
                "mod tests",
                "pub(crate) mod sample",
                "pub(super) fn held",
            ];
            let known = looks.iter().any(|look| item.starts_with(look));
            assert!(known, "{}: {item}", source.name);
        }
    }
}

/// A longer one probably holds two subjects, in lines without its tests.
const LONGEST_FILE: usize = 700;

#[test]
fn no_file_is_long() {
    for source in sources() {
        let lines = source.code.lines().count();
        assert!(lines <= LONGEST_FILE, "{} has {lines} lines", source.name);
    }
}

#[test]
fn every_file_says_what_it_is_and_leaves_nothing_undone() {
    for source in sources() {
        assert!(
            source.whole.starts_with("//! "),
            "{} does not say what it is",
            source.name
        );
        for (nth, line) in source.whole.lines().enumerate() {
            for mark in [
                concat!("TO", "DO"),
                concat!("FIX", "ME"),
                concat!("XX", "X"),
                "dbg!(",
            ] {
                assert!(!line.contains(mark), "{}:{}: {line}", source.name, nth + 1);
            }
            assert!(
                !line.contains('\t') && !line.ends_with(' '),
                "{}:{}",
                source.name,
                nth + 1
            );
        }
    }
}

#[test]
fn time_is_read_in_one_room() {
    // The sandbox shares nothing with the client, so it has a clock of its own.
    for source in sources()
        .iter()
        .filter(|source| source.room != "clock" && source.name != "sandbox/clock.rs")
    {
        for call in [
            "SystemTime::now",
            "std::time::Instant::now",
            "Timestamp::now",
            "Zoned::now",
        ] {
            let named = source
                .code
                .lines()
                .any(|line| !is_comment(line) && line.contains(call));
            assert!(!named, "{}: {call}", source.name);
        }
    }
}

fn is_comment(line: &str) -> bool {
    line.trim_start().starts_with("//")
}

/// The file, with a line's number in what is left of it without tests.
fn place(source: &Source, nth: usize) -> String {
    format!("{}, about line {}", source.name, nth + 1)
}

// ---- The rules' own tools ----

#[test]
fn rooms_are_found_in_every_form_of_use() {
    let text = "use crate::job::{Job, State};\n\
                use crate::{poller, verdict::{self, Reply}, store};\n\
                let x = crate::naming::render();\n\
                // crate::sink is only spoken of\n\
                macro_rules! m { () => { $crate::money::ZERO } }\n";
    let rooms = ["job", "naming", "poller", "store", "verdict"];
    assert_eq!(rooms_in(text), rooms.map(str::to_owned).into());
}

#[test]
fn tests_are_cut_out_and_nothing_else() {
    let text = "a\n#[cfg(test)]\nmod tests {\n    fn x() {}\n}\nb\n#[cfg(test)]\nmod tests;\nc\n";
    assert_eq!(without_tests(text), "a\n\nb\n\nc\n");
}
