//! The sandbox from outside, over a socket.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::*;

const KEY: (&str, &str) = ("authorization", "Bearer secret");
const JSON: (&str, &str) = ("content-type", "application/json");

struct Reply {
    status: u16,
    head: String,
    body: Vec<u8>,
}

impl Reply {
    fn header(&self, name: &str) -> Option<&str> {
        let lines = self.head.lines().filter_map(|line| line.split_once(": "));
        lines
            .into_iter()
            .find(|(found, _)| found.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }
}

/// Sends one request on a connection of its own and reads to its end; `None` if not a byte came.
async fn send(
    sandbox: &Sandbox,
    line: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Option<Reply> {
    let mut stream = TcpStream::connect(sandbox.local_addr()).await.unwrap();
    let mut request = format!(
        "{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n",
        sandbox.local_addr()
    );
    for (name, value) in headers {
        request += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        request += &format!("content-length: {}\r\n", body.len());
    }
    stream
        .write_all((request + "\r\n").as_bytes())
        .await
        .unwrap();
    stream.write_all(body).await.unwrap();
    let mut answer = Vec::new();
    // A connection that is closed hard counts as ended.
    let _ = stream.read_to_end(&mut answer).await;
    let end = answer.windows(4).position(|end| end == b"\r\n\r\n")?;
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    Some(Reply {
        status: head[9..12].parse().unwrap(),
        head,
        body: answer[end + 4..].to_vec(),
    })
}

async fn get(sandbox: &Sandbox, path: &str, headers: &[(&str, &str)]) -> Reply {
    send(sandbox, &format!("GET {path}"), headers, b"")
        .await
        .unwrap()
}

fn request() -> Value {
    json!({
        "model": MODEL, "prompt": "a", "image_url": "https://example.com/a.jpg", "duration": 1, "size": "480p",
    })
}

async fn submit(sandbox: &Sandbox, body: &Value) -> Option<Reply> {
    send(
        sandbox,
        "POST /v1/videos",
        &[KEY, JSON],
        body.to_string().as_bytes(),
    )
    .await
}

/// Creates a task and returns its id.
async fn created(sandbox: &Sandbox) -> String {
    let reply = submit(sandbox, &request()).await.unwrap();
    assert_eq!(reply.status, 200);
    reply.json()["id"].as_str().unwrap().to_owned()
}

/// A finished task's id and the path of its video.
async fn finished(sandbox: &Sandbox) -> (String, String) {
    let id = created(sandbox).await;
    let task = get(sandbox, &format!("/v1/videos/{id}"), &[KEY])
        .await
        .json();
    let url = task["video_url"].as_str().unwrap();
    (
        id,
        url.strip_prefix(&sandbox.base_url()).unwrap().to_owned(),
    )
}

/// A faultless sandbox on a free port whose tasks are done at once.
fn quick() -> Options {
    Options {
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        key: Some("secret".into()),
        generation_time: Duration::ZERO,
        seed: Some(1),
        ..Options::default()
    }
}

async fn started(options: Options) -> Sandbox {
    start(options).await.unwrap()
}

#[tokio::test]
async fn a_task_is_created_queried_and_downloaded() {
    let sandbox = started(quick()).await;
    let body = request().to_string();
    let headers = [KEY, JSON, ("idempotency-key", "k-1")];
    let reply = send(&sandbox, "POST /v1/videos", &headers, body.as_bytes())
        .await
        .unwrap();
    let mut task = reply.json();
    assert!(
        task["created_at"]
            .take()
            .as_u64()
            .is_some_and(|seconds| seconds > 1_700_000_000)
    );
    let id = task["id"].as_str().unwrap().to_owned();
    assert_eq!(
        task,
        json!({
            "id": id, "task_id": id, "object": "video.generation.job", "model": MODEL,
            "status": "queued", "progress": 0, "created_at": null,
        })
    );
    assert!(reply.header("x-oneapi-request-id").is_some());

    let task = get(&sandbox, &format!("/v1/videos/{id}"), &[KEY])
        .await
        .json();
    let url = task["video_url"].as_str().unwrap();
    assert_eq!(
        task,
        json!({
            "id": id, "object": "video.generation.job", "model": MODEL, "status": "completed", "progress": 100,
            "video_url": url, "result": {"video_url": url, "outputs": [url]},
        })
    );
    assert_eq!(
        get(&sandbox, &format!("/v1/videos/generations/{id}"), &[KEY])
            .await
            .json(),
        task
    );

    let path = url.strip_prefix(&sandbox.base_url()).unwrap();
    let film = get(&sandbox, path, &[]).await;
    assert_eq!(
        (film.status, film.header("content-type")),
        (200, Some("video/mp4"))
    );
    assert_eq!(&film.body[4..8], b"ftyp");
    let content = get(&sandbox, &format!("/v1/videos/{id}/content"), &[KEY]).await;
    assert_eq!((content.status, &content.body), (200, &film.body));

    let bill = sandbox.bill();
    assert_eq!(
        (bill.accepted, bill.refused, bill.polls, bill.downloads),
        (1, 0, 2, 2)
    );
    assert_eq!((bill.cost_micros, bill.tasks.len()), (80_000, 1));
    assert_eq!(
        (&*bill.tasks[0].id, bill.tasks[0].idempotency_key.as_deref()),
        (&*id, Some("k-1"))
    );
    assert_eq!(get(&sandbox, "/_bill", &[]).await.json(), json!(bill));
    assert_eq!(sandbox.shutdown().await, bill);
}

#[tokio::test]
async fn a_running_task_has_no_content_yet() {
    let sandbox = started(Options {
        generation_time: Duration::from_secs(3600),
        ..quick()
    })
    .await;
    let id = created(&sandbox).await;
    let task = get(&sandbox, &format!("/v1/videos/{id}"), &[KEY])
        .await
        .json();
    assert_eq!(
        (&task["status"], &task["progress"]),
        (&json!("queued"), &json!(0))
    );
    assert!(task["created_at"].is_u64() && task.get("video_url").is_none());
    let early = get(&sandbox, &format!("/v1/videos/{id}/content"), &[KEY]).await;
    assert_eq!(early.status, 400);
    assert_eq!(
        early.json()["error"]["message"],
        "Task is not completed yet, current status: queued"
    );
    assert_eq!(sandbox.bill().downloads, 0);
}

#[tokio::test]
async fn a_failed_task_says_why() {
    let sandbox = started(Options {
        fail_rate: 1.0,
        ..quick()
    })
    .await;
    let id = created(&sandbox).await;
    let task = get(&sandbox, &format!("/v1/videos/{id}"), &[KEY])
        .await
        .json();
    assert_eq!(task["status"], "failed");
    assert!(
        task["error"]["message"].is_string() && task["error"]["code"].is_string(),
        "{task}"
    );
    assert_eq!(
        get(&sandbox, &format!("/v1/videos/{id}/content"), &[KEY])
            .await
            .status,
        400
    );
    assert_eq!(
        (sandbox.bill().accepted, sandbox.bill().tasks[0].status),
        (1, "failed")
    );
}

#[tokio::test]
async fn what_is_wrong_about_a_request_is_said() {
    let sandbox = started(quick()).await;
    let id = created(&sandbox).await;
    let valid = request().to_string();
    let text = ("content-type", "text/plain");
    let wrong = ("authorization", "Bearer other");
    let basic = ("authorization", "Basic secret");
    let large = format!("{{\"prompt\": \"{}\"}}", "x".repeat(check::MAX_BODY));
    let two_images =
        json!({"model": MODEL, "prompt": "a", "image": "http://a/b", "images": []}).to_string();
    let here = format!("/v1/videos/{id}");
    let content = format!("{here}/content");
    for (line, headers, body, status, code) in [
        (
            "POST /v1/videos",
            &[JSON][..],
            &*valid,
            401,
            "invalid_api_key",
        ),
        (
            "POST /v1/videos",
            &[wrong, JSON],
            &valid,
            401,
            "invalid_api_key",
        ),
        (
            "POST /v1/videos",
            &[basic, JSON],
            &valid,
            401,
            "invalid_api_key",
        ),
        (
            "POST /v1/videos",
            &[KEY, text],
            &valid,
            415,
            "unsupported_media_type",
        ),
        (
            "POST /v1/videos",
            &[KEY],
            &valid,
            415,
            "unsupported_media_type",
        ),
        (
            "POST /v1/videos",
            &[KEY, JSON],
            &large,
            413,
            "body_too_large",
        ),
        ("POST /v1/videos", &[KEY, JSON], "{", 400, "invalid_json"),
        (
            "POST /v1/videos",
            &[KEY, JSON],
            &two_images,
            400,
            "unsupported_parameter",
        ),
        (
            "POST /v1/images/generations",
            &[KEY, JSON],
            &valid,
            400,
            "model_not_supported",
        ),
        (
            "POST /v1/images/generations",
            &[JSON],
            &valid,
            401,
            "invalid_api_key",
        ),
        (
            &*format!("GET {here}"),
            &[wrong],
            "",
            401,
            "invalid_api_key",
        ),
        (&*format!("GET {content}"), &[], "", 401, "invalid_api_key"),
        (
            &*format!("DELETE {here}"),
            &[KEY],
            "",
            405,
            "method_not_allowed",
        ),
        ("GET /v1/videos", &[KEY], "", 405, "method_not_allowed"),
        (
            "GET /v1/videos/task_other",
            &[KEY],
            "",
            404,
            "task_not_exist",
        ),
        (
            "GET /v1/videos/generations/task_other",
            &[KEY],
            "",
            404,
            "task_not_exist",
        ),
        (
            "GET /v1/videos/task_other/content",
            &[KEY],
            "",
            404,
            "task_not_exist",
        ),
        ("GET /v1/models", &[], "", 401, "invalid_api_key"),
        (
            "GET /files/1-0-0000000000000000.mp4",
            &[],
            "",
            404,
            "file_not_found",
        ),
        ("GET /v2/videos", &[KEY], "", 404, "not_found"),
    ] {
        let reply = send(&sandbox, line, headers, body.as_bytes())
            .await
            .unwrap();
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, &error["code"]),
            (status, &json!(code)),
            "{line} {headers:?}"
        );
        assert!(
            error["message"].is_string() && error["type"].is_string(),
            "{line}: {error}"
        );
        assert!(error.get("param").is_some(), "{line}: {error}");
    }
    // Only create requests are on the bill.
    let bill = sandbox.bill();
    assert_eq!((bill.accepted, bill.refused, bill.polls), (1, 8, 0));
    let by_status: Vec<_> = bill.refused_by_status.into_iter().collect();
    assert_eq!(by_status, [(400, 2), (401, 3), (413, 1), (415, 2)]);
}

