//! The commands: what they print, and how they end.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reelq::clock::Clock;
use reelq::job::{Event, Evidence, JobId, Millis, SavedFile};
use reelq::lock;
use reelq::money::Money;
use reelq::step::{self, Policy};
use reelq::store::{Edited, GateRow, Open, Store};
use serde_json::{Value, json};

/// A folder with a configuration, and a queue that is `reelq.db`.
struct World {
    dir: tempfile::TempDir,
}

/// What a call of the program came to.
#[derive(Debug)]
struct Ran {
    status: i32,
    out: String,
    err: String,
}

const LINE: &str = r#"{"prompt":"one","image_url":"https://example.com/1.png"}"#;

const PRICES: &str = "[budget.price_per_second]\n\"720p\" = 0.10\n";

impl World {
    fn new() -> World {
        World::with_config("")
    }

    fn with_config(config: &str) -> World {
        let world = World {
            dir: tempfile::tempdir().unwrap(),
        };
        world.file("config.toml", config);
        world
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn file(&self, name: &str, text: &str) {
        std::fs::write(self.path(name), text).unwrap();
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_reelq"));
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if name.starts_with("REELQ_") || name == "CREDENTIALS_DIRECTORY" {
                command.env_remove(name);
            }
        }
        command
            .args(args)
            .current_dir(self.dir.path())
            .env("TZ", "UTC")
            .stdin(Stdio::null());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        Ran::of(self.command(args))
    }

    fn run_with(&self, stdin: &str, args: &[&str]) -> Ran {
        let mut command = self.command(args);
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let mut pipe = child.stdin.take().unwrap();
        pipe.write_all(stdin.as_bytes()).unwrap();
        drop(pipe);
        Ran::from(child.wait_with_output().unwrap())
    }

    /// Adds so many jobs to a batch; their ids.
    fn add(&self, count: usize, batch: &str) -> Vec<JobId> {
        let lines = vec![LINE; count].join("\n");
        let ran = self.run_with(&lines, &["add", "-", "--batch", batch, "--json"]);
        serde_json::from_value(ran.ok().json()["ids"].clone()).unwrap()
    }

    /// Does something with the queue itself.
    fn with_store<T>(&self, work: impl AsyncFnOnce(&Store) -> T) -> T {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let store = Store::open(&self.path("reelq.db"), Open::Create)
                .await
                .unwrap();
            let done = work(&store).await;
            store.close().await;
            done
        })
    }

    /// Lets events happen to a job, as a daemon would.
    fn happen(&self, id: JobId, now: Millis, events: Vec<Event>) {
        self.with_store(async |store| {
            for event in events {
                let edited = store
                    .edit(&[id], |job| {
                        step::step(job, event.clone(), now, &Policy::default())
                    })
                    .await
                    .unwrap();
                assert!(matches!(edited[0], Edited::Changed(_)), "{edited:?}");
            }
        });
    }

    fn states(&self) -> Vec<String> {
        let jobs = self.run(&["list", "--json", "--oldest-first"]).ok().json();
        let state = |job: &Value| job["state"].as_str().unwrap().to_owned();
        jobs.as_array().unwrap().iter().map(state).collect()
    }
}

impl Ran {
    fn of(mut command: Command) -> Ran {
        Ran::from(command.output().unwrap())
    }

    fn from(output: std::process::Output) -> Ran {
        Ran {
            status: output.status.code().unwrap_or(-1),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    #[track_caller]
    fn ok(self) -> Ran {
        self.ends(0)
    }

    #[track_caller]
    fn ends(self, status: i32) -> Ran {
        assert_eq!(self.status, status, "{self:?}");
        self
    }

    #[track_caller]
    fn says(self, words: &str) -> Ran {
        assert!(self.err.contains(words), "no {words:?} in {self:?}");
        self
    }

    #[track_caller]
    fn prints(self, words: &str) -> Ran {
        assert!(self.out.contains(words), "no {words:?} in {self:?}");
        self
    }

    #[track_caller]
    fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|error| panic!("{error} in {self:?}"))
    }
}

fn now() -> Millis {
    Clock::system().now()
}

fn claimed(cost: &str) -> Event {
    Event::Claimed {
        cost: cost.parse().unwrap(),
        endpoint: "https://example.com/#abc".to_owned(),
    }
}

fn accepted(task_id: &str) -> Event {
    Event::Accepted {
        task_id: task_id.to_owned(),
        evidence: Evidence {
            http_status: Some(200),
            ..Evidence::default()
        },
    }
}

fn unknown() -> Event {
    Event::Unknown {
        evidence: Evidence {
            http_status: Some(502),
            answer: Some("<html>\u{1b}[2J".to_owned()),
            error: Some("HTTP 502 without a word".to_owned()),
            ..Evidence::default()
        },
    }
}

fn refused() -> Event {
    Event::Refused {
        evidence: Evidence {
            http_status: Some(400),
            error: Some("HTTP 400: no".to_owned()),
            ..Evidence::default()
        },
    }
}

fn task_failed() -> Event {
    Event::TaskFailed {
        message: "the picture is dark".to_owned(),
    }
}

fn completed(target: &Path) -> Event {
    Event::Completed {
        urls: vec!["https://example.com/1.mp4".to_owned()],
        target: Some(target.display().to_string()),
    }
}

fn saved(target: &Path) -> Event {
    Event::Saved {
        file: SavedFile {
            path: target.display().to_string(),
            bytes: 3,
            sha256: "ab".repeat(32),
        },
        note: None,
    }
}

// Adding.

#[test]
fn jobs_go_in_from_every_format() {
    let world = World::new();
    world.file("a.jsonl", &format!("{LINE}\n\n{LINE}\n"));
    world.file("b.json", &format!("[{LINE}]"));
    world.file(
        "c.csv",
        "image_url,prompt,key,metadata.scene,not_before\n\
         https://example.com/2.png,\"two,\n2\",shot-2,7,2026-01-31T18:00:00+08:00\n",
    );
    let ran = world
        .run(&[
            "add",
            "a.jsonl",
            "b.json",
            "c.csv",
            "--batch",
            "spring",
            "--duration",
            "9",
        ])
        .ok();
    assert_eq!(ran.out, "inserted 4; jobs 1 to 4\n");
    assert_eq!(ran.err, "");

    let jobs = world.run(&["list", "--json", "--oldest-first"]).ok().json();
    let last = &jobs[3];
    for (field, value) in [
        ("id", json!(4)),
        ("key", json!("shot-2")),
        ("batch", json!("spring")),
        ("state", json!("pending")),
        ("prompt", json!("two,\n2")),
        ("duration", json!(9)),
        ("size", json!("720p")),
        ("not_before", json!(1_769_853_600_000_i64)),
        ("metadata", json!({"scene": "7"})),
        ("path", Value::Null),
    ] {
        assert_eq!(last[field], value, "{field}");
    }
}

