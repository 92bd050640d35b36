//! Operations: many jobs at once, a person's commands, the state of the queue.

use reelq::job::Job;
use reelq::store::{Admission, Claim};

use super::*;

async fn add(server: &Server, kind: &str, body: impl Into<reqwest::Body>) -> Answer {
    let request = server
        .request(Method::POST, "/api/jobs")
        .header("content-type", kind);
    answer(request.body(body)).await
}

fn line(more: Value) -> String {
    format!("{}\n", wanted(more))
}

#[tokio::test]
async fn jobs_come_as_lines_or_as_an_array() {
    let server = Server::start().await;
    let lines = format!(
        "{}\n{}",
        line(json!({"key": "a"})),
        line(json!({"key": "b"}))
    );
    let array = format!(
        "[{}, {}]",
        line(json!({"key": "b"})),
        line(json!({"key": "c"}))
    );
    let csv = "prompt,image_url,key\nA harbour,https://example.com/1.png,d\n";
    for (kind, body, inserted, existing) in [
        ("application/x-ndjson", lines.as_str(), 2, 0),
        ("application/jsonl; charset=utf-8", lines.as_str(), 0, 2),
        ("application/json", array.as_str(), 1, 1),
        ("application/json", lines.as_str(), 0, 2),
        ("text/csv", csv, 1, 0),
        ("application/x-ndjson", "", 0, 0),
        ("application/json", "[]", 0, 0),
    ] {
        let added = add(&server, kind, body.to_owned()).await;
        assert_eq!(
            (&added.body["inserted"], &added.body["existing"]),
            (&json!(inserted), &json!(existing)),
            "{added:?}"
        );
    }
    assert_eq!(server.store.counts(None).await.unwrap().total(), 4);
    check_error(
        &add(&server, "application/xml", "").await,
        415,
        "unsupported_media_type",
    );
}

/// A producer that has lost its answer asks again, and learns its jobs.
#[tokio::test]
async fn an_add_answers_with_the_jobs_that_are_there() {
    let server = Server::start().await;
    server.create(json!({"key": "a"})).await;
    server.create(json!({"key": "b", "seconds": 4})).await;
    let body = ["a", "c", "b", "d", "c"].map(|key| line(json!({"key": key})));
    let added = add(&server, "application/x-ndjson", body.concat()).await;
    let id = async |key: &str| server.store.id_of_key(key).await.unwrap().unwrap();
    let [a, b, c, d] = [id("a").await, id("b").await, id("c").await, id("d").await];
    let wanted = json!({
        "inserted": 2, "ids": [c, d], "first_id": c, "last_id": d,
        "existing": 3, "existing_ids": [a, b, c],
        "differing_keys": 1, "differing": [{"key": "b", "id": b}],
    });
    assert_eq!(added.body, wanted);
    let none = add(&server, "application/json", "[]").await.body;
    assert_eq!((&none["ids"], &none["last_id"]), (&json!([]), &Value::Null));

    // The answer has an end.
    let many: String = (0..10_001)
        .map(|n| line(json!({"key": n.to_string()})))
        .collect();
    let added = add(&server, "application/x-ndjson", many.clone())
        .await
        .body;
    assert_eq!(
        (&added["ids"], &added["first_id"], &added["last_id"]),
        (
            &Value::Null,
            &json!(id("0").await),
            &json!(id("10000").await)
        )
    );
    let other = many.replace("harbour", "port");
    let added = add(&server, "application/x-ndjson", other).await.body;
    assert_eq!(
        (&added["existing_ids"], &added["differing_keys"]),
        (&Value::Null, &json!(10_001))
    );
    assert_eq!(added["differing"].as_array().unwrap().len(), 100);
}

