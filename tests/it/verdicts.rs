//! What each answer means: one line a row of what gateways were seen to do.
//! N1 to N5 prove that a POST was not accepted, A1 to A5 leave it open.

use proptest::prelude::*;
use reelq::gate::Cause;
use reelq::job::State;
use reelq::poller;
use reelq::provider::Endpoint;
use reelq::verdict::{
    Answer, PollVerdict, PostVerdict, Reply, judge_poll, judge_post, judge_probe,
};
use serde_json::{Value, json};

use crate::provider::{self, KEY, Provider, Script, TAKEN};
use crate::world::{answer, job_in, lost, raw_answer};

/// A POST's verdict in a few words.
fn post(reply: Reply) -> String {
    match judge_post(reply) {
        PostVerdict::Accepted { task_id, .. } => format!("accepted {task_id}"),
        PostVerdict::RefusedJob { .. } => "job".to_owned(),
        PostVerdict::NotAccepted { fault, crowded, .. } => {
            let crowded = if crowded { ", crowded" } else { "" };
            format!("gate {}{crowded}", cause(fault.cause))
        }
        PostVerdict::Unknown { fault, .. } => {
            assert_eq!(fault.cause, Cause::Unclear);
            "unknown".to_owned()
        }
    }
}

fn cause(cause: Cause) -> &'static str {
    match cause {
        Cause::KeyRefused => "key",
        Cause::AccountRefused => "account",
        Cause::RateLimited => "rate",
        Cause::Busy => "busy",
        Cause::Unreachable => "unreachable",
        Cause::Unclear => "unclear",
    }
}

fn html(status: u16) -> Reply {
    raw_answer(status, b"<html><body>nginx</body></html>")
}

fn error(status: u16, message: &str) -> Reply {
    answer(status, &json!({"error": {"message": message}}))
}

fn coded(status: u16, code: &str) -> Reply {
    answer(status, &json!({"error": {"message": "no", "code": code}}))
}

fn broken(status: u16, body: &[u8]) -> Reply {
    Reply::Answer(Answer {
        status,
        body: body.to_vec(),
        broken: Some("connection reset".to_owned()),
        ..Answer::default()
    })
}

