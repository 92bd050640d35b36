//! Other people's programs, unchanged, against the program itself: OpenAI's own
//! Python package, and a fuzzer that reads the description.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use reelq::sandbox::{self, Options, Sandbox};
use serde_json::Value;
use tempfile::TempDir;

use super::client;
use crate::rig::LIMIT;

/// A daemon on a sandbox, which ends with its test.
struct Daemon {
    process: std::process::Child,
    url: String,
    _sandbox: Sandbox,
    _dir: TempDir,
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

impl Daemon {
    async fn start() -> Daemon {
        let dir = tempfile::tempdir().unwrap();
        let sandbox = sandbox::start(Options {
            listen: ([127, 0, 0, 1], 0).into(),
            generation_time: Duration::from_secs(1),
            ..Options::default()
        });
        let sandbox = sandbox.await.unwrap();
        let log = dir.path().join("log");
        let process = Command::new(env!("CARGO_BIN_EXE_reelq"))
            .args(["--config", "/dev/null", "run"])
            .current_dir(dir.path())
            // No setting of the person who runs the tests.
            .env_clear()
            .env("REELQ_PROVIDER__BASE_URL", sandbox.base_url())
            .env("REELQ_PROVIDER__API_KEY", "sk-test")
            .env("REELQ_POLL__INTERVAL", "3s")
            .env("REELQ_DOWNLOAD__MIN_FREE_SPACE", "0")
            .env("REELQ_HTTP__LISTEN", "127.0.0.1:0")
            .env("REELQ_LOG__FORMAT", "json")
            .stderr(File::create(&log).unwrap())
            .spawn();
        let mut daemon = Daemon {
            process: process.unwrap(),
            url: String::new(),
            _sandbox: sandbox,
            _dir: dir,
        };
        daemon.url = daemon.address(&log).await;
        daemon
    }

    /// Where it says that it listens.
    async fn address(&mut self, log: &Path) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let said = std::fs::read_to_string(log).unwrap();
            let mut lines = said
                .lines()
                .map_while(|line| serde_json::from_str(line).ok());
            if let Some(line) = lines.find(|line: &Value| line["message"] == "listening") {
                return line["address"].as_str().unwrap().to_owned();
            }
            let ended = self.process.try_wait().unwrap();
            assert!(ended.is_none() && Instant::now() < deadline, "{said}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Runs Python with these arguments to its good end.
async fn python(arguments: Vec<String>) {
    let python = std::env::var("REELQ_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let run = tokio::task::spawn_blocking(move || {
        // What a program leaves behind goes with this folder.
        let dir = tempfile::tempdir().unwrap();
        Command::new(python)
            .args(arguments)
            .current_dir(dir.path())
            .env("NO_PROXY", "127.0.0.1")
            .status()
    });
    let status = run.await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the openai package from PyPI: .ci/run installs it, REELQ_TEST_PYTHON names its Python"]
async fn the_openai_package_works_by_its_base_url() {
    let daemon = Daemon::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/openai_sdk.py");
    python(vec![script.to_owned(), daemon.url.clone()]).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs jsonschema_rs, which schemathesis from PyPI brings: .ci/run installs it, REELQ_TEST_PYTHON names its Python"]
async fn the_description_is_right_at_its_edges() {
    let daemon = Daemon::start().await;
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/description.py");
    python(vec![script.to_owned(), daemon.url.clone()]).await;
}

/// No 5xx, and nothing that is unlike its description.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis from PyPI: .ci/run installs it, REELQ_TEST_PYTHON names its Python"]
async fn a_fuzzer_finds_no_disagreement_with_the_description() {
    let daemon = Daemon::start().await;
    // A job for the paths that name one.
    let body = r#"{"prompt":"p","image_url":"https://example.com/1.png"}"#;
    let request = client().post(format!("{}/v1/videos", daemon.url));
    let request = request.header("content-type", "application/json");
    assert_eq!(request.body(body).send().await.unwrap().status(), 200);
    let program = "import sys; from schemathesis.cli import schemathesis; sys.exit(schemathesis())";
    let url = format!("{}/openapi.json", daemon.url);
    // The same cases each time; another number tries others.
    let seed = std::env::var("REELQ_TEST_SEED").unwrap_or_else(|_| "1".to_owned());
    let more = [
        "--seed",
        &seed,
        "--max-examples",
        "50",
        "--continue-on-failure",
    ];
    let mut arguments = vec!["-c".to_owned(), program.to_owned(), "run".to_owned(), url];
    arguments.extend(more.map(ToOwned::to_owned));
    python(arguments).await;
    // It is still there, and has nothing to wait for.
    let ready = client().get(format!("{}/readyz", daemon.url));
    assert_eq!(ready.send().await.unwrap().status(), 200);
}
