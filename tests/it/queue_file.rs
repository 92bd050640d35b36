//! The database itself: what it refuses, what an older one keeps, and what its
//! queries cost.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock};

use reelq::budget::Spent;
use reelq::job::{Event, Evidence, Job, JobId, JobSpec, Outcome, State};
use reelq::money::Money;
use reelq::step::{self, Policy};
use reelq::store::{Admission, Bounds, Claim, Committed, Filter, Open, Store, StoreError};
use reelq::view::{Detail, JobView};
use sqlx::migrate::Migrator;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};
use tempfile::TempDir;
use tracing::field::{Field, Visit};
use tracing::{Instrument, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::filter::dynamic_filter_fn;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::registry::LookupSpan;

use crate::rig::{connect, folder, put};
use crate::world::{ENDPOINT, HOUR, NEW_YEAR};

async fn sql(conn: &mut SqliteConnection, sql: &str) -> Result<u64, String> {
    sqlx::query(AssertSqlSafe(sql))
        .execute(conn)
        .await
        .map(|done| done.rows_affected())
        .map_err(|error| match error {
            sqlx::Error::Database(error) => error.message().to_owned(),
            other => other.to_string(),
        })
}

async fn blank() -> (TempDir, Store, SqliteConnection) {
    let folder = folder();
    let path = folder.path().join("queue.db");
    let store = Store::open(&path, Open::Create).await.unwrap();
    let conn = connect(&path).await;
    (folder, store, conn)
}

/// What a state needs beside its word, as SQL.
fn becoming(state: State) -> String {
    let task = "endpoint = 'e', submitted_at = 1, attempt = 1";
    let made = format!("{task}, task_id = 't' || id, target = '/v/' || id");
    let rest = match state {
        State::Pending => String::new(),
        State::Submitting => format!(", {task}"),
        State::Unconfirmed => {
            format!(", {task}, error_code = 'unconfirmed', error_message = 'm'")
        }
        State::Generating | State::Downloading => format!(", {made}, give_up_at = 9"),
        State::Done => {
            format!(", {made}, path = '/v/' || id, bytes = 1, sha256 = 'x', finished_at = 2")
        }
        State::Failed => {
            ", error_code = 'refused', error_message = 'm', finished_at = 2".to_owned()
        }
        State::Cancelled => ", finished_at = 2".to_owned(),
    };
    format!("UPDATE jobs SET state = '{state}', version = version + 1{rest}")
}

const INSERT: &str =
    "INSERT INTO jobs (prompt, image_url) VALUES ('a boat', 'https://example.com/a.jpg')";

/// JSON to SQLite, and no value to most parsers.
fn strange_metadata() -> [String; 3] {
    [
        r#"{"a":1e999}"#.to_owned(),
        r#"{"\udead":"\ud800"}"#.to_owned(),
        format!("{{\"a\":{}{}}}", "[".repeat(999), "]".repeat(999)),
    ]
}

// ---- What it refuses ----

/// A producer's mistake, and the words that it is refused with.
#[tokio::test]
async fn an_insert_that_breaks_a_rule_is_refused_with_its_name() {
    let (_folder, _store, mut conn) = blank().await;
    let long = |n: usize| format!("'{}'", "x".repeat(n));
    let wide = |n: usize| format!("'{}'", "é".repeat(n));
    let url = |n: usize| format!("'https://e/{}'", "x".repeat(n - 10));
    let json = |n: usize| format!("'{{\"a\":\"{}\"}}'", "x".repeat(n - 8));
    let name_rule =
        |column: &str| format!("{column} must not be blank and must be at most 200 bytes");
    let url_rule =
        "image_url must be an http:// or https:// URL without spaces, at most 8192 bytes";
    let time_rule = "not_before must be a time in Unix milliseconds, from 1970 to 9999";
    let duration_rule = "duration must be a whole number of seconds from 1 to 15";
    let prompt_rule = "prompt must not be blank and must be at most 100000 bytes";
    let json_rule = "metadata must be a JSON object of at most 65536 bytes";
    let size_rule = "size must be 480p, 720p or 1080p";
    #[rustfmt::skip]
    let cases: Vec<(&str, String, Option<String>)> = vec![
        // column, value, the rule that it breaks
        ("key", "''".into(), Some(name_rule("key"))),
        ("key", "' ' || char(9, 10, 13)".into(), Some(name_rule("key"))),
        ("key", long(201), Some(name_rule("key"))),
        ("key", wide(101), Some(name_rule("key"))),
        ("key", "'a' || char(0) || 'b'".into(), Some(name_rule("key"))),
        ("key", long(200), None),
        ("key", "NULL".into(), None),
        ("batch", "''".into(), Some(name_rule("batch"))),
        ("batch", long(201), Some(name_rule("batch"))),
        ("batch", "NULL".into(), Some("NOT NULL constraint failed: jobs.batch".into())),
        ("batch", wide(100), None),
        ("batch", "char(0)".into(), Some(name_rule("batch"))),
        ("id", "9223372036854775807".into(), Some("id is given by the database".into())),
        ("id", "0".into(), Some("id is given by the database".into())),
        ("prompt", "''".into(), Some(prompt_rule.into())),
        ("prompt", "char(10)".into(), Some(prompt_rule.into())),
        ("prompt", "NULL".into(), Some("NOT NULL constraint failed: jobs.prompt".into())),
        ("prompt", long(100_001), Some(prompt_rule.into())),
        ("prompt", long(100_000), None),
        ("image_url", "''".into(), Some(url_rule.into())),
        ("image_url", "'example.com/a.jpg'".into(), Some(url_rule.into())),
        ("image_url", "'ftp://example.com/a.jpg'".into(), Some(url_rule.into())),
        ("image_url", "'file:///etc/passwd'".into(), Some(url_rule.into())),
        ("image_url", "'https://'".into(), Some(url_rule.into())),
        ("image_url", "'https:///a.jpg'".into(), Some(url_rule.into())),
        ("image_url", "'https://?a'".into(), Some(url_rule.into())),
        ("image_url", "'https://e/a b'".into(), Some(url_rule.into())),
        ("image_url", "'https://e/a' || char(10)".into(), Some(url_rule.into())),
        ("image_url", url(8_193), Some(url_rule.into())),
        ("image_url", url(8_192), None),
        ("image_url", "'HTTP://E/a'".into(), None),
        ("duration", "0".into(), Some(duration_rule.into())),
        ("duration", "16".into(), Some(duration_rule.into())),
        ("duration", "-1".into(), Some(duration_rule.into())),
        ("duration", "6.5".into(), Some("cannot store REAL value in INTEGER column jobs.duration".into())),
        ("duration", "'six'".into(), Some("cannot store TEXT value in INTEGER column jobs.duration".into())),
        ("duration", "15".into(), None),
        ("size", "'720P'".into(), Some(size_rule.into())),
        ("size", "'4k'".into(), Some(size_rule.into())),
        ("size", "'1080p'".into(), None),
        ("priority", "'high'".into(), Some("cannot store TEXT value in INTEGER column jobs.priority".into())),
        ("priority", "-9223372036854775808".into(), None),
        ("not_before", "-1".into(), Some(time_rule.into())),
        ("not_before", "253402300800000".into(), Some(time_rule.into())),
        ("not_before", "253402300799999".into(), None),
        ("metadata", "'[1]'".into(), Some(json_rule.into())),
        ("metadata", "'{'".into(), Some(json_rule.into())),
        ("metadata", "'null'".into(), Some(json_rule.into())),
        ("metadata", json(65_537), Some(json_rule.into())),
        ("metadata", json(65_536), None),
        ("metadata", "'{\"a\":1}' || char(0)".into(), Some(json_rule.into())),
        ("metadata", format!("'{{\"a\":{}{}}}'", "[".repeat(1_000), "]".repeat(1_000)), Some(json_rule.into())),
        ("metadata", format!("'{}'", strange_metadata()[0]), None),
        ("metadata", format!("'{}'", strange_metadata()[1]), None),
        ("metadata", format!("'{}'", strange_metadata()[2]), None),
    ];
    for (column, value, rule) in cases {
        let mut columns = vec![
            ("prompt", "'p'".to_owned()),
            ("image_url", "'https://e/a'".to_owned()),
        ];
        columns.retain(|(name, _)| *name != column);
        columns.push((column, value.clone()));
        let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
        let values: Vec<&str> = columns.iter().map(|(_, value)| value.as_str()).collect();
        let insert = format!(
            "INSERT INTO jobs ({}) VALUES ({})",
            names.join(", "),
            values.join(", ")
        );
        let shown = value.chars().take(40).collect::<String>();
        match (sql(&mut conn, &insert).await, rule) {
            (Ok(_), None) => {}
            (Err(words), Some(rule)) => {
                assert!(words.contains(&rule), "{column} = {shown}: {words}")
            }
            (end, _) => panic!("{column} = {shown}: {end:?}"),
        }
    }
}

/// The same rules hold for a file that is judged before it is inserted.
#[tokio::test]
async fn the_table_and_the_specification_agree() {
    let (_folder, store, _conn) = blank().await;
    let good = JobSpec::new("a boat", "https://example.com/a.jpg");
    let bad: Vec<fn(&mut JobSpec)> = vec![
        |s| s.key = Some("\t".to_owned()),
        |s| s.key = Some("é".repeat(101)),
        |s| s.batch = String::new(),
        |s| s.prompt = " \n".to_owned(),
        |s| s.image_url = "https://#a".to_owned(),
        |s| s.duration = 0,
        |s| s.duration = 16,
        |s| s.not_before = Some(-1),
        |s| s.metadata = Some("[]".to_owned()),
    ];
    for (nth, spoil) in bad.into_iter().enumerate() {
        let mut spec = good.clone();
        spoil(&mut spec);
        let faults = spec.faults();
        assert_eq!(faults.len(), 1, "case {nth}");
        let Err(StoreError::Rule(words)) = store.insert(&[good.clone(), spec]).await else {
            panic!("case {nth} was taken");
        };
        assert_eq!(words, faults[0].to_string(), "case {nth}");
    }
    assert_eq!(
        store.counts(None).await.unwrap().total(),
        0,
        "all or nothing"
    );
}

/// Everything that is not a producer's to set.
#[tokio::test]
async fn a_producer_sets_nothing_else() {
    let (_folder, _store, mut conn) = blank().await;
    #[rustfmt::skip]
    let columns = [
        ("state", "'submitting'"), ("progress", "1"), ("task_id", "'t'"), ("path", "'/p'"), ("bytes", "1"),
        ("sha256", "'x'"), ("note", "'n'"), ("error_code", "'refused'"), ("error_message", "'m'"),
        ("submitted_at", "1"), ("completed_at", "1"), ("finished_at", "1"), ("version", "1"), ("due_at", "1"),
        ("faults", "1"), ("attempt", "1"), ("cost", "1"), ("endpoint", "'e'"), ("give_up_at", "1"),
        ("video_urls", "'[]'"), ("target", "'/t'"), ("resent", "1"),
    ];
    for (column, value) in columns {
        let insert = format!(
            "INSERT INTO jobs (prompt, image_url, {column}) VALUES ('p', 'https://e/a', {value})"
        );
        let words = sql(&mut conn, &insert).await.unwrap_err();
        assert!(
            words.contains("a new job must be pending: a producer sets only"),
            "{column}: {words}"
        );
    }
    for state in State::ALL {
        let insert = format!(
            "INSERT INTO jobs (prompt, image_url, state) VALUES ('p', 'https://e/a', '{state}')"
        );
        let taken = sql(&mut conn, &insert).await.is_ok();
        assert_eq!(taken, state == State::Pending, "{state}");
    }
    let unheard_of =
        "INSERT INTO jobs (prompt, image_url, state) VALUES ('p', 'https://e/a', 'paid')";
    assert!(sql(&mut conn, unheard_of).await.is_err());
}

#[tokio::test]
async fn a_producer_moves_no_job() {
    for from in State::ALL {
        let (_folder, _store, mut conn) = blank().await;
        sql(&mut conn, INSERT).await.unwrap();
        sql(&mut conn, &becoming(from)).await.unwrap();
        for to in State::ALL.into_iter().filter(|to| *to != from) {
            // With everything that the state needs, but without reelq's mark.
            let update = becoming(to).replace("version = version + 1", "version = version");
            let words = sql(&mut conn, &update).await.unwrap_err();
            assert!(
                words.starts_with("only reelq moves a job"),
                "{from} to {to}: {words}"
            );
        }
        let asked = sql(&mut conn, "UPDATE jobs SET prompt = 'another'").await;
        assert_eq!(asked.is_ok(), from == State::Pending, "{from}");
        sql(&mut conn, "UPDATE jobs SET priority = 5")
            .await
            .unwrap();
    }
}

/// What a state promises: leave one of it out, and the table refuses the row.
#[tokio::test]
async fn a_row_that_breaks_its_state_s_promise_is_refused() {
    #[rustfmt::skip]
    let cases = [
        (State::Generating,  "task_id = NULL", "a task that runs has its id and its endpoint"),
        (State::Generating,  "endpoint = NULL", "a task that runs has its id and its endpoint"),
        (State::Downloading, "task_id = NULL", "a task that runs has its id and its endpoint"),
        (State::Done,        "task_id = NULL", "a task that runs has its id and its endpoint"),
        (State::Submitting,  "submitted_at = NULL", "a submission under way has its time and its endpoint"),
        (State::Submitting,  "endpoint = NULL", "a submission under way has its time and its endpoint"),
        (State::Unconfirmed, "submitted_at = NULL", "a submission under way has its time and its endpoint"),
        (State::Generating,  "submitted_at = NULL", "a submission under way has its time and its endpoint"),
        (State::Done,        "path = NULL", "done means a file"),
        (State::Done,        "bytes = NULL", "done means a file"),
        (State::Done,        "sha256 = NULL", "done means a file"),
        (State::Failed,      "error_code = NULL", "a failure has its reason"),
        (State::Failed,      "error_message = NULL", "a failure has its reason"),
        (State::Unconfirmed, "error_code = NULL", "a failure has its reason"),
        (State::Done,        "finished_at = NULL", "an end has its time"),
        (State::Failed,      "finished_at = NULL", "an end has its time"),
        (State::Cancelled,   "finished_at = NULL", "an end has its time"),
        (State::Pending,     "finished_at = 1", "an end has its time"),
        (State::Generating,  "finished_at = 1", "an end has its time"),
        (State::Pending,     "progress = 101", "progress BETWEEN 0 AND 100"),
    ];
    for (state, spoil, rule) in cases {
        let (_folder, _store, mut conn) = blank().await;
        sql(&mut conn, INSERT).await.unwrap();
        sql(&mut conn, &becoming(state)).await.unwrap();
        let words = sql(&mut conn, &format!("UPDATE jobs SET {spoil}"))
            .await
            .unwrap_err();
        assert!(words.contains(rule), "{state}, {spoil}: {words}");
    }
}

#[tokio::test]
async fn nothing_but_prune_forgets_what_was_paid_for() {
    let (_folder, store, mut conn) = blank().await;
    for _ in 0..2 {
        sql(&mut conn, INSERT).await.unwrap();
    }
    sql(
        &mut conn,
        &format!("{} WHERE id = 1", becoming(State::Done)),
    )
    .await
    .unwrap();
    sql(
        &mut conn,
        "INSERT INTO submissions (job_id, attempt, batch, endpoint, started_at, finished_at, outcome, task_id) \
         VALUES (1, 1, 'default', 'e', 1, 2, 'accepted', 't1')",
    )
    .await
    .unwrap();
    let words = sql(&mut conn, "DELETE FROM submissions").await.unwrap_err();
    assert!(
        words.contains("the ledger keeps every submission"),
        "{words}"
    );
    let words = sql(&mut conn, "DELETE FROM jobs").await.unwrap_err();
    assert!(
        words.contains("a job that was submitted is kept"),
        "{words}"
    );
    // What was never submitted may go.
    assert_eq!(sql(&mut conn, "DELETE FROM jobs WHERE id = 2").await, Ok(1));
    // And prune forgets what has ended, and leaves no door open.
    sql(&mut conn, INSERT).await.unwrap();
    let pruned = store.prune(NEW_YEAR, NEW_YEAR).await.unwrap();
    assert_eq!(pruned.jobs, 1);
    let left: Vec<(JobId,)> = sqlx::query_as("SELECT id FROM jobs")
        .fetch_all(&mut conn)
        .await
        .unwrap();
    assert_eq!(left, [(3,)], "a number is never used twice");
    sql(
        &mut conn,
        &format!("{} WHERE id = 3", becoming(State::Done)),
    )
    .await
    .unwrap();
    assert!(sql(&mut conn, "DELETE FROM jobs").await.is_err());
}

#[tokio::test]
async fn a_second_insert_of_a_key_is_refused_or_harmless() {
    let (_folder, store, mut conn) = blank().await;
    let insert = |tail: &str| {
        format!("INSERT INTO jobs (key, prompt, image_url) VALUES ('k', 'p', 'https://e/a') {tail}")
    };
    assert_eq!(sql(&mut conn, &insert("")).await, Ok(1));
    let words = sql(&mut conn, &insert("")).await.unwrap_err();
    assert!(words.contains("jobs.key"), "{words}");
    for harmless in ["ON CONFLICT DO NOTHING", "ON CONFLICT (key) DO NOTHING"] {
        assert_eq!(sql(&mut conn, &insert(harmless)).await, Ok(0), "{harmless}");
    }
    assert_eq!(store.id_of_key("k").await.unwrap(), Some(1));
}

/// REPLACE deletes what is in its way, and no trigger hears of it.
#[tokio::test]
async fn nothing_replaces_a_job_that_was_submitted() {
    let (_folder, store, mut conn) = blank().await;
    let put = |verb: &str, columns: &str, values: &str| {
        format!(
            "{verb} INTO jobs ({columns}, prompt, image_url) VALUES ({values}, 'p', 'https://e/a')"
        )
    };
    for key in ["'paid'", "'waits'", "NULL"] {
        sql(&mut conn, &put("INSERT", "key", key)).await.unwrap();
    }
    let claim = Claim {
        limit: 1,
        max_tasks: 1,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: 0,
        trial: None,
    };
    let claimed = store.claim(&claim, |job, _: &Spent| take(job)).await;
    assert_eq!(claimed.unwrap().jobs[0].id, 1);

    sql(&mut conn, "PRAGMA foreign_keys = OFF").await.unwrap();
    for replacing in [
        put("REPLACE", "key", "'paid'"),
        put("INSERT OR REPLACE", "key", "'paid'"),
        put("REPLACE", "id", "1"),
        put("REPLACE", "id, key", "1, 'other'"),
        "UPDATE OR REPLACE jobs SET id = 1 WHERE id = 3".to_owned(),
        "UPDATE OR REPLACE jobs SET key = 'paid' WHERE id = 3".to_owned(),
    ] {
        let words = sql(&mut conn, &replacing).await.unwrap_err();
        assert!(
            words.contains("a job that was submitted is never replaced"),
            "{replacing}: {words}"
        );
    }
    // What is harmless stays so, and what nobody paid for may be replaced.
    for harmless in ["INSERT OR IGNORE", "INSERT"] {
        let tail = if harmless == "INSERT" {
            " ON CONFLICT DO NOTHING"
        } else {
            ""
        };
        let insert = put(harmless, "key", "'paid'") + tail;
        assert_eq!(sql(&mut conn, &insert).await, Ok(0), "{insert}");
    }
    assert_eq!(
        sql(&mut conn, &put("REPLACE", "key", "'waits'")).await,
        Ok(1)
    );
    assert_eq!(store.id_of_key("paid").await.unwrap(), Some(1));
    assert_eq!(
        store.job(1).await.unwrap().unwrap().state,
        State::Submitting
    );
}

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

fn take(job: &Job) -> Admission {
    let event = Event::Claimed {
        cost: Money::ZERO,
        endpoint: ENDPOINT.to_owned(),
    };
    Admission::Take(Box::new(
        step::step(job, event, NEW_YEAR, &Policy::default()).unwrap(),
    ))
}

#[tokio::test]
async fn a_start_delay_is_the_producer_s_to_change() {
    let (_folder, store, mut conn) = blank().await;
    let insert = format!(
        "{} RETURNING id",
        INSERT
            .replace("prompt,", "not_before, prompt,")
            .replace("('a", "(5000, 'a")
    );
    sql(&mut conn, &insert).await.unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), Some(5_000));
    sql(&mut conn, "UPDATE jobs SET not_before = 9000")
        .await
        .unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), Some(9_000));
    sql(&mut conn, "UPDATE jobs SET not_before = NULL")
        .await
        .unwrap();
    assert_eq!(store.next_due(0).await.unwrap(), None, "at once");
}