#[test]
fn a_post_is_judged_by_its_row() {
    let new_api = json!({"error": {"type": "new_api_error", "message": "no channel"}});
    let made = json!({"id": "t1", "object": "video.generation.job", "status": "queued"});
    #[rustfmt::skip]
    let rows = [
        ("N1 no byte left",            Reply::NotSent("dns".to_owned()), "gate unreachable"),
        ("N2 400",                     error(400, "bad prompt"), "job"),
        ("N2 404",                     error(404, "no such model"), "job"),
        ("N2 405",                     html(405), "job"),
        ("N2 413, nginx",              html(413), "job"),
        ("N2 415",                     error(415, "multipart only"), "job"),
        ("N2 422",                     error(422, "duration"), "job"),
        ("N2 without a body",          raw_answer(400, b""), "job"),
        ("N2 cut off",                 broken(422, b"{\"err"), "job"),
        ("N3 401",                     error(401, "invalid token"), "gate key"),
        ("N3 402",                     error(402, "limit"), "gate account"),
        ("N3 403",                     error(403, "balance"), "gate account"),
        ("N3 LiteLLM's bad key",       error(400, "No connected db."), "gate key"),
        ("N3 a key's code on a 400",   coded(400, "invalid_api_key"), "gate key"),
        ("N3 the account on a 400",    coded(400, "insufficient_user_quota"), "gate account"),
        ("N3 403 that means the job",  coded(403, "content_policy_violation"), "job"),
        ("N4 429",                     error(429, "slow down"), "gate rate"),
        ("N4 429, nginx",              html(429), "gate rate"),
        ("N4 429, nothing",            raw_answer(429, b""), "gate rate"),
        ("N4 too many tasks",          error(429, "too many concurrent tasks"), "gate rate, crowded"),
        ("N4 too many tasks, Chinese", error(429, "并发任务数超过限制"), "gate rate, crowded"),
        ("N4 whatever its code says",  coded(429, "insufficient_quota"), "gate rate"),
        ("N5 new-api's own 503",       answer(503, &new_api), "gate busy"),
        ("A1 time-out",                lost("timeout"), "unknown"),
        ("A1 reset, EOF, GOAWAY",      lost("broken"), "unknown"),
        ("A2 500",                     html(500), "unknown"),
        ("A2 502",                     html(502), "unknown"),
        ("A2 504",                     html(504), "unknown"),
        ("A2 408",                     html(408), "unknown"),
        ("A2 499",                     html(499), "unknown"),
        ("A2 520",                     html(520), "unknown"),
        ("A2 524",                     html(524), "unknown"),
        ("A2 527",                     html(527), "unknown"),
        ("A2 503, HTML",               html(503), "unknown"),
        ("A2 503, another's JSON",     error(503, "overloaded"), "unknown"),
        ("A2 503, new-api's, cut off", broken(503, new_api.to_string().as_bytes()), "unknown"),
        ("A3 JSON 500",                error(500, "internal"), "unknown"),
        ("A3 JSON 500 with a task",    answer(500, &made), "unknown"),
        ("A3 new-api's 500",           answer(500, &new_api), "unknown"),
        ("A3 a refusal's code on 500", coded(500, "invalid_api_key"), "unknown"),
        ("A4 unparsable",              html(200), "unknown"),
        ("A4 truncated",               raw_answer(200, b"{\"id\": \"t1"), "unknown"),
        ("A4 cut off after the id",    broken(200, b"{\"id\": \"t1\"}"), "unknown"),
        ("A4 empty",                   raw_answer(200, b""), "unknown"),
        ("A4 no id",                   answer(200, &json!({"status": "queued"})), "unknown"),
        ("A4 an error in a 200",       error(200, "something"), "unknown"),
        ("A4 an empty id",             answer(200, &json!({"id": " ", "task_id": ""})), "unknown"),
        ("A4 no id but null",          answer(200, &json!({"id": null})), "unknown"),
        ("A4 a path, not an id",       answer(200, &json!({"id": ".."})), "unknown"),
        ("A4 words, not an id",        answer(200, &json!({"code": 1, "data": "out of credit"})), "unknown"),
        ("A4 an error's request id",   answer(200, &json!({"error": {"message": "no"}, "request_id": "r1"})), "unknown"),
        ("A4 a request id of a quota", answer(200, &json!({"code": "insufficient_user_quota", "message": "quota", "data": null, "request_id": "r1"})), "unknown"),
        ("A4 a request id of a fault", answer(200, &json!({"code": 500, "msg": "upstream error", "request_id": "req-1"})), "unknown"),
        ("A4 a code's word as data",   answer(200, &json!({"code": 1001, "msg": "failed", "data": "error"})), "unknown"),
        ("A4 a fault's video id",      answer(200, &json!({"data": {"code": "500", "video_id": "v1"}})), "unknown"),
        ("A4 several tasks",           answer(200, &json!({"data": [{"id": "a"}, {"id": "b"}]})), "unknown"),
        ("A4 no task in a list",       answer(200, &json!({"data": []})), "unknown"),
        ("A5 301",                     html(301), "unknown"),
        ("A5 302 with a task",         answer(302, &made), "unknown"),
        ("A5 307",                     html(307), "unknown"),
        ("A5 308",                     html(308), "unknown"),
        ("200",                        answer(200, &made), "accepted t1"),
        ("201",                        answer(201, &made), "accepted t1"),
        ("202",                        answer(202, &made), "accepted t1"),
    ];
    for (row, reply, verdict) in rows {
        assert_eq!(post(reply), verdict, "{row}");
    }
}

