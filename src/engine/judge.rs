//! What came of it: each answer is an event, and each fault of all closes a gate.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::{Engine, EngineError, Report};
use crate::gate::{Cause, Fault};
use crate::job::{Event, Job, Millis};
use crate::sink::SinkError;
use crate::step;
use crate::verdict::{Fetched, PollVerdict, PostVerdict};

/// Polls that fail in a row, whatever their task, until polling pauses for all.
const POLL_FAULTS: u32 = 5;

/// Polls of one task that fail in a row, while others are answered, until its
/// deadline counts although it was not heard: twenty minutes, about.
const LONE_FAULTS: u32 = 20;

impl Engine {
    /// Keeps what came back for the next [`Engine::settle`].
    pub fn take(&mut self, reports: Vec<Report>) {
        self.unjudged.extend(reports);
    }

    /// Judges what came back and commits it, with anything that could not be
    /// committed before, in one transaction.
    ///
    /// # Errors
    /// A passing error of the store keeps everything for the next call; any
    /// other, and a failed sync, means that the daemon has to stop.
    pub async fn settle(&mut self, reports: Vec<Report>, now: Millis) -> Result<(), EngineError> {
        self.take(reports);
        let judged = self.judge_reports(now).await;
        // What was judged is written down, whatever stopped the rest.
        self.save(now).await?;
        judged?;
        self.show(now).await
    }

    async fn judge_reports(&mut self, now: Millis) -> Result<(), EngineError> {
        let mut sync_failed = None;
        while let Some(report) = self.unjudged.front() {
            // The one question to the store comes first: if it fails, nothing is lost.
            let target = match report {
                Report::Polled(job, PollVerdict::Completed { .. }) => match &job.target {
                    Some(target) => Some(target.clone()),
                    None => match self.target_of(job, now).await? {
                        Ok(target) => Some(target),
                        Err(reason) => {
                            self.has_no_place(&reason, now);
                            None
                        }
                    },
                },
                Report::Polled(
                    job,
                    PollVerdict::Failed { .. }
                    | PollVerdict::Expired { .. }
                    | PollVerdict::NotFound { .. },
                ) => match self.saved_before(job).await {
                    Ok(target) => target,
                    // As long as nobody can look, the poll has taught nothing.
                    Err(error) => {
                        tracing::warn!(job = job.id, %error, "its video cannot be looked for");
                        let (id, at) = (job.id, self.limits.policy.next_poll(job, now));
                        self.polling.remove(&id);
                        self.poll_trial.take_if(|trial| *trial == id);
                        self.schedule.set(id, at);
                        self.unjudged.pop_front();
                        continue;
                    }
                },
                Report::Fetched(job, Fetched::Displaced { .. }) => {
                    self.target_of(job, now).await?.ok()
                }
                _ => None,
            };
            match self.unjudged.pop_front() {
                Some(Report::Posted(job, verdict)) => self.posted(&job, verdict, now),
                Some(Report::Polled(job, verdict)) => self.polled(&job, verdict, target, now),
                Some(Report::Fetched(job, Fetched::SyncFailed(reason))) => {
                    self.fetching.remove(&job.id);
                    sync_failed = Some(EngineError::Sync(reason));
                }
                Some(Report::Fetched(job, fetched)) => self.fetched(&job, fetched, target, now),
                Some(Report::Probed(result)) => {
                    self.probing = false;
                    match result {
                        Ok(()) => self.submit_gate.probe_answered(),
                        Err(fault) => self.submit_gate.probe_failed(&fault, now),
                    }
                }
                None => {}
            }
        }
        sync_failed.map_or(Ok(()), Err)
    }

    fn posted(&mut self, job: &Job, verdict: PostVerdict, now: Millis) {
        self.posting.remove(&job.id);
        let trial = self.submit_trial.take_if(|id| *id == job.id).is_some();
        let event = match verdict {
            PostVerdict::Accepted { task_id, evidence } => {
                self.window.accepted();
                self.open_submit_gate(true, trial);
                Event::Accepted { task_id, evidence }
            }
            PostVerdict::RefusedJob { evidence } => {
                self.doubt_hold();
                self.open_submit_gate(false, trial);
                Event::Refused { evidence }
            }
            PostVerdict::NotAccepted {
                evidence,
                fault,
                crowded,
            } => {
                if crowded {
                    self.window.crowded(self.tasks() as u32);
                }
                self.doubt_hold();
                self.close_submit_gate(fault, now, trial);
                Event::NotAccepted {
                    evidence,
                    closed_until: self.submit_gate.closed().map(|closed| closed.until),
                }
            }
            PostVerdict::Unknown { evidence, fault } => {
                self.close_submit_gate(fault, now, trial);
                Event::Unknown { evidence }
            }
        };
        self.judge(job, event, now);
    }

    /// Our tasks at the provider, with those whose answers came together with this one.
    fn tasks(&self) -> usize {
        let judged = self.unsaved.iter().filter(|t| t.event == "accepted");
        let ahead = self
            .unjudged
            .iter()
            .filter(|report| matches!(report, Report::Posted(_, PostVerdict::Accepted { .. })));
        self.schedule.own() + judged.count() + ahead.count()
    }

    /// What was sent before the gate closed tells nothing of what closed it.
    fn open_submit_gate(&mut self, accepted: bool, trial: bool) {
        if self.submit_gate.closed().is_some() && !trial {
            return;
        }
        if self.submit_gate.open(accepted).is_some() {
            tracing::info!("submitting goes on");
        }
    }

    fn close_submit_gate(&mut self, fault: Fault, now: Millis, trial: bool) {
        let was_open = self.submit_gate.closed().is_none();
        self.submit_gate.close(fault, now, trial);
        if let Some(closed) = self.submit_gate.closed().filter(|_| was_open) {
            tracing::warn!(
                reason = closed.message.as_str(),
                advice = closed.cause.advice(),
                "submitting pauses for all jobs"
            );
        }
    }

