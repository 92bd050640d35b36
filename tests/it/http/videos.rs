//! The OpenAI-compatible front: create, retrieve, list, delete.

use reelq::job::{Event, Evidence, State};
use serde_json::{Value, json};

use super::*;

#[tokio::test]
async fn a_video_goes_in_by_the_provider_s_names_and_by_openai_s() {
    let server = Server::start().await;
    let image = "https://example.com/1.png";
    for (body, seconds, size) in [
        (json!({}), "6", "720p"),
        (json!({"duration": 15, "size": "1080p"}), "15", "1080p"),
        (json!({"duration": "3", "resolution": "480p"}), "3", "480p"),
        (
            json!({"seconds": "4", "size": "1280x720", "model": "sora-2"}),
            "4",
            "720p",
        ),
        (
            json!({"seconds": 8, "size": "720x1280", "model": MODEL}),
            "8",
            "720p",
        ),
        (
            json!({"seconds": "8", "duration": 8, "size": "720p", "resolution": "1280x720"}),
            "8",
            "720p",
        ),
        (
            json!({"seconds": "8", "duration": null, "size": null, "resolution": "1280X720"}),
            "8",
            "720p",
        ),
        (json!({"size": "1920x1080"}), "6", "1080p"),
        (json!({"size": "480P"}), "6", "480p"),
        (
            json!({"seconds": null, "size": null, "key": null, "metadata": null, "image": null}),
            "6",
            "720p",
        ),
    ] {
        let made = server.create(body.clone()).await;
        assert_eq!(made.status, 200, "{body}: {made:?}");
        let video = &made.body;
        assert_eq!(
            (&video["seconds"], &video["size"]),
            (&json!(seconds), &json!(size))
        );
        assert_eq!(video["object"], "video");
        assert_eq!(
            (&video["status"], &video["progress"]),
            (&json!("queued"), &json!(0))
        );
        assert_eq!(
            (&video["model"], &video["error"]),
            (&json!(MODEL), &Value::Null)
        );
        assert_eq!(video["reelq"]["state"], "pending");
    }
    for reference in [
        json!({"image": image}),
        json!({"input_reference": image}),
        json!({"input_reference": {"image_url": image}}),
    ] {
        let mut body = reference.clone();
        body["prompt"] = json!("p");
        let made = server.post("/v1/videos", &body).await;
        assert_eq!(
            made.body["reelq"]["image_url"], image,
            "{reference}: {made:?}"
        );
    }
    let more = json!({
        "key": "k", "batch": "spring", "priority": -3, "not_before": "2999-01-01T00:00:00Z",
        "metadata": {"a": [1, {"b": null}]},
    });
    let job = &server.create(more).await.body["reelq"];
    assert_eq!(
        (&job["key"], &job["batch"]),
        (&json!("k"), &json!("spring"))
    );
    assert_eq!(
        (&job["priority"], &job["not_before"]),
        (&json!(-3), &json!(32_472_144_000_000_i64))
    );
    assert_eq!(job["metadata"], json!({"a": [1, {"b": null}]}));
}

