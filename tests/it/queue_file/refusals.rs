//! What the tables refuse, and with which words.

use reelq::store::StoreError;

use super::*;

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
