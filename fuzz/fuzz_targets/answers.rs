//! The provider's answers: any status, any body.
//!
//! An answer that proves nothing must never count as "accepted" or as "surely
//! not accepted", for the one loses a video and the other pays twice. What is
//! kept and shown is short, and nothing but http(s) is ever fetched.
//!
//! The input is `STATUS FLAGS`, a line end, and the body. With the flag `b` the
//! body broke off, with `r` there was a `Retry-After`, with `n` the request was
//! never sent and with `l` its answer was lost.

#![no_main]

use libfuzzer_sys::fuzz_target;
use reelq::job::Evidence;
use reelq::verdict::{
    Answer, EVIDENCE_BYTES, POST_TABLE, PollVerdict, PostClass, PostVerdict, Reply, judge_poll,
    judge_post, judge_probe, urls,
};

/// A byte that is no UTF-8 is shown as `\xff`.
const LOSSY: usize = 4;

/// The most that the provider's words take in a message, in bytes: 500
/// characters, a code of any length before they are cut, and our own words.
const WORDS: usize = 4 * 500 + 100;

fuzz_target!(|data: &[u8]| {
    let (head, body) = match data.iter().position(|byte| *byte == b'\n') {
        Some(end) => (&data[..end], &data[end + 1..]),
        None => (data, &b""[..]),
    };
    let status = head
        .iter()
        .take_while(|byte| byte.is_ascii_digit())
        .fold(0_u16, |status, byte| {
            status.wrapping_mul(10).wrapping_add(u16::from(byte - b'0'))
        });
    let has = |flag: u8| head.contains(&flag);
    let broken = has(b'b');
    let reply = if has(b'n') {
        Reply::NotSent("no route to host".to_owned())
    } else if has(b'l') {
        Reply::Lost {
            symptom: "timeout",
            error: "no answer".to_owned(),
        }
    } else {
        Reply::Answer(Answer {
            status,
            body: body.to_vec(),
            shown: None,
            broken: broken.then(|| "the connection was closed".to_owned()),
            retry_after: has(b'r').then_some(30_000),
            request_id: None,
        })
    };
    post(reply.clone(), status, broken);
    poll(reply.clone(), status, broken);
    let probed = judge_probe(reply.clone());
    match reply {
        Reply::Answer(_) => assert_eq!(
            probed.is_ok(),
            status < 500 && ![401, 402, 429].contains(&status),
            "a free request was misjudged"
        ),
        _ => assert!(probed.is_err(), "no answer, but the probe is content"),
    }
    if let Err(fault) = probed {
        is_short(&fault.message);
    }
    if let Ok(json) = serde_json::from_slice(body) {
        are_fetchable(&urls(&json));
    }
});

fn post(reply: Reply, status: u16, broken: bool) {
    let (sent, answered) = match &reply {
        Reply::NotSent(_) => (false, false),
        Reply::Lost { .. } => (true, false),
        Reply::Answer(_) => (true, true),
    };
    let good = (200..300).contains(&status);
    let listed = POST_TABLE.iter().find(|(code, ..)| *code == status);
    match judge_post(reply) {
        PostVerdict::Accepted { task_id, evidence } => {
            assert!(
                answered && good && !broken,
                "accepted without an answer that says so"
            );
            assert!(
                !task_id.is_empty()
                    && task_id == task_id.trim()
                    && task_id != "."
                    && task_id != "..",
                "{task_id:?} is no id to poll with"
            );
            is_small(&evidence);
        }
        PostVerdict::RefusedJob { evidence } => {
            assert!(
                answered && listed.is_some(),
                "a status that proves nothing failed a job"
            );
            is_small(&evidence);
        }
        PostVerdict::NotAccepted {
            evidence,
            fault,
            crowded,
        } => {
            assert!(
                !sent || listed.is_some() || status == 503,
                "a status that proves nothing would be sent again"
            );
            assert!(!crowded || status == 429, "crowded without a rate limit");
            is_small(&evidence);
            is_short(&fault.message);
        }
        PostVerdict::Unknown { evidence, fault } => {
            assert!(sent, "what was never sent cannot have been accepted");
            assert!(
                !answered || listed.is_none(),
                "a listed status is never unknown"
            );
            is_small(&evidence);
            is_short(&fault.message);
        }
    }
    // The table itself: a server's failure, a redirect and a success prove nothing.
    for (code, class, _) in POST_TABLE {
        assert!((400..500).contains(code) && *class != PostClass::Unknown);
    }
}

fn poll(reply: Reply, status: u16, broken: bool) {
    let answered = matches!(reply, Reply::Answer(_));
    let tells = answered && (200..300).contains(&status) && !broken;
    match judge_poll(reply) {
        PollVerdict::Running { progress } => {
            assert!(tells && progress.is_none_or(|percent| percent <= 100));
        }
        PollVerdict::Completed { urls } => {
            assert!(tells, "completed without an answer that says so");
            are_fetchable(&urls);
        }
        PollVerdict::Failed { message } | PollVerdict::Expired { message } => {
            assert!(tells, "a paid task failed without an answer that says so");
            is_short(&message);
        }
        PollVerdict::NotFound { message } => {
            assert!(answered && !broken && [400, 404, 410].contains(&status));
            is_short(&message);
        }
        PollVerdict::Trouble(fault) => is_short(&fault.message),
    }
}

fn is_small(evidence: &Evidence) {
    if let Some(answer) = &evidence.answer {
        assert!(
            !answer.is_empty() && answer.len() <= EVIDENCE_BYTES * LOSSY,
            "{} bytes are kept of an answer",
            answer.len()
        );
    }
    if let Some(error) = &evidence.error {
        is_short(error);
    }
}

/// Fits into a log line, and cannot disturb a terminal.
fn is_short(message: &str) {
    assert!(
        message.len() <= WORDS,
        "a message of {} bytes",
        message.len()
    );
    assert!(
        !message.contains(char::is_control),
        "a control character in {message:?}"
    );
}

fn are_fetchable(urls: &[String]) {
    for (index, url) in urls.iter().enumerate() {
        let lower = url.to_ascii_lowercase();
        assert!(
            ["http://", "https://", "/"]
                .iter()
                .any(|start| lower.starts_with(start)),
            "{url:?} would be fetched"
        );
        assert!(url.len() <= 8_192, "a URL of {} bytes", url.len());
        assert!(!urls[..index].contains(url), "{url:?} twice");
    }
}
