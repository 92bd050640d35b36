//! `reelq check`: a line for each thing.

use super::*;

#[test]
fn a_check_is_a_line_for_each_thing() {
    let provider = serve(|path| match path {
        "/v1/models" => ("200 OK", "application/json", b"{}".to_vec()),
        _ => ("404 Not Found", "text/plain", Vec::new()),
    });
    let shell = Shell::with_config(&format!(
        "[provider]\nbase_url = \"{provider}\"\napi_key_file = \"key\"\n[download]\nmin_free_space = 0\n"
    ));
    shell.run(&["check"]).ends(78).prints("WRONG    key");
    shell.file("key", "sk-secret-1\n");
    shell.add(2, "b");
    let ran = shell
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
    assert!(!shell.path("videos").exists());

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
        let mut command = shell.command(&["check"]);
        command.env(name, value);
        Ran::of(command).ends(status).prints(words);
    }
    let lines = shell.run(&["check", "--json"]).ok().json();
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
    let shell = Shell::with_config(&format!(
        "[provider]\nbase_url = \"{provider}\"\n[download]\nmin_free_space = 0\n"
    ));
    let mut command = shell.command(&["check"]);
    command.env("REELQ_PROVIDER__API_KEY", "sk-secret-1");
    Ran::of(command)
        .ends(78)
        .prints("HTTP 401: bad key; check the key");
}
