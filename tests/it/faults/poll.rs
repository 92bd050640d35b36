//! The answers of a GET of a task.

use super::*;

/// Polls: words, ids and forms.
pub(super) fn told() -> Vec<Fault> {
    let mut faults = Vec::new();
    let done = [
        "completed",
        "complete",
        "succeeded",
        "succeed",
        "SUCCESS",
        "finished",
        "done",
        " Completed ",
    ];
    for (n, word) in [
        "queued",
        "queueing",
        "pending",
        "submitted",
        "created",
        "NOT_START",
        "notstarted",
        "preparing",
        "preprocessing",
        "starting",
        "unknown",
        "in_progress",
        "In-Progress",
        "processing",
        "running",
        "generating",
    ]
    .into_iter()
    .enumerate()
    {
        let done = done[n % done.len()];
        let first = json(200, &format!(r#"{{"id":"$ID","status":"{word}"}}"#));
        let then = json(
            200,
            &format!(r#"{{"id":"$ID","status":"{done}","url":"{LINK}"}}"#),
        );
        faults.push(fault(format!("status {word} then {}", done.trim())).poll([first, then]));
    }
    for word in [
        "failed",
        "fail",
        "FAILURE",
        "error",
        "cancelled",
        "canceled",
        "rejected",
    ] {
        let answer = json(
            200,
            &format!(r#"{{"id":"$ID","status":"{word}","error":{{"message":"moderated"}}}}"#),
        );
        faults.push(
            fault(format!("status {word}"))
                .poll([answer])
                .failed("task_failed")
                .says("moderated"),
        );
    }
    let then = || json(200, READY);
    faults.extend([
        fault("status expired").poll([json(200, r#"{"status":"expired"}"#)]).failed("task_expired"),
        fault("status failed, reason in data").poll([json(200, r#"{"code":"success","data":{"status":"FAILURE","fail_reason":"upstream returned error"}}"#)]).failed("task_failed").says("upstream returned error"),
        fault("status of a word nobody knows").poll([json(200, r#"{"status":"teleporting"}"#), then()]),
        fault("status absent").poll([json(200, r#"{"request_id":"$ID"}"#), then()]),
        fault("status empty").poll([json(200, r#"{"status":""}"#), then()]),
        fault("status null").poll([json(200, r#"{"status":null}"#), then()]),
        fault("status a number").poll([json(200, r#"{"status":3}"#), then()]),
        fault("poll 202 while it runs").poll([json(202, r#"{"status":"pending"}"#), then()]),
        fault("error on a running task").poll([json(200, r#"{"status":"in_progress","error":{"code":"x","message":"boom"}}"#), then()]),
        fault("error with empty strings").poll([json(200, r#"{"status":"processing","error":{"code":"","message":""}}"#), then()]),
        fault("error on a finished task").poll([ready(&format!(r#""error":"none","video_url":"{LINK}""#))]),
        fault("progress 100% while it runs").poll([json(200, r#"{"status":"in_progress","progress":"100%"}"#), then()]),
        fault("progress without sense").poll([json(200, r#"{"status":"in_progress","progress":-17.5e300}"#), then()]),
        fault("get names another id").poll([
            json(200, r#"{"id":"video_other","status":"in_progress"}"#),
            json(200, &format!(r#"{{"id":"video_other","task_id":"video_third","status":"completed","video_url":"{LINK}"}}"#)),
        ]),
        fault("get names a number").poll([json(200, &format!(r#"{{"id":99,"task_id":"$ID","status":"completed","video_url":"{LINK}"}}"#))]),
        fault("task in data").poll([json(200, &format!(r#"{{"code":"success","data":{{"status":"SUCCESS","progress":"100%","result_url":"{LINK}"}}}}"#))]),
        fault("task in data in data").poll([json(200, &format!(r#"{{"code":"success","data":{{"status":"SUCCESS","data":{{"status":"completed","video_url":"{LINK}"}}}}}}"#))]),
        fault("task not found at first").poll([json(404, r#"{"error":{"message":"task_not_exist"}}"#), then()]),
        fault("task not found at first, as 400").poll([json(400, r#"{"code":"task_not_exist","message":"task_not_exist"}"#), running(), then()]),
        fault("asked by a reused connection that is gone").poll([running().ends(End::Fin(100)), then()]),
    ]);
    faults
}

/// Polls: answers that say nothing about the task.
pub(super) fn poll_trouble() -> Vec<Fault> {
    let then = || json(200, READY);
    let patient = |fault: Fault| fault.with("POLL__REQUEST_TIMEOUT", "3s");
    vec![
        fault("poll 500").poll([json(500, &busy("x")), then()]),
        fault("poll 502 as a page").poll([html(502), then()]),
        fault("poll 404 as a page").poll([html(404), then()]),
        fault("poll 400 of another kind")
            .poll([json(400, r#"{"error":{"message":"bad"}}"#), then()]),
        fault("poll closed without an answer").poll([then().ends(End::HeadFin(0)), then()]),
        fault("poll reset in the body").poll([then().ends(End::Reset(50)), then()]),
        fault("poll closed in the body").poll([then().ends(End::Fin(50)), then()]),
        fault("poll 200 with a page").poll([html(200), then()]),
        fault("poll 200 with nothing").poll([status(200), then()]),
        fault("poll 200 with a list").poll([json(200, r#"[{"status":"failed"}]"#), then()]),
        fault("poll 200 with half a JSON").poll([json(200, r#"{"status":"failed","#), then()]),
        fault("poll redirected").poll([to(302, "$CDN/v1/videos/$ID"), then()]),
        fault("poll 401").poll([json(401, &busy("invalid_api_key")), then()]),
        fault("poll 403 as a page").poll([html(403), then()]),
        fault("poll 429").poll([
            json(429, &busy("slow down")).header("retry-after", "1"),
            then(),
        ]),
        patient(fault("poll never answered").poll([then().ends(End::NoByteStall), then()])),
        patient(fault("poll answer stalls").poll([then().ends(End::Stall(50)), then()])),
        patient(
            fault("poll answer without end")
                .poll([status(200).body(Body::Endless(b"{".to_vec())), then()]),
        ),
    ]
    .into_iter()
    .map(|fault| fault.touches(Touches::Polling))
    .collect()
}
