//! Adding jobs: every format, every bad line, keys, rehearsals, caps and images.

use reelq::money::Money;

use super::*;

#[test]
fn jobs_go_in_from_every_format() {
    let shell = Shell::new();
    shell.file("a.jsonl", &format!("{LINE}\n\n{LINE}\n"));
    shell.file("b.json", &format!("[{LINE}]"));
    shell.file(
        "c.csv",
        "image_url,prompt,key,metadata.scene,not_before\n\
         https://example.com/2.png,\"two,\n2\",shot-2,7,2026-01-31T18:00:00+08:00\n",
    );
    let ran = shell
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

    let jobs = shell.run(&["list", "--json", "--oldest-first"]).ok().json();
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
    let shell = Shell::new();
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
    shell.run(&flags).ok().prints("inserted 1; job 1\n");
    let shown = shell.run(&["show", "key:k", "--json"]).ok();
    let job = shown.json();
    assert_eq!(job["priority"], -3);
    assert_eq!(job["size"], "480p");
    // Its text is handed through untouched.
    shell
        .run(&["list", "--json"])
        .ok()
        .prints(r#""metadata":{"b":1.0,"a":2}"#);
    shell
        .run(&flags)
        .ok()
        .prints("inserted 0, already there 1 (job 1)\n");
}

#[test]
fn every_bad_line_is_named_and_nothing_goes_in() {
    let shell = Shell::new();
    shell.file("good.jsonl", LINE);
    shell.file(
        "bad.csv",
        "prompt,image_url,duration\np,https://e.com/1,6\n,https://e.com/1,99\np,ftp://e.com,6\n",
    );
    shell.file("worse.jsonl", "{\"promt\":\"p\"}\nnonsense\n");
    let ran = shell
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
    let told = shell.run(&flags).ends(65).json();
    assert_eq!(told["errors"][0]["field"], "prompt");
    assert_eq!(told["errors"][0]["file"], Value::Null);
    // For programs each fault is an item of its own.
    let ran = shell
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
    assert_eq!(shell.states(), Vec::<String>::new());
}

#[test]
fn a_bad_job_of_an_array_on_one_line_is_named_by_its_number() {
    let shell = Shell::new();
    let bad = r#"{"prompt":"","image_url":"ftp://e.com"}"#;
    shell.file("one.json", &format!("[{LINE},{bad},{LINE},7]"));
    shell
        .run(&["add", "one.json"])
        .ends(65)
        .says("one.json:1, job 2: prompt must not be blank")
        .says("one.json:1, job 4: a JSON object such as")
        .says("reelq: bad input in 2 places; nothing was inserted\n");
    let told = shell.run(&["add", "one.json", "--json"]).ends(65).json();
    assert_eq!(told["errors"][0]["element"], 2);
}

#[test]
fn a_long_list_of_bad_lines_is_told_whole() {
    let shell = Shell::new();
    let input = "{}\n".repeat(12_345);
    let ran = shell.run_with(&input, &["add", "-"]).ends(65);
    for (nth, line) in ran.err.lines().take(12_345).enumerate() {
        let place = format!("stdin:{}: prompt is missing", nth + 1);
        assert!(line.starts_with(&place), "{line} is not of {place}");
    }
    assert_eq!(ran.err.lines().count(), 12_346);
    let told = shell
        .run_with(&input, &["add", "-", "--json"])
        .ends(65)
        .json();
    // Two fields are missing from each.
    assert_eq!(told["errors"].as_array().unwrap().len(), 24_690);
}

#[test]
fn standard_input_is_told_by_its_content() {
    let shell = Shell::new();
    for text in [
        format!("{LINE}\n"),
        format!("[{LINE}]"),
        "prompt,image_url\np,https://e.com/1\n".to_owned(),
    ] {
        shell
            .run_with(&text, &["add", "-"])
            .ok()
            .prints("inserted 1; ");
    }
    shell
        .run_with("", &["add", "-"])
        .ok()
        .prints("inserted 0\n")
        .says("there is no job in the input");
}

#[test]
fn a_rehearsal_prices_and_leaves_nothing() {
    let shell = Shell::with_config(PRICES);
    let lines = format!("{LINE}\n{LINE}\n");
    shell
        .run_with(&lines, &["add", "-", "--dry-run"])
        .ok()
        .prints("would insert 2\n")
        .prints("720p   2 jobs, 12 s: 1.20\n")
        .prints("in all: 1.20\n");
    assert!(!shell.path("reelq.db").exists());

    let ran = shell.run_with(
        &lines,
        &["add", "-", "--dry-run", "--size", "1080p", "--json"],
    );
    let report = ran.ok().json();
    assert_eq!(report["inserted"], 2);
    assert_eq!(report["cost"], Value::Null);
    assert_eq!(report["prices"][0]["cost"], Value::Null);
    shell
        .run_with(&lines, &["add", "-", "--dry-run", "--size", "1080p"])
        .ok()
        .prints("no price configured (budget.price_per_second.\"1080p\")");

    // On a queue that is there, what is there already is not priced.
    let keyed = LINE.replace('{', r#"{"key":"k","#);
    shell.run_with(&keyed, &["add", "-"]).ok();
    shell
        .run_with(&format!("{keyed}\n{LINE}"), &["add", "-", "--dry-run"])
        .ok()
        .prints("would insert 1, already there 1 (job 1)\n")
        .prints("in all: 0.60\n");
    assert_eq!(shell.states().len(), 1);
    shell.run_with("{}", &["add", "-", "--dry-run"]).ends(65);
}

#[test]
fn keys_make_a_repeat_harmless() {
    let shell = Shell::new();
    let line = |key: usize, prompt: &str| {
        format!(r#"{{"key":"k{key}","prompt":"{prompt}","image_url":"https://e.com/1"}}"#)
    };
    let lines: Vec<String> = (0..1_500).map(|n| line(n, "p")).collect();
    shell
        .run_with(&lines.join("\n"), &["add", "-"])
        .ok()
        .prints("inserted 1500; jobs 1 to 1500\n");
    let more: Vec<String> = (1_000..2_000).map(|n| line(n, "p")).collect();
    let ran = shell
        .run_with(&more.join("\n"), &["add", "-"])
        .ok()
        .prints("inserted 500, already there 500; jobs ");
    let ids = shell.run(&["list", "--json"]).ok().json();
    let last = &ids[0]["id"];
    assert_eq!(ids.as_array().unwrap().len(), 2_000);
    assert!(ran.out.ends_with(&format!(" to {last}\n")), "{ran:?}");
    assert_eq!(ran.err, "");

    // Numbers between the new ones are nobody's.
    let mixed = [line(7_000, "p"), line(1, "p"), line(7_001, "p")];
    let ran = shell.run_with(&mixed.join("\n"), &["add", "-"]).ok();
    let ran = ran.prints("inserted 2, already there 1 (job 2); 2 jobs from ");
    let id = |key: &str| shell.run(&["show", key, "--json"]).ok().json()["id"].clone();
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
    let ran = shell
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
    let shell = Shell::new();
    let line = |key: &str, prompt: &str| {
        format!(r#"{{"key":"{key}","prompt":"{prompt}","image_url":"https://e.com/1"}}"#)
    };
    shell.run_with(&line("there", "p"), &["add", "-"]).ok();
    shell.file("a.jsonl", &[line("a", "p"), line("there", "p")].join("\n"));
    let b = ["a", "b", "b", "b"].map(|key| line(key, "q"));
    shell.file("b.json", &format!("[{}]", b.join(",")));
    let csv = |n: usize| format!("a,{n},https://e.com/1\n");
    let rows: String = (0..12).map(csv).collect();
    shell.file("c.csv", &format!("key,prompt,image_url\n{rows}"));

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
    let ran = shell.run(&[&files[..], &["--dry-run"]].concat()).ok();
    repeats(&ran);
    ran.prints("would insert 2, already there 1 (job 1), repeated in the input 15\n");
    let ran = shell
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
    let ran = shell.run(&files).ok();
    repeats(&ran);
    ran.prints("inserted 2, already there 1 (job 1), repeated in the input 15; ");
    assert_eq!(shell.states().len(), 3);
}

#[test]
fn a_cap_is_set_with_the_jobs_or_alone() {
    let shell = Shell::with_config(PRICES);
    shell
        .run_with(LINE, &["add", "-", "--batch", "b", "--max-cost", "3"])
        .ok()
        .prints("batch b may cost 3.00 in all, 0.00 is spent or reserved\n");
    let cap = || {
        let status = shell.run(&["status", "--json"]).ok().json();
        status["batches"][0]["max_cost"].clone()
    };
    assert_eq!(cap(), json!(3.0));
    // Bad input and a rehearsal leave the cap as it is.
    shell
        .run_with("{}", &["add", "-", "--batch", "b", "--max-cost", "9"])
        .ends(65);
    shell
        .run_with(
            LINE,
            &["add", "-", "--batch", "b", "--max-cost", "9", "--dry-run"],
        )
        .ok();
    assert_eq!(cap(), json!(3.0));
    shell
        .run(&["add", "--batch", "b", "--max-cost", "4.50"])
        .ok()
        .prints("may cost 4.50");
    assert_eq!(cap(), json!(4.5));
    // What is pruned still counts against it, and is told.
    shell.happen(1, 0, vec![claimed("0.60"), accepted("t"), task_failed()]);
    shell.run(&["prune", "--older-than", "1d"]).ok();
    shell
        .run_with(LINE, &["add", "-", "--batch", "b", "--max-cost", "4.50"])
        .ok()
        .prints("batch b may cost 4.50 in all, 0.60 is spent or reserved\n");
    shell
        .run(&["add", "--batch", "b", "--max-cost", "none"])
        .ok()
        .prints("no cap");
    assert_eq!(cap(), Value::Null);

    let two = format!("{LINE}\n{}", LINE.replace('{', r#"{"batch":"other","#));
    shell
        .run_with(&two, &["add", "-", "--batch", "b", "--max-cost", "3"])
        .ends(65)
        .says("stdin:2: batch is \"other\", but --max-cost caps one batch");
    shell
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
    let shell = Shell::with_config(&format!("[provider]\nbase_url = \"{images}\"\n"));
    let line = |path: &str| format!(r#"{{"prompt":"p","image_url":"{images}{path}"}}"#);
    let good = line("/good.png");
    shell
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
    shell
        .run_with(&bad, &["add", "-", "--check-images"])
        .ends(65)
        .says("stdin:2: image_url is not a JPEG, PNG, WebP or GIF image: it answers with what it calls text/html\n")
        .says("stdin:3: image_url answers HTTP 404 Not Found\n")
        .says("stdin:4: image_url is not")
        .says("bad input in 3 places; nothing was inserted");
    assert_eq!(shell.states().len(), 1);

    // The provider is elsewhere: it cannot reach this machine.
    let shell = Shell::new();
    shell
        .run_with(&good, &["add", "-", "--check-images"])
        .ends(65)
        .says("stdin:1: image_url names 127.0.0.1, which only this machine reaches");
}

#[test]
fn money_adds_up_in_millionths() {
    // Ten jobs at a price that no binary fraction holds.
    let shell = Shell::with_config("[budget.price_per_second]\n\"720p\" = 0.1\n");
    let lines = [LINE; 10].join("\n");
    let report = shell
        .run_with(&lines, &["add", "-", "--duration", "1", "--json"])
        .ok()
        .json();
    assert_eq!(report["cost"].to_string(), "1.0");
    assert_eq!(Money::from_micros(1_000_000).to_string(), "1.00");
}