#[tokio::test]
async fn any_key_will_do_unless_one_is_set() {
    let sandbox = started(Options {
        key: None,
        ..quick()
    })
    .await;
    let models = get(
        &sandbox,
        "/v1/models",
        &[("authorization", "bearer whatever")],
    )
    .await;
    assert_eq!(
        (models.status, &models.json()["data"][0]["id"]),
        (200, &json!(MODEL))
    );
    assert_eq!(
        get(&sandbox, "/v1/models", &[("authorization", "Bearer ")])
            .await
            .status,
        401
    );
    assert_eq!(get(&sandbox, "/v1/models", &[]).await.status, 401);
}

#[tokio::test]
async fn parts_of_a_video_are_served_with_and_without_the_key() {
    let sandbox = started(quick()).await;
    let (id, link) = finished(&sandbox).await;
    let whole = get(&sandbox, &link, &[]).await.body;
    let len = whole.len();
    for (path, key) in [
        (link, None),
        (format!("/v1/videos/{id}/content"), Some(KEY)),
    ] {
        let ask = async |range: &str, if_range: Option<&str>| {
            let mut headers: Vec<_> = key.into_iter().collect();
            headers.push(("range", range));
            headers.extend(if_range.map(|version| ("if-range", version)));
            get(&sandbox, &path, &headers).await
        };
        let part = ask("bytes=100-199", None).await;
        assert_eq!((part.status, &part.body[..]), (206, &whole[100..200]));
        assert_eq!(
            part.header("content-range"),
            Some(&*format!("bytes 100-199/{len}"))
        );
        assert_eq!(
            (part.header("content-length"), part.header("accept-ranges")),
            (Some("100"), Some("bytes"))
        );
        let etag = part.header("etag").unwrap();
        assert!(etag.starts_with('"'), "a strong ETag: {etag}");

        let tail = ask(&format!("bytes={}-", len - 5), Some(etag)).await;
        assert_eq!((tail.status, &tail.body[..]), (206, &whole[len - 5..]));
        let other = ask("bytes=5-", Some("\"other\"")).await;
        assert_eq!((other.status, other.body.len()), (200, len));
        let beyond = ask(&format!("bytes={len}-"), None).await;
        assert_eq!(
            (beyond.status, beyond.header("content-range")),
            (416, Some(&*format!("bytes */{len}")))
        );

        let headers: Vec<_> = key.into_iter().collect();
        let head = send(&sandbox, &format!("HEAD {path}"), &headers, b"")
            .await
            .unwrap();
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(
            (head.header("content-length"), head.header("etag")),
            (Some(&*len.to_string()), Some(etag))
        );
    }
    // The first, and three for each path; neither 416 nor HEAD delivers anything.
    assert_eq!(sandbox.bill().downloads, 1 + 2 * 3);
}

