//! Rows that got round the rules of the tables.

use reelq::store::Committed;
use reelq::view::{Detail, JobView};

use super::*;

/// The answer for one row that somebody has spoilt keeps no other's off the disk.
#[tokio::test]
async fn a_row_that_cannot_be_written_is_set_aside() {
    let (_folder, store, mut conn) = blank().await;
    for _ in 0..3 {
        sql(&mut conn, INSERT).await.unwrap();
    }
    let claim = Claim {
        limit: 2,
        max_tasks: 9,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: 0,
        trial: None,
    };
    let claimed = store.claim(&claim, |job, _: &Spent| take(job)).await;
    let accepted: Vec<_> = claimed
        .unwrap()
        .jobs
        .iter()
        .map(|job| {
            let event = Event::Accepted {
                task_id: format!("t{}", job.id),
                evidence: Evidence::default(),
            };
            step::step(job, event, NEW_YEAR, &Policy::default()).unwrap()
        })
        .collect();
    for spoil in [
        "PRAGMA ignore_check_constraints = ON",
        "UPDATE jobs SET finished_at = 5 WHERE id IN (1, 3)",
    ] {
        sql(&mut conn, spoil).await.unwrap();
    }
    // One is read as it is and so written over: its promise is broken by what the other writes.
    let mut accepted = accepted;
    accepted[0].job.finished_at = Some(5);
    assert_eq!(
        store.commit(&accepted).await.unwrap(),
        [Committed::SetAside, Committed::Written]
    );
    let jobs = [
        store.job(1).await.unwrap().unwrap(),
        store.job(2).await.unwrap().unwrap(),
    ];
    assert_eq!(
        (jobs[0].state, jobs[1].state),
        (State::Unconfirmed, State::Generating)
    );
    let why = &jobs[0].failure.as_ref().unwrap().message;
    assert!(why.contains("(task t1)"), "{why}");
    // Nor does one that cannot be claimed keep others from it.
    sql(&mut conn, INSERT).await.unwrap();
    let claimed = store.claim(&claim, |job, _: &Spent| take(job)).await;
    assert_eq!(claimed.unwrap().jobs[0].id, 4);
    assert_eq!(store.job(3).await.unwrap().unwrap().state, State::Failed);
}

/// What the table takes is submitted, and shown as it was given.
#[tokio::test]
async fn metadata_that_is_no_value_to_most_parsers_is_handed_through() {
    let (_folder, store, mut conn) = blank().await;
    // Debian's SQLite takes 2000 brackets.
    sql(&mut conn, "PRAGMA ignore_check_constraints = ON")
        .await
        .unwrap();
    let deeper = format!("{{\"a\":{}{}}}", "[".repeat(1_999), "]".repeat(1_999));
    let given: Vec<String> = strange_metadata().into_iter().chain([deeper]).collect();
    for metadata in &given {
        let insert = format!(
            "INSERT INTO jobs (prompt, image_url, metadata) VALUES ('p', 'https://e/a', '{metadata}')"
        );
        sql(&mut conn, &insert).await.unwrap();
    }
    let claim = Claim {
        limit: 9,
        max_tasks: 9,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: 0,
        trial: None,
    };
    let claimed = store.claim(&claim, |job, _: &Spent| take(job)).await;
    let jobs = claimed.unwrap().jobs;
    assert_eq!(jobs.len(), given.len());
    for (job, metadata) in jobs.iter().zip(&given) {
        let shown = serde_json::to_string(&JobView::from(job)).unwrap();
        assert!(
            shown.contains(&format!("\"metadata\":{metadata},")),
            "{shown}"
        );
        let shown = serde_json::to_string(&Detail::new(job, &[], &[])).unwrap();
        assert!(
            shown.contains(&format!("\"metadata\":{metadata},")),
            "{shown}"
        );
    }
}

/// Whoever gets round the rules pays for nothing that they refuse.
#[tokio::test]
async fn what_the_rules_refuse_is_not_submitted() {
    let (_folder, store, mut conn) = blank().await;
    for statement in [
        "PRAGMA ignore_check_constraints = ON",
        "INSERT INTO jobs (prompt, image_url, duration) VALUES ('p', 'https://e/a', 99)",
        "INSERT INTO jobs (prompt, image_url) VALUES ('p', 'nope')",
        INSERT,
    ] {
        sql(&mut conn, statement).await.unwrap();
    }
    let claim = Claim {
        limit: 9,
        max_tasks: 9,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: 0,
        trial: None,
    };
    let claimed = store.claim(&claim, |job, _: &Spent| take(job)).await;
    let ids: Vec<JobId> = claimed.unwrap().jobs.iter().map(|job| job.id).collect();
    assert_eq!(ids, [3]);
    let first = store.job(1).await.unwrap().unwrap();
    let why = first.failure.unwrap().message;
    assert!(why.contains("duration must be"), "{why}");

    // A task whose id is gone is not asked for ever.
    let lose =
        "UPDATE jobs SET state = 'generating', version = version + 1, give_up_at = 9 WHERE id = 3";
    sql(&mut conn, lose).await.unwrap();
    assert!(
        store
            .load(&[3], State::Generating)
            .await
            .unwrap()
            .is_empty()
    );
    let lost = store.job(3).await.unwrap().unwrap();
    assert_eq!(lost.state, State::Failed);
}