/// A back-off, a cap's look, a producer's time, and a producer's time where a cap held.
#[tokio::test]
async fn what_waits_moves_along_when_the_clock_is_set() {
    let (_folder, store, mut conn) = blank().await;
    for (nth, waits) in [
        "faults = 1, due_at = 5000",
        "note = 'the cap', due_at = 5000",
        "not_before = 5000",
        "note = 'the cap', not_before = 5000",
    ]
    .iter()
    .enumerate()
    {
        sql(&mut conn, INSERT).await.unwrap();
        let update = format!("UPDATE jobs SET {waits} WHERE id = {}", nth + 1);
        sql(&mut conn, &update).await.unwrap();
    }
    let due = async || {
        let jobs = store.list(&Filter::default()).await.unwrap();
        jobs.iter()
            .map(|job| job.due_at.unwrap())
            .collect::<Vec<_>>()
    };
    store.shift_appointments(-1_000).await.unwrap();
    assert_eq!(due().await, [4_000, 4_000, 5_000, 5_000]);
    // After a start.
    let bounds = Bounds {
        ask: 0,
        backoff: 3_000,
        deadline: 3_000,
        grace: 3_000,
    };
    store.clamp_appointments(&bounds).await.unwrap();
    assert_eq!(due().await, [3_000, 3_000, 5_000, 5_000]);
}