/// What is no value to most parsers, and more digits than a double has.
#[tokio::test]
async fn metadata_is_handed_through_untouched() {
    let server = Server::start().await;
    let deep = "[".repeat(900) + &"]".repeat(900);
    let metadata = format!(r#"{{"a":1e999,"b":"\ud800","c":12345678901234567890123,"d":{deep}}}"#);
    let sent = |metadata: &str| {
        let basics = r#""prompt": "p", "image_url": "https://example.com/1.png""#;
        let body = format!(r#"{{{basics}, "key": "k", "metadata": {metadata}}}"#);
        let request = server.request(Method::POST, "/v1/videos");
        answer(
            request
                .header("content-type", "application/json")
                .body(body),
        )
    };
    let made = sent(&metadata).await;
    assert_eq!(made.status, 200, "{made:?}");
    let shown = format!("\"metadata\":{metadata},");
    assert!(made.text.contains(&shown), "{made:?}");
    for path in ["/v1/videos", "/v1/videos/1", "/api/jobs", "/api/jobs/1"] {
        let told = server.get(path).await;
        assert_eq!(told.status, 200, "{told:?}");
        assert!(told.text.contains(&shown), "{path}: {told:?}");
    }
    assert_eq!(sent(&metadata).await.header("idempotent-replayed"), "true");
    let other = sent(r#"{"a":1e998}"#).await;
    check_error(&other, 409, "idempotency_key_reused");
    let deeper = "[".repeat(1_000) + &"]".repeat(1_000);
    let refused = sent(&format!("{{\"d\":{deeper}}}")).await;
    check_error(&refused, 400, "invalid_value");
    assert_eq!(refused.error("param"), "metadata");
}

#[tokio::test]
async fn a_form_says_the_same() {
    let server = Server::start().await;
    let fields = [
        ("prompt", "A harbour, \"dawn\" – ünïcode"),
        ("input_reference[image_url]", "https://example.com/1.png"),
        ("seconds", "12"),
        ("size", "1080x1920"),
        ("priority", "7"),
        ("not_before", "2999-01-01T00:00:00Z"),
        ("metadata[film]", "harbour"),
        ("metadata[scene][number]", "7"),
        ("metadata[tags][]", "a"),
        ("metadata[tags][]", "b"),
    ];
    let made = form(&server, &fields, None).await;
    assert_eq!(made.status, 200, "{made:?}");
    assert_eq!(
        (&made.body["seconds"], &made.body["size"]),
        (&json!("12"), &json!("1080p"))
    );
    let job = &made.body["reelq"];
    assert_eq!(
        (&job["prompt"], &job["priority"]),
        (&json!(fields[0].1), &json!(7))
    );
    assert_eq!(job["not_before"], 32_472_144_000_000_i64);
    let metadata = json!({"film": "harbour", "scene": {"number": "7"}, "tags": ["a", "b"]});
    assert_eq!(job["metadata"], metadata);

    // As `curl -F 'input_reference={...};type=application/json'` sends it.
    let reference = [
        ("prompt", "p"),
        (
            "input_reference",
            " {\"image_url\": \"https://example.com/2.png\"}",
        ),
    ];
    let made = form(&server, &reference, None).await;
    assert_eq!(made.body["reelq"]["image_url"], "https://example.com/2.png");

    let basics = [("prompt", "p"), ("image_url", "https://example.com/1.png")];
    for (field, param) in [
        (("seconds", "16"), "seconds"),
        (("seconds", "six"), "seconds"),
        (("priority", "high"), "priority"),
        (("not_before", "tomorrow"), "not_before"),
        (("metadata", "no object"), "metadata"),
        (("metadata", "{broken"), "metadata"),
        (("input_reference", "{broken"), "input_reference"),
        (
            ("input_reference", "{\"file_id\": \"file_1\"}"),
            "input_reference.file_id",
        ),
        (("prompt", "again"), "prompt"),
        (("images[]", "https://example.com/2.png"), "images"),
        (
            ("extra_body[operation]", "edit_video"),
            "extra_body.operation",
        ),
        (("surprise", ""), "surprise"),
        (("a[", ""), "a["),
    ] {
        let mut fields = basics.to_vec();
        fields.push(field);
        let refused = form(&server, &fields, None).await;
        assert_eq!(refused.status, 400, "{field:?}: {refused:?}");
        assert_eq!(refused.error("param"), param, "{refused:?}");
    }
    for file in ["input_reference", "image", "video", "prompt"] {
        let refused = form(&server, &basics, Some(file)).await;
        check_error(&refused, 400, "file_not_supported");
        assert_eq!(refused.error("param"), file);
        let message = refused.error("message");
        assert!(
            message.contains("needs its URL") && message.contains("pass"),
            "{message}"
        );
    }
}

/// POSTs a form; `file`: with an image uploaded under this name.
async fn form(server: &Server, fields: &[(&str, &str)], file: Option<&str>) -> Answer {
    let mut body = Vec::new();
    for (name, text) in fields {
        let kind = if text.trim_start().starts_with('{') {
            "Content-Type: application/json\r\n"
        } else {
            ""
        };
        let head =
            format!("--xYz\r\nContent-Disposition: form-data; name=\"{name}\"\r\n{kind}\r\n");
        body.extend([head.as_bytes(), text.as_bytes(), b"\r\n"].concat());
    }
    if let Some(name) = file {
        let head = format!(
            "--xYz\r\nContent-Disposition: form-data; name=\"{name}\"; filename=\"a.png\"\r\n\
             Content-Type: image/png\r\n\r\n"
        );
        body.extend([head.as_bytes(), &[0x89; 3_000_000], b"\r\n"].concat());
    }
    body.extend(b"--xYz--\r\n");
    let request = server.request(Method::POST, "/v1/videos");
    let request = request.header("content-type", "multipart/form-data; boundary=xYz");
    answer(request.body(body)).await
}

#[tokio::test]
async fn states_are_told_in_openai_s_words() {
    let server = Server::start().await;
    let evidence = Evidence::default();
    let refused = Event::Refused {
        evidence: Evidence {
            error: Some("the image cannot be read".to_owned()),
            ..Evidence::default()
        },
    };
    let with = |more: Vec<Event>| [vec![claimed()], more].concat();
    let accepted_by = |task: &str| Event::Accepted {
        task_id: task.to_owned(),
        evidence: evidence.clone(),
    };
    for (events, state, status, error) in [
        (with(vec![]), "submitting", "queued", Value::Null),
        (
            with(vec![Event::Unknown {
                evidence: evidence.clone(),
            }]),
            "unconfirmed",
            "queued",
            Value::Null,
        ),
        (
            with(vec![accepted_by("a")]),
            "generating",
            "in_progress",
            Value::Null,
        ),
        (with(vec![refused]), "failed", "failed", json!("refused")),
        (
            vec![Event::Cancelled],
            "cancelled",
            "failed",
            json!("cancelled"),
        ),
    ] {
        let id = server.new_job().await;
        server.happen(id, events).await;
        let video = server.get(&format!("/v1/videos/video_{id}")).await.body;
        assert_eq!(video["reelq"]["state"], state);
        assert_eq!(
            (&video["status"], &video["error"]["code"]),
            (&json!(status), &error),
            "{video}"
        );
        assert_eq!(video["completed_at"], Value::Null);
        assert_eq!(error.is_null(), video["error"].is_null());
    }
    let id = server.done(b"video").await;
    let video = server.get(&format!("/v1/videos/video_{id}")).await.body;
    assert_eq!(
        (&video["status"], &video["progress"]),
        (&json!("completed"), &json!(100))
    );
    assert_eq!(video["completed_at"], NOW / 1_000);
    assert_eq!(video["reelq"]["bytes"], 5);
}

#[tokio::test]
async fn a_video_is_found_by_each_of_its_names_and_by_no_other() {
    let server = Server::start().await;
    let key = "ä/ b?c%";
    server.create(json!({"key": key})).await;
    for name in ["video_1", "1", "key:%C3%A4%2F%20b%3Fc%25"] {
        let found = server.get(&format!("/v1/videos/{name}")).await;
        assert_eq!(found.body["id"], "video_1", "{name}: {found:?}");
        let found = server.get(&format!("/api/jobs/{name}")).await;
        assert_eq!(found.body["key"], key, "{name}");
    }
    for name in [
        "video_2",
        "2",
        "01",
        "video_01",
        "+1",
        "-1",
        "0",
        "1.0",
        "video_video_1",
        "key:x",
        "key:",
        "video_",
        "99999999999999999999",
        "x",
        "%00",
        "%F0%9F%8E%9E",
    ] {
        check_error(
            &server.get(&format!("/v1/videos/{name}")).await,
            404,
            "video_not_found",
        );
        check_error(
            &server.get(&format!("/api/jobs/{name}")).await,
            404,
            "job_not_found",
        );
        check_error(
            &server.delete(&format!("/v1/videos/{name}")).await,
            404,
            "video_not_found",
        );
    }
    check_error(&server.get("/v1/videos/%FF").await, 400, "invalid_path");
}

#[tokio::test]
async fn pages_hold_every_video_once() {
    let server = Server::start().await;
    for _ in 0..7 {
        server.new_job().await;
    }
    server.delete("/v1/videos/video_4").await;
    for (order, limit, wanted) in [
        ("desc", 2, vec![7, 6, 5, 3, 2, 1]),
        ("asc", 4, vec![1, 2, 3, 5, 6, 7]),
        ("asc", 6, vec![1, 2, 3, 5, 6, 7]),
    ] {
        let mut seen = Vec::new();
        let mut after = String::new();
        loop {
            let path = format!("/v1/videos?order={order}&limit={limit}{after}");
            let page = server.get(&path).await.body;
            let data = page["data"].as_array().unwrap();
            assert!(data.len() <= limit);
            seen.extend(
                data.iter()
                    .map(|video| video["reelq"]["id"].as_i64().unwrap()),
            );
            assert_eq!(page["first_id"], data[0]["id"]);
            assert_eq!(page["object"], "list");
            if page["has_more"] == false {
                break;
            }
            after = format!("&after={}", page["last_id"].as_str().unwrap());
        }
        assert_eq!(seen, wanted);
    }
    let empty = server.get("/v1/videos?after=1").await.body;
    assert_eq!(
        (&empty["data"], &empty["last_id"]),
        (&json!([]), &Value::Null)
    );
    for bad in [
        "limit=0",
        "limit=101",
        "limit=x",
        "limit=",
        "order=up",
        "after=x",
        "limit=1&limit=2",
    ] {
        let refused = server.get(&format!("/v1/videos?{bad}")).await;
        check_error(&refused, 400, "invalid_value");
        assert_eq!(refused.error("param"), bad.split('=').next().unwrap());
    }
    let refused = server.get("/v1/videos?after=x").await;
    assert_eq!(refused.error("message"), "after must be the id of a video");
}

#[tokio::test]
async fn a_delete_cancels_and_hides_and_destroys_nothing() {
    let server = Server::start().await;
    let state = async |id: i64| server.store.job(id).await.unwrap().unwrap().state;

    let pending = server.new_job().await;
    let running = server.new_job().await;
    server.happen(running, accepted(running)).await;
    let done = server.done(b"video").await;
    for (id, after) in [
        (pending, State::Cancelled),
        (running, State::Cancelled),
        (done, State::Done),
    ] {
        let path = format!("/v1/videos/video_{id}");
        let deleted = server.delete(&path).await.body;
        let wanted =
            json!({"id": format!("video_{id}"), "object": "video.deleted", "deleted": true});
        assert_eq!(deleted, wanted);
        assert_eq!(state(id).await, after);
        check_error(&server.get(&path).await, 404, "video_not_found");
        check_error(
            &server.get(&format!("{path}/content")).await,
            404,
            "video_not_found",
        );
        check_error(&server.delete(&path).await, 404, "video_not_found");
        assert_eq!(server.get(&format!("/api/jobs/{id}")).await.status, 200);
    }
    assert!(
        server
            .folder
            .path()
            .join(format!("videos/{done}.mp4"))
            .exists()
    );
    assert_eq!(
        server
            .store
            .ledger(Some(done), None, None)
            .await
            .unwrap()
            .len(),
        1
    );
    let listed = server.get("/v1/videos").await.body;
    assert_eq!(listed["data"], json!([]));
    // What was hidden is forgotten with its job.
    assert_eq!(server.store.prune(i64::MAX, NOW).await.unwrap().jobs, 3);

    // Nobody knows yet what these cost: they cannot go.
    let sent = server.new_job().await;
    server.happen(sent, vec![claimed()]).await;
    let refused = server.delete(&format!("/v1/videos/{sent}")).await;
    check_error(&refused, 409, "wrong_state");
    assert_eq!(refused.header("x-should-retry"), "true");
    let unsure = server.new_job().await;
    server.happen(unsure, unconfirmed()).await;
    let refused = server.delete(&format!("/v1/videos/{unsure}")).await;
    check_error(&refused, 409, "wrong_state");
    assert_eq!(refused.header("x-should-retry"), "false");
    assert_eq!(state(unsure).await, State::Unconfirmed);
    assert_eq!(
        server.get(&format!("/v1/videos/{unsure}")).await.status,
        200
    );
}
