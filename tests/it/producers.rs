//! Producers in other languages: the README's examples as they stand there, and
//! many at once while the daemon runs.

use std::path::Path;
use std::process::{Command, Output, Stdio};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::film::{Layout, film};
use crate::provider::{Kind, Script};
use crate::rig::{Rig, folder, put};

const README: &str = include_str!("../../README.md");

const URL_RULE: &str = "CHECK constraint failed: image_url must be an http:// or https:// URL";
const PROMPT_RULE: &str = "CHECK constraint failed: prompt must not be blank";
const SIZE_RULE: &str = "CHECK constraint failed: size must be 480p, 720p or 1080p";

/// The README's example for producers in a language.
fn example(language: &str) -> &'static str {
    let (_, part) = README
        .split_once("\n## Any program is a producer\n")
        .unwrap();
    let (part, _) = part.split_once("\n## ").unwrap();
    let (_, code) = part.split_once(&format!("\n```{language}\n")).unwrap();
    code.split_once("```").unwrap().0
}

fn reelq(dir: &Path, arguments: &[&str]) -> String {
    let ran = Command::new(env!("CARGO_BIN_EXE_reelq"))
        .args(["--config", "/dev/null"])
        .args(arguments)
        .env_clear()
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    assert!(ran.status.success(), "{ran:?}");
    String::from_utf8(ran.stdout).unwrap()
}

/// A folder with an empty queue in it, `reelq.db`.
fn queue() -> TempDir {
    let dir = folder();
    reelq(dir.path(), &["add", "-"]);
    dir
}