/// The class of a status by the document, whatever the body says.
fn class_of(status: u16, with_task: bool) -> &'static str {
    match status {
        200..=299 if with_task => "accepted t1",
        400 | 404 | 405 | 413 | 415 | 422 => "job",
        401 => "gate key",
        402 | 403 => "gate account",
        429 => "gate rate",
        _ => "unknown",
    }
}

#[test]
fn every_status_falls_into_exactly_one_class() {
    for status in 100..=599 {
        let task = json!({"id": "t1"});
        assert_eq!(
            post(answer(status, &task)),
            class_of(status, true),
            "{status}"
        );
        assert_eq!(
            post(html(status)),
            class_of(status, false),
            "{status}, HTML"
        );
        assert_eq!(
            post(raw_answer(status, b"")),
            class_of(status, false),
            "{status}, empty"
        );
    }
    // What is no status at all is nothing that anybody knows.
    for status in [0, 99, 600, 999, u16::MAX] {
        assert_eq!(post(html(status)), "unknown", "{status}");
    }
}

#[test]
fn the_id_is_found_where_gateways_put_it() {
    let long = format!("task_{}", "x".repeat(300));
    #[rustfmt::skip]
    let rows = [
        ("flat",                    json!({"id": "a", "task_id": "a"}), "a"),
        ("both, different",         json!({"id": "grok:48a6", "task_id": "48038932"}), "grok:48a6"),
        ("only task_id",            json!({"task_id": "b"}), "b"),
        ("a row's number beside",   json!({"id": 17, "task_id": "b"}), "b"),
        ("only a number",           json!({"id": 17}), "17"),
        ("a large number",          json!({"id": 9_007_199_254_740_993_u64}), "9007199254740993"),
        ("envelope, word",          json!({"code": "success", "data": {"id": "c"}}), "c"),
        ("envelope, number",        json!({"code": 200, "data": {"task_id": "c"}}), "c"),
        ("envelope, string number", json!({"code": "20000", "msg": "ok", "data": {"task_id": "c"}}), "c"),
        ("envelope in an envelope", json!({"data": {"data": {"task_id": "c"}}}), "c"),
        ("data is the id",          json!({"code": "success", "data": "d"}), "d"),
        ("a list of one",           json!({"code": 200, "data": [{"status": "submitted", "task_id": "c"}]}), "c"),
        ("a list of one id",        json!({"data": [{"id": "c"}]}), "c"),
        ("an id whatever the code", json!({"code": 500, "data": {"task_id": "c"}}), "c"),
        ("data, code 0",            json!({"code": 0, "data": "d"}), "d"),
        ("data, code \"200\"",      json!({"code": "200", "data": "d"}), "d"),
        ("data, code OK",           json!({"code": " OK ", "data": "d"}), "d"),
        ("request_id, no code",     json!({"code": null, "request_id": "e"}), "e"),
        ("request_id, code 20000",  json!({"code": 20000, "request_id": "e"}), "e"),
        ("request_id only",         json!({"request_id": "e"}), "e"),
        ("request_id in data",      json!({"data": {"request_id": "e"}}), "e"),
        ("a request beside a task", json!({"request_id": "r", "data": {"task_id": "c"}}), "c"),
        ("video_id",                json!({"video_id": "f"}), "f"),
        ("an empty request_id",     json!({"request_id": "", "video_id": "f"}), "f"),
        ("null beside",             json!({"id": null, "task_id": "b"}), "b"),
        ("empty beside",            json!({"id": "", "task_id": "b"}), "b"),
        ("blanks around",           json!({"id": " g\n"}), "g"),
        ("with a colon",            json!({"id": "sora-2:task_1"}), "sora-2:task_1"),
        ("base64",                  json!({"id": "video_bGl0==/+"}), "video_bGl0==/+"),
        ("long",                    json!({"id": long}), long.as_str()),
        ("an empty error beside",   json!({"id": "h", "error": {"message": "", "code": ""}}), "h"),
        ("an error beside",         json!({"id": "h", "error": {"message": "slow"}}), "h"),
    ];
    for (row, body, id) in rows {
        assert_eq!(post(answer(200, &body)), format!("accepted {id}"), "{row}");
    }
    let marked = raw_answer(200, b"\xef\xbb\xbf{\"id\": \"t\"}");
    assert_eq!(post(marked), "accepted t", "a byte-order mark");
}

