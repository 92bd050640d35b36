//! The fault table: one line a fault, with the state in which it must end.
//!
//! Every fault has a job of its own and goes through the real binary. Faults
//! that close the gate for all jobs stand three to a queue, beside a job with
//! nothing wrong, which must be done as well: so each queue also shows that the
//! gate opens by itself. The rest share one queue.

mod poll;
mod post;
mod video;

use std::collections::HashSet;

use crate::film::{Layout, film};
use crate::provider::{
    Answer, Body, End, Framing, Kind, READY, Script, Seen, TAKEN, busy, film_answer, html, json,
    raw, status, to,
};
use crate::rig::{Rig, in_turns};

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

const LINK: &str = "$CDN/x/$JOB/v";

/// Every line.
fn table() -> Vec<Fault> {
    let table: Vec<Fault> = [
        post::accepted(),
        post::refused(),
        post::not_accepted(),
        post::unclear(),
        poll::told(),
        poll::poll_trouble(),
        video::places(),
        video::downloads(),
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