#[test]
fn one_job_goes_in_by_flags() {
    let world = World::new();
    let flags = [
        "add",
        "--prompt",
        "p",
        "--image-url",
        "https://e.com/1",
        "--key",
        "k",
        "--size",
        "480p",
        "--priority",
        "-3",
        "--metadata",
        r#"{"b":1.0,"a":2}"#,
    ];
    world.run(&flags).ok().prints("inserted 1; job 1\n");
    let shown = world.run(&["show", "key:k", "--json"]).ok();
    let job = shown.json();
    assert_eq!(job["priority"], -3);
    assert_eq!(job["size"], "480p");
    // Its text is handed through untouched.
    world
        .run(&["list", "--json"])
        .ok()
        .prints(r#""metadata":{"b":1.0,"a":2}"#);
    world
        .run(&flags)
        .ok()
        .prints("inserted 0, already there 1 (job 1)\n");
}

#[test]
fn every_bad_line_is_named_and_nothing_goes_in() {
    let world = World::new();
    world.file("good.jsonl", LINE);
    world.file(
        "bad.csv",
        "prompt,image_url,duration\np,https://e.com/1,6\n,https://e.com/1,99\np,ftp://e.com,6\n",
    );
    world.file("worse.jsonl", "{\"promt\":\"p\"}\nnonsense\n");
    let ran = world
        .run(&["add", "good.jsonl", "bad.csv", "worse.jsonl"])
        .ends(65)
        .says("bad.csv:3: duration must be a whole number of seconds from 1 to 15, found \"99\"; prompt is missing\n")
        .says("bad.csv:4: image_url must be")
        .says("worse.jsonl:1: promt is not a field of a job: did you mean prompt?")
        .says("worse.jsonl:2: ")
        .says("reelq: bad input in 4 places; nothing was inserted\n");
    assert_eq!(ran.out, "");
    let flags = [
        "add",
        "--prompt",
        " ",
        "--image-url",
        "https://e.com/1",
        "--json",
    ];
    let told = world.run(&flags).ends(65).json();
    assert_eq!(told["errors"][0]["field"], "prompt");
    assert_eq!(told["errors"][0]["file"], Value::Null);
    // For programs each fault is an item of its own.
    let ran = world
        .run(&["add", "good.jsonl", "bad.csv", "worse.jsonl", "--json"])
        .ends(65);
    assert_eq!(
        ran.err,
        "reelq: bad input in 4 places; nothing was inserted\n"
    );
    let told = ran.json();
    assert_eq!(told["inserted"], 0);
    let errors = told["errors"].as_array().unwrap();
    let fault = json!({
        "file": "bad.csv",
        "line": 3,
        "element": null,
        "field": "duration",
        "reason": "must be a whole number of seconds from 1 to 15, found \"99\"",
    });
    assert_eq!(errors[0], fault);
    let places: Vec<(&str, u64, &str)> = errors
        .iter()
        .map(|error| {
            let text = |name: &str| error[name].as_str().unwrap();
            (text("file"), error["line"].as_u64().unwrap(), text("field"))
        })
        .collect();
    let expected = [
        ("bad.csv", 3, "duration"),
        ("bad.csv", 3, "prompt"),
        ("bad.csv", 4, "image_url"),
        ("worse.jsonl", 1, "promt"),
        ("worse.jsonl", 1, "prompt"),
        ("worse.jsonl", 1, "image_url"),
        ("worse.jsonl", 2, ""),
    ];
    assert_eq!(places, expected);
    assert_eq!(world.states(), Vec::<String>::new());
}

#[test]
fn a_bad_job_of_an_array_on_one_line_is_named_by_its_number() {
    let world = World::new();
    let bad = r#"{"prompt":"","image_url":"ftp://e.com"}"#;
    world.file("one.json", &format!("[{LINE},{bad},{LINE},7]"));
    world
        .run(&["add", "one.json"])
        .ends(65)
        .says("one.json:1, job 2: prompt must not be blank")
        .says("one.json:1, job 4: a JSON object such as")
        .says("reelq: bad input in 2 places; nothing was inserted\n");
    let told = world.run(&["add", "one.json", "--json"]).ends(65).json();
    assert_eq!(told["errors"][0]["element"], 2);
}

#[test]
fn a_long_list_of_bad_lines_is_told_whole() {
    let world = World::new();
    let input = "{}\n".repeat(12_345);
    let ran = world.run_with(&input, &["add", "-"]).ends(65);
    for (nth, line) in ran.err.lines().take(12_345).enumerate() {
        let place = format!("stdin:{}: prompt is missing", nth + 1);
        assert!(line.starts_with(&place), "{line} is not of {place}");
    }
    assert_eq!(ran.err.lines().count(), 12_346);
    let told = world
        .run_with(&input, &["add", "-", "--json"])
        .ends(65)
        .json();
    // Two fields are missing from each.
    assert_eq!(told["errors"].as_array().unwrap().len(), 24_690);
}

#[test]
fn standard_input_is_told_by_its_content() {
    let world = World::new();
    for text in [
        format!("{LINE}\n"),
        format!("[{LINE}]"),
        "prompt,image_url\np,https://e.com/1\n".to_owned(),
    ] {
        world
            .run_with(&text, &["add", "-"])
            .ok()
            .prints("inserted 1; ");
    }
    world
        .run_with("", &["add", "-"])
        .ok()
        .prints("inserted 0\n")
        .says("there is no job in the input");
}

#[test]
fn a_rehearsal_prices_and_leaves_nothing() {
    let world = World::with_config(PRICES);
    let lines = format!("{LINE}\n{LINE}\n");
    world
        .run_with(&lines, &["add", "-", "--dry-run"])
        .ok()
        .prints("would insert 2\n")
        .prints("720p   2 jobs, 12 s: 1.20\n")
        .prints("in all: 1.20\n");
    assert!(!world.path("reelq.db").exists());

    let ran = world.run_with(
        &lines,
        &["add", "-", "--dry-run", "--size", "1080p", "--json"],
    );
    let report = ran.ok().json();
    assert_eq!(report["inserted"], 2);
    assert_eq!(report["cost"], Value::Null);
    assert_eq!(report["prices"][0]["cost"], Value::Null);
    world
        .run_with(&lines, &["add", "-", "--dry-run", "--size", "1080p"])
        .ok()
        .prints("no price configured (budget.price_per_second.\"1080p\")");

    // On a queue that is there, what is there already is not priced.
    let keyed = LINE.replace('{', r#"{"key":"k","#);
    world.run_with(&keyed, &["add", "-"]).ok();
    world
        .run_with(&format!("{keyed}\n{LINE}"), &["add", "-", "--dry-run"])
        .ok()
        .prints("would insert 1, already there 1 (job 1)\n")
        .prints("in all: 0.60\n");
    assert_eq!(world.states().len(), 1);
    world.run_with("{}", &["add", "-", "--dry-run"]).ends(65);
}

#[test]
fn keys_make_a_repeat_harmless() {
    let world = World::new();
    let line = |key: usize, prompt: &str| {
        format!(r#"{{"key":"k{key}","prompt":"{prompt}","image_url":"https://e.com/1"}}"#)
    };
    let lines: Vec<String> = (0..1_500).map(|n| line(n, "p")).collect();
    world
        .run_with(&lines.join("\n"), &["add", "-"])
        .ok()
        .prints("inserted 1500; jobs 1 to 1500\n");
    let more: Vec<String> = (1_000..2_000).map(|n| line(n, "p")).collect();
    let ran = world
        .run_with(&more.join("\n"), &["add", "-"])
        .ok()
        .prints("inserted 500, already there 500; jobs ");
    let ids = world.run(&["list", "--json"]).ok().json();
    let last = &ids[0]["id"];
    assert_eq!(ids.as_array().unwrap().len(), 2_000);
    assert!(ran.out.ends_with(&format!(" to {last}\n")), "{ran:?}");
    assert_eq!(ran.err, "");

    // Numbers between the new ones are nobody's.
    let mixed = [line(7_000, "p"), line(1, "p"), line(7_001, "p")];
    let ran = world.run_with(&mixed.join("\n"), &["add", "-"]).ok();
    let ran = ran.prints("inserted 2, already there 1 (job 2); 2 jobs from ");
    let id = |key: &str| world.run(&["show", key, "--json"]).ok().json()["id"].clone();
    let ends = format!("from {} to {}\n", id("key:k7000"), id("key:k7001"));
    assert!(ran.out.ends_with(&ends), "{ran:?}");

    // Twice in one input, and another video under a known key.
    let text = [
        line(1, "q"),
        line(5_000, "p"),
        line(5_000, "p"),
        line(5_000, "q"),
    ]
    .join("\n");
    let ran = world
        .run_with(&text, &["add", "-", "--json"])
        .ok()
        .says("warning: key \"k1\" already belongs to job 2, which asks for a different video; job 2 is unchanged")
        .says("warning: stdin:4: key \"k5000\" stands at stdin:2 too, for a different video; only the first one counts");
    assert_eq!(ran.err.lines().count(), 2, "{ran:?}");
    let report = ran.json();
    assert_eq!(report["inserted"], 1);
    assert_eq!(report["existing"], 3);
    assert_eq!(report["repeated"], 2);
    assert_eq!(report["differing_keys"], 2);
    assert_eq!(report["existing_ids"][0], 2);
    assert_eq!(report["ids"], json!([report["first_id"]]));
}

/// What a rehearsal gives a number is undone: no job will have it.
#[test]
fn a_rehearsal_names_no_job_that_there_is_not() {
    let world = World::new();
    let line = |key: &str, prompt: &str| {
        format!(r#"{{"key":"{key}","prompt":"{prompt}","image_url":"https://e.com/1"}}"#)
    };
    world.run_with(&line("there", "p"), &["add", "-"]).ok();
    world.file("a.jsonl", &[line("a", "p"), line("there", "p")].join("\n"));
    let b = ["a", "b", "b", "b"].map(|key| line(key, "q"));
    world.file("b.json", &format!("[{}]", b.join(",")));
    let csv = |n: usize| format!("a,{n},https://e.com/1\n");
    let rows: String = (0..12).map(csv).collect();
    world.file("c.csv", &format!("key,prompt,image_url\n{rows}"));

    let files = ["add", "a.jsonl", "b.json", "c.csv"];
    let repeats = |ran: &Ran| {
        let lines: Vec<String> = ran.err.lines().map(str::to_owned).collect();
        assert_eq!(lines.len(), 11, "{ran:?}");
        assert_eq!(
            lines[0],
            "reelq: warning: b.json:1, job 1: key \"a\" stands at a.jsonl:1 too, for a different video; only the first one counts"
        );
        assert!(
            lines[9].starts_with("reelq: warning: c.csv:10: key \"a\" stands at a.jsonl:1 too")
        );
        assert_eq!(
            lines[10],
            "reelq: warning: a different video is asked for under 3 more keys, too"
        );
    };
    let ran = world.run(&[&files[..], &["--dry-run"]].concat()).ok();
    repeats(&ran);
    ran.prints("would insert 2, already there 1 (job 1), repeated in the input 15\n");
    let ran = world
        .run(&[&files[..], &["--dry-run", "--json"]].concat())
        .ok();
    repeats(&ran);
    let report = ran.json();
    for (name, value) in [
        ("inserted", json!(2)),
        ("existing", json!(16)),
        ("repeated", json!(15)),
        ("ids", Value::Null),
        ("first_id", Value::Null),
        ("last_id", Value::Null),
        ("existing_ids", Value::Null),
        ("differing_keys", json!(13)),
    ] {
        assert_eq!(report[name], value, "{name}");
    }
    let ran = world.run(&files).ok();
    repeats(&ran);
    ran.prints("inserted 2, already there 1 (job 1), repeated in the input 15; ");
    assert_eq!(world.states().len(), 3);
}

#[test]
fn a_cap_is_set_with_the_jobs_or_alone() {
    let world = World::with_config(PRICES);
    world
        .run_with(LINE, &["add", "-", "--batch", "b", "--max-cost", "3"])
        .ok()
        .prints("batch b may cost 3.00 in all, 0.00 is spent or reserved\n");
    let cap = || {
        let status = world.run(&["status", "--json"]).ok().json();
        status["batches"][0]["max_cost"].clone()
    };
    assert_eq!(cap(), json!(3.0));
    // Bad input and a rehearsal leave the cap as it is.
    world
        .run_with("{}", &["add", "-", "--batch", "b", "--max-cost", "9"])
        .ends(65);
    world
        .run_with(
            LINE,
            &["add", "-", "--batch", "b", "--max-cost", "9", "--dry-run"],
        )
        .ok();
    assert_eq!(cap(), json!(3.0));
    world
        .run(&["add", "--batch", "b", "--max-cost", "4.50"])
        .ok()
        .prints("may cost 4.50");
    assert_eq!(cap(), json!(4.5));
    // What is pruned still counts against it, and is told.
    world.happen(1, 0, vec![claimed("0.60"), accepted("t"), task_failed()]);
    world.run(&["prune", "--older-than", "1d"]).ok();
    world
        .run_with(LINE, &["add", "-", "--batch", "b", "--max-cost", "4.50"])
        .ok()
        .prints("batch b may cost 4.50 in all, 0.60 is spent or reserved\n");
    world
        .run(&["add", "--batch", "b", "--max-cost", "none"])
        .ok()
        .prints("no cap");
    assert_eq!(cap(), Value::Null);

    let two = format!("{LINE}\n{}", LINE.replace('{', r#"{"batch":"other","#));
    world
        .run_with(&two, &["add", "-", "--batch", "b", "--max-cost", "3"])
        .ends(65)
        .says("stdin:2: batch is \"other\", but --max-cost caps one batch");
    world
        .run_with(LINE, &["add", "-", "--size", "480p", "--max-cost", "3"])
        .ok()
        .says("budget.price_per_second.\"480p\" is missing: 480p jobs are not submitted");
}

#[test]
fn images_are_asked_for_before_anything_goes_in() {
    let images = serve(|path| match path {
        "/good.png" => (
            "200 OK",
            "image/png",
            b"\x89PNG\r\n\x1a\n0123456789".to_vec(),
        ),
        "/page" => (
            "200 OK",
            "text/html",
            b"<html>no image here</html>".to_vec(),
        ),
        _ => ("404 Not Found", "text/plain", b"no".to_vec()),
    });
    let world = World::with_config(&format!("[provider]\nbase_url = \"{images}\"\n"));
    let line = |path: &str| format!(r#"{{"prompt":"p","image_url":"{images}{path}"}}"#);
    let good = line("/good.png");
    world
        .run_with(&good, &["add", "-", "--check-images"])
        .ok()
        .prints("inserted 1; ");
    let bad = [
        good.as_str(),
        &line("/page"),
        &line("/gone"),
        &line("/page"),
    ]
    .join("\n");
    world
        .run_with(&bad, &["add", "-", "--check-images"])
        .ends(65)
        .says("stdin:2: image_url is not a JPEG, PNG, WebP or GIF image: it answers with what it calls text/html\n")
        .says("stdin:3: image_url answers HTTP 404 Not Found\n")
        .says("stdin:4: image_url is not")
        .says("bad input in 3 places; nothing was inserted");
    assert_eq!(world.states().len(), 1);

    // The provider is elsewhere: it cannot reach this machine.
    let world = World::new();
    world
        .run_with(&good, &["add", "-", "--check-images"])
        .ends(65)
        .says("stdin:1: image_url names 127.0.0.1, which only this machine reaches");
}

/// A web server of a few answers, until the test ends. Its address.
fn serve(
    answer: impl Fn(&str) -> (&'static str, &'static str, Vec<u8>) + Send + 'static,
) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap_or(0) == 1 {
                request.push(byte[0]);
            }
            let request = String::from_utf8_lossy(&request).into_owned();
            let path = request.split(' ').nth(1).unwrap_or("/");
            let (status, kind, body) = answer(path);
            let head = format!(
                "HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    format!("http://{address}")
}

#[test]
fn a_demo_that_is_stopped_has_not_failed() {
    let world = World::new();
    let mut demo = world
        .command(&["demo", "--jobs", "2"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    // No video is made so soon.
    let mut begun = BufReader::new(demo.stderr.take().unwrap());
    let mut line = String::new();
    begun.read_line(&mut line).unwrap();
    assert!(line.starts_with("reelq: 2 jobs queued"), "{line}");
    let pid = rustix::process::Pid::from_child(&demo);
    rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
    let mut rest = String::new();
    begun.read_to_string(&mut rest).unwrap();
    let ran = Ran::from(demo.wait_with_output().unwrap()).ends(3);
    assert_eq!(rest, "reelq: the demo was stopped: 0 of 2 jobs done\n");
    ran.prints("0 videos checked and in place.");
}

// Wrong calls.

#[test]
fn wrong_calls_say_what_is_allowed() {
    let world = World::new();
    world.add(1, "b");
    for (args, status, words) in [
        (&["frobnicate"][..], 2, "unrecognized subcommand"),
        (&["add"], 2, "nothing to add: name a FILE"),
        (&["add", "--prompt", "p"], 2, "--image-url"),
        (
            &[
                "add",
                "x.csv",
                "--prompt",
                "p",
                "--image-url",
                "https://e.com",
            ],
            2,
            "cannot be used with",
        ),
        (&["add", "x.csv", "--size", "4k"], 2, "480p, 720p or 1080p"),
        (
            &["add", "x.csv", "--not-before", "tomorrow"],
            2,
            "+2h is two hours from now",
        ),
        (&["add", "x.csv", "--max-cost", "-3"], 2, "--max-cost"),
        (&["add", "x.csv"], 1, "reelq: x.csv: No such file"),
        (&["add", "."], 1, "reelq: .: is a directory"),
        (&["add", "-", "-"], 2, "only once"),
        (
            &["add", "x.csv", "--duration", "99"],
            65,
            "--duration must be a whole number of seconds from 1 to 15",
        ),
        (
            &["add", "--prompt", " ", "--image-url", "nowhere"],
            65,
            "--image-url must be",
        ),
        (
            &["list", "--state", "lost"],
            2,
            "pending, submitting, unconfirmed",
        ),
        (
            &["list", "--batch", "c"],
            1,
            "no such batch: \"c\"; there are b",
        ),
        (&["list", "--batch", "c", "--json"], 1, "no such batch"),
        (&["list", "17"], 1, "there is no job 17"),
        (&["list", "key:k"], 1, "there is no job with the key \"k\""),
        (
            &["list", "seventeen"],
            2,
            "by its number, such as 17, or as key:NAME",
        ),
        (&["show"], 2, "<ID>"),
        (&["show", "17"], 1, "there is no job 17"),
        (&["retry"], 2, "required"),
        (&["cancel", "1", "--batch", "b"], 2, "cannot be used with"),
        (&["resolve", "1"], 2, "--adopt"),
        (
            &["resolve", "1", "--adopt", "t", "--resubmit"],
            2,
            "cannot be used with",
        ),
        (&["resolve", "1", "--adopt", " "], 2, "a task id is"),
        (&["wait", "--batch", "c"], 1, "no such batch"),
        (&["wait", "--timeout", "soon"], 2, "90s, 24h or 30d"),
        (&["ledger", "--since", "yesterday"], 2, "2026-01-31"),
        (&["prune", "--older-than", "5h"], 2, "at least 1d"),
        (&["prune"], 2, "--older-than"),
        (&["backup"], 2, "<FILE>"),
        (&["completions", "cmd"], 2, "bash"),
        (&["list", "-v", "-q"], 2, "cannot be used with"),
    ] {
        let ran = world.run(args);
        assert_eq!(ran.status, status, "{args:?} {ran:?}");
        assert!(ran.err.contains(words), "{args:?} {ran:?}");
        assert_eq!(ran.out, "", "{args:?}");
    }
}

#[test]
fn a_wrong_configuration_ends_with_78() {
    for (config, words) in [
        ("databse = \"x.db\"", "databse"),
        ("[poll]\ninterval = \"1s\"", "poll.interval"),
        ("[poll\n", "config.toml"),
    ] {
        let world = World::with_config(config);
        for args in [&["list"][..], &["add", "-"], &["status"]] {
            let ran = world.run(args).ends(78).says("reelq: ").says(words);
            assert_eq!(ran.out, "");
        }
        // `check` tells of it in its own form.
        world.run(&["check"]).ends(78).prints("WRONG    config");
    }
    let world = World::new();
    world
        .run(&["list", "--config", "nowhere.toml"])
        .ends(78)
        .says("nowhere.toml does not exist");
    let mut command = world.command(&["list"]);
    command.env("REELQ_POLL__INTERVALL", "5s");
    Ran::of(command).ends(78).says("REELQ_POLL__INTERVALL");
    let mut command = world.command(&["list"]);
    command.env("REELQ_LOG", "reelq=loud");
    Ran::of(command).ends(78).says("reelq: REELQ_LOG: found");
}

#[test]
fn what_is_no_queue_is_left_alone() {
    let world = World::new();
    world
        .run(&["list"])
        .ends(78)
        .says("there is no queue here yet; `reelq add` makes one");
    assert!(!world.path("reelq.db").exists());
    world
        .run(&[
            "add",
            "--prompt",
            "p",
            "--image-url",
            "https://e.com",
            "--database",
            "a/b.db",
        ])
        .ends(78)
        .says("does not exist; make it first");

    for notes in [
        "these are my notes, and no database at all",
        "\n",
        "no",
        "SQLite format 3",
        &"\0".repeat(512),
        &"\0".repeat(65_536),
    ] {
        world.file("reelq.db", notes);
        world
            .run_with(LINE, &["add", "-"])
            .ends(78)
            .says("this is not an SQLite database");
        let left = std::fs::read_to_string(world.path("reelq.db")).unwrap();
        assert_eq!(left, notes);
    }
    world.file("reelq.db", "");
    world.run_with(LINE, &["add", "-"]).ok();

    // Another program's database.
    let other = world.path("other.db");
    let world = World::new();
    world.add(1, "b");
    std::fs::copy(world.path("reelq.db"), &other).unwrap();
    let mut bytes = std::fs::read(&other).unwrap();
    bytes[68..72].copy_from_slice(b"othr");
    std::fs::write(&other, &bytes).unwrap();
    world
        .run(&["status", "--database", &other.display().to_string()])
        .ends(78)
        .says("belongs to another program");
    assert_eq!(std::fs::read(&other).unwrap(), bytes);
}

/// Root's right to write whatever a mode says is taken away: `command` runs as anybody.
fn bound_by_modes(command: &Command) -> Command {
    let mut bound = Command::new("setpriv");
    if rustix::process::geteuid().is_root() {
        bound.args(["--bounding-set", "-dac_override,-dac_read_search"]);
    }
    bound.arg(command.get_program()).args(command.get_args());
    for (name, value) in command.get_envs() {
        match value {
            Some(value) => bound.env(name, value),
            None => bound.env_remove(name),
        };
    }
    bound.current_dir(command.get_current_dir().unwrap());
    bound.stdin(Stdio::null());
    bound
}

#[test]
fn a_database_that_cannot_be_written_is_told_before_it_matters() {
    let world = World::new();
    world.add(1, "b");
    let bytes = std::fs::read(world.path("reelq.db")).unwrap();
    let set_mode = |name: &str, mode| {
        let mode = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(world.path(name), mode).unwrap();
    };
    let run = |args: &[&str]| {
        let mut command = world.command(args);
        command.env("REELQ_PROVIDER__API_KEY", "sk-test");
        command.env("REELQ_PROVIDER__BASE_URL", "http://127.0.0.1:9");
        Ran::of(bound_by_modes(&command))
    };
    let words = "reelq.db: the database cannot be written; check the owner and mode of the file, \
        of its -wal and -shm, and of its folder";
    set_mode("reelq.db", 0o444);
    run(&["run", "--until-idle"]).ends(78).says(words);
    run(&["check"]).ends(78).prints(words);
    run(&["pause"]).ends(78).says(words);
    run(&["list"]).ok().prints("pending");
    assert_eq!(std::fs::read(world.path("reelq.db")).unwrap(), bytes);
    set_mode("reelq.db", 0o644);
    run(&["check"]).ends(78).prints(words);
    set_mode("reelq.db-wal", 0o644);
    set_mode("reelq.db-shm", 0o644);

    // Whoever may write need not wait for who does.
    world.with_store(async |store| {
        let writing = store.insert_with(async |_| {
            let ran = run(&["check"]).ends(69).prints("1 job, undamaged");
            Ok::<_, reelq::store::StoreError>(ran)
        });
        writing.await.unwrap();
    });
}

// Looking.

#[test]
fn a_list_is_a_line_a_job_or_one_array() {
    let world = World::new();
    world.add(2, "b");
    world
        .run(&[
            "add",
            "--prompt",
            "tab\tand\nline",
            "--image-url",
            "https://e.com",
            "--key",
            "k",
        ])
        .ok();
    let ran = world.run(&["list"]).ok();
    let lines: Vec<Vec<&str>> = ran
        .out
        .lines()
        .map(|line| line.split('\t').collect())
        .collect();
    assert_eq!(lines.len(), 3);
    assert!(lines.iter().all(|line| line.len() == 9), "{lines:?}");
    assert_eq!(
        lines[0][..7],
        ["3", "pending", "0", "default", "k", "6", "720p"]
    );
    assert_eq!(lines[0][8], "tab and line");

    let ids = |args: &[&str]| -> Vec<i64> {
        let jobs = world.run(&[&["list", "--json"], args].concat()).ok().json();
        jobs.as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].as_i64().unwrap())
            .collect()
    };
    assert_eq!(ids(&[]), [3, 2, 1]);
    assert_eq!(ids(&["--limit", "2"]), [3, 2]);
    assert_eq!(ids(&["--limit", "1", "--oldest-first"]), [1]);
    assert_eq!(ids(&["--batch", "b"]), [2, 1]);
    assert_eq!(ids(&["--state", "done"]), Vec::<i64>::new());
    assert_eq!(ids(&["2", "key:k", "2"]), [2, 3]);
    let ran = world
        .run(&["list", "--json", "2", "99"])
        .ends(1)
        .says("no job 99");
    assert_eq!(ran.json()[0]["id"], 2);
}

#[test]
fn a_reader_may_leave_in_the_middle() {
    let world = World::new();
    world.add(3_000, "b");
    for args in [&["list"][..], &["list", "--json"], &["man"], &["--help"]] {
        let mut child = world
            .command(args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let ran = Ran::from(child.wait_with_output().unwrap()).ok();
        assert_eq!(ran.err, "", "{args:?}");
    }
}

#[test]
fn one_job_is_shown_with_its_ledger_and_history() {
    let world = World::new();
    let ids = world.add(1, "b");
    world.happen(ids[0], now(), vec![claimed("0.60"), unknown()]);
    let job = world.run(&["show", "1", "--json"]).ok().json();
    assert_eq!(job["state"], "unconfirmed");
    assert_eq!(job["error_code"], "unconfirmed");
    assert_eq!(job["cost"], json!(0.6));
    assert_eq!(job["submissions"][0]["outcome"], "unknown");
    assert_eq!(job["submissions"][0]["http_status"], 502);
    assert_eq!(job["submissions"][0]["cost"], json!(0.6));
    let events: Vec<&str> = job["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["event"].as_str().unwrap())
        .collect();
    assert_eq!(events, ["claimed", "unknown"]);
    let ran = world
        .run(&["show", "1"])
        .ok()
        .prints("state       unconfirmed\n")
        .prints("attempt 1: unknown, 0.60, HTTP 502")
        .prints("answer: <html> [2J\n")
        .prints("claimed -> submitting: attempt 1\n");
    assert!(!ran.out.contains('\u{1b}'));
}

#[test]
fn the_status_says_what_waits_and_why() {
    let world = World::with_config(PRICES);
    let ids = world.add(3, "b");
    // Of today, also if a day begins before they are counted.
    let soon = now() + 3_600_000;
    world.happen(ids[0], soon, vec![claimed("0.60"), accepted("t1")]);
    world.happen(ids[1], soon, vec![claimed("0.60"), unknown()]);
    world.with_store(async |store| {
        let gate = GateRow {
            name: "submit".to_owned(),
            since: now() - 60_000,
            until: Some(now() + 60_000),
            detail: json!({
                "cause": "key_refused",
                "message": "HTTP 401: no such key",
                "advice": "check provider.api_key_file",
            })
            .to_string(),
        };
        store.set_gates(&[gate]).await.unwrap();
    });
    world
        .run(&["status"])
        .ok()
        .prints("daemon    does not run")
        .prints("jobs      3 in all: 1 pending, 1 unconfirmed, 1 generating\n")
        .prints("held      submitting waits: HTTP 401: no such key (since ")
        .prints("what to do: check provider.api_key_file\n")
        .prints("CHECK     1 unconfirmed job may have been charged: 2\n")
        .prints("`reelq resolve ID --adopt TASK_ID`")
        .prints("today     1 accepted 0.60, 1 unknown 0.60\n");

    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status["jobs"]["total"], 3);
    assert_eq!(status["jobs"]["generating"], 1);
    assert_eq!(status["unconfirmed"], json!([2]));
    assert_eq!(status["held"][0]["cause"], "key_refused");
    assert_eq!(
        status["spend"]["today"]["unknown"],
        json!({"submissions": 1, "cost": 0.6})
    );
    assert_eq!(status["daemon"], json!({"running": false, "pid": null}));
    assert_eq!(status["paused"], Value::Null);
    // Without a key nobody can tell whose the tasks are.
    assert_eq!(status["foreign"], json!([]));
    let mut command = world.command(&["status"]);
    command.env("REELQ_PROVIDER__API_KEY", "sk-secret-1");
    let ran = Ran::of(command).ok();
    let ran = ran.prints("foreign   1 task of https://example.com/#abc");
    assert!(!ran.out.contains("sk-secret-1"));
}

#[test]
fn a_daemon_is_seen_by_its_lock() {
    let world = World::new();
    world.add(1, "b");
    let guard = lock::acquire(&world.path("reelq.db")).unwrap();
    let status = world.run(&["status", "--json"]).ok().json();
    let daemon = json!({"running": true, "pid": std::process::id()});
    assert_eq!(status["daemon"], daemon);
    drop(guard);
    world.run(&["status"]).ok().prints("daemon    does not run");
}

/// Every line of standard error as a JSON object of the log.
#[track_caller]
fn logged(ran: &Ran) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    ran.err.lines().map(line).collect()
}

#[test]
fn a_log_in_json_holds_nothing_else() {
    let world = World::with_config(
        "[provider]\nbase_url = \"http://127.0.0.1:9\"\n[log]\nformat = \"json\"\n",
    );
    let id = world.add(1, "b")[0];
    world.happen(id, now(), vec![claimed("0"), refused()]);
    let run = || {
        let mut command = world.command(&["run", "--until-idle"]);
        command.env("REELQ_PROVIDER__API_KEY", "sk-test");
        command
    };
    let lines = logged(&Ran::of(run()).ends(3));
    let last = lines.last().unwrap();
    assert_eq!(last["message"], "idle; 1 failed");
    assert_eq!(last["level"], "INFO");

    // Why it does not start, also where the filter lets nothing through.
    let guard = lock::acquire(&world.path("reelq.db")).unwrap();
    let lines = logged(&Ran::of(run()).ends(75));
    assert_eq!(lines.last().unwrap()["level"], "ERROR");
    let mut silent = run();
    silent.env("REELQ_LOG", "off");
    Ran::of(silent).ends(75).says("reelq: ");
    drop(guard);
    let lines = logged(&world.run(&["run"]).ends(78));
    let message = lines.last().unwrap()["message"].as_str().unwrap();
    assert!(message.contains("there is no API key"), "{message}");
}

#[test]
fn a_sandbox_that_cannot_listen_says_why() {
    let world = World::new();
    let holder = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = holder.local_addr().unwrap().to_string();
    world
        .run(&["sandbox", "--listen", &taken])
        .ends(69)
        .says("is in use");
    world
        .run(&["sandbox", "--listen", "0.0.0.0:0"])
        .ends(2)
        .says("--allow-remote");
}

// Handling.

#[test]
fn a_pause_holds_until_it_is_ended() {
    let world = World::new();
    world.run(&["pause"]).ends(78).says("no queue here");
    world.add(1, "b");
    world
        .run(&["pause", "prices go down"])
        .ok()
        .prints("paused (prices go down)");
    world
        .run(&["status"])
        .ok()
        .prints("paused    since ")
        .prints(": prices go down; `reelq resume` ends it\n");
    let status = world.run(&["status", "--json"]).ok().json();
    assert_eq!(status["paused"]["reason"], "prices go down");
    world.run(&["pause"]).ok().prints("it was paused before");
    let resumed = world.run(&["resume", "--json"]).ok().json();
    assert_eq!(resumed, json!({"paused": false, "was_paused": true}));
    world.run(&["resume"]).ok().prints("it was not paused\n");
}

#[test]
fn a_retry_says_whether_it_costs() {
    let world = World::new();
    let ids = world.add(5, "b");
    let t = now();
    world.happen(ids[0], t, vec![claimed("0.60"), refused()]);
    world.happen(
        ids[1],
        t,
        vec![
            claimed("0.60"),
            accepted("t2"),
            Event::TaskExpired {
                message: "old".to_owned(),
            },
        ],
    );
    world.happen(ids[2], t, vec![Event::Cancelled]);
    world.happen(ids[3], t, vec![claimed("0.60"), unknown()]);
    world
        .run(&["retry", "1", "2", "4", "5", "99"])
        .ends(1)
        .prints("job 1 is pending: a new submission, which is paid for\n")
        .prints("job 2 looks for its paid video again, at no cost\n")
        .says("job 4 is unconfirmed: it may have been charged; settle it with `reelq resolve 4 --adopt TASK_ID`")
        .says("job 5 is pending: it is still moving")
        .says("there is no job 99");
    assert_eq!(
        world.states(),
        [
            "pending",
            "generating",
            "cancelled",
            "unconfirmed",
            "pending"
        ]
    );
    // A batch's withdrawn jobs are not sent again unasked.
    world
        .run(&["retry", "--batch", "b"])
        .ok()
        .says("no failed jobs; 1 job cancelled, which --state cancelled retries");
    let report = world
        .run(&["retry", "--batch", "b", "--state", "cancelled", "--json"])
        .ok()
        .json();
    assert_eq!(
        report,
        json!({"changed": [3], "refused": [], "missing": []})
    );
}

#[test]
fn a_cancel_tells_the_truth_about_money() {
    let world = World::new();
    let ids = world.add(4, "b");
    let t = now();
    world.happen(ids[0], t, vec![claimed("0.60"), accepted("t1")]);
    world.happen(ids[1], t, vec![claimed("0.60")]);
    world.happen(ids[2], t, vec![claimed("0.60"), accepted("t3")]);
    world
        .run(&["cancel", "1", "--keep"])
        .ok()
        .prints("1 job kept: already paid for, so the video is still fetched\n");
    world
        .run(&["cancel", "1"])
        .ok()
        .prints("job 1 is cancelled\n")
        .says("1 job withdrawn after the task was paid for (0.60): that money is spent");
    let ran = world
        .run(&["cancel", "--batch", "b", "--keep", "--json"])
        .ends(1)
        .says("job 2 is submitting: its request is on the wire; ask again");
    let report = ran.json();
    assert_eq!(report["changed"], json!([4]));
    assert_eq!(report["kept"], 1);
    assert_eq!(report["paid_withdrawn"], 0);
    assert_eq!(
        world.states(),
        ["cancelled", "submitting", "generating", "cancelled"]
    );
    world
        .run(&["cancel", "1"])
        .ends(1)
        .says("job 1 is cancelled: it has already ended");
}

#[test]
fn an_unconfirmed_job_is_settled_by_a_word() {
    let world = World::new();
    let ids = world.add(5, "b");
    for id in &ids[..4] {
        world.happen(*id, now(), vec![claimed("0.60"), unknown()]);
    }
    world
        .run(&["resolve", "1", "--adopt", "task-1"])
        .ok()
        .prints("job 1 watches task task-1\n");
    world
        .run(&["resolve", "2", "--adopt", "task-1"])
        .ends(1)
        .says("task task-1 is job 1's already");
    world
        .run(&["resolve", "2", "3", "--adopt", "task-2"])
        .ends(2)
        .says("--adopt takes exactly one job, but 2 match");
    world
        .run(&["resolve", "2", "--resubmit"])
        .ok()
        .prints("job 2 is pending");
    world
        .run(&["resolve", "5", "--write-off"])
        .ends(1)
        .says("job 5 is pending: only an unconfirmed job is resolved");
    let report = world
        .run(&["resolve", "--batch", "b", "--write-off", "--json"])
        .ok()
        .json();
    assert_eq!(report["changed"], json!([3, 4]));
    assert_eq!(
        world.states(),
        ["generating", "pending", "failed", "failed", "pending"]
    );
    world
        .run(&["resolve", "--batch", "b", "--write-off"])
        .ok()
        .says("there is no unconfirmed job");
}

#[test]
fn a_wait_ends_when_all_are_settled() {
    let world = World::new();
    let ids = world.add(2, "b");
    let target = world.path("1.mp4");
    world.happen(
        ids[0],
        now(),
        vec![
            claimed("0.60"),
            accepted("t1"),
            completed(&target),
            saved(&target),
        ],
    );
    world
        .run(&["wait", "--batch", "b", "--timeout", "0s"])
        .ends(124)
        .prints("total=2 done=1 running=0 waiting=1 failed=0 cancelled=0 unconfirmed=0 cost=0.60\n")
        .says("warning: no daemon works on this queue")
        .says("timed out after 0s: 1 job is not settled");
    let ran = world
        .run(&["wait", "--timeout", "300ms", "--json"])
        .ends(124);
    assert_eq!(ran.json()["timed_out"], true);
    world.happen(ids[1], now(), vec![Event::Cancelled]);
    let ran = world
        .run(&["wait", "--batch", "b", "--json"])
        .ends(3)
        .says("1 job cancelled (withdrawn): see `reelq list --state cancelled --batch b`");
    let report = ran.json();
    assert_eq!(report["settled"], true);
    assert_eq!(report["jobs"]["done"], 1);
    let other = world.path("2.mp4");
    world.happen(
        ids[1],
        now(),
        vec![
            Event::Retried,
            claimed("0.60"),
            accepted("t2"),
            completed(&other),
            saved(&other),
        ],
    );
    let ran = world.run(&["wait", "--batch", "b"]).ok();
    assert_eq!(ran.err, "");
}

#[test]
fn the_ledger_is_a_table_csv_or_json() {
    let world = World::new();
    let ids = world.add(5, "b,1");
    world.add(1, "other");
    let t = now();
    world.happen(ids[0], t, vec![claimed("0.60"), accepted("t1")]);
    world.happen(ids[1], t, vec![claimed("0.60"), unknown()]);
    world.happen(
        ids[2],
        t,
        vec![claimed("0.60"), unknown(), Event::WrittenOff],
    );
    world.happen(ids[3], t, vec![claimed("0.60"), refused()]);
    world.happen(
        ids[4],
        t - 7_200_000,
        vec![claimed("0.15"), accepted("t5"), task_failed()],
    );

    let ledger = world.run(&["ledger", "--json"]).ok().json();
    assert_eq!(ledger["submissions"].as_array().unwrap().len(), 5);
    assert_eq!(ledger["submissions"][0]["job_id"], 5);
    for (kind, submissions, cost) in [
        ("accepted", 2, 0.75),
        ("unknown", 1, 0.6),
        ("written_off", 1, 0.6),
        ("rejected", 1, 0.0),
        ("not_accepted", 0, 0.0),
    ] {
        let expected = json!({"submissions": submissions, "cost": cost});
        assert_eq!(ledger["totals"][kind], expected, "{kind}");
    }

    let ran = world
        .run(&[
            "ledger", "--format", "csv", "--since", "1h", "--batch", "b,1",
        ])
        .ok()
        .says("accepted           1          0.60\n");
    let lines: Vec<&str> = ran.out.lines().collect();
    assert_eq!(
        lines[0],
        "job_id,key,batch,attempt,started_at,finished_at,outcome,cost,http_status,task_id,error,\
         request_id,endpoint,state"
    );
    assert_eq!(lines.len(), 5);
    assert!(lines[1].starts_with("1,,\"b,1\",1,20"), "{}", lines[1]);
    assert!(lines[1].contains(",accepted,0.60,200,t1,"), "{}", lines[1]);
    assert!(lines[3].contains(",written_off,0.60,"), "{}", lines[3]);
    assert!(lines[4].contains(",rejected,0.00,400,"), "{}", lines[4]);

    world
        .run(&["ledger"])
        .ok()
        .prints("BEGUN")
        .prints("written off        1          0.60\n");
    let empty = world
        .run(&["ledger", "--batch", "other", "--json"])
        .ok()
        .json();
    assert_eq!(empty["submissions"], json!([]));
}

// Keeping.

#[test]
fn a_backup_is_a_queue_and_replaces_nothing() {
    let world = World::new();
    world.add(3, "b");
    world
        .run(&["backup", "copy.db"])
        .ok()
        .prints("copied the queue to copy.db");
    let jobs = world
        .run(&["list", "--json", "--database", "copy.db"])
        .ok()
        .json();
    assert_eq!(jobs.as_array().unwrap().len(), 3);
    let before = std::fs::read(world.path("copy.db")).unwrap();
    world
        .run(&["backup", "copy.db"])
        .ends(1)
        .says("copy.db: the file exists already; name a new one");
    assert_eq!(std::fs::read(world.path("copy.db")).unwrap(), before);
    world
        .run(&["backup", "no/copy.db"])
        .ends(1)
        .says("no/copy.db: ");
    let left = std::fs::read_dir(world.dir.path()).unwrap();
    assert!(
        left.flatten()
            .all(|entry| !entry.file_name().to_string_lossy().starts_with(".reelq"))
    );
}

#[test]
fn only_what_ended_long_ago_is_forgotten() {
    let world = World::new();
    let ids = world.add(4, "b");
    let day = 86_400_000;
    world.happen(ids[0], now() - 40 * day, vec![claimed("0.60"), refused()]);
    world.happen(ids[1], now() - 20 * day, vec![claimed("0.60"), refused()]);
    world.happen(ids[2], now() - 40 * day, vec![claimed("0.60"), unknown()]);
    let report = world
        .run(&["prune", "--older-than", "30d", "--json"])
        .ok()
        .json();
    assert_eq!(report["jobs"], 1);
    world.run(&["show", "1"]).ends(1).says("there is no job 1");
    assert_eq!(world.states(), ["failed", "unconfirmed", "pending"]);
    world
        .run(&["prune", "--older-than", "30d"])
        .ok()
        .prints("forgot 0 jobs");
}

#[test]
fn a_check_is_a_line_for_each_thing() {
    let provider = serve(|path| match path {
        "/v1/models" => ("200 OK", "application/json", b"{}".to_vec()),
        _ => ("404 Not Found", "text/plain", Vec::new()),
    });
    let world = World::with_config(&format!(
        "[provider]\nbase_url = \"{provider}\"\napi_key_file = \"key\"\n[download]\nmin_free_space = 0\n"
    ));
    world.run(&["check"]).ends(78).prints("WRONG    key");
    world.file("key", "sk-secret-1\n");
    world.add(2, "b");
    let ran = world
        .run(&["check"])
        .ok()
        .prints("ok       config    ")
        .prints("ok       key       found (")
        .prints("reelq.db: 2 jobs, undamaged\n")
        .prints("ok       disk      ")
        .prints("ok       daemon    does not run\n")
        .prints(&format!("ok       provider  {provider}/ answers in "));
    assert!(!ran.out.contains("sk-secret-1"));
    // It looks and leaves nothing.
    assert!(!world.path("videos").exists());

    for (name, value, status, words) in [
        (
            "REELQ_PROVIDER__BASE_URL",
            "http://127.0.0.1:1",
            69,
            "check the network and provider.base_url",
        ),
        (
            "REELQ_DOWNLOAD__MIN_FREE_SPACE",
            "10EiB",
            78,
            "allowed is a size",
        ),
        (
            "REELQ_DOWNLOAD__MIN_FREE_SPACE",
            "1000000TiB",
            1,
            "nothing is submitted; free some space",
        ),
        (
            "REELQ_DATABASE",
            "key",
            78,
            "this is not an SQLite database",
        ),
    ] {
        let mut command = world.command(&["check"]);
        command.env(name, value);
        Ran::of(command).ends(status).prints(words);
    }
    let lines = world.run(&["check", "--json"]).ok().json();
    assert!(
        lines
            .as_array()
            .unwrap()
            .iter()
            .any(|line| line["name"] == "provider")
    );
}

#[test]
fn a_check_names_a_refused_key() {
    let provider = serve(|_| {
        (
            "401 Unauthorized",
            "application/json",
            b"{\"error\":{\"message\":\"bad key\"}}".to_vec(),
        )
    });
    let world = World::with_config(&format!(
        "[provider]\nbase_url = \"{provider}\"\n[download]\nmin_free_space = 0\n"
    ));
    let mut command = world.command(&["check"]);
    command.env("REELQ_PROVIDER__API_KEY", "sk-secret-1");
    Ran::of(command)
        .ends(78)
        .prints("HTTP 401: bad key; check the key");
}

#[test]
fn shells_and_manuals_are_served() {
    let world = World::new();
    world
        .run(&["completions", "bash"])
        .ok()
        .prints("complete -F _reelq");
    world.run(&["man"]).ok().prints(".TH reelq 1");
    world.run(&["man", "--dir", "pages"]).ok();
    let page = std::fs::read_to_string(world.path("pages/reelq-add.1")).unwrap();
    for words in ["reelq\\-add", "\\-\\-dry\\-run"] {
        assert!(page.contains(words), "no {words} in {page}");
    }
    world.run(&["help", "add"]).ok().prints("Examples:");
    world.run(&["help", "run"]).ok().prints("not_before");
    world.run(&["--version"]).ok().prints("reelq ");
}

#[test]
fn money_adds_up_in_millionths() {
    // Ten jobs at a price that no binary fraction holds.
    let world = World::with_config("[budget.price_per_second]\n\"720p\" = 0.1\n");
    let lines = [LINE; 10].join("\n");
    let report = world
        .run_with(&lines, &["add", "-", "--duration", "1", "--json"])
        .ok()
        .json();
    assert_eq!(report["cost"].to_string(), "1.0");
    assert_eq!(Money::from_micros(1_000_000).to_string(), "1.00");
}