    fn polled(&mut self, job: &Job, verdict: PollVerdict, target: Option<String>, now: Millis) {
        self.polling.remove(&job.id);
        let trial = self.poll_trial.take_if(|id| *id == job.id).is_some();
        self.stats.polled(&verdict);
        let event = match (verdict, target) {
            (PollVerdict::Trouble(fault), _) => return self.poll_trouble(job, fault, now, trial),
            (PollVerdict::Running { progress }, _) => Event::Running { progress },
            (PollVerdict::Completed { urls }, target) => Event::Completed { urls, target },
            // The provider has forgotten what is on disk already.
            (_, target @ Some(_)) => Event::Completed {
                urls: Vec::new(),
                target,
            },
            (PollVerdict::NotFound { message }, None) => Event::TaskNotFound { message },
            (PollVerdict::Failed { message }, None) => Event::TaskFailed { message },
            (PollVerdict::Expired { message }, None) => Event::TaskExpired { message },
        };
        self.poll_faults_in_row = 0;
        self.poll_answered = true;
        self.submit_gate.heard(now);
        if self.poll_gate.open(true).is_some() {
            tracing::info!("polling goes on");
        }
        self.schedule
            .set(job.id, self.limits.policy.next_poll(job, now));
        self.judge(job, event, now);
    }

    /// A poll that taught nothing about its task: the job stays as it is, but for
    /// its deadline.
    fn poll_trouble(&mut self, job: &Job, fault: Fault, now: Millis, trial: bool) {
        self.poll_faults_in_row += 1;
        let faults = self.schedule.fault(job.id);
        let policy = &self.limits.policy;
        let pause = step::backoff(job.id, faults, policy.interval);
        // Not sooner than without the fault.
        let at = policy.next_poll(job, now).max(now + pause);
        self.schedule.set_faulty(job.id, at, faults);
        tracing::debug!(
            job = job.id,
            reason = fault.message.as_str(),
            "a poll taught nothing"
        );
        let of_account = matches!(fault.cause, Cause::KeyRefused | Cause::RateLimited);
        let was_open = self.poll_gate.closed().is_none();
        if of_account || !was_open || self.poll_faults_in_row >= POLL_FAULTS {
            let cause = match fault.cause {
                Cause::Unclear => Cause::Unreachable,
                cause => cause,
            };
            self.poll_gate.close(Fault { cause, ..fault }, now, trial);
        }
        if let Some(closed) = self.poll_gate.closed().filter(|_| was_open) {
            tracing::warn!(
                reason = closed.message.as_str(),
                advice = closed.cause.advice(),
                "polling pauses for all jobs"
            );
        }
        // Other tasks are answered, so this is no outage: its own time runs out.
        let answered = self.poll_answered && self.poll_gate.closed().is_none();
        if answered && faults >= LONE_FAULTS && job.give_up_at.is_some_and(|at| now >= at) {
            self.judge(job, Event::Running { progress: None }, now);
        }
    }

    fn fetched(&mut self, job: &Job, fetched: Fetched, target: Option<String>, now: Millis) {
        self.fetching.remove(&job.id);
        self.download_news = now;
        let event = match fetched {
            Fetched::Saved { file, note } => {
                self.stats.saved(job, &file, now);
                Event::Saved { file, note }
            }
            Fetched::Interrupted { reason, advanced } => {
                Event::FetchInterrupted { reason, advanced }
            }
            Fetched::Unusable { reason } => Event::VideoUnusable { reason },
            Fetched::Unreachable { reason } => Event::VideoUnreachable { reason },
            Fetched::Displaced { reason } => match target {
                Some(target) => Event::Placed { reason, target },
                None => Event::FetchInterrupted {
                    reason,
                    advanced: false,
                },
            },
            // The daemon stops, and the next start fetches it again.
            Fetched::SyncFailed(_) => return,
        };
        self.judge(job, event, now);
    }

    /// The path of a video that was on disk before its job was cancelled and taken up again.
    async fn saved_before(&self, job: &Job) -> Result<Option<String>, SinkError> {
        let Some(target) = job.target.as_deref() else {
            return Ok(None);
        };
        let finished = self.places.sink.is_finished(Path::new(target)).await?;
        Ok(finished.then(|| target.to_owned()))
    }

    /// The path that a job's video gets: free on disk and reserved by no other
    /// job; or why the folder cannot be looked at now.
    pub(super) async fn target_of(
        &self,
        job: &Job,
        now: Millis,
    ) -> Result<Result<String, String>, EngineError> {
        let mut taken: HashSet<PathBuf> = job.target.iter().map(PathBuf::from).collect();
        taken.extend(
            self.unsaved
                .iter()
                .filter_map(|t| t.job.target.as_deref().map(PathBuf::from)),
        );
        loop {
            let path = match self.places.reserve(job, &taken, now) {
                Ok(path) => path,
                Err(error) => {
                    return Ok(Err(format!("no place for the video yet: {error}")));
                }
            };
            let text = path.to_string_lossy().into_owned();
            if !self.store.is_target_taken(&text).await? {
                return Ok(Ok(text));
            }
            taken.insert(path);
        }
    }

    pub(super) fn judge(&mut self, job: &Job, event: Event, now: Millis) {
        match step::step(job, event, now, &self.limits.policy) {
            Ok(transition) if transition.changed => self.unsaved.push(transition),
            Ok(_) => {}
            // The row was judged as it was claimed, so this is a bug; the row stays as it is.
            Err(illegal) => tracing::error!(job = illegal.id, "{illegal}"),
        }
    }
}
