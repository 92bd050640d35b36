//! Gates: what closes them, what goes out while they are closed, what opens them.

use reelq::verdict::judge_probe;

use super::*;

#[tokio::test]
async fn a_closed_gate_lets_a_free_request_out_and_then_one_job() {
    let mut desk = Desk::new(limits()).await;
    desk.add(5).await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 3, "three on the wire");
    let lost_all = posts
        .into_iter()
        .map(|job| after_post(job, lost("timeout")));
    desk.settle(lost_all.collect()).await;
    assert!(desk.claim().await.is_empty(), "it is closed");
    desk.now += MINUTE;
    let acts = desk.claim().await;
    assert!(matches!(acts[..], [Act::Probe]), "{acts:?}");
    assert!(desk.claim().await.is_empty(), "one free request at a time");
    desk.settle(vec![Report::Probed(Ok(()))]).await;
    let trial = desk.posts().await;
    assert_eq!(trial.len(), 1, "one job, to see");
    assert!(desk.posts().await.is_empty());
    desk.settle(vec![accepted(trial[0].clone())]).await;
    assert_eq!(desk.posts().await.len(), 1, "the last one: it is open");
}

#[tokio::test]
async fn a_gate_is_as_it_was_after_a_restart() {
    let mut desk = Desk::new(limits()).await;
    desk.add(5).await;
    for job in desk.posts().await {
        desk.settle(vec![after_post(job, lost("timeout"))]).await;
    }
    desk.crash().await;
    assert!(desk.claim().await.is_empty(), "a crash does not open it");
    desk.now += MINUTE;
    assert!(matches!(desk.claim().await[..], [Act::Probe]));
}

/// Some jobs, first in the queue, are answered in a way that closes the gate, for ever; in how
/// many seconds forty others are made.
async fn made_behind(first: usize, priority: i64, reply: &Reply) -> i64 {
    let limits = Limits {
        max_in_flight: 100,
        rate_per_minute: 1_000,
        ..limits()
    };
    let mut desk = Desk::new(limits).await;
    desk.add(first + 40).await;
    desk.sql(&format!(
        "UPDATE jobs SET priority = {priority} WHERE id <= {first}"
    ))
    .await;
    let (begin, mut made) = (desk.now, 0);
    while made < 40 {
        assert!(desk.now - begin < HOUR, "{made} made in an hour");
        for act in desk.claim().await {
            match act {
                Act::Probe => desk.settle(vec![Report::Probed(Ok(()))]).await,
                Act::Post { job, .. } if job.id <= first as JobId => {
                    desk.settle(vec![after_post(*job, reply.clone())]).await;
                }
                Act::Post { job, .. } => {
                    made += 1;
                    desk.settle(vec![accepted(*job)]).await;
                }
                _ => {}
            }
        }
        desk.now += SECOND;
    }
    for id in 1..=first as JobId {
        let state = desk.job(id).await.state;
        assert!(matches!(state, State::Pending | State::Unconfirmed));
    }
    (desk.now - begin) / SECOND
}

#[tokio::test]
async fn refused_jobs_do_not_stop_the_others() {
    let busy = json!({"error": {"type": "new_api_error", "message": "no channel"}});
    for (first, reply, most) in [
        (1, answer(403, &json!({})), 60),
        (4, answer(401, &json!({})), 90),
        (4, answer(402, &json!({})), 90),
        (12, answer(403, &json!({})), 240),
        (4, answer(429, &json!({})), 180),
        (4, answer(503, &busy), 240),
        // Accepted, perhaps, each of them.
        (10, answer(200, &json!({})), 120),
    ] {
        for priority in [0, 100] {
            let seconds = made_behind(first, priority, &reply).await;
            assert!(seconds <= most, "{seconds} s for {first} of {reply:?}");
        }
    }
}

/// A provider that takes one POST in four seconds: the urgent ones go first all the same.
#[tokio::test]
async fn a_rate_limit_changes_no_order() {
    let mut desk = Desk::new(limits()).await;
    desk.add(10).await;
    desk.sql("UPDATE jobs SET priority = 10 WHERE id > 7").await;
    let (mut free_at, mut taken) = (desk.now, Vec::new());
    while taken.len() < 6 {
        for act in desk.claim().await {
            let Act::Post { job, .. } = act else { continue };
            let reply = if desk.now >= free_at {
                free_at = desk.now + 4 * SECOND;
                taken.push(job.id);
                accepted(*job)
            } else {
                after_post(*job, answer(429, &json!({})))
            };
            desk.settle(vec![reply]).await;
        }
        desk.now += SECOND;
    }
    assert!(taken[..3].iter().all(|id| *id > 7), "{taken:?}");
}

/// What was on the wire before the gate closed does not open it: the fault came after.
#[tokio::test]
async fn a_late_answer_opens_no_gate() {
    let mut desk = Desk::new(limits()).await;
    desk.add(6).await;
    let mut posts = desk.posts().await;
    assert_eq!(posts.len(), 3);
    let reply = raw_answer(502, b"<html>");
    desk.settle(vec![after_post(posts.remove(0), reply)]).await;
    desk.settle(posts.into_iter().map(accepted).collect()).await;
    assert!(desk.posts().await.is_empty(), "it reopened");
}

