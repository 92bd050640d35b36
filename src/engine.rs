//! What is to be done next, and what came of it.
//!
//! The engine holds the queue's store and everything that is known only in
//! memory: the gates, the poll times, what is in hand. It does no network and
//! reads no clock: the daemon acts on its [`Act`]s and brings back [`Report`]s,
//! and so does a simulation.

mod show;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::budget::{Budget, Scope};
use crate::gate::{Cause, Fault, Gate, Pass, Window};
use crate::job::{Event, Evidence, Job, JobId, Millis, State};
use crate::places::Places;
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::step::{self, LedgerLine, Policy, Transition};
use crate::store::{Admission, Bounds, Claim, Committed, GateRow, Store, StoreError};
use crate::verdict::{Fetched, PollVerdict, PostVerdict};

/// POSTs on the wire at once. Few, so that an outage in which each of them ends
/// unknown leaves only a few jobs unconfirmed.
pub const POSTS_ON_THE_WIRE: usize = 3;

/// Polls on the wire at once.
pub const POLLS_ON_THE_WIRE: usize = 64;

/// Rows that one claim of polls looks at, about.
const POLL_LOOKS: usize = 1_024;

/// Videos that wait hold submissions back, for their links die; but only while
/// downloads begin or end: for so long after the last one did.
const BACKLOG_PATIENCE: Millis = 30_000;

/// Polls that fail in a row, whatever their task, until polling pauses for all.
const POLL_FAULTS: u32 = 5;

/// Polls of one task that fail in a row, while others are answered, until its
/// deadline counts although it was not heard: twenty minutes, about.
const LONE_FAULTS: u32 = 20;

/// The longest pause in polling: a finished video's link dies within minutes.
const LONGEST_POLL_PAUSE: Millis = 60_000;

/// A cap or a full disk is looked at again after so long.
const HOLD_PAUSE: Millis = 5_000;

/// The window of `rate_per_minute`.
const MINUTE: Millis = 60_000;

/// The limits of the configuration.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Tasks at the provider at once.
    pub max_in_flight: u32,
    /// POSTs in any sixty seconds.
    pub rate_per_minute: u32,
    /// Downloads at once.
    pub downloads: usize,
    /// Free bytes below which nothing is submitted.
    pub min_free_space: u64,
    /// Poll intervals, the deadline, what an unanswered POST becomes.
    pub policy: Policy,
    /// Caps and prices.
    pub budget: Budget,
}

/// Something to do, with the job as it was claimed.
#[derive(Clone, Debug)]
pub enum Act {
    /// POST it. The intent is on disk.
    Post {
        /// The job.
        job: Box<Job>,
        /// Names this try.
        idempotency_key: String,
    },
    /// Ask for its task.
    Poll(Box<Job>),
    /// Fetch its video.
    Fetch(Box<Job>),
    /// Send a request that costs nothing.
    Probe,
}

/// What came of an act.
#[derive(Debug)]
pub enum Report {
    /// Of a POST.
    Posted(Box<Job>, PostVerdict),
    /// Of a poll.
    Polled(Box<Job>, PollVerdict),
    /// Of a download.
    Fetched(Box<Job>, Fetched),
    /// Of a free request.
    Probed(Result<(), Fault>),
}

/// Why the daemon cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The disk did not confirm a video's bytes.
    #[error("{0}; check the disk, then start reelq again: it goes on from the table")]
    Sync(String),
}

/// What the daemon measures for a claim.
#[derive(Clone, Copy, Debug)]
pub struct Surroundings {
    /// Wall clock.
    pub now: Millis,
    /// When the budget's calendar day began.
    pub day_start: Millis,
    /// Free bytes where the videos go; `None`: not known.
    pub free_space: Option<u64>,
    /// New work is wanted.
    pub submit: bool,
}

/// Why submitting waits though jobs are due.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Hold {
    name: &'static str,
    message: String,
    since: Millis,
    until: Millis,
    /// Something has changed: to be looked at again at once.
    stale: bool,
}