#[test]
fn evidence_is_kept_of_every_end() {
    let reply = Reply::Answer(Answer {
        status: 502,
        body: "é".repeat(3_000).into_bytes(),
        request_id: Some("cf-ray: 1".to_owned()),
        ..Answer::default()
    });
    let PostVerdict::Unknown { evidence, .. } = judge_post(reply) else {
        panic!("502 is unknown");
    };
    assert_eq!(evidence.http_status, Some(502));
    assert_eq!(evidence.request_id.as_deref(), Some("cf-ray: 1"));
    assert_eq!(evidence.answer.unwrap().chars().count(), 1_024, "2 KiB");
    assert!(evidence.error.unwrap().starts_with("HTTP 502: é"));

    let limited = Reply::Answer(Answer {
        status: 429,
        retry_after: Some(30_000),
        ..Answer::default()
    });
    let PostVerdict::NotAccepted { fault, .. } = judge_post(limited) else {
        panic!("429 was not accepted");
    };
    assert_eq!(fault.retry_after, Some(30_000));
}

/// A poll's verdict in a few words.
fn poll(reply: Reply) -> String {
    match judge_poll(reply) {
        PollVerdict::Running { progress: None } => "running".to_owned(),
        PollVerdict::Running { progress: Some(n) } => format!("running {n}"),
        PollVerdict::Completed { urls } if urls.is_empty() => "completed".to_owned(),
        PollVerdict::Completed { urls } => format!("completed {}", urls.join(" ")),
        PollVerdict::Failed { message } => format!("failed: {message}"),
        PollVerdict::Expired { .. } => "expired".to_owned(),
        PollVerdict::NotFound { .. } => "not found".to_owned(),
        PollVerdict::Trouble(fault) => format!("trouble {}", cause(fault.cause)),
    }
}

#[test]
fn a_task_is_judged_by_its_status_word() {
    #[rustfmt::skip]
    let words: [(&str, &[&str]); 5] = [
        // Waiting and running are one: keep asking.
        ("running", &["queued", "queueing", "pending", "submitted", "created", "not_start", "notstarted",
                      "preparing", "preprocessing", "starting", "unknown"]),
        ("running", &["in_progress", "processing", "running", "generating"]),
        ("completed", &["completed", "complete", "succeeded", "succeed", "success", "finished", "done"]),
        ("failed: no reason given", &["failed", "fail", "failure", "error", "cancelled", "canceled", "rejected"]),
        ("expired", &["expired"]),
    ];
    let unheard_of = (
        "running",
        &["", " ", "warming_up", "完成", "completed?", "un-failed"][..],
    );
    for (verdict, words) in words.into_iter().chain([unheard_of]) {
        for word in words {
            for spelt in [
                (*word).to_owned(),
                word.to_uppercase(),
                format!(" {word}\n"),
                word.replace('_', "-"),
                word.replace('_', " "),
            ] {
                let reply = answer(200, &json!({"id": "t1", "status": spelt}));
                assert_eq!(poll(reply), verdict, "{spelt:?}");
            }
        }
    }
}

