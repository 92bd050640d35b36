//! Handling: pause, retry, cancel, resolve, wait.

use super::*;

#[test]
fn a_pause_holds_until_it_is_ended() {
    let shell = Shell::new();
    shell.run(&["pause"]).ends(78).says("no queue here");
    shell.add(1, "b");
    shell
        .run(&["pause", "prices go down"])
        .ok()
        .prints("paused (prices go down)");
    shell
        .run(&["status"])
        .ok()
        .prints("paused    since ")
        .prints(": prices go down; `reelq resume` ends it\n");
    let status = shell.run(&["status", "--json"]).ok().json();
    assert_eq!(status["paused"]["reason"], "prices go down");
    shell.run(&["pause"]).ok().prints("it was paused before");
    let resumed = shell.run(&["resume", "--json"]).ok().json();
    assert_eq!(resumed, json!({"paused": false, "was_paused": true}));
    shell.run(&["resume"]).ok().prints("it was not paused\n");
}

#[test]
fn a_retry_says_whether_it_costs() {
    let shell = Shell::new();
    let ids = shell.add(5, "b");
    let t = now();
    shell.happen(ids[0], t, vec![claimed("0.60"), refused()]);
    shell.happen(
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
    shell.happen(ids[2], t, vec![Event::Cancelled]);
    shell.happen(ids[3], t, vec![claimed("0.60"), unknown()]);
    shell
        .run(&["retry", "1", "2", "4", "5", "99"])
        .ends(1)
        .prints("job 1 is pending: a new submission, which is paid for\n")
        .prints("job 2 looks for its paid video again, at no cost\n")
        .says("job 4 is unconfirmed: it may have been charged; settle it with `reelq resolve 4 --adopt TASK_ID`")
        .says("job 5 is pending: it is still moving")
        .says("there is no job 99");
    assert_eq!(
        shell.states(),
        [
            "pending",
            "generating",
            "cancelled",
            "unconfirmed",
            "pending"
        ]
    );
    // A batch's withdrawn jobs are not sent again unasked.
    shell
        .run(&["retry", "--batch", "b"])
        .ok()
        .says("no failed jobs; 1 job cancelled, which --state cancelled retries");
    let report = shell
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
    let shell = Shell::new();
    let ids = shell.add(4, "b");
    let t = now();
    shell.happen(ids[0], t, vec![claimed("0.60"), accepted("t1")]);
    shell.happen(ids[1], t, vec![claimed("0.60")]);
    shell.happen(ids[2], t, vec![claimed("0.60"), accepted("t3")]);
    shell
        .run(&["cancel", "1", "--keep"])
        .ok()
        .prints("1 job kept: already paid for, so the video is still fetched\n");
    shell
        .run(&["cancel", "1"])
        .ok()
        .prints("job 1 is cancelled\n")
        .says("1 job withdrawn after the task was paid for (0.60): that money is spent");
    let ran = shell
        .run(&["cancel", "--batch", "b", "--keep", "--json"])
        .ends(1)
        .says("job 2 is submitting: its request is on the wire; ask again");
    let report = ran.json();
    assert_eq!(report["changed"], json!([4]));
    assert_eq!(report["kept"], 1);
    assert_eq!(report["paid_withdrawn"], 0);
    assert_eq!(
        shell.states(),
        ["cancelled", "submitting", "generating", "cancelled"]
    );
    shell
        .run(&["cancel", "1"])
        .ends(1)
        .says("job 1 is cancelled: it has already ended");
}

#[test]
fn an_unconfirmed_job_is_settled_by_a_word() {
    let shell = Shell::new();
    let ids = shell.add(5, "b");
    for id in &ids[..4] {
        shell.happen(*id, now(), vec![claimed("0.60"), unknown()]);
    }
    shell
        .run(&["resolve", "1", "--adopt", "task-1"])
        .ok()
        .prints("job 1 watches task task-1\n");
    shell
        .run(&["resolve", "2", "--adopt", "task-1"])
        .ends(1)
        .says("task task-1 is job 1's already");
    shell
        .run(&["resolve", "2", "3", "--adopt", "task-2"])
        .ends(2)
        .says("--adopt takes exactly one job, but 2 match");
    shell
        .run(&["resolve", "2", "--resubmit"])
        .ok()
        .prints("job 2 is pending");
    shell
        .run(&["resolve", "5", "--write-off"])
        .ends(1)
        .says("job 5 is pending: only an unconfirmed job is resolved");
    let report = shell
        .run(&["resolve", "--batch", "b", "--write-off", "--json"])
        .ok()
        .json();
    assert_eq!(report["changed"], json!([3, 4]));
    assert_eq!(
        shell.states(),
        ["generating", "pending", "failed", "failed", "pending"]
    );
    shell
        .run(&["resolve", "--batch", "b", "--write-off"])
        .ok()
        .says("there is no unconfirmed job");
}

#[test]
fn a_wait_ends_when_all_are_settled() {
    let shell = Shell::new();
    let ids = shell.add(2, "b");
    let target = shell.path("1.mp4");
    shell.happen(
        ids[0],
        now(),
        vec![
            claimed("0.60"),
            accepted("t1"),
            completed(&target),
            saved(&target),
        ],
    );
    shell
        .run(&["wait", "--batch", "b", "--timeout", "0s"])
        .ends(124)
        .prints("total=2 done=1 running=0 waiting=1 failed=0 cancelled=0 unconfirmed=0 cost=0.60\n")
        .says("warning: no daemon works on this queue")
        .says("timed out after 0s: 1 job is not settled");
    let ran = shell
        .run(&["wait", "--timeout", "300ms", "--json"])
        .ends(124);
    assert_eq!(ran.json()["timed_out"], true);
    shell.happen(ids[1], now(), vec![Event::Cancelled]);
    let ran = shell
        .run(&["wait", "--batch", "b", "--json"])
        .ends(3)
        .says("1 job cancelled (withdrawn): see `reelq list --state cancelled --batch b`");
    let report = ran.json();
    assert_eq!(report["settled"], true);
    assert_eq!(report["jobs"]["done"], 1);
    let other = shell.path("2.mp4");
    shell.happen(
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
    let ran = shell.run(&["wait", "--batch", "b"]).ok();
    assert_eq!(ran.err, "");
}
