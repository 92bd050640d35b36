//! What is to be done next, and what came of it.
//!
//! The engine holds the queue's store and everything that is known only in
//! memory: the gates, the poll times, what is in hand. It does no network and
//! reads no clock: the daemon acts on its [`Act`]s and brings back [`Report`]s,
//! and so does a simulation.

mod claim;
mod judge;
mod save;
mod show;

use std::collections::{HashMap, HashSet, VecDeque};
use std::path::Path;
use std::sync::Arc;

use crate::budget::Budget;
use crate::gate::{Fault, Gate, Pass, Window};
use crate::job::{Event, Evidence, Job, JobId, Millis, State};
use crate::places::Places;
use crate::schedule::Schedule;
use crate::stats::Stats;
use crate::step::{self, Policy, Transition};
use crate::store::{Bounds, GateRow, Store, StoreError};
use crate::verdict::{Fetched, PollVerdict, PostVerdict};

/// POSTs on the wire at once. Few, so that an outage in which each of them ends
/// unknown leaves only a few jobs unconfirmed.
pub const POSTS_ON_THE_WIRE: usize = 3;

/// Polls on the wire at once.
pub const POLLS_ON_THE_WIRE: usize = 64;

/// The longest pause in polling: a finished video's link dies within minutes.
const LONGEST_POLL_PAUSE: Millis = 60_000;

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
    /// Some video may have no place to go.
    unplaced: bool,
    /// More of them than were looked at.
    more_unplaced: bool,
    /// Why, and since when.
    folder: Option<Hold>,
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
            unplaced: true,
            more_unplaced: false,
            folder: None,
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
        for hold in self.hold.iter_mut().chain(&mut self.folder) {
            hold.since += delta;
            hold.until += delta;
        }
        // It may be another day.
        self.doubt_hold();
        Ok(())
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
        if self.more_due || self.more_unplaced {
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