#[tokio::test]
async fn a_lost_answer_is_billed() {
    let sandbox = started(Options {
        lose_rate: 1.0,
        ..quick()
    })
    .await;
    for _ in 0..3 {
        assert!(
            submit(&sandbox, &request()).await.is_none(),
            "not a byte of an answer"
        );
    }
    assert_eq!(
        submit(&sandbox, &json!({})).await.unwrap().status,
        400,
        "a refusal is not lost"
    );
    let bill = sandbox.bill();
    assert_eq!((bill.accepted, bill.answers_lost, bill.refused), (3, 3, 1));
    assert_eq!(bill.cost_micros, 3 * 80_000);
    // The task is there for whoever learns its id.
    let found = get(
        &sandbox,
        &format!("/v1/videos/{}", bill.tasks[0].id),
        &[KEY],
    )
    .await;
    assert_eq!(found.json()["status"], "completed");
}

#[tokio::test]
async fn a_post_that_is_turned_away_is_not_billed() {
    let sandbox = started(Options {
        error_rate: 1.0,
        ..quick()
    })
    .await;
    for _ in 0..20 {
        let reply = submit(&sandbox, &request()).await.unwrap();
        assert_eq!(reply.json()["error"]["type"], "new_api_error");
    }
    let bill = sandbox.bill();
    assert_eq!((bill.accepted, bill.cost_micros, bill.refused), (0, 0, 20));
    assert_eq!(
        bill.refused_by_status.keys().collect::<Vec<_>>(),
        [&429, &503]
    );
}