/// The core of the daemon.
pub struct Engine {
    store: Arc<Store>,
    places: Places,
    endpoint: String,
    limits: Limits,
    stats: Arc<Stats>,
    submit_gate: Gate,
    poll_gate: Gate,
    window: Window,
    poll_faults_in_row: u32,
    /// A poll has been answered since the start.
    poll_answered: bool,
    posting: HashSet<JobId>,
    polling: HashSet<JobId>,
    /// Whether each is a retry.
    fetching: HashMap<JobId, bool>,
    /// When a download last began or ended.
    download_news: Millis,
    /// The one request that a closed gate let through, to see.
    submit_trial: Option<JobId>,
    poll_trial: Option<JobId>,
    probing: bool,
    schedule: Schedule,
    foreign: usize,
    starts: VecDeque<Millis>,
    paused: bool,
    /// The last claim ended before it had looked at everything.
    more_due: bool,
    hold: Option<Hold>,
    /// What could not be done at once because the store failed.
    unstarted: Vec<Act>,
    unjudged: VecDeque<Report>,
    unsaved: Vec<Transition>,
    shown: Vec<GateRow>,
}

impl Engine {
    /// Takes the queue up where the table stands: a POST that was on the wire
    /// when reelq last stopped has an unknown end.
    ///
    /// # Errors
    /// The store's.
    pub async fn open(
        store: Arc<Store>,
        places: Places,
        endpoint: String,
        limits: Limits,
        stats: Arc<Stats>,
        now: Millis,
    ) -> Result<Engine, EngineError> {
        let mut engine = Engine {
            submit_gate: Gate::default(),
            poll_gate: Gate::with_longest_pause(LONGEST_POLL_PAUSE),
            window: Window::new(limits.max_in_flight),
            poll_faults_in_row: 0,
            poll_answered: false,
            posting: HashSet::new(),
            polling: HashSet::new(),
            fetching: HashMap::new(),
            download_news: now,
            submit_trial: None,
            poll_trial: None,
            probing: false,
            schedule: Schedule::default(),
            foreign: 0,
            starts: store.recent_starts(now - MINUTE, now).await?.into(),
            paused: false,
            more_due: false,
            hold: None,
            unstarted: Vec::new(),
            unjudged: VecDeque::new(),
            unsaved: Vec::new(),
            shown: store.gates().await?,
            store,
            places,
            endpoint,
            limits,
            stats,
        };
        for row in &engine.shown {
            let saved =
                serde_json::from_str(&row.detail)
                    .ok()
                    .and_then(|detail: serde_json::Value| {
                        // Another base URL or key may have no such fault.
                        let label = detail["endpoint"].as_str();
                        let own = label.is_none_or(|label| label == engine.endpoint);
                        own.then(|| serde_json::from_value(detail["gate"].clone()).ok())?
                    });
            match (row.name.as_str(), saved) {
                ("submit", Some(saved)) => {
                    engine.submit_gate = Gate::default().restored(saved, now)
                }
                ("poll", Some(saved)) => {
                    engine.poll_gate =
                        Gate::with_longest_pause(LONGEST_POLL_PAUSE).restored(saved, now);
                }
                _ => {}
            }
        }
        engine.recover(now).await?;
        engine
            .store
            .clamp_appointments(&Bounds {
                ask: now + engine.limits.policy.interval,
                backoff: now + step::MAX_BACKOFF,
                deadline: now + engine.limits.policy.deadline,
                grace: now + step::UNUSABLE_GRACE,
            })
            .await?;
        for id in engine.store.ids_in(State::Generating).await? {
            // Whole intervals from now: no task is asked sooner than it would have been without the stop.
            let interval = engine.limits.policy.interval;
            let spread = id.rem_euclid(interval.max(1));
            engine.schedule.set(id, now + interval + spread);
        }
        engine.refresh(now).await?;
        Ok(engine)
    }

    async fn recover(&mut self, now: Millis) -> Result<(), EngineError> {
        let ids = self.store.ids_in(State::Submitting).await?;
        for job in self.store.load(&ids, State::Submitting).await? {
            let event = Event::Unknown {
                evidence: Evidence {
                    error: Some("reelq stopped while the request was on the wire".to_owned()),
                    ..Evidence::default()
                },
            };
            self.judge(&job, event, now);
        }
        self.save(now).await
    }

    /// Another process has committed: looks at what is not found by its due time.
    ///
    /// # Errors
    /// The store's.
    pub async fn refresh(&mut self, now: Millis) -> Result<(), EngineError> {
        self.paused = self.store.fact("paused").await?.is_some();
        self.doubt_hold();
        for id in self.store.ids_in(State::Generating).await? {
            if !self.polling.contains(&id) && !self.schedule.contains(id) {
                // A retry may come right after the last answer.
                self.schedule.set(id, now + self.limits.policy.interval);
            }
        }
        self.clean_up().await
    }

