//! The store: what a crash leaves in it, when it refuses, what in it cannot be read.

use reelq::job::Outcome;

use super::*;

#[tokio::test]
async fn a_post_on_the_wire_at_a_crash_is_unconfirmed() {
    let mut desk = Desk::new(limits()).await;
    desk.add(1).await;
    let job = desk.posts().await.remove(0);
    assert_eq!(desk.job(job.id).await.state, State::Submitting);
    desk.crash().await;
    let job = desk.job(job.id).await;
    assert_eq!(job.state, State::Unconfirmed);
    let words = job.failure.unwrap().message;
    assert!(
        words.contains("while the request was on the wire"),
        "{words}"
    );
    assert!(words.contains("reelq resolve 1 --adopt"), "{words}");
    let ledger = desk.store.ledger(None, None, None).await.unwrap();
    assert_eq!(ledger[0].outcome, Outcome::Unknown);
    assert!(desk.posts().await.is_empty(), "sent again");
}

#[tokio::test]
async fn answers_wait_for_a_store_that_refuses() {
    let mut desk = Desk::new(limits()).await;
    let running = desk.generate().await;
    desk.add(1).await;
    let sent = desk.posts().await.remove(0);
    let polled = desk.poll().await;
    let second = sent.id;
    desk.hide("jobs").await;
    let reports = vec![completed(polled), accepted(sent)];
    assert!(desk.engine.settle(reports, desk.now).await.is_err());
    // Named, should the daemon have to end before it is on disk.
    let unsaved: Vec<JobId> = desk.engine.unsaved_tasks().map(|(job, _)| job).collect();
    assert_eq!(unsaved, [second]);
    assert!(desk.try_claim().await.unwrap().is_empty(), "went on");
    desk.bring_back("jobs").await;
    desk.settle(Vec::new()).await;
    assert_eq!(desk.job(running).await.state, State::Downloading);
    assert_eq!(desk.job(second).await.task_id.as_deref(), Some("task-2"));
}

#[tokio::test]
async fn an_intent_on_disk_is_sent_though_the_gates_cannot_be_shown() {
    let mut desk = Desk::new(limits()).await;
    desk.limits.budget.max_jobs_per_day = Some(1);
    desk.crash().await;
    desk.add(2).await;
    // The cap holds the second job back, which is to be shown.
    desk.hide("gates").await;
    let posts = desk.posts().await;
    assert_eq!(posts.len(), 1);
    desk.bring_back("gates").await;
    desk.settle(vec![accepted(posts[0].clone())]).await;
    let gates = desk.store.gates().await.unwrap();
    assert_eq!(gates[0].name, "budget");
}

#[tokio::test]
async fn a_failed_sync_takes_no_other_answer_with_it() {
    let mut desk = Desk::new(limits()).await;
    let id = desk.generate().await;
    let polled = desk.poll().await;
    desk.settle(vec![completed(polled)]).await;
    desk.add(1).await;
    let acts = desk.claim().await;
    let sent = acts.iter().cloned().find_map(posted).unwrap();
    let second = sent.id;
    let fetch = Report::Fetched(
        Box::new(desk.job(id).await),
        Fetched::SyncFailed("input/output error".to_owned()),
    );
    let end = desk
        .engine
        .settle(vec![fetch, accepted(sent)], desk.now)
        .await;
    assert!(matches!(end, Err(EngineError::Sync(_))), "{end:?}");
    assert_eq!(desk.job(second).await.state, State::Generating);
}

#[tokio::test]
async fn an_unreadable_row_is_set_aside_and_the_rest_goes_on() {
    let mut desk = Desk::new(limits()).await;
    desk.add(3).await;
    let acts = desk.posts().await;
    let lost = acts[0].id;
    desk.settle(acts[1..].iter().cloned().map(accepted).collect())
        .await;
    desk.add(1).await;
    // As a disk or another program may spoil it.
    for sql in [
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE jobs SET video_urls = 'not json' WHERE id IN (1, 2, 4)",
        "PRAGMA ignore_check_constraints = OFF",
    ] {
        desk.sql(sql).await;
    }
    desk.crash().await;
    desk.now += MINUTE;
    desk.claim().await;
    let states: Vec<(JobId, String, Option<String>)> =
        sqlx::query_as("SELECT id, state, error_code FROM jobs ORDER BY id")
            .fetch_all(&mut desk.raw)
            .await
            .unwrap();
    let code = Some(FailureCode::CorruptRow.as_str().to_owned());
    // What may have been charged is said to be so.
    assert_eq!(states[0], (lost, "unconfirmed".to_owned(), code.clone()));
    assert_eq!(states[1], (2, "failed".to_owned(), code.clone()));
    assert_eq!(states[2], (3, "generating".to_owned(), None));
    assert_eq!(states[3], (4, "failed".to_owned(), code));
    let ledger = desk.store.ledger(Some(lost), None, None).await.unwrap();
    assert_eq!(ledger[0].outcome, Outcome::Unknown);
    let history = desk.store.history(2).await.unwrap();
    assert_eq!(history.last().unwrap().event, "set_aside");
}
