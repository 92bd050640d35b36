//! Looking: lists, one job, the status, the ledger.

use reelq::store::GateRow;

use super::*;

#[test]
fn a_list_is_a_line_a_job_or_one_array() {
    let shell = Shell::new();
    shell.add(2, "b");
    shell
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
    let ran = shell.run(&["list"]).ok();
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
        let jobs = shell.run(&[&["list", "--json"], args].concat()).ok().json();
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
    let ran = shell
        .run(&["list", "--json", "2", "99"])
        .ends(1)
        .says("no job 99");
    assert_eq!(ran.json()[0]["id"], 2);
}

#[test]
fn a_reader_may_leave_in_the_middle() {
    let shell = Shell::new();
    shell.add(3_000, "b");
    for args in [&["list"][..], &["list", "--json"], &["man"], &["--help"]] {
        let mut child = shell
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
    let shell = Shell::new();
    let ids = shell.add(1, "b");
    shell.happen(ids[0], now(), vec![claimed("0.60"), unknown()]);
    let job = shell.run(&["show", "1", "--json"]).ok().json();
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
    let ran = shell
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
    let shell = Shell::with_config(PRICES);
    let ids = shell.add(3, "b");
    // Of today, also if a day begins before they are counted.
    let soon = now() + 3_600_000;
    shell.happen(ids[0], soon, vec![claimed("0.60"), accepted("t1")]);
    shell.happen(ids[1], soon, vec![claimed("0.60"), unknown()]);
    shell.with_store(async |store| {
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
    shell
        .run(&["status"])
        .ok()
        .prints("daemon    does not run")
        .prints("jobs      3 in all: 1 pending, 1 unconfirmed, 1 generating\n")
        .prints("held      submitting waits: HTTP 401: no such key (since ")
        .prints("what to do: check provider.api_key_file\n")
        .prints("CHECK     1 unconfirmed job may have been charged: 2\n")
        .prints("`reelq resolve ID --adopt TASK_ID`")
        .prints("today     1 accepted 0.60, 1 unknown 0.60\n");

    let status = shell.run(&["status", "--json"]).ok().json();
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
    let mut command = shell.command(&["status"]);
    command.env("REELQ_PROVIDER__API_KEY", "sk-secret-1");
    let ran = Ran::of(command).ok();
    let ran = ran.prints("foreign   1 task of https://example.com/#abc");
    assert!(!ran.out.contains("sk-secret-1"));
}

#[test]
fn a_daemon_is_seen_by_its_lock() {
    let shell = Shell::new();
    shell.add(1, "b");
    let guard = lock::acquire(&shell.path("reelq.db")).unwrap();
    let status = shell.run(&["status", "--json"]).ok().json();
    let daemon = json!({"running": true, "pid": std::process::id()});
    assert_eq!(status["daemon"], daemon);
    drop(guard);
    shell.run(&["status"]).ok().prints("daemon    does not run");
}

#[test]
fn the_ledger_is_a_table_csv_or_json() {
    let shell = Shell::new();
    let ids = shell.add(5, "b,1");
    shell.add(1, "other");
    let t = now();
    shell.happen(ids[0], t, vec![claimed("0.60"), accepted("t1")]);
    shell.happen(ids[1], t, vec![claimed("0.60"), unknown()]);
    shell.happen(
        ids[2],
        t,
        vec![claimed("0.60"), unknown(), Event::WrittenOff],
    );
    shell.happen(ids[3], t, vec![claimed("0.60"), refused()]);
    shell.happen(
        ids[4],
        t - 7_200_000,
        vec![claimed("0.15"), accepted("t5"), task_failed()],
    );

    let ledger = shell.run(&["ledger", "--json"]).ok().json();
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

    let ran = shell
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

    shell
        .run(&["ledger"])
        .ok()
        .prints("BEGUN")
        .prints("written off        1          0.60\n");
    let empty = shell
        .run(&["ledger", "--batch", "other", "--json"])
        .ok()
        .json();
    assert_eq!(empty["submissions"], json!([]));
}
