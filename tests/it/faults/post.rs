//! The answers of a POST.

use super::*;

/// `{"id":"task_gz","status":"queued"}`, by gzip.
const COMPRESSED: &[u8] = b"\x1f\x8b\x08\x00\x00\x00\x00\x00\x02\x03\xab\x56\xca\x4c\x51\xb2\x52\x2a\x49\x2c\xce\x8e\x4f\xaf\x52\xd2\x51\x2a\x2e\x49\x2c\x29\x2d\x06\x0a\x15\x96\xa6\x96\xa6\xa6\x28\xd5\x02\x00\x69\x74\x4c\x2f\x22\x00\x00\x00";

/// The POST: accepted in other words than the documented ones.
pub(super) fn accepted() -> Vec<Fault> {
    let chunked = |body| json(200, body).bills().framed(Framing::Chunked);
    vec![
        fault("post plain"),
        fault("post 201").post([json(201, TAKEN).bills()]),
        fault("post 202 with a request id").post([json(202, r#"{"request_id":"$ID"}"#).bills()]),
        fault("post compressed unasked")
            .task("task_gz")
            .post([status(200)
                .typed("application/json", Body::Bytes(COMPRESSED.to_vec()))
                .header("content-encoding", "gzip")
                .bills()]),
        fault("post id in data").post([json(
            200,
            r#"{"code":"success","data":{"id":"$ID","status":"queued"}}"#,
        )
        .bills()]),
        fault("post task_id in data")
            .post([json(200, r#"{"code":200,"data":{"task_id":"$ID"}}"#).bills()]),
        fault("post code 20000").post([json(
            200,
            r#"{"code":"20000","msg":"ok","data":{"task_id":"$ID"}}"#,
        )
        .bills()]),
        fault("post id unlike task_id")
            .task("grok:48a6$JOB")
            .post([json(
                200,
                r#"{"id":"$ID","task_id":"48038932-0000","video_id":"v_1"}"#,
            )
            .bills()]),
        fault("post task_id alone")
            .post([json(200, r#"{"task_id":"$ID","status":"submitted"}"#).bills()]),
        fault("post numeric id beside a text")
            .post([json(200, r#"{"id":4711,"task_id":"$ID"}"#).bills()]),
        fault("post numeric id alone").task("471199").post([json(
            200,
            r#"{"id":471199,"status":"queued"}"#,
        )
        .bills()]),
        fault("post id with odd letters")
            .task("sora-2:a/../b?c#d%2F==$JOB")
            .post([json(200, TAKEN).bills()]),
        fault("post id of 250 letters").task(&format!("{}$JOB", "v".repeat(250))),
        fault("post error with empty strings").post([json(
            200,
            r#"{"id":"$ID","status":"queued","error":{"message":"","code":""}}"#,
        )
        .bills()]),
        fault("post answer in chunks").post([chunked(TAKEN)]),
        fault("post answer byte by byte").post([chunked(TAKEN).dribbles()]),
        fault("post answer to the connection's end")
            .post([json(200, TAKEN).bills().framed(Framing::Close)]),
        fault("post after 100 and 103").post([json(200, TAKEN).bills().before(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: </>\r\n\r\n",
        )]),
        fault("post called text/html").post([status(200)
            .bills()
            .typed("text/html", Body::Text(TAKEN.to_owned()))]),
    ]
}

/// The POST: this job is wrong, and no other job is held up by that.
pub(super) fn refused() -> Vec<Fault> {
    let said = r#"{"code":"invalid_request","message":"duration out of range","data":null}"#;
    vec![
        fault("post 400")
            .post([json(400, said)])
            .refused()
            .says("duration out of range"),
        fault("post 400 as a page").post([html(400)]).refused(),
        fault("post 400 moderation")
            .post([json(
                400,
                r#"{"error":{"message":"no","code":"content_policy_violation"}}"#,
            )])
            .refused()
            .says("content_policy"),
        fault("post 404")
            .post([json(404, &busy("model_not_found"))])
            .refused(),
        fault("post 405").post([json(405, "{}")]).refused(),
        fault("post 413 as a page").post([html(413)]).refused(),
        fault("post 415").post([json(415, said)]).refused(),
        fault("post 422").post([json(422, said)]).refused(),
    ]
}

/// The POST: surely not accepted, for no fault of the job.
pub(super) fn not_accepted() -> Vec<Fault> {
    vec![
        fault("post 401").later(1, json(401, &busy("invalid_api_key"))),
        fault("post 402").later(1, json(402, r#"{"error":{"message":"limit"}}"#)),
        fault("post 403").later(1, json(403, &busy("insufficient_user_quota"))),
        fault("post 400 for the key")
            .later(1, json(400, r#"{"error":{"message":"No connected db."}}"#)),
        fault("post 429 as a page").later(1, html(429)),
        fault("post 429 with a pause")
            .later(1, json(429, &busy("rate_limit")).header("retry-after", "1")),
        fault("post 429 for concurrency").later(
            1,
            json(429, r#"{"error":{"message":"当前并发任务数已达上限"}}"#),
        ),
        fault("post 503 of the gateway").later(1, json(503, &busy("all channels busy"))),
        fault("post 503 of the gateway, twice").later(2, json(503, &busy("model_not_found"))),
    ]
}

/// The POST: it may have been accepted.
pub(super) fn unclear() -> Vec<Fault> {
    let taken = || json(200, TAKEN).bills();
    let mut faults = vec![
        fault("post closed without an answer")
            .post([taken().ends(End::HeadFin(0))])
            .unconfirmed(1),
        fault("post reset without an answer")
            .post([taken().ends(End::NoByteReset)])
            .unconfirmed(1),
        fault("post closed in the head")
            .post([taken().ends(End::HeadFin(30))])
            .unconfirmed(1),
        fault("post closed in the body")
            .post([taken().ends(End::Fin(50))])
            .unconfirmed(1),
        fault("post reset in the body")
            .post([taken().ends(End::Reset(50))])
            .unconfirmed(1),
        fault("post closed in a chunk")
            .post([taken().framed(Framing::Chunked).ends(End::Fin(80))])
            .unconfirmed(1),
        fault("post closed before the last chunk")
            .post([taken().framed(Framing::Chunked).ends(End::Fin(100))])
            .unconfirmed(1),
        fault("post cut and closed cleanly")
            .post([taken().framed(Framing::Close).ends(End::Fin(60))])
            .unconfirmed(1),
        fault("post not accepted and reset")
            .post([status(500).ends(End::NoByteReset)])
            .unconfirmed(0),
        fault("post never answered")
            .post([taken().ends(End::NoByteStall)])
            .unconfirmed(1)
            .with("SUBMIT__REQUEST_TIMEOUT", "10s"),
        fault("post answer stalls")
            .post([taken().ends(End::Stall(50))])
            .unconfirmed(1)
            .with("SUBMIT__REQUEST_TIMEOUT", "10s"),
        fault("post answer without end")
            .post([status(200)
                .bills()
                .body(Body::Endless(b"{\"id\":\"".to_vec()))])
            .unconfirmed(1)
            .with("SUBMIT__REQUEST_TIMEOUT", "10s"),
        fault("post 200 without an id")
            .post([json(200, r#"{"status":"queued"}"#).bills()])
            .unconfirmed(1)
            .says("no task id"),
        fault("post 200 with an empty id")
            .post([json(200, r#"{"id":"","task_id":" "}"#).bills()])
            .unconfirmed(1),
        fault("post 200 with a null id")
            .post([json(200, r#"{"id":null,"task_id":{}}"#).bills()])
            .unconfirmed(1),
        fault("post 200 with a path for an id")
            .post([json(200, r#"{"id":".."}"#).bills()])
            .unconfirmed(1),
        fault("post 200 with half a JSON")
            .post([json(200, r#"{"id":"$ID","task_"#).bills()])
            .unconfirmed(1),
        fault("post 200 with a list")
            .post([json(200, r#"["$ID"]"#).bills()])
            .unconfirmed(1),
        fault("post 200 with nothing")
            .post([status(200).bills()])
            .unconfirmed(1),
        fault("post 200 with a page")
            .post([html(200).bills()])
            .unconfirmed(1)
            .says("nginx"),
        fault("post 204").post([status(204).bills()]).unconfirmed(1),
        fault("post 101")
            .post([raw(
                b"HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            )
            .bills()])
            .unconfirmed(1),
        fault("post answered by something else")
            .post([raw(b"SSH-2.0-OpenSSH_9.2\r\n").bills()])
            .unconfirmed(1),
        fault("post 500 in JSON")
            .post([json(500, &busy("get_channel_failed")).bills()])
            .unconfirmed(1),
        fault("post 503 as a page")
            .post([html(503).bills()])
            .unconfirmed(1),
        fault("post 503 in other words")
            .post([json(503, r#"{"error":{"message":"busy"}}"#).bills()])
            .unconfirmed(1),
    ];
    for code in [
        408, 409, 425, 451, 499, 500, 501, 502, 504, 520, 522, 524, 599, 999,
    ] {
        faults.push(
            fault(format!("post {code} as a page"))
                .post([html(code).bills()])
                .unconfirmed(1),
        );
    }
    for code in [301, 302, 303, 307, 308] {
        for (name, place) in [("here", "$BASE/v1/videos"), ("elsewhere", "$CDN/v1/videos")] {
            let answer = to(code, place).bills();
            faults.push(
                fault(format!("post {code} to {name}"))
                    .post([answer])
                    .unconfirmed(1),
            );
        }
    }
    faults
}
