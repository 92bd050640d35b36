//! The state machine: one pure function judges every event.
//!
//! `step` reads no clock and does no I/O: the same row, event, time and policy
//! always give the same next row. What is not listed here is [`Illegal`].

use crate::job::{Event, Evidence, Failure, FailureCode, Job, JobId, Millis, Outcome, State};
use crate::money::Money;

const SECOND: Millis = 1_000;
const MINUTE: Millis = 60 * SECOND;

/// A gateway may answer the POST before it has stored the task: for so long a
/// task that is not found is only early.
pub const NOT_FOUND_GRACE: Millis = 5 * MINUTE;

/// Answers "not found" in a row, after the grace, until a task counts as lost.
pub const NOT_FOUND_LIMIT: u32 = 3;

/// And for how long, at least: a gateway that starts anew may not know its tasks for a while.
pub const NOT_FOUND_SPAN: Millis = MINUTE;

/// How long a completed task may be without a usable video before it is given
/// up; an outage in between starts it again.
pub const UNUSABLE_GRACE: Millis = 10 * MINUTE;

/// In place of [`UNUSABLE_GRACE`] while one of its places cannot be reached: that
/// may be an outage, or a host that is gone for good.
pub const UNREACHABLE_GRACE: Millis = 60 * MINUTE;

/// The first pause after an unusable answer: the next try asks the task anew, which is not to
/// be asked more often than a running one.
const UNUSABLE_PAUSE: Millis = 3 * SECOND;

/// Unusable answers in a row, at least, before a video is given up.
pub const UNUSABLE_LIMIT: u32 = 5;

/// The longest pause that a job is ever given by a back-off.
pub const MAX_BACKOFF: Millis = MINUTE;

/// The part of the configuration that decides about jobs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// Send an unanswered POST again by itself, once: a second payment is preferred to a waiting
    /// job, a third is not.
    pub resubmit_unknown: bool,
    /// Between two polls of a task.
    pub interval: Millis,
    /// From this age on a task is polled every `slow_interval`.
    pub slow_after: Millis,
    /// Between two polls of an old task.
    pub slow_interval: Millis,
    /// From this age on a task that still runs is given up.
    pub deadline: Millis,
}

impl Default for Policy {
    fn default() -> Policy {
        Policy {
            resubmit_unknown: false,
            interval: 5 * SECOND,
            slow_after: 10 * MINUTE,
            slow_interval: MINUTE,
            deadline: 25 * 60 * MINUTE,
        }
    }
}

impl Policy {
    /// When a running task is asked for again: the interval of its age, spread
    /// by up to a fifth so that tasks of one batch do not come all at once.
    pub fn next_poll(&self, job: &Job, now: Millis) -> Millis {
        let interval = self.interval_of(job, now);
        now + interval + spread(job.id, now, interval / 5)
    }

    fn interval_of(&self, job: &Job, now: Millis) -> Millis {
        if self.age(job, now) >= self.slow_after {
            self.slow_interval
        } else {
            self.interval
        }
    }

    /// How long a task has been watched. Counted from its deadline, which moves
    /// along when the wall clock jumps, and which a retry sets anew.
    fn age(&self, job: &Job, now: Millis) -> Millis {
        job.give_up_at
            .map_or(0, |at| now.saturating_sub(at.saturating_sub(self.deadline)))
    }
}

/// A pause that doubles from `first` up to [`MAX_BACKOFF`], spread by up to a quarter.
pub fn backoff(id: JobId, faults: u32, first: Millis) -> Millis {
    let pause = first
        .saturating_mul(1 << faults.saturating_sub(1).min(16))
        .min(MAX_BACKOFF * 4 / 5);
    pause + spread(id, i64::from(faults), pause / 4)
}

/// A number in `0..=width` that depends on nothing but its arguments.
pub fn spread(id: JobId, salt: i64, width: Millis) -> Millis {
    // SplitMix64's finaliser: neighbouring ids land far apart.
    let mut x = (id as u64) ^ (salt as u64).rotate_left(32);
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x ^ (x >> 31)) % (width.max(0) as u64 + 1)) as Millis
}

/// What the ledger learns from an event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum LedgerLine {
    /// The intent: written before the first byte leaves.
    Begin {
        /// The reservation.
        cost: Money,
        /// Where the POST goes.
        endpoint: String,
    },
    /// How the POST ended.
    End {
        /// The class of its end.
        outcome: Outcome,
        /// The task, where one came back.
        task_id: Option<String>,
        /// What is kept of the answer.
        evidence: Evidence,
    },
    /// A person's word on a POST whose end is unknown.
    Resolve {
        /// What it turned out to be.
        outcome: Outcome,
        /// The task, where it was adopted.
        task_id: Option<String>,
        /// `adopted`, `resubmitted` or `written_off`.
        resolution: &'static str,
    },
}