    /// Removes what was downloaded for jobs that ended without a video, but not
    /// what a retry goes on from: a download that a `cancel` did not stop in time
    /// has left a whole video, which keeps its path.
    async fn clean_up(&mut self) -> Result<(), EngineError> {
        for (id, target) in self.store.leftovers().await? {
            if self.fetching.contains_key(&id) {
                continue;
            }
            match self.places.sink.discard(Path::new(&target)).await {
                Ok(true) => {
                    self.store.keep_target(id).await?;
                    tracing::info!(job = id, path = target, "its video is on disk all the same");
                }
                Ok(false) => self.store.release_target(id).await?,
                Err(error) => tracing::debug!(job = id, %error, "a partial file stays for now"),
            }
        }
        Ok(())
    }

    /// The wall clock jumped by `delta`: every appointment of our own moves along.
    ///
    /// # Errors
    /// The store's.
    pub async fn clock_jumped(&mut self, delta: Millis) -> Result<(), EngineError> {
        self.store.shift_appointments(delta).await?;
        self.schedule.shift(delta);
        self.submit_gate.shift(delta);
        self.poll_gate.shift(delta);
        for start in &mut self.starts {
            *start += delta;
        }
        self.download_news += delta;
        if let Some(hold) = &mut self.hold {
            hold.since += delta;
            hold.until += delta;
        }
        // It may be another day.
        self.doubt_hold();
        Ok(())
    }