// ---- What an older one keeps ----

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

// ---- What its queries cost ----

/// The other tests of this binary are not to pay for it.
static LISTENING: AtomicBool = AtomicBool::new(false);

/// Listens to the statements that sqlx logs inside a span `overheard`.
#[derive(Clone, Default)]
struct Ear(Arc<Mutex<Vec<String>>>);

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for Ear {
    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let mut spans = context.event_scope(event).into_iter().flatten();
        if spans.any(|span| span.name() == "overheard") {
            let mut statement = Statement::default();
            event.record(&mut statement);
            self.0.lock().unwrap().push(statement.text());
        }
    }
}

#[derive(Default)]
struct Statement {
    summary: String,
    whole: String,
}

impl Statement {
    fn text(self) -> String {
        let whole = self.whole.trim().to_owned();
        if whole.is_empty() {
            self.summary
        } else {
            whole
        }
    }
}

impl Visit for Statement {
    fn record_str(&mut self, field: &Field, value: &str) {
        match field.name() {
            "summary" => self.summary = value.to_owned(),
            "db.statement" => self.whole = value.to_owned(),
            _ => {}
        }
    }

    fn record_debug(&mut self, _: &Field, _: &dyn std::fmt::Debug) {}
}

fn ear() -> &'static Ear {
    static EAR: OnceLock<Ear> = OnceLock::new();
    EAR.get_or_init(|| {
        let ear = Ear::default();
        let wanted = dynamic_filter_fn(|about, _| {
            LISTENING.load(Ordering::Relaxed)
                && (about.target() == "sqlx::query" || about.name() == "overheard")
        });
        let listener = tracing_subscriber::registry().with(ear.clone().with_filter(wanted));
        tracing::subscriber::set_global_default(listener).unwrap();
        ear
    })
}