#[test]
fn a_poll_is_judged_by_its_row() {
    #[rustfmt::skip]
    let rows = [
        ("no status",              answer(200, &json!({"request_id": "r"})), "running"),
        ("a status that is none",  answer(200, &json!({"status": 3})), "running"),
        ("pending is a 202",       answer(202, &json!({"status": "pending"})), "running"),
        ("an empty error",         answer(200, &json!({"status": "queued", "error": {"message": "", "code": ""}})), "running"),
        ("an error while it runs", answer(200, &json!({"status": "in_progress", "error": {"message": "retrying"}})), "running"),
        ("progress 100, running",  answer(200, &json!({"status": "in_progress", "progress": 100})), "running 100"),
        ("envelope",               answer(200, &json!({"code": "success", "data": {"status": "SUCCESS"}})), "completed"),
        ("upstream's stale answer", answer(200, &json!({"code": "success", "data": {"task_id": "t", "status": "FAILURE", "data": {"status": "processing"}}})), "failed: no reason given"),
        ("two envelopes",          answer(200, &json!({"data": {"data": {"status": "FAILURE"}}})), "failed: no reason given"),
        ("the envelope's success", answer(200, &json!({"status": "success", "data": {"status": "queued"}})), "running"),
        ("outside of data",        answer(200, &json!({"status": "done", "data": {"url": "/v.mp4"}})), "completed /v.mp4"),
        ("failed, error.message",  answer(200, &json!({"status": "failed", "error": {"message": "moderation", "code": "m1"}})), "failed: moderation (m1)"),
        ("failed, a string",       answer(200, &json!({"status": "failed", "code": "invalid-argument", "error": "Zero Data"})), "failed: Zero Data"),
        ("failed, fail_reason",    answer(200, &json!({"data": {"status": "FAILURE", "fail_reason": "nsfw"}})), "failed: nsfw"),
        ("failed, error_message",  answer(200, &json!({"status": "failed", "error_message": "busy"})), "failed: busy"),
        ("not found, new-api",     answer(400, &json!({"code": "task_not_exist", "message": "task_not_exist"})), "not found"),
        ("not found, 404",         error(404, "Video not found"), "not found"),
        ("not found, 410",         answer(410, &json!({"detail": "the video no longer exists"})), "not found"),
        ("not found, FastAPI",     answer(404, &json!({"detail": "Not Found"})), "not found"),
        ("not found, a code",      answer(404, &json!({"code": "not-found", "error": "no"})), "not found"),
        ("not found, a type",      answer(404, &json!({"error": {"message": "no", "type": "NotFoundError"}})), "not found"),
        ("not found, Chinese",     answer(404, &json!({"message": "任务不存在"})), "not found"),
        ("no route, Kong",         answer(404, &json!({"message": "no Route matched with those values"})), "trouble unclear"),
        ("no route, new-api",      error(404, "Invalid URL (GET /v1/videos/t1)"), "trouble unclear"),
        ("410 of something else",  answer(410, &json!({"detail": "this API version was retired"})), "trouble unclear"),
        ("not found, in words",    answer(400, &json!({"error": {"message": "No such task"}})), "not found"),
        ("not found, a proxy's",   html(404), "trouble unclear"),
        ("not found, empty",       raw_answer(404, b""), "trouble unclear"),
        ("not found, cut off",     broken(404, b"{\"error\":{}}"), "trouble unclear"),
        ("another 400",            error(400, "bad request"), "trouble unclear"),
        ("LiteLLM's unknown id",   error(500, "internal"), "trouble unclear"),
        ("the key",                error(401, "invalid token"), "trouble key"),
        ("the key's right",        error(403, "no"), "trouble key"),
        ("too often",              html(429), "trouble rate"),
        ("502",                    html(502), "trouble unclear"),
        ("a login page",           html(200), "trouble unclear"),
        ("a list",                 answer(200, &json!([])), "trouble unclear"),
        ("a word",                 answer(200, &json!("completed")), "trouble unclear"),
        ("cut off",                broken(200, b"{\"status\":\"failed\"}"), "trouble unclear"),
        ("a redirect",             html(302), "trouble unclear"),
        ("no answer",              lost("timeout"), "trouble unclear"),
        ("no connection",          Reply::NotSent("refused".to_owned()), "trouble unreachable"),
    ];
    for (row, reply, verdict) in rows {
        assert_eq!(poll(reply), verdict, "{row}");
    }
}

