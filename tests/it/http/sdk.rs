//! OpenAI's own Python package, unchanged, against the program itself.

use std::process::Command;

/// `REELQ_TEST_URL` names a running daemon with a provider behind it, such as
/// the sandbox; `REELQ_TEST_PYTHON` a Python that has the package.
#[test]
#[ignore = "needs the openai package from PyPI and a running daemon: .ci/run provides both"]
fn the_openai_package_works_by_its_base_url() {
    let url = std::env::var("REELQ_TEST_URL").expect("REELQ_TEST_URL is not set");
    let python = std::env::var("REELQ_TEST_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/python/openai_sdk.py");
    let status = Command::new(python).arg(script).arg(url).status().unwrap();
    assert!(status.success(), "{status}");
}