    /// Takes what is to be done now: downloads before polls before submissions.
    ///
    /// # Errors
    /// The store's. Nothing is lost: the next call takes it.
    pub async fn claim(&mut self, around: &Surroundings) -> Result<Vec<Act>, EngineError> {
        if !(self.unsaved.is_empty() && self.unjudged.is_empty()) {
            return Ok(Vec::new());
        }
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
        let mut jobs = loop {
            let due = self
                .store
                .due_downloads(now, free + 1, &in_hand, &self.endpoint)
                .await?;
            // Each has a place afterwards, or is due later.
            match due.iter().all(|job| job.target.is_some()) {
                true => break due,
                false => self.place(due, now).await?,
            }
        };
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
    async fn place(&mut self, due: Vec<Job>, now: Millis) -> Result<(), EngineError> {
        for job in due.iter().filter(|job| job.target.is_none()) {
            let event = match self.target_of(job, now).await? {
                Ok(target) => Event::Placed {
                    reason: "its folder can be looked at".to_owned(),
                    target,
                },
                Err(reason) => Event::FetchInterrupted {
                    reason,
                    advanced: false,
                },
            };
            self.judge(job, event, now);
        }
        self.save(now).await
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
    fn free_polls(&self, now: Millis) -> usize {
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
                .map(|closed| step::spread(now, closed.tries.into(), Millis::MAX).unsigned_abs()),
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

    fn rate_left(&mut self, now: Millis) -> u32 {
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
                    None => self.target_of(job, now).await?.ok(),
                },
                Report::Polled(
                    job,
                    PollVerdict::Failed { .. }
                    | PollVerdict::Expired { .. }
                    | PollVerdict::NotFound { .. },
                ) => self.saved_before(job).await,
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
                self.open_submit_gate(true);
                Event::Accepted { task_id, evidence }
            }
            PostVerdict::RefusedJob { evidence } => {
                self.doubt_hold();
                self.open_submit_gate(false);
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

    /// What holds submitting back may have ended: another process has committed, or
    /// what was reserved for a POST is free again.
    fn doubt_hold(&mut self) {
        if let Some(hold) = &mut self.hold {
            hold.stale = true;
        }
    }

    fn open_submit_gate(&mut self, accepted: bool) {
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
    async fn saved_before(&self, job: &Job) -> Option<String> {
        let target = job.target.as_deref()?;
        match self.places.sink.is_finished(Path::new(target)).await {
            Ok(finished) => finished.then(|| target.to_owned()),
            Err(error) => {
                tracing::warn!(job = job.id, %error, "its video cannot be looked for");
                None
            }
        }
    }

    /// The path that a job's video gets: free on disk and reserved by no other
    /// job; or why the folder cannot be looked at now.
    async fn target_of(
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
                    tracing::warn!(job = job.id, %error, "no place for its video yet");
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

    fn judge(&mut self, job: &Job, event: Event, now: Millis) {
        match step::step(job, event, now, &self.limits.policy) {
            Ok(transition) if transition.changed => self.unsaved.push(transition),
            Ok(_) => {}
            // The row was judged as it was claimed, so this is a bug; the row stays as it is.
            Err(illegal) => tracing::error!(job = illegal.id, "{illegal}"),
        }
    }

    async fn save(&mut self, now: Millis) -> Result<(), EngineError> {
        let verdicts = match self.store.commit(&self.unsaved).await {
            Ok(verdicts) => verdicts,
            Err(error) => {
                self.rescue(&error);
                return Err(error.into());
            }
        };
        let mut leftovers = false;
        for (transition, verdict) in std::mem::take(&mut self.unsaved).into_iter().zip(verdicts) {
            let job = &transition.job;
            leftovers |= matches!(job.state, State::Failed | State::Cancelled)
                && job.target.is_some()
                || verdict == Committed::Fenced;
            match verdict {
                Committed::Written => {
                    show::log(&transition);
                    self.stats.moved(&transition);
                    if job.state == State::Generating {
                        if transition.from != State::Generating {
                            self.schedule.set(job.id, job.due_at.unwrap_or(now));
                        }
                    } else {
                        self.schedule.remove(job.id);
                    }
                }
                Committed::SetAside => self.schedule.remove(job.id),
                Committed::Fenced => {
                    // A person was faster. What the provider accepted must not go unsaid.
                    // The next look drops it from the schedule, or asks if it runs again:
                    // in its turn, where it was asked just now.
                    if !self.schedule.contains(job.id) {
                        self.schedule.set(job.id, now + self.limits.policy.interval);
                    }
                    tracing::warn!(
                        job = job.id,
                        batch = job.spec.batch.as_str(),
                        task = job.task_id.as_deref().unwrap_or("none"),
                        event = transition.event,
                        "the job was changed meanwhile; this answer is not recorded"
                    );
                }
            }
        }
        if leftovers {
            self.clean_up().await?;
        }
        Ok(())
    }

    /// A commit failed: the log keeps what would be hard to find again.
    fn rescue(&self, error: &StoreError) {
        for (job, task) in self.unsaved_tasks() {
            tracing::error!(job, task, %error, "an accepted task is not on disk yet");
        }
    }

    /// The accepted tasks that are not on disk yet.
    pub fn unsaved_tasks(&self) -> impl Iterator<Item = (JobId, &str)> {
        self.unsaved.iter().filter_map(|transition| {
            let task = transition.job.task_id.as_deref()?;
            (transition.event == "accepted").then_some((transition.job.id, task))
        })
    }

    /// Whether the end of a POST is not on disk yet.
    pub fn owes_answers(&self) -> bool {
        let ended = |t: &Transition| matches!(t.ledger, Some(LedgerLine::End { .. }));
        let posted = |report: &Report| matches!(report, Report::Posted(..));
        self.unsaved.iter().any(ended) || self.unjudged.iter().any(posted)
    }

    /// When there is something to do again, if nothing happens before.
    ///
    /// # Errors
    /// The store's.
    pub async fn next_wake(&mut self, now: Millis) -> Result<Option<Millis>, EngineError> {
        let mut wakes = vec![
            self.store.next_due(now).await?,
            self.hold.as_ref().map(|hold| hold.until),
            self.submit_gate.closed().map(|closed| closed.until),
        ];
        wakes.push(match self.poll_gate.pass(now) {
            Pass::Wait(until) => Some(until),
            // The last claim did not come to it.
            _ if self.free_polls(now) > 0 => self.schedule.next().map(|at| at.max(now + 1)),
            _ => self.schedule.next(),
        });
        if self.more_due {
            wakes.push(Some(now + 1));
        }
        if self.rate_left(now) == 0 {
            wakes.push(self.starts.front().map(|start| start + MINUTE));
        }
        // What could not be taken although its time has come waits for an
        // answer, for a person, or for one of these.
        Ok(wakes.into_iter().flatten().filter(|at| *at > now).min())
    }

    /// Whether nothing is left that could move by itself soon: no job is under
    /// way, and what is pending waits for a person or a new day.
    ///
    /// # Errors
    /// The store's.
    pub async fn is_idle(&self) -> Result<bool, EngineError> {
        if !(self.posting.is_empty()
            && self.polling.is_empty()
            && self.fetching.is_empty()
            && self.unsaved.is_empty())
        {
            return Ok(false);
        }
        let moving = self.store.moving(&self.endpoint).await?;
        let capped = |hold: &Hold| hold.name == "budget" && !hold.stale;
        let waits_for_person = self.paused || self.hold.as_ref().is_some_and(capped);
        Ok(!moving.under_way && (!moving.pending || waits_for_person))
    }
}
