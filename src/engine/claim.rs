//! What is to be done now: downloads before polls before submissions.

use super::{
    Act, Engine, EngineError, Hold, MINUTE, POLLS_ON_THE_WIRE, POSTS_ON_THE_WIRE, Surroundings,
};
use crate::budget::Scope;
use crate::gate::{Cause, Pass};
use crate::job::{Event, JobId, Millis, State};
use crate::step;
use crate::store::{Admission, Claim, Trial};

/// Rows that one claim of polls looks at, about.
const POLL_LOOKS: usize = 1_024;

/// Videos that wait hold submissions back, for their links die; but only while
/// downloads begin or end: for so long after the last one did.
const BACKLOG_PATIENCE: Millis = 30_000;

/// Videos for which one claim looks for a place, at most.
const PLACINGS: usize = 64;

/// Trials in the order of the queue that are refused for what the provider takes, until one
/// that was not refused before is tried.
const PATIENCE_IN_ORDER: u32 = 4;

/// A cap or a full disk is looked at again after so long.
const HOLD_PAUSE: Millis = 5_000;

impl Engine {
    /// Takes what is to be done now: downloads before polls before submissions.
    ///
    /// # Errors
    /// The store's. Nothing is lost: the next call takes it.
    pub async fn claim(&mut self, around: &Surroundings) -> Result<Vec<Act>, EngineError> {
        if !(self.unsaved.is_empty() && self.unjudged.is_empty()) {
            return Ok(Vec::new());
        }
        self.place(around.now).await?;
        let backlog = self.claim_downloads(around.now).await?;
        self.claim_polls(around.now).await?;
        if around.submit {
            self.claim_posts(around, backlog).await?;
        }
        let shown = self.show(around.now).await;
        if self.unstarted.is_empty() {
            shown?;
        }
        // What was taken goes out whether or not that could be shown: its intent is on disk.
        Ok(std::mem::take(&mut self.unstarted))
    }

    /// True if videos that were not tried yet wait for a free download. One place is kept
    /// for them: servers that never answer must not take every download with their retries.
    async fn claim_downloads(&mut self, now: Millis) -> Result<bool, EngineError> {
        let free = self.limits.downloads.saturating_sub(self.fetching.len());
        let retries = self.fetching.values().filter(|retry| **retry).count();
        let mut retry_room = (self.limits.downloads.max(2) - 1).saturating_sub(retries);
        let in_hand: Vec<JobId> = self.fetching.keys().copied().collect();
        let mut jobs = self
            .store
            .due_downloads(now, free + 1, &in_hand, &self.endpoint)
            .await?;
        jobs.sort_by_key(|job| job.faults > 0);
        let mut taken = 0;
        let mut backlog = false;
        for job in jobs {
            let retry = job.faults > 0;
            if taken == free || retry && retry_room == 0 {
                backlog |= !retry;
                continue;
            }
            taken += 1;
            retry_room -= usize::from(retry);
            self.fetching.insert(job.id, retry);
            self.unstarted.push(Act::Fetch(Box::new(job)));
        }
        if taken > 0 || !backlog {
            self.download_news = now;
        }
        Ok(backlog && now - self.download_news < BACKLOG_PATIENCE)
    }

    /// Gives videos a place that could have none when their tasks were completed.
    async fn place(&mut self, now: Millis) -> Result<(), EngineError> {
        if !self.unplaced {
            return Ok(());
        }
        let found = self.store.unplaced(now, PLACINGS, &self.endpoint).await?;
        self.unplaced = !found.none;
        if found.none && self.folder.take().is_some() {
            tracing::info!("every video has a place to go again");
        }
        self.more_unplaced = found.due.len() == PLACINGS;
        for job in found.due {
            let event = match self.target_of(&job, now).await? {
                Ok(target) => Event::Placed {
                    reason: "its folder can be read again".to_owned(),
                    target,
                },
                Err(reason) => {
                    self.has_no_place(&reason, now);
                    Event::FetchInterrupted {
                        reason,
                        advanced: false,
                    }
                }
            };
            self.judge(&job, event, now);
        }
        self.save(now).await
    }

    pub(super) fn has_no_place(&mut self, reason: &str, now: Millis) {
        self.unplaced = true;
        if self.folder.is_none() {
            tracing::warn!(reason, "a video has no place to go");
            self.folder = Some(Hold {
                name: "folder",
                message: reason.to_owned(),
                since: now,
                until: now,
                stale: false,
            });
        }
    }

    async fn claim_polls(&mut self, now: Millis) -> Result<(), EngineError> {
        let mut free = self.free_polls(now);
        let mut portion = free;
        let mut looks = 0;
        // What is another endpoint's, or runs no more, takes no place from what is due behind it.
        while free > 0 && looks < POLL_LOOKS {
            let due = self.schedule.due(now, portion);
            if due.is_empty() {
                break;
            }
            looks += due.len();
            portion = POLLS_ON_THE_WIRE;
            let mut jobs = self.store.load(&due, State::Generating).await?;
            for id in due {
                let Some(at) = jobs.iter().position(|job| job.id == id) else {
                    self.schedule.remove(id);
                    continue;
                };
                let job = jobs.swap_remove(at);
                if job.endpoint.as_deref() != Some(self.endpoint.as_str()) {
                    // It belongs to another base URL or key, and is never asked for elsewhere.
                    self.schedule
                        .set_foreign(id, now + self.limits.policy.slow_interval);
                } else if free > 0 {
                    free -= 1;
                    self.schedule.take(id);
                    self.polling.insert(id);
                    if self.poll_gate.closed().is_some() {
                        self.poll_trial = Some(id);
                    }
                    self.unstarted.push(Act::Poll(Box::new(job)));
                }
            }
            self.foreign = self.schedule.foreign();
        }
        Ok(())
    }