#[tokio::test]
async fn one_bad_line_and_none_goes_in() {
    let server = Server::start().await;
    let body = [
        line(json!({})),
        line(json!({"prompt": "", "duration": 99})),
        line(json!({})),
        "nonsense\n".to_owned(),
        line(json!({"promt": 1})),
    ]
    .concat();
    let refused = add(&server, "application/x-ndjson", body).await;
    check_error(&refused, 400, "invalid_jobs");
    let lines = refused.body["error"]["lines"].as_array().unwrap();
    let numbers: Vec<_> = lines
        .iter()
        .map(|line| line["line"].as_i64().unwrap())
        .collect();
    assert_eq!(numbers, [2, 4, 5]);
    let fields: Vec<_> = lines[0]["faults"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| &f["field"])
        .collect();
    assert_eq!(fields, ["duration", "prompt"]);
    assert!(refused.error("message").contains("line 2: "), "{refused:?}");
    for broken in ["[{\"prompt\":", "[1,", "{}", "[", "\u{feff}x"] {
        let refused = add(&server, "application/json", broken).await;
        check_error(&refused, 400, "invalid_jobs");
    }
    assert_eq!(server.store.counts(None).await.unwrap().total(), 0);

    let many = "nonsense\n".repeat(5_000);
    let refused = add(&server, "application/x-ndjson", many).await;
    assert_eq!(
        refused.body["error"]["lines"].as_array().unwrap().len(),
        100
    );
    assert!(
        refused.error("message").contains("4999 more"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn a_long_stream_goes_in_while_others_are_served() {
    let server = Server::start().await;
    let portions = futures_util::stream::iter((0..200).map(|portion| {
        let lines: String = (0..100)
            .map(|n| line(json!({"key": format!("{portion}-{n}"), "batch": "long"})))
            .collect();
        Ok::<_, std::io::Error>(lines)
    }));
    let body = reqwest::Body::wrap_stream(portions);
    let (added, _) = tokio::join!(add(&server, "application/x-ndjson", body), server.new_job());
    assert_eq!(added.body["inserted"], 20_000);
    let batch = server.get("/api/batches/long").await.body;
    assert_eq!(batch["jobs"]["pending"], 20_000);
    assert_eq!(batch["settled"], false);
    // The spool has no name.
    let mut names: Vec<_> = std::fs::read_dir(server.folder.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    assert_eq!(names, ["q.db", "q.db-shm", "q.db-wal"]);
}

#[tokio::test]
async fn jobs_are_listed_by_state_and_batch_and_page() {
    let server = Server::start().await;
    for (batch, key) in [("a", "k"), ("b", "l"), ("a", "m"), ("a", "n")] {
        server.create(json!({"batch": batch, "key": key})).await;
    }
    server.happen(3, vec![Event::Cancelled]).await;
    for (query, wanted, more) in [
        ("", vec![1, 2, 3, 4], false),
        ("?order=desc", vec![4, 3, 2, 1], false),
        ("?batch=a", vec![1, 3, 4], false),
        ("?batch=a&state=pending", vec![1, 4], false),
        ("?state=cancelled", vec![3], false),
        ("?limit=2", vec![1, 2], true),
        ("?limit=2&after=2", vec![3, 4], false),
        ("?limit=2&after=4&order=desc", vec![3, 2], true),
        ("?batch=none", vec![], false),
        ("?batch=%00", vec![], false),
        ("?key=l", vec![2], false),
        ("?key=l&batch=a", vec![], false),
        ("?key=", vec![], false),
    ] {
        let page = server.get(&format!("/api/jobs{query}")).await.body;
        let ids: Vec<_> = page["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|j| j["id"].clone())
            .collect();
        assert_eq!(ids, wanted, "{query}");
        assert_eq!(page["has_more"], more, "{query}");
    }
    for bad in ["state=lost", "limit=0", "limit=1001", "after=-1", "order=x"] {
        let refused = server.get(&format!("/api/jobs?{bad}")).await;
        check_error(&refused, 400, "invalid_value");
    }
}

/// A filter that is passed over would list what nobody asked for.
#[tokio::test]
async fn a_list_refuses_what_it_does_not_know() {
    let server = Server::start().await;
    server.create(json!({})).await;
    for (path, name) in [
        ("/api/jobs?batsh=a", "batsh"),
        ("/api/jobs?batch=a&id=1", "id"),
        ("/v1/videos?limit=1&key=k", "key"),
        ("/api/events?state=done", "state"),
    ] {
        let refused = server.get(path).await;
        check_error(&refused, 400, "unknown_parameter");
        assert_eq!(refused.error("param"), name, "{path}");
        assert!(refused.error("message").contains("the query takes "));
    }
}

#[tokio::test]
async fn a_job_is_shown_with_its_ledger_and_history() {
    let server = Server::start().await;
    let id = server.done(b"video").await;
    let shown = server.get(&format!("/api/jobs/{id}")).await.body;
    let words: Vec<_> = shown["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|e| &e["event"])
        .collect();
    assert_eq!(words, ["claimed", "accepted", "completed", "saved"]);
    let ledger = &shown["submissions"];
    assert_eq!(ledger[0]["outcome"], "accepted");
    assert_eq!(
        (&ledger[0]["cost"], &ledger[0]["task_id"]),
        (&json!(0.6), &json!("task_1"))
    );
}

#[tokio::test]
async fn a_person_s_commands_are_judged_like_every_event() {
    let server = Server::start().await;
    let command = async |id: JobId, verb: &str, body: Value| {
        let answer = server.post(&format!("/api/jobs/{id}/{verb}"), &body).await;
        let state = server.store.job(id).await.unwrap().unwrap().state;
        (answer, state)
    };
    let none = json!({});

    let id = server.new_job().await;
    let (refused, _) = command(id, "retry", none.clone()).await;
    check_error(&refused, 409, "wrong_state");
    let (cancelled, state) = command(id, "cancel", none.clone()).await;
    assert_eq!(
        (cancelled.body["state"].as_str(), state),
        (Some("cancelled"), State::Cancelled)
    );
    assert_eq!(command(id, "retry", none.clone()).await.1, State::Pending);

    // A task that runs is paid for: kept, it goes on; cancelled, its video can still be had.
    server.happen(id, accepted(id)).await;
    let (kept, state) = command(id, "cancel", json!({"keep": true})).await;
    assert_eq!((kept.status.as_u16(), state), (200, State::Generating));
    let (cancelled, state) = command(id, "cancel", json!({"keep": false})).await;
    assert_eq!(state, State::Cancelled);
    assert!(
        cancelled.body["note"].as_str().unwrap().contains("paid"),
        "{cancelled:?}"
    );
    assert_eq!(
        command(id, "retry", none.clone()).await.1,
        State::Generating
    );

    for (body, state) in [
        (json!({"adopt": "task_x"}), State::Generating),
        (json!({"resubmit": true}), State::Pending),
        (json!({"write_off": true}), State::Failed),
    ] {
        let id = server.new_job().await;
        let (refused, _) = command(id, "resolve", body.clone()).await;
        check_error(&refused, 409, "wrong_state");
        server.happen(id, unconfirmed()).await;
        for bad in [
            json!({}),
            json!({"adopt": ""}),
            json!({"adopt": "a b"}),
            json!({"adopt": 7}),
            json!({"resubmit": false}),
            json!({"write_off": "yes"}),
            json!({"forget": true}),
            json!({"resubmit": true, "write_off": true}),
        ] {
            let (refused, state) = command(id, "resolve", bad.clone()).await;
            assert_eq!(
                (refused.status.as_u16(), state),
                (400, State::Unconfirmed),
                "{bad}"
            );
        }
        let (refused, _) = command(id, "cancel", none.clone()).await;
        check_error(&refused, 409, "wrong_state");
        let (resolved, now) = command(id, "resolve", body.clone()).await;
        assert_eq!(
            (resolved.status.as_u16(), now),
            (200, state),
            "{body}: {resolved:?}"
        );
    }
    for (verb, bad) in [
        ("retry", json!({"force": true})),
        ("cancel", json!({"keep": "yes"})),
        ("cancel", json!({"keeep": true})),
    ] {
        assert_eq!(command(id, verb, bad).await.0.status, 400);
    }
    let unknown = server.post("/api/jobs/99/retry", &none).await;
    check_error(&unknown, 404, "job_not_found");
    // Without a body, as `curl -X POST` sends it.
    let id = server.new_job().await;
    let request = server.request(Method::POST, &format!("/api/jobs/{id}/cancel"));
    assert_eq!(answer(request).await.status, 200);
}

#[tokio::test]
async fn a_pause_is_a_fact_of_the_queue() {
    let server = Server::start().await;
    let paused = server.post("/api/pause", &json!({"reason": "lunch"})).await;
    assert_eq!(paused.body["paused"]["reason"], "lunch");
    let (reason, since) = server.store.fact("paused").await.unwrap().unwrap();
    assert_eq!(
        (reason.as_str(), paused.body["paused"]["since"].as_i64()),
        ("lunch", Some(since))
    );
    assert_eq!(
        server.get("/api/status").await.body["paused"]["reason"],
        "lunch"
    );
    let resumed = server.post("/api/resume", &json!({})).await;
    assert_eq!(resumed.body, json!({"paused": null}));
    assert!(server.store.fact("paused").await.unwrap().is_none());
    assert_eq!(server.get("/api/status").await.body["paused"], Value::Null);
    for bad in [
        json!({"reason": 1}),
        json!({"why": ""}),
        json!({"reason": "x".repeat(1_001)}),
    ] {
        assert_eq!(server.post("/api/pause", &bad).await.status, 400);
    }
    assert_eq!(
        server.post("/api/resume", &json!({"a": 1})).await.status,
        400
    );
}

/// A daemon that has not heard of it yet must not submit one more.
#[tokio::test]
async fn a_pause_holds_from_its_answer_on() {
    let server = Server::start().await;
    server.new_job().await;
    let claim = || async {
        let claim = Claim {
            endpoint: "test".to_owned(),
            limit: 1,
            max_tasks: 1,
            now: i64::MAX / 2,
            day_start: 0,
            trial: None,
        };
        let admit = |job: &Job, _: &_| {
            let taken = step::step(job, claimed(), NOW, &Policy::default());
            Admission::Take(Box::new(taken.unwrap()))
        };
        server.store.claim(&claim, admit).await.unwrap().jobs.len()
    };
    server.post("/api/pause", &json!({})).await;
    assert_eq!(claim().await, 0);
    server.post("/api/resume", &json!({})).await;
    assert_eq!(claim().await, 1);
}

#[tokio::test]
async fn a_batch_says_how_far_it_is_and_what_it_cost() {
    let server = Server::start().await;
    let name = "spring/ä b";
    server.create(json!({"batch": name})).await;
    server.create(json!({"batch": name})).await;
    let path = "/api/batches/spring%2F%C3%A4%20b";
    server.happen(1, accepted(1)).await;
    server.happen(2, unconfirmed()).await;
    let batch = server.get(path).await.body;
    assert_eq!(
        (&batch["name"], &batch["settled"]),
        (&json!(name), &json!(false))
    );
    assert_eq!(
        (&batch["spend"]["accepted"], &batch["spend"]["unknown"]),
        (
            &json!({"submissions": 1, "cost": 0.6}),
            &json!({"submissions": 1, "cost": 0.6})
        )
    );
    let (_, file) = server.video(1, b"video");
    server.happen(1, saved(file)).await;
    let batch = server.get(path).await.body;
    assert_eq!(
        (&batch["settled"], &batch["jobs"]["total"]),
        (&json!(true), &json!(2))
    );
    check_error(
        &server.get("/api/batches/autumn").await,
        404,
        "batch_not_found",
    );
}

#[tokio::test]
async fn the_state_of_the_queue_is_told_to_people_and_to_prometheus() {
    let server = Server::start().await;
    server.done(b"video").await;
    let unsure = server.new_job().await;
    server.happen(unsure, unconfirmed()).await;
    let gate = reelq::store::GateRow {
        name: "submit".to_owned(),
        since: NOW,
        until: Some(NOW + 1),
        detail: json!({"cause": "key_refused", "message": "401", "advice": "a", "gate": {"x": 1}})
            .to_string(),
    };
    server.store.set_gates(&[gate]).await.unwrap();
    let status = server.get("/api/status").await.body;
    assert_eq!(
        (&status["jobs"]["done"], &status["jobs"]["total"]),
        (&json!(1), &json!(2))
    );
    assert_eq!(
        (
            &status["spend"]["total"]["accepted"]["cost"],
            &status["spend"]["total"]["unknown"]["submissions"]
        ),
        (&json!(0.6), &json!(1))
    );
    assert_eq!(status["held"][0]["advice"], "a");
    assert_eq!(
        status["held"][0].get("gate"),
        None,
        "only the daemon reads that"
    );
    server.post("/api/pause", &json!({})).await;
    let metrics = server.get("/metrics").await;
    assert_eq!(
        metrics.header("content-type"),
        "text/plain; version=0.0.4; charset=utf-8"
    );
    let since = format!(
        "reelq_gate_closed_since_seconds{{gate=\"submit\",cause=\"key_refused\"}} {}",
        NOW / 1_000
    );
    for line in [
        since.as_str(),
        "reelq_jobs{state=\"done\"} 1",
        "reelq_jobs{state=\"pending\"} 0",
        "reelq_spend_total 0.60",
        "reelq_spend_unsure 0.60",
        "reelq_gate_closed{gate=\"submit\",cause=\"key_refused\"} 1",
        "reelq_gate_closed{gate=\"submit\",cause=\"paused\"} 1",
        "reelq_downloaded_bytes_total 0",
        "reelq_download_seconds_count 0",
        "reelq_webhooks_waiting 0",
    ] {
        assert!(
            metrics.text.lines().any(|found| found == line),
            "{line}\n{}",
            metrics.text
        );
    }
    assert!(!metrics.text.contains("# EOF"));
    let accept =
        "application/openmetrics-text;version=1.0.0;q=0.6,text/plain;version=0.0.4;q=0.5,*/*;q=0.1";
    let request = server.request(Method::GET, "/metrics");
    let open = answer(request.header("accept", accept)).await;
    assert_eq!(
        open.header("content-type"),
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    );
    assert!(open.text.ends_with("\n# EOF\n"));
    assert_eq!(open.text.matches("# EOF").count(), 1);
    // The one names a counter with its suffix, the other without.
    for name in [
        "reelq_spend",
        "reelq_submissions",
        "reelq_polls",
        "reelq_downloaded_bytes",
    ] {
        for (text, family) in [
            (&metrics.text, format!("{name}_total")),
            (&open.text, name.into()),
        ] {
            assert!(
                text.contains(&format!("\n# TYPE {family} counter\n")),
                "{text}"
            );
            assert!(text.contains(&format!("# HELP {family} ")), "{text}");
        }
    }
    let samples = |text: &str| -> Vec<String> {
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        lines.map(str::to_owned).collect()
    };
    assert_eq!(samples(&metrics.text), samples(&open.text));
    assert_eq!(server.get("/healthz").await.body, json!({"status": "ok"}));
    assert_eq!(server.get("/readyz").await.body, json!({"status": "ready"}));
}

/// One thing has one shape, whoever asks.
#[tokio::test]
async fn the_command_line_and_http_tell_the_same() {
    let server = Server::start().await;
    let id = server.done(b"video").await;
    let unsure = server.new_job().await;
    server.happen(unsure, unconfirmed()).await;
    let cap = Some("9.00".parse().unwrap());
    server.store.set_batch_cap("default", cap).await.unwrap();
    server.post("/api/pause", &json!({"reason": "lunch"})).await;
    let told = |args: &[&str]| -> Value {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_reelq"));
        // It takes no setting that it does not know, such as those of these tests.
        for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("REELQ_")) {
            command.env_remove(name);
        }
        command.args(["--config", "/dev/null", "--json", "--database"]);
        let output = command.arg(server.store.path()).args(args).output();
        serde_json::from_slice(&output.unwrap().stdout).unwrap()
    };
    let mut status = told(&["status"]);
    let mut asked = server.get("/api/status").await.body;
    let names = |value: &mut Value, own: &[&str]| {
        let members = value.as_object_mut().unwrap();
        for name in own {
            assert!(members.remove(*name).is_some(), "{name}");
        }
    };
    names(&mut status, &["database", "daemon", "foreign"]);
    names(
        &mut asked,
        &["version", "now", "batches_total", "webhooks_waiting"],
    );
    assert_eq!(asked, status);
    let mut batch = server.get("/api/batches/default").await.body;
    names(&mut batch, &["spend"]);
    assert_eq!(batch, status["batches"][0]);
    let job = server.get(&format!("/api/jobs/{id}")).await.body;
    assert_eq!(job, told(&["show", &id.to_string()]));
}

/// Every path of the description is served, and says that it takes what it takes.
#[tokio::test]
async fn the_description_names_what_is_there() {
    let server = Server::start().await;
    let api = server.get("/openapi.json").await.body;
    assert_eq!(api["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(api.get("security").is_none());
    for (path, item) in api["paths"].as_object().unwrap() {
        let concrete = path
            .replace("{video_id}", "9")
            .replace("{id}", "9")
            .replace("{name}", "x");
        let wrong = answer(server.request(Method::PATCH, &concrete)).await;
        check_error(&wrong, 405, "method_not_allowed");
        let allowed: Vec<String> = wrong
            .header("allow")
            .split(',')
            .map(str::to_lowercase)
            .collect();
        for method in ["get", "post", "delete", "put"] {
            let described = item.get(method).is_some();
            assert_eq!(
                allowed.iter().any(|m| m == method),
                described,
                "{method} {path}"
            );
        }
    }
    let listen = Listen::Tcp(([127, 0, 0, 1], 0).into());
    let server = Server::with(listen, Some("t")).await;
    let request = server
        .request(Method::GET, "/openapi.json")
        .header("authorization", "Bearer t");
    let api = answer(request).await.body;
    assert_eq!(api["security"], json!([{"token": []}]));
    assert_eq!(api["paths"]["/healthz"]["get"]["security"], json!([]));
}