/// What was said while `work` was done.
async fn overhear<T>(work: impl Future<Output = T>) -> Vec<String> {
    let ear = ear();
    ear.0.lock().unwrap().clear();
    LISTENING.store(true, Ordering::Relaxed);
    work.instrument(tracing::info_span!("overheard")).await;
    LISTENING.store(false, Ordering::Relaxed);
    std::mem::take(&mut *ear.0.lock().unwrap())
}

async fn plan(conn: &mut SqliteConnection, statement: &str) -> Vec<String> {
    let explain = format!("EXPLAIN QUERY PLAN {statement}");
    let rows: Vec<(i64, i64, i64, String)> = sqlx::query_as(AssertSqlSafe(explain))
        .fetch_all(conn)
        .await
        .unwrap();
    rows.into_iter().map(|(.., detail)| detail).collect()
}

/// The index that each query of the daemon's loop must keep to. Nothing walks
/// over the table, nothing sorts what waits: a look at the queue costs the same
/// with ten rows and with ten million.
#[tokio::test]
async fn no_query_of_the_loop_walks_over_the_queue() {
    let (_folder, store, mut conn) = blank().await;
    let statements = overhear(work(&store)).await;
    let mut used = BTreeSet::new();
    for statement in statements {
        let word = statement.split(' ').next().unwrap_or_default();
        if !["SELECT", "UPDATE", "INSERT", "DELETE"].contains(&word) {
            continue;
        }
        for step in plan(&mut conn, &statement).await {
            let walk = ["jobs", "submissions", "events"]
                .iter()
                .any(|table| step == format!("SCAN {table}"));
            assert!(!walk, "{step}: {statement}");
            let sorts = step.contains("TEMP B-TREE");
            assert!(
                !sorts || !statement.contains("'pending'"),
                "{step}: {statement}"
            );
            if let Some((_, index)) = step.split_once("INDEX ") {
                used.insert(index.split(' ').next().unwrap_or_default().to_owned());
            }
            // A walk along an index is along one of the states that hold few, or
            // ends with the first row.
            if step.starts_with("SCAN jobs") {
                let few = ["submitting", "generating", "unconfirmed", "downloading"]
                    .iter()
                    .any(|state| step.ends_with(&format!("INDEX jobs_{state}")));
                let first = step.ends_with("INDEX jobs_ready")
                    && (statement.contains("LIMIT 1") || statement.starts_with("SELECT EXISTS"));
                assert!(few || first, "{step}: {statement}");
            }
        }
    }
    for index in [
        "jobs_ready",
        "jobs_waiting",
        "jobs_submitting",
        "jobs_unconfirmed",
        "jobs_generating",
        "jobs_downloading",
        "jobs_target",
        "submissions_day",
        "submissions_batch",
        "events_job",
    ] {
        assert!(used.contains(index), "{index} is not used: {used:?}");
    }
}