    /// How many polls may begin now.
    pub(super) fn free_polls(&self, now: Millis) -> usize {
        match self.poll_gate.pass(now) {
            Pass::Open => POLLS_ON_THE_WIRE.saturating_sub(self.polling.len()),
            // A poll costs nothing: it is its own probe.
            Pass::Probe | Pass::Trial => usize::from(self.polling.is_empty()),
            Pass::Wait(_) => 0,
        }
    }

    async fn claim_posts(
        &mut self,
        around: &Surroundings,
        backlog: bool,
    ) -> Result<(), EngineError> {
        let now = around.now;
        self.more_due = false;
        if self.paused {
            // That is why, and nothing else.
            self.hold = None;
            return Ok(());
        }
        let held = |hold: &Hold| !hold.stale && now < hold.until;
        if backlog || self.hold.as_ref().is_some_and(held) {
            return Ok(());
        }
        if let Some(free) = around.free_space
            && free < self.limits.min_free_space
        {
            let message = format!(
                "only {} are free where the videos go, download.min_free_space is {}; free some space",
                bytesize::ByteSize(free),
                bytesize::ByteSize(self.limits.min_free_space)
            );
            self.hold_back("disk", message, now);
            return Ok(());
        }
        self.hold.take_if(|hold| hold.name == "disk");
        let wire = match self.submit_gate.pass(now) {
            Pass::Open => POSTS_ON_THE_WIRE.saturating_sub(self.posting.len()),
            // What still hangs from before the closing must not keep it closed.
            Pass::Trial if self.submit_trial.is_none() => {
                POSTS_ON_THE_WIRE.saturating_sub(self.posting.len()).min(1)
            }
            Pass::Trial => 0,
            Pass::Probe => {
                if !self.probing && self.submit_trial.is_none() {
                    self.probing = true;
                    self.unstarted.push(Act::Probe);
                }
                0
            }
            Pass::Wait(_) => 0,
        };
        let limit = (wire as u32).min(self.rate_left(now));
        if limit == 0 {
            return Ok(());
        }
        let claim = Claim {
            limit,
            max_tasks: self.window.limit(),
            endpoint: self.endpoint.clone(),
            now,
            day_start: around.day_start,
            trial: self
                .submit_gate
                .closed()
                .and_then(|closed| match closed.cause {
                    // How much the provider takes is no job's fault, for a while: the order counts.
                    Cause::RateLimited | Cause::Busy if closed.tries < PATIENCE_IN_ORDER => None,
                    Cause::RateLimited | Cause::Busy => Some(Trial::First),
                    _ => {
                        let any = step::spread(now, closed.tries.into(), Millis::MAX);
                        Some(Trial::Any(any.unsigned_abs()))
                    }
                }),
        };
        let (budget, policy, endpoint) = (&self.limits.budget, &self.limits.policy, &self.endpoint);
        let claimed = self
            .store
            .claim(&claim, |job, spent| match budget.admit(&job.spec, spent) {
                Err(hold) => match hold.scope() {
                    Scope::Queue => Admission::Stop(hold.to_string()),
                    scope => Admission::Later(scope, hold.to_string()),
                },
                Ok(cost) => {
                    let endpoint = endpoint.clone();
                    match step::step(job, Event::Claimed { cost, endpoint }, now, policy) {
                        Ok(transition) => Admission::Take(Box::new(transition)),
                        Err(illegal) => Admission::Stop(illegal.to_string()),
                    }
                }
            })
            .await?;
        self.more_due = claimed.more;
        match claimed.held {
            Some(message) => self.hold_back("budget", message, now),
            None => self.hold = None,
        }
        for job in claimed.jobs {
            let batch = job.spec.batch.as_str();
            tracing::info!(job = job.id, batch, attempt = job.attempt, "submitting");
            self.stats.claimed(&job, now);
            self.starts.push_back(now);
            self.posting.insert(job.id);
            if self.submit_gate.closed().is_some() {
                self.submit_trial = Some(job.id);
            }
            let idempotency_key =
                format!("reelq-{}-{}-{}", self.store.queue_id(), job.id, job.attempt);
            self.unstarted.push(Act::Post {
                job: Box::new(job),
                idempotency_key,
            });
        }
        Ok(())
    }

    pub(super) fn rate_left(&mut self, now: Millis) -> u32 {
        while self
            .starts
            .front()
            .is_some_and(|start| now - start >= MINUTE)
        {
            self.starts.pop_front();
        }
        self.limits
            .rate_per_minute
            .saturating_sub(self.starts.len() as u32)
    }

    fn hold_back(&mut self, name: &'static str, message: String, now: Millis) {
        let since = match &mut self.hold {
            // As it was: other words about it would be a commit at each look.
            Some(hold) if hold.name == name && now < hold.until => {
                hold.stale = false;
                return;
            }
            Some(hold) if hold.name == name => hold.since,
            _ => {
                tracing::warn!(reason = message.as_str(), "submitting waits");
                now
            }
        };
        self.hold = Some(Hold {
            name,
            message,
            since,
            until: now + HOLD_PAUSE,
            stale: false,
        });
    }

    /// What holds submitting back may have ended: another process has committed, or
    /// what was reserved for a POST is free again.
    pub(super) fn doubt_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.stale = true;
        }
    }
}