/// An accepted event: the next row, with its ledger and history lines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transition {
    /// The state it came from.
    pub from: State,
    /// The row as it is to be; its version is one higher than the one it was judged by.
    pub job: Job,
    /// What the ledger learns.
    pub ledger: Option<LedgerLine>,
    /// The word in the history.
    pub event: &'static str,
    /// More words for the history.
    pub detail: Option<String>,
    /// When.
    pub at: Millis,
    /// False for an event that taught nothing: there is nothing to write.
    pub changed: bool,
}

/// An event that a job cannot take in its state.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("job {id} is {state}: {reason}")]
pub struct Illegal {
    /// The job.
    pub id: JobId,
    /// Where it stands.
    pub state: State,
    /// Why not, and what a person can do.
    pub reason: String,
}

/// Judges one event.
///
/// # Errors
/// [`Illegal`] where the job's state does not take the event; nothing changes then.
pub fn step(job: &Job, event: Event, now: Millis, policy: &Policy) -> Result<Transition, Illegal> {
    let name = event.name();
    let mut next = job.clone();
    let mut ledger = None;
    let mut detail = None;

    match (job.state, event) {
        (State::Pending, Event::Claimed { cost, endpoint }) => {
            next.state = State::Submitting;
            next.attempt += 1;
            next.cost = cost;
            next.endpoint = Some(endpoint.clone());
            next.submitted_at = Some(now);
            next.due_at = None;
            next.note = None;
            ledger = Some(LedgerLine::Begin { cost, endpoint });
            detail = Some(format!("attempt {}", next.attempt));
        }

        (State::Submitting, Event::Accepted { task_id, evidence }) => {
            generate(&mut next, task_id.clone(), now, policy);
            next.due_at = Some(policy.next_poll(&next, now));
            detail = Some(format!("task {task_id}"));
            ledger = Some(end(Outcome::Accepted, Some(task_id), evidence));
        }
        (State::Submitting, Event::Refused { evidence }) => {
            let message = words(&evidence, "the provider refused the job");
            fail(&mut next, FailureCode::Refused, message.clone(), now);
            next.cost = Money::ZERO;
            detail = Some(message);
            ledger = Some(end(Outcome::Rejected, None, evidence));
        }
        (
            State::Submitting,
            Event::NotAccepted {
                evidence,
                closed_until,
            },
        ) => {
            // The gate makes the pause; this one lets another job try first when it
            // opens: what looks like the account's fault may be this job's own.
            requeue(&mut next, now, 2 * SECOND);
            next.due_at = next.due_at.max(closed_until.map(|at| at + SECOND));
            let message = words(&evidence, "the request was not accepted");
            next.note = Some(message.clone());
            detail = Some(message);
            ledger = Some(end(Outcome::NotAccepted, None, evidence));
        }
        (State::Submitting, Event::Unknown { evidence }) => {
            let message = words(&evidence, "no readable answer came");
            if policy.resubmit_unknown && !job.resent {
                next.resent = true;
                requeue(&mut next, now, 2 * SECOND);
                next.note = Some(format!("may have been charged, sent again: {message}"));
            } else {
                next.state = State::Unconfirmed;
                next.failure = Some(Failure {
                    code: FailureCode::Unconfirmed,
                    message: format!(
                        "the POST may have been accepted and charged ({message}): look it up at the \
                         provider, then `reelq resolve {} --adopt TASK_ID`, `--resubmit` if it was not \
                         charged, or `--write-off`",
                        job.id
                    ),
                });
            }
            detail = Some(message);
            ledger = Some(end(Outcome::Unknown, None, evidence));
        }

        (State::Generating, Event::Running { progress }) => {
            next.faults = 0;
            if job.give_up_at.is_some_and(|at| now >= at) {
                let message = "still not finished at poll.deadline; it is paid for: `reelq retry` looks again for free";
                fail(&mut next, FailureCode::Deadline, message.to_owned(), now);
            } else if let Some(progress) = progress {
                next.progress = progress.min(100);
                detail = Some(format!("{}%", next.progress));
            }
        }
        (State::Generating, Event::TaskNotFound { message }) => {
            if policy.age(job, now) >= NOT_FOUND_GRACE {
                next.faults += 1;
                let span = i64::from(job.faults).saturating_mul(policy.interval_of(job, now));
                if next.faults >= NOT_FOUND_LIMIT && span >= NOT_FOUND_SPAN {
                    let message = format!(
                        "the provider no longer knows the task ({message}); `reelq retry` asks again for free"
                    );
                    fail(&mut next, FailureCode::TaskLost, message, now);
                }
                detail = Some(message);
            }
        }
        (State::Generating, Event::Completed { urls, target }) => {
            next.state = State::Downloading;
            next.progress = 100;
            next.completed_at.get_or_insert(now);
            next.video_urls = urls;
            next.target = target.or(next.target);
            next.due_at = None;
            next.faults = 0;
            next.give_up_at = Some(now + UNUSABLE_GRACE);
        }
        (State::Generating, Event::TaskFailed { message }) => {
            detail = Some(message.clone());
            let message = format!(
                "the provider says that the task failed: {message}; a retry is a new submission and may be charged"
            );
            fail(&mut next, FailureCode::TaskFailed, message, now);
        }
        (State::Generating, Event::TaskExpired { message }) => {
            detail = Some(message.clone());
            let message = format!(
                "the provider says that the task expired: {message}; `reelq retry` asks again for free"
            );
            fail(&mut next, FailureCode::TaskExpired, message, now);
        }

        (State::Downloading, Event::Saved { file, note }) => {
            next.state = State::Done;
            detail = Some(format!("{} ({} bytes)", file.path, file.bytes));
            next.file = Some(file);
            next.note = note;
            next.video_urls.clear();
            next.give_up_at = None;
            next.due_at = None;
            next.faults = 0;
            next.finished_at = Some(now);
        }
        (State::Downloading, Event::FetchInterrupted { reason, advanced }) => {
            next.faults = if advanced { 1 } else { job.faults + 1 };
            // Without a link the next try asks the task.
            let least = match job.video_urls.is_empty() {
                true => UNUSABLE_PAUSE,
                false => 0,
            };
            next.due_at = Some(now + backoff(job.id, next.faults, SECOND).max(least));
            next.give_up_at = job.give_up_at.max(Some(now + UNUSABLE_GRACE));
            next.note = Some(reason.clone());
            detail = Some(reason);
        }
        (State::Downloading, Event::Placed { reason, target }) => {
            if job.target.is_none() {
                // Nothing was tried before.
                next.faults = 0;
            }
            next.target = Some(target);
            next.due_at = None;
            detail = Some(reason);
        }
        (State::Downloading, Event::VideoUnusable { reason }) => {
            // The task is asked anew where it is.
            next.video_urls.clear();
            unusable(&mut next, &reason, UNUSABLE_GRACE, now);
            detail = Some(reason);
        }
        (State::Downloading, Event::VideoUnreachable { reason }) => {
            unusable(&mut next, &reason, UNREACHABLE_GRACE, now);
            detail = Some(reason);
        }

        (State::Failed | State::Cancelled, Event::Retried) => {
            next.failure = None;
            next.note = None;
            next.finished_at = None;
            next.faults = 0;
            match &job.task_id {
                Some(task_id) if is_paid(job) => {
                    generate(&mut next, task_id.clone(), now, policy);
                    next.due_at = Some(now);
                    detail = Some("asks the task again, at no cost".to_owned());
                }
                _ => {
                    next.resent = false;
                    pend(&mut next, now);
                    detail = Some("a new submission".to_owned());
                }
            }
        }
        (State::Pending | State::Generating | State::Downloading, Event::Cancelled) => {
            next.state = State::Cancelled;
            next.due_at = None;
            next.give_up_at = None;
            next.finished_at = Some(now);
            if job.task_id.is_some() {
                detail = Some(
                    "the task is paid for and may still finish; `reelq retry` fetches it"
                        .to_owned(),
                );
                next.note.clone_from(&detail);
            }
        }

        (State::Unconfirmed, Event::Adopted { task_id }) => {
            next.failure = None;
            generate(&mut next, task_id.clone(), now, policy);
            next.due_at = Some(now);
            detail = Some(format!("task {task_id}"));
            ledger = Some(LedgerLine::Resolve {
                outcome: Outcome::Accepted,
                task_id: Some(task_id),
                resolution: "adopted",
            });
        }
        (State::Unconfirmed, Event::Resubmitted) => {
            next.failure = None;
            next.resent = false;
            pend(&mut next, now);
            ledger = Some(LedgerLine::Resolve {
                outcome: Outcome::NotAccepted,
                task_id: None,
                resolution: "resubmitted",
            });
        }
        (State::Unconfirmed, Event::WrittenOff) => {
            let message =
                "a person wrote the unconfirmed submission off; a retry is a new submission";
            fail(&mut next, FailureCode::WrittenOff, message.to_owned(), now);
            ledger = Some(LedgerLine::Resolve {
                outcome: Outcome::Unknown,
                task_id: None,
                resolution: "written_off",
            });
        }

        (state, event) => {
            return Err(Illegal {
                id: job.id,
                state,
                reason: refusal(state, &event),
            });
        }
    }

    let changed = next != *job || ledger.is_some();
    next.version += 1;
    Ok(Transition {
        from: job.state,
        job: next,
        ledger,
        event: name,
        detail,
        at: now,
        changed,
    })
}