#[tokio::test]
async fn too_many_tasks_at_once_narrows_the_window() {
    let mut desk = Desk::new(limits()).await;
    desk.generate().await;
    desk.add(4).await;
    let posts = desk.posts().await;
    let full = || answer(429, &json!({"error": "too many concurrent tasks"}));
    desk.settle(
        posts
            .into_iter()
            .map(|job| after_post(job, full()))
            .collect(),
    )
    .await;
    desk.now += 5 * MINUTE;
    let polled = desk.poll().await;
    assert!(
        desk.posts().await.is_empty(),
        "one task runs, and one is taken"
    );
    desk.settle(vec![completed(polled)]).await;
    assert_eq!(desk.posts().await.len(), 1);
}

/// Turns until the POST is tried, while the free request is answered like this.
async fn probes_before_a_trial(desk: &mut Desk, probe: &Reply) -> u32 {
    let mut probes = 0;
    for _ in 0..HOUR / SECOND {
        for act in desk.claim().await {
            match act {
                Act::Probe => {
                    probes += 1;
                    let failed = judge_probe(probe.clone());
                    assert!(failed.is_err());
                    desk.settle(vec![Report::Probed(failed)]).await;
                }
                Act::Post { job, .. } => {
                    desk.settle(vec![accepted(*job)]).await;
                    return probes;
                }
                _ => {}
            }
        }
        desk.now += SECOND;
    }
    panic!("still closed after {probes} free requests and an hour");
}

#[tokio::test]
async fn a_probe_that_always_fails_keeps_no_gate_closed_for_ever() {
    let cases = [
        (answer(401, &json!({"error": "no"})), [2, 2, 2]),
        // That the key is refused shows that the outage is over.
        (raw_answer(503, b"<html>"), [1, 6, 6]),
    ];
    for (post, patience) in cases {
        let probes = [
            answer(401, &json!({})),
            raw_answer(500, b""),
            lost("timeout"),
        ];
        for (probe, patience) in probes.into_iter().zip(patience) {
            let mut desk = Desk::new(limits()).await;
            desk.add(4).await;
            let posts = desk.posts().await.into_iter();
            let reports = posts.map(|job| after_post(job, post.clone()));
            desk.settle(reports.collect()).await;
            assert_eq!(probes_before_a_trial(&mut desk, &probe).await, patience);
        }
    }
}

#[tokio::test]
async fn a_start_looks_at_once_whether_a_fault_is_mended() {
    let cases = [
        (answer(401, &json!({})), true),
        (answer(402, &json!({})), true),
        (Reply::NotSent("refused".to_owned()), true),
        (answer(429, &json!({})), false),
        (answer(502, &json!({})), false),
    ];
    for (post, at_once) in cases {
        let mut desk = Desk::new(limits()).await;
        desk.add(4).await;
        let posts = desk.posts().await.into_iter();
        let reports = posts.map(|job| after_post(job, post.clone()));
        desk.settle(reports.collect()).await;
        assert!(desk.claim().await.is_empty(), "it is closed");
        desk.crash().await;
        let acts = desk.claim().await;
        assert_eq!(
            matches!(acts[..], [Act::Probe]),
            at_once,
            "{post:?}: {acts:?}"
        );
    }
}

#[tokio::test]
async fn a_gate_belongs_to_the_endpoint_that_it_was_closed_for() {
    let mut desk = Desk::new(limits()).await;
    desk.add(4).await;
    let posts = desk.posts().await.into_iter();
    let reports = posts.map(|job| after_post(job, lost("timeout")));
    desk.settle(reports.collect()).await;
    desk.endpoint = "https://provider.test key-2";
    desk.crash().await;
    assert_eq!(desk.posts().await.len(), 1, "another key's fault");
    assert!(desk.store.gates().await.unwrap().is_empty(), "still shown");
}

#[tokio::test]
async fn tasks_taken_together_with_a_refusal_count() {
    let mut desk = Desk::new(limits()).await;
    desk.add(9).await;
    let mut posts = desk.posts().await;
    let full = answer(429, &json!({"error": "too many concurrent tasks"}));
    let refused = after_post(posts.remove(1), full);
    let mut reports: Vec<Report> = posts.into_iter().map(accepted).collect();
    reports.push(refused);
    desk.settle(reports).await;
    desk.now += 5 * MINUTE;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    // Two are what it takes, and one of them has ended.
    assert_eq!(desk.posts().await.len(), 1);
}

#[tokio::test]
async fn a_post_that_hangs_does_not_keep_a_gate_closed() {
    let mut desk = Desk::new(limits()).await;
    desk.add(4).await;
    let mut posts = desk.posts().await;
    let _hangs = posts.remove(0);
    let limited = posts
        .into_iter()
        .map(|job| after_post(job, answer(429, &json!({"error": "slow down"}))));
    desk.settle(limited.collect()).await;
    assert!(desk.posts().await.is_empty());
    desk.now += MINUTE;
    let trial = desk.posts().await;
    assert_eq!(trial.len(), 1, "one job, to see");
    assert!(desk.posts().await.is_empty(), "and no second one beside it");
    desk.settle(vec![accepted(trial[0].clone())]).await;
    assert_eq!(desk.posts().await.len(), 2, "it is open");
}
