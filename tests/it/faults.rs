//! The fault table: one line a fault, with the state in which it must end.
//!
//! Every fault has a job of its own and goes through the real binary. Faults
//! that close the gate for all jobs stand three to a queue, beside a job with
//! nothing wrong, which must be done as well: so each queue also shows that the
//! gate opens by itself. The rest share one queue.

use std::collections::HashSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use crate::film::{Layout, film};
use crate::provider::{
    Answer, Body, End, Framing, Kind, Provider, READY, Script, Seen, TAKEN, film_answer, html,
    json, raw, status, to,
};
use crate::rig::{Rig, connect, in_turns};

/// Queues at once: the limits of a fault hold for the job beside it as well.
const AT_ONCE: usize = 8;

/// How much of a film there is, in bytes.
const LENGTH: usize = 60_000;

/// What a fault does to other jobs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Touches {
    Nobody,
    Submitting,
    Polling,
}

/// A line of the table.
struct Fault {
    job: String,
    script: Script,
    touches: Touches,
    settings: Vec<(&'static str, &'static str)>,
    /// The state and the error code in which it must end.
    end: (&'static str, &'static str),
    /// POSTs that the provider must have seen, and those of them that it charged.
    posts: usize,
    billed: usize,
    /// A request for the rest of a file must have been seen.
    resumes: bool,
    /// Words that must stand in the row or the ledger.
    says: Option<&'static str>,
}

/// A fault with everything else as it should be: done, for one payment.
fn fault(job: impl Into<String>) -> Fault {
    let job: String = job
        .into()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let script = Script::kind(film(Layout::MoovFirst, &job, 6, LENGTH));
    Fault {
        job,
        script,
        touches: Touches::Nobody,
        settings: Vec::new(),
        end: ("done", ""),
        posts: 1,
        billed: 1,
        resumes: false,
        says: None,
    }
}

impl Fault {
    fn post(mut self, answers: impl IntoIterator<Item = Answer>) -> Fault {
        self.script.post = answers.into_iter().collect();
        self
    }

    fn poll(mut self, answers: impl IntoIterator<Item = Answer>) -> Fault {
        self.script.poll = answers.into_iter().collect();
        self
    }

    fn content(mut self, answers: impl IntoIterator<Item = Answer>) -> Fault {
        self.script.content = answers.into_iter().collect();
        self
    }

    /// The link that the task names when nothing else is said.
    fn link(self, answers: impl IntoIterator<Item = Answer>) -> Fault {
        self.file("v", answers)
    }

    fn file(mut self, name: &str, answers: impl IntoIterator<Item = Answer>) -> Fault {
        let answers = answers.into_iter().collect();
        self.script.files.insert(name.to_owned(), answers);
        self
    }

    fn task(mut self, id: &str) -> Fault {
        self.script.task = id.to_owned();
        self
    }

    fn film(mut self, layout: Layout) -> Fault {
        self.script.film = film(layout, &self.job, 6, LENGTH);
        self
    }

    fn seconds(mut self, seconds: u32) -> Fault {
        self.script.film = film(Layout::MoovFirst, &self.job, seconds, LENGTH);
        self
    }

