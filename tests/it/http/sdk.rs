//! OpenAI's own Python package, unchanged, against the program itself.

use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use reelq::sandbox::{self, Options};

use super::client;

/// The daemon, which ends with its test.
struct Daemon(std::process::Child);

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the openai package from PyPI: .ci/run installs it, REELQ_TEST_PYTHON names its Python"]
async fn the_openai_package_works_by_its_base_url() {
    let dir = tempfile::tempdir().unwrap();
    let sandbox = sandbox::start(Options {
        listen: ([127, 0, 0, 1], 0).into(),
        generation_time: Duration::from_secs(1),
        ..Options::default()
    });
    let sandbox = sandbox.await.unwrap();
    // Free a moment ago: the daemon wants a number.
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    drop(port);
    let daemon = Command::new(env!("CARGO_BIN_EXE_reelq"))
        .args(["--config", "/dev/null", "run"])
        .current_dir(dir.path())
        .env("REELQ_PROVIDER__BASE_URL", sandbox.base_url())
        .env("REELQ_PROVIDER__API_KEY", "sk-test")
        .env("REELQ_POLL__INTERVAL", "3s")
        .env("REELQ_DOWNLOAD__MIN_FREE_SPACE", "0")
        .env("REELQ_HTTP__LISTEN", address.to_string())
        .env_remove("REELQ_TEST_PYTHON")
        .spawn();
    let _daemon = Daemon(daemon.unwrap());
    let url = format!("http://{address}");
    let mut looks = 0..600;
    while client().get(format!("{url}/healthz")).send().await.is_err() {
        looks.next().expect("the daemon does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }

    let python = std::env::var("REELQ_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/openai_sdk.py");
    let status = tokio::task::spawn_blocking(move || {
        Command::new(python)
            .args([script, &url])
            .env("NO_PROXY", "127.0.0.1")
            .status()
    });
    let status = status.await.unwrap().unwrap();
    assert!(status.success(), "{status}");
}