/// Runs a program beside the queue.
fn run(dir: &Path, program: &str, file: &str, code: &str) -> Output {
    put(&dir.join(file), code.as_bytes());
    Command::new(program)
        .arg(file)
        .current_dir(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{program}: {error}"))
}

/// What was asked for, job by job.
fn jobs(dir: &Path) -> Value {
    let list = reelq(dir, &["list", "--json", "--oldest-first"]);
    let mut jobs: Vec<Value> = serde_json::from_str(&list).unwrap();
    for job in &mut jobs {
        assert_eq!(job["state"], "pending");
        let asked = |name: &str| {
            [
                "key",
                "batch",
                "prompt",
                "image_url",
                "duration",
                "size",
                "metadata",
            ]
            .contains(&name)
        };
        job.as_object_mut().unwrap().retain(|name, _| asked(name));
    }
    jobs.into()
}

/// Runs a language's example, twice; and with each change that spoils it, which the
/// database must refuse by the rule's name.
fn holds(language: &str, program: &str, file: &str, good: &Value, bad: &[(&str, &str, &str)]) {
    let code = example(language);
    let dir = queue();
    for _ in 0..2 {
        let ran = run(dir.path(), program, file, code);
        assert!(ran.status.success(), "{ran:?}");
        assert_eq!(jobs(dir.path()), *good);
    }
    for (from, to, rule) in bad {
        let spoilt = code.replacen(from, to, 1);
        assert_ne!(spoilt, code, "{from}");
        let dir = queue();
        let ran = run(dir.path(), program, file, &spoilt);
        assert!(!ran.status.success(), "{to}: {ran:?}");
        let said = String::from_utf8_lossy(&ran.stderr);
        assert!(said.contains(rule), "{to}: {said}");
        assert_eq!(jobs(dir.path()), json!([]), "{to}");
    }
}

#[test]
#[ignore = "needs the sqlite3 program: .ci/run installs it"]
fn the_readme_inserts_with_sqlite3() {
    let good = json!([{
        "key": "sku-1", "batch": "default", "prompt": "The bottle turns",
        "image_url": "https://example.com/1.jpg", "duration": 6, "size": "720p", "metadata": null,
    }]);
    let bad = [
        ("https:", "ftp:", URL_RULE),
        ("The bottle turns", " ", PROMPT_RULE),
        (
            "(key, prompt, image_url)\n  VALUES (",
            "(size, key, prompt, image_url)\n  VALUES ('4k', ",
            SIZE_RULE,
        ),
        (
            "(key, prompt, image_url)\n  VALUES (",
            "(state, key, prompt, image_url)\n  VALUES ('done', ",
            "a new job must be pending",
        ),
    ];
    holds("sh", "sh", "add.sh", &good, &bad);
}

#[test]
#[ignore = "needs Python with SQLite 3.37 or newer: .ci/run installs it, REELQ_TEST_PYTHON names it"]
fn the_readme_inserts_with_python() {
    let job = |key: &str, prompt: &str, image_url: &str| {
        json!({
            "key": key, "batch": "spring", "prompt": prompt,
            "image_url": image_url, "duration": 6, "size": "720p", "metadata": null,
        })
    };
    let good = json!([
        job("sku-2", "The chair turns", "https://example.com/2.jpg"),
        job("sku-3", "The lamp lights up", "https://example.com/3.jpg"),
    ]);
    // The second row is the bad one: the first must not go in without it.
    let bad = [
        ("https://example.com/3.jpg", "example.com/3.jpg", URL_RULE),
        ("The lamp lights up", "\\n", PROMPT_RULE),
    ];
    holds("python", &python(), "add.py", &good, &bad);
}

#[test]
#[ignore = "needs Node 24: .ci/run installs it, REELQ_TEST_NODE names it"]
fn the_readme_inserts_with_node() {
    let good = json!([{
        "key": "sku-4", "batch": "default", "prompt": "The kettle steams",
        "image_url": "https://example.com/4.jpg", "duration": 8, "size": "720p",
        "metadata": { "shop": "north" },
    }]);
    let bad = [
        ("https:", "file:", URL_RULE),
        ("The kettle steams", "", PROMPT_RULE),
        (
            ", 8,",
            ", 16,",
            "CHECK constraint failed: duration must be a whole number of seconds from 1 to 15",
        ),
        (
            "{ shop: \"north\" }",
            "[\"north\"]",
            "CHECK constraint failed: metadata must be a JSON object",
        ),
    ];
    let node = std::env::var("REELQ_TEST_NODE").unwrap_or_else(|_| "node".to_owned());
    holds("js", &node, "add.mjs", &good, &bad);
}

fn python() -> String {
    std::env::var("REELQ_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned())
}

const EACH: usize = 40;

/// A process of its own for each insert.
fn sqlite3(database: &Path) {
    let insert = |prompt: &str, size: &str| {
        Command::new("sqlite3")
            .args(["-cmd", ".timeout 5000"])
            .arg(database)
            .arg(format!(
                "INSERT INTO jobs (prompt, image_url, size) VALUES ('{prompt}', 'https://example.com/a.jpg', '{size}')"
            ))
            .output()
            .unwrap()
    };
    for n in 0..EACH {
        let good = insert(&format!("sqlite3-{n}"), "720p");
        assert!(good.status.success(), "{good:?}");
        let bad = insert("spoilt", "4k");
        assert!(!bad.status.success(), "{bad:?}");
        let said = String::from_utf8_lossy(&bad.stderr);
        assert!(said.contains(SIZE_RULE), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 program and Python with SQLite 3.37 or newer: .ci/run installs both"]
async fn many_producers_insert_while_the_daemon_runs() {
    let mut rig = Rig::new();
    let names: Vec<String> = [
        "thread-0", "thread-1", "thread-2", "thread-3", "shared", "sqlite3",
    ]
    .iter()
    .flat_map(|producer| (0..EACH).map(move |n| format!("{producer}-{n}")))
    .collect();
    for job in &names {
        rig.expect(job, Script::kind(film(Layout::MoovFirst, job, 6, 3_000)));
    }
    let mut daemon = rig.start();
    rig.until_said("started").await;

    let database = rig.database();
    let programs = tokio::task::spawn_blocking(move || sqlite3(&database));
    let threads = tokio::process::Command::new(python())
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/tests/python/four_threads.py"
        ))
        .arg(rig.database())
        .arg(EACH.to_string())
        .status();
    let (programs, threads) = tokio::join!(programs, threads);
    programs.unwrap();
    let threads = threads.unwrap();
    assert!(threads.success(), "{threads}");
    assert!(daemon.is_running(), "{}", rig.words());

    rig.until_jobs("done", names.len()).await;
    daemon.signal(Signal::TERM);
    let ended = daemon.ended().await;
    assert!(ended.success(), "{ended}: {}", rig.words());
    let mut inserted: Vec<String> = rig.rows().await.into_iter().map(|row| row.job).collect();
    let mut wanted = names.clone();
    inserted.sort();
    wanted.sort();
    assert_eq!(inserted, wanted);
    for job in &names {
        assert_eq!(rig.provider.billed(job), 1, "{job}");
    }
    assert_eq!(rig.provider.count(Kind::Post, None), names.len());
    let log = std::fs::read_to_string(rig.dir.path().join("log")).unwrap();
    assert!(!log.contains("database is locked"), "{log}");
    let wrong = rig.violations().await;
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