    fn touches(self, touches: Touches) -> Fault {
        Fault { touches, ..self }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Fault {
        self.settings.push((name, value));
        self
    }

    /// Refused for good, at no cost.
    fn refused(self) -> Fault {
        Fault {
            end: ("failed", "refused"),
            billed: 0,
            ..self
        }
    }

    /// Sent once, and nobody can tell; `billed`: it was charged.
    fn unconfirmed(self, billed: usize) -> Fault {
        Fault {
            end: ("unconfirmed", "unconfirmed"),
            billed,
            ..self
        }
        .touches(Touches::Submitting)
    }

    /// Refused `times` for a reason that passes, then accepted.
    fn later(self, times: usize, answer: Answer) -> Fault {
        let mut answers = vec![answer; times];
        answers.push(json(200, TAKEN).bills());
        Fault {
            posts: times + 1,
            ..self.post(answers)
        }
        .touches(Touches::Submitting)
    }

    fn failed(self, code: &'static str) -> Fault {
        Fault {
            end: ("failed", code),
            ..self
        }
    }

    fn resumes(self) -> Fault {
        Fault {
            resumes: true,
            ..self
        }
    }

    fn says(self, words: &'static str) -> Fault {
        Fault {
            says: Some(words),
            ..self
        }
    }
}

/// A finished task whose video is named by these fields.
fn ready(fields: &str) -> Answer {
    json(
        200,
        &format!(r#"{{"id":"$ID","status":"completed",{fields}}}"#),
    )
}

/// A task that still runs.
fn running() -> Answer {
    json(
        200,
        r#"{"id":"$ID","status":"in_progress","progress":40,"video_url":""}"#,
    )
}

/// The film with an entity tag and ranges.
fn whole() -> Answer {
    film_answer().ranges("\"v1\"")
}

/// 404 for as long as it lasts.
fn gone() -> Answer {
    json(404, r#"{"error":{"message":"no such file"}}"#)
}

fn busy(code: &str) -> String {
    format!(r#"{{"error":{{"message":"{code}","type":"new_api_error","code":"{code}"}}}}"#)
}

const LINK: &str = "$CDN/x/$JOB/v";

/// The POST: accepted in other words than the documented ones.
fn accepted() -> Vec<Fault> {
    let chunked = |body| json(200, body).bills().framed(Framing::Chunked);
    vec![
        fault("post plain"),
        fault("post 201").post([json(201, TAKEN).bills()]),
        fault("post 202 with a request id").post([json(202, r#"{"request_id":"$ID"}"#).bills()]),
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
fn refused() -> Vec<Fault> {
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
fn not_accepted() -> Vec<Fault> {
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
fn unclear() -> Vec<Fault> {
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

/// Polls: words, ids and forms.
fn told() -> Vec<Fault> {
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
fn poll_trouble() -> Vec<Fault> {
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

/// The places and forms of a video's address.
fn places() -> Vec<Fault> {
    let mut faults = Vec::new();
    for (name, fields) in [
        ("video_url", r#""video_url":"$U""#),
        ("result.video_url", r#""result":{"video_url":"$U"}"#),
        ("result.outputs", r#""result":{"outputs":["$U"]}"#),
        (
            "result.outputs of objects",
            r#""result":{"outputs":[{"url":"$U"}]}"#,
        ),
        ("result.url", r#""result":{"url":"$U"}"#),
        ("result_url flat", r#""result_url":"$U""#),
        ("data.result_url", r#""data":{"result_url":"$U"}"#),
        ("url", r#""url":"$U""#),
        (
            "video.url in an object",
            r#""video":{"url":"$U","duration":6}"#,
        ),
        ("output.url", r#""output":{"url":"$U"}"#),
        ("output", r#""output":"$U""#),
        ("outputs", r#""outputs":[{"video_url":"$U"}]"#),
        ("output_url flat", r#""output_url":"$U""#),
        ("metadata.url", r#""metadata":{"url":"$U"}"#),
        ("fail_reason", r#""fail_reason":"$U""#),
        (
            "url after empty ones",
            r#""video_url":"","result":{"video_url":null,"outputs":[]},"url":" $U ""#,
        ),
    ] {
        // Nowhere else: were the place not known, nothing would be found.
        faults.push(
            fault(format!("place {name}"))
                .poll([ready(&fields.replace("$U", LINK))])
                .content([gone()]),
        );
    }
    faults.extend([
        fault("place relative")
            .poll([ready(r#""video_url":"/x/$JOB/v""#)])
            .content([gone()]),
        fault("place content only").poll([ready(r#""progress":100"#)]),
        fault("place content by its own address")
            .poll([ready(r#""video_url":"$BASE/v1/videos/$ID/content""#)]),
        fault("place content of another")
            .poll([ready(r#""video_url":"$CDN/v1/videos/upstream_1/content""#)]),
    ]);
    for (name, url) in [
        ("file", "file:///etc/passwd"),
        ("data", "data:video/mp4;base64,AAAA"),
        ("ftp", "ftp://127.0.0.1/a.mp4"),
        ("link-local", "http://169.254.169.254/latest/meta-data"),
        ("link-local by a number", "http://2852039166/"),
        ("link-local in v6", "http://[fe80::1]/v.mp4"),
        ("link-local mapped", "http://[::ffff:169.254.169.254]/v.mp4"),
        ("unspecified", "http://0.0.0.0/v.mp4"),
        ("multicast", "http://224.0.0.1/v.mp4"),
        ("no address", "http://"),
    ] {
        faults.push(
            fault(format!("never fetched {name}"))
                .poll([ready(&format!(r#""video_url":"{url}""#))]),
        );
        faults.push(fault(format!("never followed {name}")).link([to(302, url)]));
    }
    faults
}

/// Downloads.
fn downloads() -> Vec<Fault> {
    let fresh = || {
        [
            json(200, READY),
            json(200, &READY.replace("/v\"", "/fresh\"")),
        ]
    };
    let bare = film_answer;
    let mut faults = vec![
        fault("film moov last").film(Layout::MoovLast),
        fault("film 64 bits").film(Layout::Wide),
        fault("film fragmented").film(Layout::Fragmented),
        fault("film open ended").film(Layout::OpenEnded).link([bare().framed(Framing::Chunked)]),
        fault("film too short").seconds(2).says("asked for 6 s"),
        fault("link in chunks").link([bare().framed(Framing::Chunked)]),
        fault("link to the connection's end").link([bare().framed(Framing::Close)]),
        fault("link called text/plain").link([status(200).typed("text/plain", Body::Film)]),
        fault("link needs the key").poll([ready(r#""video_url":"$BASE/x/$JOB/own""#)]).file("own", [whole().with_key()]).content([gone()]),
        fault("link dead, fresh link").poll(fresh()).link([gone()]).content([gone()]).file("fresh", [whole()]),
        fault("link dead, fresh link cut").poll(fresh()).link([gone()]).content([gone()]).file("fresh", [whole().ends(End::Fin(40)), whole()]).resumes(),
        fault("link dead, same link later").link([gone(), whole()]).content([gone()]),
        fault("link cut and dead, fresh link").poll(fresh()).link([bare().ends(End::Fin(40)), gone()]).content([gone()]).file("fresh", [whole()]),
        fault("link cut, resumed").link([whole().ends(End::Fin(40)), whole()]).resumes(),
        fault("link reset, resumed").link([whole().ends(End::Reset(70)), whole()]).resumes(),
        fault("link cut thrice, resumed").link([whole().ends(End::Fin(30)), whole().ends(End::Fin(30)), whole().ends(End::Fin(30)), whole()]).resumes(),
        fault("link stalls, resumed").link([whole().ends(End::Stall(40)), whole()]).resumes(),
        fault("link stalls before a byte").link([whole().ends(End::NoByteStall), whole()]).content([gone()]),
        fault("link cut, no ranges").link([bare().header("etag", "\"v1\"").ends(End::Fin(40)), bare()]).resumes(),
        fault("link cut, no tag").link([bare().ends(End::Fin(40)), bare()]).content([gone()]),
        fault("link cut, weak tag").link([bare().ranges("W/\"v1\"").ends(End::Fin(40)), bare().ranges("W/\"v1\"")]).content([gone()]),
        fault("link cut, changed tag").link([status(200).body(Body::Bytes(film(Layout::MoovFirst, "old", 6, LENGTH))).ranges("\"v0\"").ends(End::Fin(60)), whole()]).resumes(),
        fault("link cut, then 416").link([whole().ends(End::Fin(40)), status(416), whole()]).resumes(),
        fault("link cut, then another range").link([whole().ends(End::Fin(40)), status(206).body(Body::FilmFrom(7)).header("content-range", "bytes 7-59999/60000"), whole()]).resumes(),
        fault("link cut, then a range of another length").link([whole().ends(End::Fin(40)), status(206).body(Body::FilmFrom(100)).header("content-range", "bytes 24000-9/10"), whole()]).resumes(),
        fault("link cut, then a page").link([whole().ends(End::Fin(40)), html(200), whole()]).content([gone()]),
        fault("link cut cleanly by its length").link([bare().body(Body::FilmUpTo(40)), whole()]).content([gone()]),
        fault("link cut cleanly in chunks").link([bare().framed(Framing::Chunked).body(Body::FilmUpTo(40)), whole()]).content([gone()]),
        fault("link cut cleanly at the end").link([bare().framed(Framing::Close).ends(End::Fin(40)), whole()]).content([gone()]),
        fault("link cut by a byte").film(Layout::MoovLast).link([bare().framed(Framing::Close).ends(End::Fin(99)), whole()]).content([gone()]),
        fault("link cut in the last chunk").link([bare().framed(Framing::Chunked).ends(End::Fin(100)), bare()]),
        fault("link cut between fragments").film(Layout::OpenEnded).link([bare().framed(Framing::Close).ends(End::Fin(99)), bare().framed(Framing::Close)]).content([gone()]),
        fault("link length too small").link([bare().framed(Framing::LengthOff(-500)), whole()]).content([gone()]),
        fault("link length too large").link([bare().framed(Framing::LengthOff(500)), whole()]).content([gone()]),
        fault("link is a page").link([status(200).typed("video/mp4", Body::Text("<html>log in</html>".to_owned()))]),
        fault("link is a word").link([status(200).typed("video/mp4", Body::Text("string".to_owned()))]),
        fault("link is empty").link([status(200).typed("video/mp4", Body::Text(String::new()))]),
        fault("link is 8 bytes").link([status(200).typed("video/mp4", Body::Bytes(b"\0\0\0\x08ftyp".to_vec()))]),
        fault("link is an image").link([status(200).typed("video/mp4", Body::Bytes(b"\x89PNG\r\n\x1a\n0123456789".to_vec()))]),
        fault("link is a film without a picture").link([status(200).typed("video/mp4", Body::Bytes(b"\0\0\0\x10ftypisom\0\0\0\0\0\0\0\x08mdat".to_vec()))]),
        fault("link is JSON with the place").link([json(200, r#"{"url":"$CDN/x/$JOB/real"}"#)]).file("real", [whole()]).content([gone()]),
        fault("link is JSON in a circle").link([json(200, &format!(r#"{{"url":"{LINK}"}}"#))]),
        fault("link is larger than allowed").link([bare().framed(Framing::LengthOff(2 << 20))]),
        fault("link never ends").link([status(200).body(Body::Endless(film(Layout::MoovFirst, "x", 6, 5_000))).framed(Framing::Close)]),
        fault("link never ends in chunks").link([status(200).body(Body::Endless(film(Layout::MoovFirst, "x", 6, 5_000))).framed(Framing::Chunked)]),
        fault("link is a page without end").link([status(200).body(Body::Endless(b"<html>".to_vec())).framed(Framing::Close)]),
        fault("link redirected").link([to(302, "$CDN/x/$JOB/real")]).file("real", [whole()]).content([gone()]),
        fault("link redirected by a relative address").link([to(307, "real")]).file("real", [whole()]).content([gone()]),
        fault("link redirected in a circle").link([to(302, "$CDN/x/$JOB/b")]).file("b", [to(302, LINK)]),
        fault("link redirected to itself").link([to(301, LINK)]),
        fault("link redirected to nowhere").link([status(302)]),
        fault("link redirected without end").link([to(302, "$CDN/x/$JOB/h1")]).file("h1", [to(302, "h2")]).file("h2", [to(302, "h3")]).file("h3", [to(302, "h4")])
            .file("h4", [to(302, "h5")]).file("h5", [to(302, "h6")]).file("h6", [to(302, "h7")]).file("h7", [to(302, "h8")]).file("h8", [to(302, "h9")]).file("h9", [to(302, "h10")])
            .file("h10", [to(302, "h11")]).file("h11", [whole()]),
        fault("content redirected without the key").poll([ready(r#""progress":100"#)]).content([to(302, "$CDN/x/$JOB/v").with_key()]),
        fault("content redirected with the key").poll([ready(r#""progress":100"#)]).content([to(302, "/x/$JOB/own").with_key()]).file("own", [whole().with_key()]),
        fault("content redirected away and back").poll([ready(r#""progress":100"#)]).content([to(302, "$CDN/x/$JOB/out").with_key()]).file("out", [to(302, "$BASE/x/$JOB/v")]),
        fault("content is JSON with the place").poll([ready(r#""progress":100"#)]).content([json(200, r#"{"id":"$ID","video_url":"$CDN/x/$JOB/v"}"#)]),
        fault("content 400 too early").poll([ready(r#""progress":100"#)]).content([json(400, r#"{"error":{"message":"Task is not completed yet, current status: IN_PROGRESS"}}"#), bare()]),
        fault("content 404 too early").poll([ready(r#""progress":100"#)]).content([json(404, r#"{"error":{"message":"Video is not ready yet"}}"#), bare()]),
        fault("content an error called video").poll([ready(r#""progress":100"#)]).content([status(200).typed("video/mp4", Body::Text(r#"{"error":{"message":"not ready"}}"#.to_owned())), bare()]),
        fault("content cut").poll([ready(r#""progress":100"#)]).content([bare().ends(End::Fin(40)), bare()]),
        fault("content cut in chunks").poll([ready(r#""progress":100"#)]).content([bare().framed(Framing::Chunked).body(Body::FilmUpTo(40)), bare()]),
        fault("fresh link, task says running").poll([json(200, READY), running(), json(200, READY)]).link([gone(), whole()]).content([gone()]),
    ];
    for code in [400, 401, 403, 404, 410, 451] {
        faults.push(fault(format!("link {code}")).link([html(code)]));
    }
    for code in [408, 425, 429, 500, 502, 503, 504, 520] {
        faults.push(
            fault(format!("link {code} for a while"))
                .link([html(code), whole()])
                .content([html(502)]),
        );
    }
    faults
}

/// Every line.
fn table() -> Vec<Fault> {
    let table: Vec<Fault> = [
        accepted(),
        refused(),
        not_accepted(),
        unclear(),
        told(),
        poll_trouble(),
        places(),
        downloads(),
    ]
    .into_iter()
    .flatten()
    .collect();
    let names: HashSet<&str> = table.iter().map(|fault| fault.job.as_str()).collect();
    assert_eq!(names.len(), table.len(), "two faults have one name");
    table
}

/// Faults that may share a queue.
fn queues(table: Vec<Fault>) -> Vec<Vec<Fault>> {
    let mut queues: Vec<Vec<Fault>> = Vec::new();
    for fault in table {
        let room = queues.iter_mut().find(|queue| {
            let first = &queue[0];
            first.touches == fault.touches
                && first.settings == fault.settings
                && (fault.touches == Touches::Nobody || queue.len() < 3)
        });
        match room {
            Some(queue) => queue.push(fault),
            None => queues.push(vec![fault]),
        }
    }
    for queue in &mut queues {
        let settings = queue[0].settings.clone();
        queue.push(Fault {
            settings,
            ..fault("nothing wrong")
        });
    }
    queues
}

/// Runs one queue to its end and says what is wrong with it.
async fn run(queue: Vec<Fault>) -> Vec<String> {
    let mut rig = Rig::new();
    for (name, value) in [
        ("DOWNLOAD__MAX_BYTES", "1MiB"),
        ("DOWNLOAD__IDLE_TIMEOUT", "3s"),
        ("DOWNLOAD__CONCURRENCY", "64"),
    ]
    .iter()
    .chain(&queue[0].settings)
    {
        rig.set(name, value);
    }
    let jobs = queue
        .iter()
        .map(|fault| (fault.job.clone(), fault.script.clone()))
        .collect();
    rig.add(jobs).await;
    rig.run_until_idle().await;

    let mut wrong = rig.violations().await;
    let (rows, lines) = (rig.rows().await, rig.lines().await);
    for fault in &queue {
        let job = fault.job.as_str();
        let row = rows.iter().find(|row| row.job == job).unwrap();
        let mine: Vec<_> = lines.iter().filter(|line| line.job_id == row.id).collect();
        let mut check = |what: &str, is: String, should: String| {
            if is != should {
                wrong.push(format!(
                    "{job}: {what} is {is}, should be {should}; {row:?}"
                ));
            }
        };
        check(
            "its end",
            format!("{} {}", row.state, row.code),
            format!("{} {}", fault.end.0, fault.end.1),
        );
        let posts = rig.provider.count(Kind::Post, Some(job));
        check(
            "the number of POSTs",
            posts.to_string(),
            fault.posts.to_string(),
        );
        check(
            "the ledger's length",
            mine.len().to_string(),
            posts.to_string(),
        );
        let billed = rig.provider.billed(job);
        check("the bill", billed.to_string(), fault.billed.to_string());
        let last = mine.last().map_or("nothing", |line| &line.outcome);
        let outcome = match fault.end {
            (_, "refused") => "rejected",
            ("unconfirmed", _) => "unknown",
            _ => "accepted",
        };
        check(
            "the ledger's last word",
            last.to_owned(),
            outcome.to_owned(),
        );
        if outcome == "accepted" && mine.last().is_none_or(|line| line.task != row.task) {
            wrong.push(format!("{job}: the ledger names another task: {mine:?}"));
        }
        if outcome == "unknown" && mine.iter().any(|line| line.error.is_none()) {
            wrong.push(format!("{job}: unconfirmed without evidence"));
        }
        let requests: Vec<Seen> = rig
            .provider
            .seen()
            .into_iter()
            .filter(|seen| seen.job.as_deref() == Some(job))
            .collect();
        // A finished task is asked for another link only when a download was tried in vain.
        let tried = |seen: &&Seen| matches!(seen.kind, Kind::File | Kind::Content);
        let first = requests.iter().find(tried).map(|seen| seen.at);
        let asked = requests.iter().any(|seen| {
            seen.kind == Kind::Poll
                && row.completed_at.is_some_and(|end| seen.wall > end)
                && first.is_none_or(|first| seen.at < first)
        });
        if asked {
            wrong.push(format!("{job}: asked after its task's end"));
        }
        if requests.len() > 30 {
            wrong.push(format!("{job}: asked {} times", requests.len()));
        }
        if fault.resumes
            && !requests
                .iter()
                .any(|seen| seen.headers.contains_key("range"))
        {
            wrong.push(format!("{job}: it was not resumed"));
        }
        let said = format!("{:?} {:?} {mine:?}", row.note, row.message);
        if fault.says.is_some_and(|words| !said.contains(words)) {
            wrong.push(format!("{job}: does not say {:?}: {said}", fault.says));
        }
    }
    if !wrong.is_empty() {
        wrong.push(rig.words());
    }
    wrong
}

/// Every line of the table ends as it should, for what it should cost.
#[tokio::test(flavor = "multi_thread")]
async fn every_fault_ends_in_its_state() {
    let table = table();
    let faults = table.len();
    assert!(faults >= 60);
    let wrong = in_turns(AT_ONCE, queues(table), run).await.concat();
    assert!(
        wrong.is_empty(),
        "of {faults} faults:\n{}",
        wrong.join("\n")
    );
}

/// How a provider is out of order.
#[derive(Clone, Copy, Debug)]
struct Outage {
    name: &'static str,
    /// For how long, counted from the first POST.
    seconds: u64,
    weather: fn(&Seen) -> Option<Answer>,
    /// The most jobs that may be left for a person to judge.
    unconfirmed: usize,
}

const OUTAGES: &[Outage] = &[
    Outage {
        name: "a revoked key",
        seconds: 12,
        weather: |_| Some(json(401, &busy("invalid_api_key"))),
        unconfirmed: 0,
    },
    Outage {
        name: "an empty account",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(403, &busy("insufficient_user_quota"))),
            _ => None,
        },
        unconfirmed: 0,
    },
    Outage {
        name: "a gateway without channels",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(503, &busy("no available channel"))),
            _ => None,
        },
        unconfirmed: 0,
    },
    Outage {
        name: "too many requests",
        seconds: 12,
        weather: |_| Some(html(429)),
        unconfirmed: 0,
    },
    Outage {
        name: "503 everywhere",
        seconds: 12,
        weather: |_| Some(html(503)),
        unconfirmed: 3,
    },
    Outage {
        name: "500 for POSTs alone, which are charged",
        seconds: 12,
        weather: |seen| match seen.kind {
            Kind::Post => Some(json(500, "{}").bills()),
            _ => None,
        },
        unconfirmed: 5,
    },
    Outage {
        name: "connections that are reset",
        seconds: 12,
        weather: |_| Some(status(200).ends(End::NoByteReset)),
        unconfirmed: 3,
    },
];

const WAITING: usize = 60;

/// Sixty jobs that a provider as it should be would do at once.
async fn sixty(rig: &mut Rig) {
    let jobs = (0..WAITING)
        .map(|n| {
            let job = format!("job{n}");
            let film = film(Layout::MoovFirst, &job, 6, 3_000);
            (job, Script::kind(film))
        })
        .collect();
    rig.add(jobs).await;
}

/// What must hold after any outage: no job failed, a few tries, and whatever is
/// not unconfirmed is done.
async fn check_outage(rig: &Rig, name: &str, most: usize) {
    let mut wrong = rig.violations().await;
    let (rows, lines) = (rig.rows().await, rig.lines().await);
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    if count("unconfirmed") > most || count("done") + count("unconfirmed") != WAITING {
        wrong.push(format!(
            "{} done, {} unconfirmed",
            count("done"),
            count("unconfirmed")
        ));
    }
    let refused = lines
        .iter()
        .filter(|line| line.outcome != "accepted")
        .count();
    let probes = rig.provider.count(Kind::Probe, None);
    if refused + probes > 25 {
        wrong.push(format!(
            "{refused} POSTs and {probes} free requests in vain"
        ));
    }
    assert!(
        wrong.is_empty(),
        "{name}:\n{}\n{}",
        wrong.join("\n"),
        rig.words()
    );
}

/// Outages delay jobs and never fail them, and cost few of them a person's time.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_fails_no_job() {
    let runs = OUTAGES.iter().map(|outage| {
        tokio::spawn(async move {
            let mut rig = Rig::new();
            sixty(&mut rig).await;
            let begin = OnceLock::new();
            rig.provider.weather(Some(Arc::new(move |seen| {
                let begin = *begin.get_or_init(|| seen.at);
                let lasts = seen.at < begin + Duration::from_secs(outage.seconds);
                lasts.then(|| (outage.weather)(seen)).flatten()
            })));
            rig.run_until_idle().await;
            check_outage(&rig, outage.name, outage.unconfirmed).await;
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
}

/// The first connections are closed before a byte of them is read.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_connection_is_unclear() {
    let mut rig = Rig::new();
    sixty(&mut rig).await;
    rig.provider.hang_up(3);
    rig.run_until_idle().await;
    check_outage(&rig, "closed connections", 3).await;
    let rows = rig.rows().await;
    assert!(rows.iter().any(|row| row.state == "unconfirmed"));
}

/// Nobody listens, until a few tries were in vain.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_port_fails_no_job() {
    let mut rig = Rig::with(Provider::closed());
    sixty(&mut rig).await;
    let daemon = rig.start_behind(&[], true);
    let mut look = connect(&rig.database()).await;
    rig.until("four tries in vain", async || {
        let sql = "SELECT detail ->> 'tries' FROM gates WHERE name = 'submit'";
        let tries: Option<i64> = sqlx::query_scalar(sql)
            .fetch_optional(&mut look)
            .await
            .unwrap();
        tries.is_some_and(|tries| tries >= 4)
    })
    .await;
    sqlx::Connection::close(look).await.unwrap();
    rig.provider.open();
    daemon.ended().await;
    check_outage(&rig, "a closed port", 0).await;
}

/// Twelve jobs, one of them refused at no cost and one whose end is unclear:
/// what is let through is exactly what the cap allows, over two runs.
#[tokio::test(flavor = "multi_thread")]
async fn a_cap_holds_exactly() {
    const PRICE: (&str, &str) = ("BUDGET__PRICE_PER_SECOND__720P", "0.10");
    let runs = [
        (vec![("BUDGET__MAX_JOBS_PER_DAY", "5")], 5),
        (vec![("BUDGET__MAX_COST_PER_DAY", "3.00"), PRICE], 5),
        (vec![("BUDGET__MAX_COST_PER_DAY", "2.999999"), PRICE], 4),
        (vec![("BUDGET__MAX_COST_PER_DAY", "3.00")], 0),
    ]
    .map(|(settings, through)| tokio::spawn(run_capped(settings, through)));
    for run in runs {
        run.await.unwrap();
    }
}

async fn run_capped(settings: Vec<(&'static str, &'static str)>, through: usize) {
    let mut rig = Rig::new();
    for (name, value) in &settings {
        rig.set(name, value);
    }
    let jobs = (0..12)
        .map(|n| {
            let job = format!("job{n}");
            let mut script = Script::kind(film(Layout::MoovFirst, &job, 6, 3_000));
            match n {
                0 => script.post = vec![json(400, "{}")],
                1 => script.post = vec![json(500, "{}").bills()],
                _ => {}
            }
            (job, script)
        })
        .collect();
    rig.add(jobs).await;
    rig.run_until_idle().await;
    rig.run_until_idle().await;
    let seen = rig.provider.seen();
    let billed = seen.iter().filter(|seen| seen.billed).count();
    assert_eq!(billed, through, "{settings:?}\n{}", rig.words());
    let rows = rig.rows().await;
    let count = |state: &str| rows.iter().filter(|row| row.state == state).count();
    let refused = usize::from(through > 0);
    assert_eq!(count("failed"), refused);
    assert_eq!(count("unconfirmed"), refused);
    assert_eq!(count("pending"), 12 - through - refused);
    assert_eq!(rig.violations().await, Vec::<String>::new());
}
