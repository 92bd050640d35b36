//! What `/metrics` says after lives of every kind: all that has happened, counted.

use std::collections::HashMap;

use rustix::process::Signal;

use crate::film::{Layout, film};
use crate::http::client;
use crate::provider::{Answer, READY, Script, json, status};
use crate::rig::{Rig, connect};

/// Every sample of `/metrics`, by its name with its labels.
async fn samples(url: &str) -> HashMap<String, f64> {
    let answer = client().get(format!("{url}/metrics")).send().await.unwrap();
    let text = answer.text().await.unwrap();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .map(|line| {
            let (name, value) = line.rsplit_once(' ').unwrap();
            (name.to_owned(), value.parse().unwrap())
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn metrics_count_what_has_happened() {
    let mut rig = Rig::new();
    rig.set("HTTP__LISTEN", "127.0.0.1:0");
    rig.set("BUDGET__PRICE_PER_SECOND__720P", "0.10");
    let plain = |job: &str| Script::kind(film(Layout::MoovFirst, job, 6, 20_000));
    let ready = || json(200, READY);
    let polled = |job: &str, first: Answer| {
        let mut script = plain(job);
        script.poll = vec![first, ready()];
        script
    };
    let posted = |job: &str, answer: Answer| {
        let mut script = plain(job);
        script.post.insert(0, answer);
        script
    };
    let running = json(200, r#"{"status":"in_progress","progress":40}"#);
    let absent = json(404, r#"{"error":{"message":"task_not_exist"}}"#);
    let jobs = [
        ("plain", plain("plain")),
        ("running", polled("running", running)),
        ("early", polled("early", absent)),
        ("trouble", polled("trouble", status(502))),
        (
            "fails",
            polled("fails", json(200, r#"{"status":"failed"}"#)),
        ),
        (
            "expires",
            polled("expires", json(200, r#"{"status":"expired"}"#)),
        ),
        ("refused", posted("refused", json(400, "{}"))),
        ("later", posted("later", json(429, "{}"))),
        ("unclear", posted("unclear", json(500, "{}").bills())),
    ];
    rig.add(jobs.map(|(job, script)| (job.to_owned(), script)).to_vec())
        .await;
    let daemon = rig.start();
    let settled = ["done", "failed", "unconfirmed"];
    rig.until("all are settled", async || {
        let rows = rig.rows().await;
        rows.iter().all(|row| settled.contains(&row.state.as_str()))
    })
    .await;
    let url = rig.said_after("address=\"").await;
    let mut samples = samples(&url).await;
    daemon.signal(Signal::TERM);
    assert_eq!(daemon.ended().await.code(), Some(0));

    let mut check = |name: &str, should: f64| {
        let is = samples.remove(name);
        let near = is.is_some_and(|is| (is - should).abs() < 1e-6);
        assert!(near, "{name} is {is:?}, should be {should}");
    };
    for (state, count) in [
        ("pending", 0.0),
        ("submitting", 0.0),
        ("unconfirmed", 1.0),
        ("generating", 0.0),
        ("downloading", 0.0),
        ("done", 5.0),
        ("failed", 3.0),
        ("cancelled", 0.0),
    ] {
        check(&format!("reelq_jobs{{state=\"{state}\"}}"), count);
    }
    for (outcome, count) in [
        ("accepted", 7.0),
        ("rejected", 1.0),
        ("not_accepted", 1.0),
        ("unknown", 1.0),
    ] {
        let name = format!("reelq_submissions_total{{outcome=\"{outcome}\"}}");
        check(&name, count);
    }
    for (outcome, count) in [
        ("completed", 5.0),
        ("running", 1.0),
        ("not_found", 1.0),
        ("trouble", 1.0),
        ("failed", 1.0),
        ("expired", 1.0),
    ] {
        check(
            &format!("reelq_polls_total{{outcome=\"{outcome}\"}}"),
            count,
        );
    }
    check("reelq_spend_total", 7.0 * 0.60);
    check("reelq_spend_unsure", 0.60);
    let mut conn = connect(&rig.database()).await;
    let (bytes, generation, download): (i64, i64, i64) = sqlx::query_as(
        "SELECT sum(bytes), sum(completed_at - submitted_at), sum(finished_at - completed_at) \
         FROM jobs WHERE state = 'done'",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    let waits: i64 = sqlx::query_scalar(
        "SELECT sum(started_at - created_at) FROM submissions JOIN jobs ON jobs.id = job_id \
         WHERE submissions.attempt = 1",
    )
    .fetch_one(&mut conn)
    .await
    .unwrap();
    check("reelq_downloaded_bytes_total", bytes as f64);
    for (name, count, milliseconds) in [
        // A second try waited for no turn.
        ("enqueue_to_submit", 9.0, waits),
        ("generation", 5.0, generation),
        ("download", 5.0, download),
    ] {
        let name = format!("reelq_{name}_seconds");
        check(&format!("{name}_count"), count);
        check(&format!("{name}_sum"), milliseconds as f64 / 1_000.0);
        check(&format!("{name}_bucket{{le=\"+Inf\"}}"), count);
    }
}
