//! The commands: what they print, and how they end.

mod add;
mod check;
mod database;
mod handle;
mod keep;
mod look;
mod run;
mod usage;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use reelq::clock::Clock;
use reelq::job::{Event, Evidence, JobId, Millis, SavedFile};
use reelq::lock;
use reelq::step::{self, Policy};
use reelq::store::{Edited, Open, Store};
use serde_json::{Value, json};

/// A folder with a configuration, and a queue that is `reelq.db`.
struct Shell {
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

impl Shell {
    fn new() -> Shell {
        Shell::with_config("")
    }

    fn with_config(config: &str) -> Shell {
        let shell = Shell {
            dir: tempfile::tempdir().unwrap(),
        };
        shell.file("config.toml", config);
        shell
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
