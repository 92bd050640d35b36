//! Queues of an older and of a newer reelq.

use std::path::Path;

use reelq::job::Outcome;
use sqlx::Connection;
use sqlx::migrate::Migrator;

use super::*;
use crate::rig::put;

/// The database as the first release made it, with a job in every state.
async fn old_queue(path: &Path) {
    let folder = folder();
    let first = "0001_queue.sql";
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("migrations")
        .join(first);
    std::fs::copy(source, folder.path().join(first)).unwrap();
    put(path, b"");
    let mut conn = connect(path).await;
    let migrator = Migrator::new(folder.path()).await.unwrap();
    migrator.run_direct(None, &mut conn, false).await.unwrap();
    for (nth, state) in State::ALL.into_iter().enumerate() {
        let id = nth + 1;
        let insert = format!(
            "INSERT INTO jobs (key, batch, prompt, image_url, duration, size, priority, not_before, metadata) \
             VALUES ('key-{id}', 'b{}', 'prompt {id}', 'https://e/{id}', {id}, '480p', {id}, {id}, '{{\"n\":{id}}}')",
            id % 2
        );
        sql(&mut conn, &insert).await.unwrap();
        sql(&mut conn, &format!("{} WHERE id = {id}", becoming(state)))
            .await
            .unwrap();
        if !matches!(state, State::Pending | State::Cancelled) {
            let (outcome, task) = match state {
                State::Submitting => ("in_flight", "NULL"),
                State::Unconfirmed => ("unknown", "NULL"),
                State::Failed => ("rejected", "NULL"),
                _ => ("accepted", "'t'"),
            };
            let end = if outcome == "in_flight" { "NULL" } else { "2" };
            let insert = format!(
                "INSERT INTO submissions VALUES ({id}, 1, 'b', {id}00, 'e', 1, {end}, '{outcome}', 200, {task}, \
                 'error', 'request', 'answer', NULL, NULL)"
            );
            sql(&mut conn, &insert).await.unwrap();
        }
        let event = format!(
            "INSERT INTO events (job_id, at, event, state, detail) VALUES ({id}, 1, 'e', '{state}', 'd')"
        );
        sql(&mut conn, &event).await.unwrap();
    }
    sql(&mut conn, "INSERT INTO batches VALUES ('b1', 5000000, 0)")
        .await
        .unwrap();
    sql(
        &mut conn,
        "INSERT INTO facts VALUES ('paused', 'a reason', 7)",
    )
    .await
    .unwrap();
    sql(&mut conn, "INSERT INTO gates VALUES ('submit', 1, 2, '{}')")
        .await
        .unwrap();
    conn.close().await.unwrap();
}

/// Every value of every table, by the columns that the tables have at first.
async fn contents(path: &Path, columns: &[(String, Vec<String>)]) -> Vec<String> {
    let mut conn = connect(path).await;
    let mut lines = Vec::new();
    for (table, columns) in columns {
        let quoted: Vec<String> = columns
            .iter()
            .map(|name| format!("quote({name})"))
            .collect();
        let query = format!(
            "SELECT {} FROM {table} ORDER BY 1",
            quoted.join(" || ', ' || ")
        );
        let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(&mut conn)
            .await
            .unwrap();
        lines.extend(rows.into_iter().map(|row| format!("{table}: {row}")));
    }
    lines
}

async fn columns(path: &Path) -> Vec<(String, Vec<String>)> {
    let mut conn = connect(path).await;
    let mut all = Vec::new();
    for table in ["jobs", "submissions", "events", "batches", "gates", "facts"] {
        let query = format!("SELECT name FROM pragma_table_info('{table}')");
        let names = sqlx::query_scalar(AssertSqlSafe(query))
            .fetch_all(&mut conn)
            .await
            .unwrap();
        all.push((table.to_owned(), names));
    }
    all
}

#[tokio::test]
async fn an_older_queue_is_opened_with_everything_in_it() {
    let folder = folder();
    let path = folder.path().join("queue.db");
    old_queue(&path).await;
    let columns = columns(&path).await;
    let before = contents(&path, &columns).await;
    assert!(before.len() > 3 * State::ALL.len() - 2, "{before:?}");

    let store = Store::open(&path, Open::Existing).await.unwrap();
    assert_eq!(contents(&path, &columns).await, before);
    let jobs = store.list(&Filter::default()).await.unwrap();
    let states: Vec<State> = jobs.iter().map(|job| job.state).collect();
    assert_eq!(states, State::ALL, "every row is readable");
    assert_eq!(jobs[5].spec.metadata.as_deref(), Some("{\"n\":6}"));
    let ledger = store.ledger(None, None, None).await.unwrap();
    assert_eq!(ledger.len(), State::ALL.len() - 2);
    assert_eq!(ledger[0].outcome, Outcome::InFlight);
    assert_eq!(
        store.fact("paused").await.unwrap(),
        Some(("a reason".to_owned(), 7))
    );
    assert!(store.integrity().await.unwrap().is_empty());

    // And once more: nothing is done twice.
    store.close().await;
    let store = Store::open(&path, Open::Existing).await.unwrap();
    assert_eq!(contents(&path, &columns).await, before);
    store.close().await;
}

#[tokio::test]
async fn a_newer_queue_is_left_alone() {
    let (folder, store, mut conn) = blank().await;
    store.close().await;
    let newer = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
                 VALUES (9999, 'from the future', true, x'00', 1)";
    sql(&mut conn, newer).await.unwrap();
    let end = Store::open(&folder.path().join("queue.db"), Open::Existing).await;
    let words = end.err().expect("it was opened").to_string();
    assert!(words.contains("another version of reelq"), "{words}");
}