#[test]
fn progress_comes_in_many_forms() {
    #[rustfmt::skip]
    let rows = [
        (json!(42), "running 42"), (json!("42"), "running 42"), (json!("100%"), "running 100"),
        (json!(" 35 % "), "running 35"), (json!(0), "running 0"), (json!(12.7), "running 12"),
        (json!(-3), "running 0"), (json!(250), "running 100"), (json!(1e300), "running 100"),
        (json!("NaN"), "running"), (json!(""), "running"), (json!(null), "running"),
        (json!("soon"), "running"), (json!([50]), "running"), (json!({"percent": 5}), "running"),
    ];
    for (progress, verdict) in rows {
        let body = json!({"status": "in_progress", "progress": progress});
        assert_eq!(poll(answer(200, &body)), verdict, "{progress}");
        let inside = json!({"data": {"status": "in_progress", "progress": progress}});
        assert_eq!(poll(answer(200, &inside)), verdict, "{progress} in data");
    }
}

#[test]
fn the_url_is_found_where_gateways_put_it() {
    let url = "https://cdn.test/v.mp4?sig=1";
    #[rustfmt::skip]
    let places = [
        json!({"video_url": url}),
        json!({"result": {"video_url": url}}),
        json!({"result": {"outputs": [url]}}),
        json!({"result": {"outputs": [{"url": url}]}}),
        json!({"result": {"outputs": [{"video_url": url}]}}),
        json!({"result": {"url": url}}),
        json!({"metadata": {"url": url}}),
        json!({"url": url}),
        json!({"result_url": url}),
        json!({"video": {"url": url}}),
        json!({"output": {"url": url}}),
        json!({"output": url}),
        json!({"output": [url]}),
        json!({"outputs": [url]}),
        json!({"output_url": url}),
        json!({"content": {"video_url": url}}),
        json!({"fail_reason": url}),
        json!({"video_url": "", "url": url}),
        json!({"video_url": null, "metadata": {"url": url}}),
        json!({"video_url": url, "url": url, "result": {"outputs": [url]}}),
    ];
    for place in places {
        let mut body = place.clone();
        body["status"] = json!("completed");
        let verdict = format!("completed {url}");
        assert_eq!(poll(answer(200, &body)), verdict, "{place}");
        let inside = json!({"code": "success", "data": body});
        assert_eq!(poll(answer(200, &inside)), verdict, "{place} in data");
    }
    let both = json!({
        "status": "completed",
        "url": "https://cdn.test/b.mp4",
        "video_url": "https://cdn.test/a.mp4",
    });
    let best_first = "completed https://cdn.test/a.mp4 https://cdn.test/b.mp4";
    assert_eq!(poll(answer(200, &both)), best_first);
}

#[test]
fn a_url_is_one_that_may_be_fetched() {
    #[rustfmt::skip]
    let rows = [
        ("https://cdn.test/v.mp4", true), ("http://cdn.test/v.mp4", true), ("HTTPS://cdn.test/v.mp4", true),
        ("/v1/videos/t1/content", true), ("//cdn.test/v.mp4", true), (" https://cdn.test/v.mp4 ", true),
        ("file:///etc/passwd", false), ("ftp://cdn.test/v.mp4", false), ("data:video/mp4;base64,AAAA", false),
        ("javascript:alert(1)", false), ("string", false), ("", false), ("moderation failed", false),
    ];
    for (url, fetched) in rows {
        let verdict = poll(answer(200, &json!({"status": "done", "video_url": url})));
        let expected = if fetched {
            format!("completed {}", url.trim())
        } else {
            "completed".to_owned()
        };
        assert_eq!(verdict, expected, "{url:?}");
    }
    let endless = format!("https://cdn.test/{}", "v".repeat(10_000));
    assert_eq!(
        poll(answer(200, &json!({"status": "done", "url": endless}))),
        "completed"
    );
}