/// The accepted task may still hold a video that nobody has.
fn is_paid(job: &Job) -> bool {
    let has_failed = job
        .failure
        .as_ref()
        .is_some_and(|failure| failure.code == FailureCode::TaskFailed);
    // A path that a failed job keeps is that of a video on disk.
    job.task_id.is_some() && (!has_failed || job.target.is_some())
}

fn generate(next: &mut Job, task_id: String, now: Millis, policy: &Policy) {
    next.state = State::Generating;
    next.task_id = Some(task_id);
    next.faults = 0;
    next.give_up_at = Some(now + policy.deadline);
}

/// Back to the queue with nothing left of the last submission.
fn pend(next: &mut Job, now: Millis) {
    next.state = State::Pending;
    next.task_id = None;
    next.endpoint = None;
    next.submitted_at = None;
    next.completed_at = None;
    next.give_up_at = None;
    next.video_urls.clear();
    next.progress = 0;
    next.cost = Money::ZERO;
    next.due_at = next.spec.not_before.filter(|at| *at > now);
}

fn requeue(next: &mut Job, now: Millis, first: Millis) {
    next.faults += 1;
    pend(next, now);
    next.due_at = Some(now + backoff(next.id, next.faults, first)).max(next.due_at);
}

/// Another try without a usable video: given up after `grace`.
fn unusable(next: &mut Job, reason: &str, grace: Millis, now: Millis) {
    next.faults += 1;
    // The appointment is `UNUSABLE_GRACE` after the last try that gave hope.
    let more = grace - UNUSABLE_GRACE;
    let overdue = next.give_up_at.is_none_or(|at| now >= at + more);
    if overdue && next.faults >= UNUSABLE_LIMIT {
        let message = format!(
            "the task completed, but no usable video was to be had ({reason}); \
             it is paid for: `reelq retry` looks again for free"
        );
        fail(next, FailureCode::VideoUnavailable, message, now);
    } else {
        next.due_at = Some(now + backoff(next.id, next.faults, UNUSABLE_PAUSE));
        next.note = Some(reason.to_owned());
    }
}

