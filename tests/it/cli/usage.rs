//! How it is called: wrong calls, wrong settings, help and manuals.

use super::*;

#[test]
fn wrong_calls_say_what_is_allowed() {
    let shell = Shell::new();
    shell.add(1, "b");
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
        let ran = shell.run(args);
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
        let shell = Shell::with_config(config);
        for args in [&["list"][..], &["add", "-"], &["status"]] {
            let ran = shell.run(args).ends(78).says("reelq: ").says(words);
            assert_eq!(ran.out, "");
        }
        // `check` tells of it in its own form.
        shell.run(&["check"]).ends(78).prints("WRONG    config");
    }
    let shell = Shell::new();
    shell
        .run(&["list", "--config", "nowhere.toml"])
        .ends(78)
        .says("nowhere.toml does not exist");
    let mut command = shell.command(&["list"]);
    command.env("REELQ_POLL__INTERVALL", "5s");
    Ran::of(command).ends(78).says("REELQ_POLL__INTERVALL");
    let mut command = shell.command(&["list"]);
    command.env("REELQ_LOG", "reelq=loud");
    Ran::of(command).ends(78).says("reelq: REELQ_LOG: found");
}

#[test]
fn shells_and_manuals_are_served() {
    let shell = Shell::new();
    shell
        .run(&["completions", "bash"])
        .ok()
        .prints("complete -F _reelq");
    shell.run(&["man"]).ok().prints(".TH reelq 1");
    shell.run(&["man", "--dir", "pages"]).ok();
    let page = std::fs::read_to_string(shell.path("pages/reelq-add.1")).unwrap();
    for words in ["reelq\\-add", "\\-\\-dry\\-run"] {
        assert!(page.contains(words), "no {words} in {page}");
    }
    shell.run(&["help", "add"]).ok().prints("Examples:");
    shell.run(&["help", "run"]).ok().prints("not_before");
    shell.run(&["--version"]).ok().prints("reelq ");
}