#[test]
fn a_free_request_tells_of_the_key_and_the_line() {
    #[rustfmt::skip]
    let rows = [
        ("works",            answer(200, &json!({"data": []})), None),
        ("is not served",    html(404), None),
        ("is not allowed",   error(403, "no"), None),
        ("key",              error(401, "no"), Some("key")),
        ("account",          error(402, "no"), Some("account")),
        ("rate",             html(429), Some("rate")),
        ("500",              html(500), Some("unreachable")),
        ("502",              html(502), Some("unreachable")),
        ("524",              html(524), Some("unreachable")),
        ("no connection",    Reply::NotSent("dns".to_owned()), Some("unreachable")),
        ("no answer",        lost("timeout"), Some("unreachable")),
    ];
    for (row, reply, closed) in rows {
        let verdict = judge_probe(reply).err().map(|fault| cause(fault.cause));
        assert_eq!(verdict, closed, "{row}");
    }
}

/// A key is a word like another: what came is judged, what is kept is without it.
#[tokio::test]
async fn the_key_is_kept_nowhere_and_changes_no_id_and_no_link() {
    let server = Provider::start();
    let ready = format!(r#"{{"status":"completed","video_url":"/x/$JOB/v?key={KEY}"}}"#);
    let failed = format!(r#"{{"status":"failed","error":"no more for {KEY}"}}"#);
    server.script(
        "a",
        Script {
            task: format!("{KEY}_$JOB"),
            post: vec![provider::json(200, TAKEN)],
            poll: vec![provider::json(200, &ready), provider::json(200, &failed)],
            ..Script::kind(Vec::new())
        },
    );
    let limit = std::time::Duration::from_secs(60);
    let provider = reelq::provider::Provider::new(Endpoint {
        base_url: server.base.parse().unwrap(),
        key: KEY.to_owned().into(),
        model: "m".to_owned(),
        post_timeout: limit,
        poll_timeout: limit,
        idle_timeout: limit,
    })
    .unwrap();

    let mut job = job_in(State::Generating);
    job.spec.prompt = "a".to_owned();
    let verdict = judge_post(provider.create(&job.spec, "1").await);
    let PostVerdict::Accepted { task_id, evidence } = verdict else {
        panic!("{verdict:?}");
    };
    assert_eq!(task_id, format!("{KEY}_a"));
    let kept = evidence.answer.unwrap();
    assert!(kept.contains("[key]_a") && !kept.contains(KEY), "{kept}");

    job.task_id = Some(task_id);
    let PollVerdict::Completed { urls } = poller::poll(&provider, &job).await else {
        panic!("it completed");
    };
    assert_eq!(urls, ["/x/a/v?key=[key]"]);
    let url = provider.video_address(&urls[0], None).unwrap();
    assert_eq!(url.as_str(), format!("{}/x/a/v?key={KEY}", server.base));
    let elsewhere = provider.video_address("https://cdn.test/v?key=[key]", None);
    assert!(!elsewhere.unwrap().as_str().contains(KEY));

    let PollVerdict::Failed { message } = poller::poll(&provider, &job).await else {
        panic!("it failed");
    };
    assert_eq!(message, "no more for [key]");
}

/// JSON of the shapes and names that gateways use, and of none.
fn bodies() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        "[ a-z0-9:/.%-]{0,12}".prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        prop_oneof![
            Just("completed"),
            Just("FAILED"),
            Just("https://cdn.test/v.mp4"),
            Just("new_api_error")
        ]
        .prop_map(Value::from),
    ];
    let names = prop_oneof![
        Just("id"),
        Just("task_id"),
        Just("request_id"),
        Just("video_id"),
        Just("data"),
        Just("status"),
        Just("error"),
        Just("message"),
        Just("code"),
        Just("type"),
        Just("progress"),
        Just("url"),
        Just("result"),
        Just("outputs"),
        Just("other"),
    ];
    leaf.prop_recursive(5, 40, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::hash_map(names.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn replies() -> impl Strategy<Value = Reply> {
    let body = prop_oneof![
        3 => bodies().prop_map(|body| body.to_string().into_bytes()),
        1 => proptest::collection::vec(any::<u8>(), 0..200),
        1 => bodies().prop_map(|body| {
            let mut cut = body.to_string().into_bytes();
            cut.truncate(cut.len() / 2);
            cut
        }),
    ];
    let status = prop_oneof![
        Just(200_u16),
        Just(400),
        Just(503),
        100..600_u16,
        any::<u16>()
    ];
    let broken = proptest::option::weighted(0.1, Just("reset".to_owned()));
    (status, body, broken, any::<Option<i64>>()).prop_map(|(status, body, broken, retry_after)| {
        Reply::Answer(Answer {
            status,
            body,
            broken,
            retry_after,
            ..Answer::default()
        })
    })
}

/// Whether an id, as text or number, stands anywhere in a JSON value.
fn holds(value: &Value, id: &str) -> bool {
    match value {
        Value::String(text) => text.trim() == id,
        Value::Number(number) => number.to_string() == id,
        Value::Array(items) => items.iter().any(|item| holds(item, id)),
        Value::Object(map) => map.values().any(|value| holds(value, id)),
        _ => false,
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn accepted_only_with_an_id_that_is_there(reply in replies()) {
        let Reply::Answer(sent) = reply.clone() else { unreachable!() };
        if let PostVerdict::Accepted { task_id, .. } = judge_post(reply) {
            prop_assert!((200..300).contains(&sent.status));
            prop_assert!(sent.broken.is_none());
            prop_assert!(!task_id.is_empty());
            let text = sent.body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(&sent.body);
            let body: Value = serde_json::from_slice(text).unwrap();
            prop_assert!(holds(&body, &task_id), "{task_id:?} is not in {body}");
        }
    }

    #[test]
    fn sure_of_a_refusal_only_where_the_table_is(reply in replies()) {
        let Reply::Answer(sent) = reply.clone() else { unreachable!() };
        let own = String::from_utf8_lossy(&sent.body).contains("new_api_error");
        match judge_post(reply) {
            PostVerdict::RefusedJob { .. } | PostVerdict::NotAccepted { .. } => {
                let listed = class_of(sent.status, false) != "unknown";
                prop_assert!(listed || (sent.status == 503 && own), "{}", sent.status);
            }
            PostVerdict::Accepted { .. } | PostVerdict::Unknown { .. } => {}
        }
    }

    #[test]
    fn a_poll_never_panics_and_ends_nothing_by_itself(reply in replies()) {
        let Reply::Answer(sent) = reply.clone() else { unreachable!() };
        let words = String::from_utf8_lossy(&sent.body).to_lowercase();
        match judge_poll(reply.clone()) {
            PollVerdict::Failed { message } | PollVerdict::Expired { message } => {
                prop_assert!((200..300).contains(&sent.status) && sent.broken.is_none());
                prop_assert!(words.contains("failed"), "{words}");
                prop_assert!(!message.is_empty());
            }
            PollVerdict::Completed { urls } => {
                prop_assert!((200..300).contains(&sent.status) && sent.broken.is_none());
                prop_assert!(words.contains("completed"), "{words}");
                for url in urls {
                    prop_assert!(url.starts_with('/') || url.to_lowercase().starts_with("http"));
                }
            }
            PollVerdict::NotFound { .. } => {
                prop_assert!(matches!(sent.status, 400 | 404 | 410));
            }
            PollVerdict::Running { .. } | PollVerdict::Trouble(_) => {}
        }
        let _ = judge_probe(reply);
    }
}