fn fail(next: &mut Job, code: FailureCode, message: String, now: Millis) {
    next.state = State::Failed;
    next.failure = Some(Failure { code, message });
    next.due_at = None;
    next.give_up_at = None;
    next.finished_at = Some(now);
}

fn end(outcome: Outcome, task_id: Option<String>, evidence: Evidence) -> LedgerLine {
    LedgerLine::End {
        outcome,
        task_id,
        evidence,
    }
}

fn words(evidence: &Evidence, otherwise: &str) -> String {
    evidence
        .error
        .clone()
        .filter(|words| !words.trim().is_empty())
        .unwrap_or_else(|| otherwise.to_owned())
}

/// Why a state does not take an event, and what a person can do about it.
fn refusal(state: State, event: &Event) -> String {
    let id_verbs = "`reelq resolve ID --adopt TASK_ID`, `--resubmit` or `--write-off`";
    match (state, event) {
        (State::Submitting, Event::Cancelled) => {
            "its request is on the wire; ask again when it has been answered".to_owned()
        }
        (State::Unconfirmed, Event::Cancelled | Event::Retried) => {
            format!("it may have been charged; settle it with {id_verbs}")
        }
        (State::Done, Event::Retried) => "it has its video; add a new job for another".to_owned(),
        (_, Event::Retried) => {
            "it is still moving; only a failed or cancelled job is retried".to_owned()
        }
        (_, Event::Cancelled) => "it has already ended".to_owned(),
        (_, Event::Adopted { .. } | Event::Resubmitted | Event::WrittenOff) => {
            "only an unconfirmed job is resolved".to_owned()
        }
        (_, event) => format!("it does not take `{}`", event.name()),
    }
}
