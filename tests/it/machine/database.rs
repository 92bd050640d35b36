//! A locked database, and a row that cannot be read.

use std::sync::Mutex;

use sqlx::Connection;
use tokio::time::Instant;

use super::*;

/// Another program holds the database for longer than a statement waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_locked_database_is_waited_for() {
    let mut rig = Rig::new();
    rig.add(vec![held("one"), script("two", 3_000)]).await;
    let daemon = rig.start_behind(&[], true);
    until_post(&rig).await;
    rig.until_jobs("generating", 1).await;
    let mut other = connect(&rig.database()).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    rig.provider.release("one");
    rig.until_said(WAITS).await;
    lock.rollback().await.unwrap();
    daemon.ended().await;
    check_all_done(&rig).await;
}

/// What others have committed is not passed over because it could not be followed at once.
#[tokio::test]
async fn a_locked_database_is_no_idle_one() {
    let dir = folder();
    let settings = settings(dir.path(), &[]);
    let store = Arc::new(Store::open(&settings.database, Open::Create).await.unwrap());
    let service = service::assemble(&settings, Arc::clone(&store), true);
    let service = service.await.unwrap();
    // A path is to be released, which needs the lock.
    let job = JobSpec::new("one", "https://example.com/a.jpg");
    store.insert(&[job]).await.unwrap();
    let mut other = connect(&settings.database).await;
    sqlx::query(
        "UPDATE jobs SET state = 'cancelled', version = version + 1, finished_at = 1, \
         target = '/nowhere/1.mp4'",
    )
    .execute(&mut other)
    .await
    .unwrap();
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();

    let log = tempfile::NamedTempFile::new().unwrap();
    let _listens = tracing::subscriber::set_default(
        tracing_subscriber::fmt()
            .with_writer(Mutex::new(log.reopen().unwrap()))
            .finish(),
    );
    let said = || std::fs::read_to_string(log.path()).unwrap();
    let daemon = tokio::spawn(service.daemon.run(Signals::listen().unwrap()));
    let deadline = Instant::now() + LIMIT;
    while !said().contains(WAITS) {
        assert!(Instant::now() < deadline, "{}", said());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    lock.rollback().await.unwrap();
    assert_eq!(daemon.await.unwrap().unwrap(), Ending::Idle);
    assert!(store.leftovers().await.unwrap().is_empty(), "{}", said());
    for line in [WAITS, "the database takes commits again"] {
        assert_eq!(said().matches(line).count(), 1, "{}", said());
    }
}

/// The same at the start.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_locked_at_the_start_is_waited_for() {
    let mut rig = Rig::new();
    rig.add(vec![script("one", 3_000)]).await;
    let mut other = connect(&rig.database()).await;
    let lock = other.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let daemon = rig.start_behind(&[], true);
    rig.until_said("waiting; nothing is done until this is mended")
        .await;
    lock.rollback().await.unwrap();
    assert_eq!(daemon.ended().await.code(), Some(0));
    check_all_done(&rig).await;
}

/// Rows that cannot be read are named and set aside; the others go on.
#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_row_is_set_aside() {
    let mut rig = Rig::new();
    let mut jobs = vec![
        script("good", 3_000),
        script("generating", 3_000),
        script("downloading", 3_000),
    ];
    jobs[1].1.poll = vec![json(200, r#"{"status":"running"}"#)];
    jobs[2].1.files.clear();
    jobs[2].1.content = vec![status(503)];
    rig.add(jobs).await;
    let daemon = rig.start();
    rig.until_jobs("done", 1).await;
    rig.until_jobs("downloading", 1).await;
    daemon.signal(Signal::TERM);
    daemon.ended().await;

    let mut conn = connect(&rig.database()).await;
    for sql in [
        "INSERT INTO jobs (prompt, image_url) VALUES (CAST(x'ff' AS TEXT), 'https://example.com/a.jpg')",
        "UPDATE jobs SET endpoint = CAST(x'ff' AS TEXT) WHERE prompt = 'generating'",
        "UPDATE jobs SET video_urls = '{' WHERE prompt = 'downloading'",
    ] {
        sqlx::query(sql).execute(&mut conn).await.unwrap();
    }
    conn.close().await.unwrap();
    rig.add(vec![script("late", 3_000)]).await;
    rig.run_until_idle().await;
    for row in rig.rows().await {
        let column = match row.job.as_str() {
            "unreadable" => "prompt",
            "generating" => "endpoint",
            "downloading" => "video_urls",
            _ => {
                assert_eq!(row.state, "done", "{row:?}");
                continue;
            }
        };
        assert_eq!(
            (row.state.as_str(), row.code.as_str()),
            ("failed", "corrupt_row"),
            "{row:?}"
        );
        assert!(
            row.message
                .as_ref()
                .is_some_and(|words| words.contains(column)),
            "{row:?}"
        );
        rig.until_said(&format!("this row is set aside job={}", row.id))
            .await;
    }
}