/// Everything that the loop asks the store for.
async fn work(store: &Store) {
    let spec = JobSpec::new("a boat", "https://example.com/a.jpg");
    store.insert(&vec![spec; 3]).await.unwrap();
    store
        .set_batch_cap("default", Some(Money::ZERO))
        .await
        .unwrap();
    let claim = Claim {
        limit: 2,
        max_tasks: 9,
        endpoint: ENDPOINT.to_owned(),
        now: NEW_YEAR,
        day_start: NEW_YEAR,
        trial: None,
    };
    let policy = Policy::default();
    let admit = |job: &Job, _: &Spent| {
        let event = Event::Claimed {
            cost: Money::ZERO,
            endpoint: ENDPOINT.to_owned(),
        };
        Admission::Take(Box::new(step::step(job, event, NEW_YEAR, &policy).unwrap()))
    };
    let claimed = store.claim(&claim, admit).await.unwrap();
    assert_eq!(claimed.jobs.len(), 2);
    let trial = Claim {
        limit: 1,
        trial: Some(5),
        ..claim
    };
    let claimed = store.claim(&trial, admit).await.unwrap();
    assert_eq!(claimed.jobs.len(), 1);
    store
        .due_downloads(NEW_YEAR, 4, &[], ENDPOINT)
        .await
        .unwrap();
    store.next_due(NEW_YEAR).await.unwrap();
    store.moving(ENDPOINT).await.unwrap();
    for state in [
        State::Submitting,
        State::Generating,
        State::Unconfirmed,
        State::Downloading,
    ] {
        store.ids_in(state).await.unwrap();
    }
    store.load(&[1, 2], State::Submitting).await.unwrap();
    store.is_target_taken("/v/1").await.unwrap();
    store
        .recent_starts(NEW_YEAR - HOUR, NEW_YEAR)
        .await
        .unwrap();
    store.shift_appointments(1).await.unwrap();
    let latest = Bounds {
        ask: 0,
        backoff: NEW_YEAR,
        deadline: NEW_YEAR,
        grace: NEW_YEAR,
    };
    store.clamp_appointments(&latest).await.unwrap();
    store.id_of_key("k").await.unwrap();
    store.history(1).await.unwrap();
    store.ledger(Some(1), None, None).await.unwrap();
    let event = Event::Unknown {
        evidence: Evidence::default(),
    };
    let transitions: Vec<_> = claimed
        .jobs
        .iter()
        .map(|job| step::step(job, event.clone(), NEW_YEAR, &policy).unwrap())
        .collect();
    store.commit(&transitions).await.unwrap();
    store
        .edit(&[1], |job| {
            step::step(job, Event::WrittenOff, NEW_YEAR, &policy)
        })
        .await
        .unwrap();
}