#[tokio::test]
async fn a_poll_can_meet_an_outage() {
    let sandbox = started(Options {
        poll_error_rate: 1.0,
        ..quick()
    })
    .await;
    let id = created(&sandbox).await;
    let mut statuses = Vec::new();
    for _ in 0..40 {
        statuses.push(
            get(&sandbox, &format!("/v1/videos/{id}"), &[KEY])
                .await
                .status,
        );
    }
    statuses.sort_unstable();
    statuses.dedup();
    assert_eq!(statuses, [429, 500, 502, 503]);
    assert_eq!(
        (sandbox.bill().polls, sandbox.bill().tasks[0].polls),
        (40, 40)
    );
}

#[tokio::test]
async fn a_cut_download_can_be_resumed_to_the_same_bytes() {
    let faultless = started(quick()).await;
    let (_, link) = finished(&faultless).await;
    let len = get(&faultless, &link, &[]).await.body.len();

    let sandbox = started(Options {
        cut_rate: 1.0,
        ..quick()
    })
    .await;
    let (_, link) = finished(&sandbox).await;
    let mut film = Vec::new();
    let mut attempts = 0;
    while film.len() < len {
        attempts += 1;
        assert!(attempts < 200, "no progress at {} of {len}", film.len());
        let part = get(
            &sandbox,
            &link,
            &[("range", &format!("bytes={}-", film.len()))],
        )
        .await;
        assert_eq!(
            part.header("content-length"),
            Some(&*(len - film.len()).to_string())
        );
        assert!(
            part.body.len() < len - film.len() || film.len() + 1 == len,
            "it was cut"
        );
        film.extend(part.body);
    }
    assert!(attempts > 2, "{attempts}");
    let id = sandbox.bill().tasks[0].id.clone();
    let order = order::Order {
        prompt: "a".into(),
        image_url: "https://example.com/a.jpg".into(),
        duration: 1,
        size: Size::P480,
    };
    assert!(film == movie::render(&order, &id), "the same bytes");
    assert_eq!(sandbox.bill().downloads, attempts);
}

#[tokio::test]
async fn a_truncated_download_ends_without_an_error() {
    let sandbox = started(Options {
        truncate_rate: 1.0,
        ..quick()
    })
    .await;
    let (_, link) = finished(&sandbox).await;
    let part = get(&sandbox, &link, &[]).await;
    assert_eq!((part.status, part.header("content-length")), (200, None));
    assert_eq!(part.header("transfer-encoding"), Some("chunked"));
    assert!(part.body.ends_with(b"\r\n0\r\n\r\n"), "a proper end");
    let head = send(&sandbox, &format!("HEAD {link}"), &[], b"")
        .await
        .unwrap();
    let len: usize = head.header("content-length").unwrap().parse().unwrap();
    assert!(part.body.len() < len);
}

#[tokio::test]
async fn a_link_dies_in_time() {
    let sandbox = started(Options {
        link_ttl: Some(Duration::ZERO),
        ..quick()
    })
    .await;
    let (_, link) = finished(&sandbox).await;
    let dead = get(&sandbox, &link, &[]).await;
    assert_eq!(
        (dead.status, &dead.json()["error"]["code"]),
        (410, &json!("link_expired"))
    );
    let sandbox = started(Options {
        link_ttl: Some(Duration::from_secs(3600)),
        ..quick()
    })
    .await;
    let (_, link) = finished(&sandbox).await;
    assert_eq!(get(&sandbox, &link, &[]).await.status, 200);
}

#[tokio::test]
async fn a_seed_repeats_the_faults() {
    let outcomes = async |seed| {
        let options = Options {
            error_rate: 0.3,
            lose_rate: 0.3,
            fail_rate: 0.3,
            seed: Some(seed),
            ..quick()
        };
        let sandbox = started(options).await;
        let mut outcomes = Vec::new();
        for _ in 0..40 {
            outcomes.push(submit(&sandbox, &request()).await.map(|reply| reply.status));
        }
        let tasks: Vec<_> = sandbox
            .bill()
            .tasks
            .iter()
            .map(|task| (task.status, task.answer_lost))
            .collect();
        (outcomes, tasks)
    };
    assert_eq!(outcomes(1).await, outcomes(1).await);
    assert_ne!(outcomes(1).await, outcomes(2).await);
}

#[tokio::test]
async fn many_at_once_are_counted_exactly() {
    let sandbox = started(quick()).await;
    let body = request();
    futures_util::future::join_all((0..50).map(|_| submit(&sandbox, &body))).await;
    let bill = sandbox.bill();
    assert_eq!(
        (bill.accepted, bill.tasks.len(), bill.cost_micros),
        (50, 50, 50 * 80_000)
    );
    assert!(bill.tasks.is_sorted_by_key(|task| task.accepted_at));
}

#[tokio::test]
async fn latency_holds_back_the_answer_but_not_the_task() {
    let sandbox = started(Options {
        latency: Duration::from_secs(60),
        ..quick()
    })
    .await;
    let body = request();
    // The bill is not held back, so it shows the task as soon as it is there.
    let billed = async {
        for _ in 0..1000 {
            if get(&sandbox, "/_bill", &[]).await.json()["accepted"] == 1 {
                return;
            }
        }
        panic!("never accepted");
    };
    tokio::select! {
        _ = submit(&sandbox, &body) => panic!("the answer was not held back"),
        () = billed => {}
    }
}

#[tokio::test]
async fn what_cannot_be_is_refused_at_the_start() {
    let remote = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
    for options in [
        Options {
            listen: remote,
            ..quick()
        },
        Options {
            cut_rate: 1.5,
            ..quick()
        },
        Options {
            fail_rate: f64::NAN,
            ..quick()
        },
        Options {
            latency: Duration::MAX,
            ..quick()
        },
        Options {
            key: Some(" ".into()),
            ..quick()
        },
        Options {
            max_tasks: 0,
            ..quick()
        },
    ] {
        let error = start(options).await.err().unwrap();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{error}");
    }
    let sandbox = started(Options {
        listen: remote,
        allow_remote: true,
        ..quick()
    })
    .await;
    let taken = start(Options {
        listen: SocketAddr::from((Ipv4Addr::UNSPECIFIED, sandbox.local_addr().port())),
        allow_remote: true,
        ..quick()
    })
    .await;
    assert_eq!(taken.err().unwrap().kind(), io::ErrorKind::AddrInUse);
}
