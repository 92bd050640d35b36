//! The one loop: claim, act, judge, commit. It waits; the engine decides.
//!
//! A wake-up is only a hint to look at the table sooner: an answer came in,
//! another process committed, or the next appointment is due.

use std::sync::Arc;
use std::time::Duration;

use jiff::tz::TimeZone;
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::Notify;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::clock::{Clock, JumpWatch};
use crate::downloader::{self, Downloads};
use crate::engine::{Act, Engine, EngineError, Report, Surroundings};
use crate::job::{JobId, Millis};
use crate::places;
use crate::provider::Provider;
use crate::signals::Signals;
use crate::store::{Store, StoreError};
use crate::verdict::PostVerdict;
use crate::{poller, scheduler, verdict};

/// How often another process's commit is looked for.
const WATCH: Duration = Duration::from_millis(50);

/// The pause after a commit that the disk or another process refused.
const REFUSED_PAUSE: Duration = Duration::from_millis(500);

/// Another program's lock is worth a word when it lasts longer: a large insert takes a second.
const USUAL_LOCK: Duration = Duration::from_secs(5);

/// How long a stop goes on trying to commit answers that are already here.
const LAST_COMMITS: Duration = Duration::from_secs(20);

/// How long a turn waits for another program's lock: it comes again, and hears signals in between.
pub const PATIENCE: Duration = Duration::from_millis(500);

/// How long a stop waits for the commit of what costs nothing to do again.
pub const FREE_COMMITS: Duration = Duration::from_millis(500);

/// The longest sleep between two looks at the queue, in milliseconds.
const LONGEST_SLEEP: Millis = 30_000;

/// The signal of a file at its size limit, the same number on every Linux but MIPS.
const SIGXFSZ: i32 = 25;

/// The log is complained about when it is longer than this, in bytes.
const WAL_ALARM: u64 = 512 * 1024 * 1024;

/// Why the loop ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A signal, or the caller.
    Stopped,
    /// Nothing was left that could move.
    Idle,
}

/// Why the loop broke off.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// The store or the disk.
    #[error(transparent)]
    Engine(#[from] EngineError),
    /// An act panicked: a bug. The table is as it was; a restart goes on from it.
    #[error("a worker broke off: {0}; start reelq again: it goes on from the table")]
    Worker(#[from] JoinError),
}

/// What the loop needs.
pub struct Daemon {
    /// Decides.
    pub engine: Engine,
    /// The queue, to be watched for foreign commits.
    pub store: Arc<Store>,
    /// Asked and paid.
    pub provider: Arc<Provider>,
    /// Where videos go.
    pub downloads: Arc<Downloads>,
    /// The time.
    pub clock: Arc<Clock>,
    /// Of the budget's calendar day.
    pub timezone: TimeZone,
    /// End when nothing is left that could move.
    pub until_idle: bool,
    /// Stops the loop, like a signal. Notified again after the first was heard, it waits for no
    /// POST; before that the two count as one.
    pub stop: Arc<Notify>,
}

/// How an act ended.
type Ended = Result<Report, JoinError>;

/// The acts under way. POSTs apart: a stop waits for them and for nothing else.
#[derive(Default)]
struct Workers {
    posts: JoinSet<Report>,
    others: JoinSet<Report>,
}

impl Workers {
    async fn next(&mut self) -> Ended {
        tokio::select! {
            Some(ended) = self.posts.join_next() => ended,
            Some(ended) = self.others.join_next() => ended,
            else => std::future::pending().await,
        }
    }

    /// Every report that is ready, after a first one. A worker that broke off is
    /// told of beside them: what the others brought must be kept.
    fn ready(&mut self, first: Option<Ended>) -> (Vec<Report>, Option<JoinError>) {
        let mut reports = Vec::new();
        let mut broken = None;
        let mut next = first;
        loop {
            next = next
                .or_else(|| self.posts.try_join_next())
                .or_else(|| self.others.try_join_next());
            match next.take() {
                Some(Ok(report)) => reports.push(report),
                Some(Err(error)) => broken = Some(error),
                None => return (reports, broken),
            }
        }
    }
}

impl Daemon {
    /// Runs until a signal, the caller's stop or, if asked for, an idle queue.
    ///
    /// # Errors
    /// What a restart has to mend: a failed sync, a damaged database. A locked
    /// database and a full disk are waited for. Answers to POSTs that are on
    /// the wire are waited for in either case.
    pub async fn run(mut self, mut signals: Signals) -> Result<Ending, DaemonError> {
        // Without a handler a file at its size limit would kill the process instead of failing the write.
        let _size_limit = signal(SignalKind::from_raw(SIGXFSZ));
        let mut workers = Workers::default();
        notify(&[NotifyState::Ready]);
        match self.work(&mut workers, &mut signals).await {
            Ok(Ending::Idle) => Ok(Ending::Idle),
            Ok(Ending::Stopped) => {
                self.drain(workers, signals).await?;
                Ok(Ending::Stopped)
            }
            Err(error) => {
                if let Err(another) = self.drain(workers, signals).await {
                    tracing::error!(error = %another, "stopping");
                }
                Err(error)
            }
        }
    }

    /// A signal, or the caller's stop.
    async fn asked(&self, signals: &mut Signals) {
        tokio::select! {
            () = signals.next() => {}
            () = self.stop.notified() => {}
        }
    }

    async fn work(
        &mut self,
        workers: &mut Workers,
        signals: &mut Signals,
    ) -> Result<Ending, DaemonError> {
        let mut tick = interval(WATCH);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut jumps = JumpWatch::new(&self.clock);
        let mut keeper = Keeper::new(&self.store);
        let mut seen = None;
        let mut changed = false;
        let mut wake_at = 0;
        let mut trouble = Trouble::default();

        loop {
            let mut first = None;
            let mut look = true;
            tokio::select! {
                // A signal stops new work at once, whatever else is ready. The tick keeps nothing
                // waiting: it comes once a period, and what is ready then is taken with it.
                biased;
                () = self.asked(signals) => return Ok(Ending::Stopped),
                _ = tick.tick() => {
                    keeper.tick();
                    if trouble.is_waiting() {
                        continue;
                    }
                    match self.store.data_version().await {
                        Ok(version) => {
                            changed |= seen != Some(version);
                            seen = Some(version);
                        }
                        Err(error) => trouble.met(error.into())?,
                    }
                    look = changed
                        || self.clock.now() >= wake_at
                        || jumps.jump(&self.clock).is_some()
                        || trouble.is_over();
                }
                ended = workers.next() => first = Some(ended),
            }
            let (reports, broken) = workers.ready(first);
            if !look && reports.is_empty() && broken.is_none() {
                continue;
            }
            let turned = self.turn(reports, &mut changed, &mut jumps, workers).await;
            let idle = match turned {
                Ok(next) => {
                    wake_at = next;
                    self.is_done(workers).await
                }
                Err(error) => Err(error),
            };
            let idle = match idle {
                Ok(idle) => {
                    trouble.clear();
                    idle
                }
                Err(error) => {
                    trouble.met(error)?;
                    false
                }
            };
            if let Some(error) = broken {
                return Err(error.into());
            }
            if idle {
                return Ok(Ending::Idle);
            }
        }
    }

    /// Whether that was all that was asked for.
    async fn is_done(&self, workers: &Workers) -> Result<bool, EngineError> {
        Ok(self.until_idle
            && workers.posts.is_empty()
            && workers.others.is_empty()
            && self.engine.is_idle().await?)
    }

    /// Commits what came back, looks at what others have committed, claims what is
    /// due, and starts it.
    async fn turn(
        &mut self,
        reports: Vec<Report>,
        changed: &mut bool,
        jumps: &mut JumpWatch,
        workers: &mut Workers,
    ) -> Result<Millis, EngineError> {
        self.engine.take(reports);
        // Before anything is judged by the new time.
        if let Some(delta) = jumps.jump(&self.clock) {
            self.engine.clock_jumped(delta).await?;
            jumps.followed(delta);
            tracing::warn!(
                seconds = delta / 1_000,
                "the wall clock jumped; appointments moved along"
            );
        }
        let now = self.clock.now();
        self.engine.settle(Vec::new(), now).await?;
        if *changed {
            self.engine.refresh(now).await?;
            *changed = false;
        }
        let around = Surroundings {
            now,
            day_start: places::day_start(now, &self.timezone),
            free_space: self.downloads.free_space(),
            submit: true,
        };
        for act in self.engine.claim(&around).await? {
            self.start(act, workers);
        }
        let next = self.engine.next_wake(now).await?;
        Ok(next.unwrap_or(Millis::MAX).min(now + LONGEST_SLEEP))
    }

    fn start(&self, act: Act, workers: &mut Workers) {
        let provider = Arc::clone(&self.provider);
        match act {
            Act::Post {
                job,
                idempotency_key,
            } => {
                workers.posts.spawn(async move {
                    let verdict = scheduler::submit(&provider, &job, &idempotency_key).await;
                    Report::Posted(job, verdict)
                });
            }
            Act::Poll(job) => {
                workers.others.spawn(async move {
                    let verdict = poller::poll(&provider, &job).await;
                    Report::Polled(job, verdict)
                });
            }
            Act::Fetch(job) => {
                let downloads = Arc::clone(&self.downloads);
                workers.others.spawn(async move {
                    let fetched = downloader::fetch(&provider, &downloads, &job).await;
                    Report::Fetched(job, fetched)
                });
            }
            Act::Probe => {
                workers.others.spawn(async move {
                    Report::Probed(verdict::judge_probe(provider.probe().await))
                });
            }
        }
    }

    /// Starts nothing new, lets the POSTs on the wire be answered, and commits
    /// the answers. A second signal does not wait for them: their ends are unknown.
    async fn drain(
        mut self,
        mut workers: Workers,
        mut signals: Signals,
    ) -> Result<(), DaemonError> {
        notify(&[NotifyState::Stopping]);
        let posts = workers.posts.len();
        if posts > 0 {
            tracing::info!(posts, "stopping; waiting for the requests on the wire");
        } else {
            tracing::info!("stopping");
        }
        // Dropped in the middle, a download keeps its partial file and a poll has learned nothing.
        let mut reports = Vec::new();
        while let Some(ready) = workers.others.try_join_next() {
            reports.extend(ready.ok());
        }
        workers.others.abort_all();
        while let Some(ended) = workers.others.join_next().await {
            reports.extend(ended.ok());
        }
        let mut deadline = None;
        let mut failed: Option<EngineError> = None;
        let mut keeper = Keeper::new(&self.store);
        loop {
            keeper.tick();
            let answers = std::mem::take(&mut reports);
            let waits = match &failed {
                // Nothing more is written, but the log keeps what would be hard to find again.
                Some(EngineError::Store(_)) => {
                    answers.iter().filter_map(accepted).for_each(say_accepted);
                    false
                }
                // A video that could not be synced keeps no answer off the database.
                Some(EngineError::Sync(_)) | None => {
                    self.engine.take(answers);
                    let is_free = workers.posts.is_empty() && !self.engine.owes_answers();
                    let settled = self.engine.settle(Vec::new(), self.clock.now());
                    let settled = match is_free {
                        false => settled.await,
                        // Polls and downloads cost nothing: the next start does them again.
                        true => match tokio::time::timeout(FREE_COMMITS, settled).await {
                            Ok(settled) => settled,
                            Err(_) => return Ok(()),
                        },
                    };
                    match settled {
                        Ok(()) => false,
                        Err(error) if is_passing(&error) && is_free => return Ok(()),
                        Err(error) if is_passing(&error) => {
                            let limit = Instant::now() + LAST_COMMITS;
                            if Instant::now() >= *deadline.get_or_insert(limit) {
                                self.engine.unsaved_tasks().for_each(say_accepted);
                                return Err(error.into());
                            }
                            true
                        }
                        Err(error) => {
                            failed = Some(error);
                            false
                        }
                    }
                }
            };
            if workers.posts.is_empty() && !waits {
                return failed.map_or(Ok(()), |error| Err(error.into()));
            }
            // systemd extends its own limit as long as it hears that we are at it.
            notify(&[NotifyState::ExtendTimeoutUsec(10_000_000)]);
            tokio::select! {
                biased;
                () = self.asked(&mut signals) => {
                    let may_write = !matches!(failed, Some(EngineError::Store(_)));
                    self.last_words(&mut workers, reports, may_write).await;
                    tracing::warn!(posts = workers.posts.len(), "stopping at once; those requests stay unconfirmed");
                    return Ok(());
                }
                Some(ended) = workers.posts.join_next() => reports.extend(ended.ok()),
                () = tokio::time::sleep(REFUSED_PAUSE) => {}
            }
        }
    }
}

impl Daemon {
    /// Keeps the answers that are here already, or names what they accepted. After a failed sync of
    /// the database nothing more is written.
    async fn last_words(
        &mut self,
        workers: &mut Workers,
        mut reports: Vec<Report>,
        may_write: bool,
    ) {
        while let Some(ended) = workers.posts.try_join_next() {
            reports.extend(ended.ok());
        }
        self.engine.take(reports);
        if may_write {
            let settled = self.engine.settle(Vec::new(), self.clock.now());
            // Whether or not that was in time: what is left of it is named.
            let _ = tokio::time::timeout(FREE_COMMITS, settled).await;
        }
        self.engine.unsaved_tasks().for_each(say_accepted);
    }
}

/// Names a task whose acceptance can no longer be written down.
fn say_accepted((job, task): (JobId, &str)) {
    tracing::error!(
        job,
        task,
        "accepted, but not on disk: after the next start, `reelq resolve {job} --adopt {task}`"
    );
}

fn accepted(report: &Report) -> Option<(JobId, &str)> {
    match report {
        Report::Posted(job, PostVerdict::Accepted { task_id, .. }) => Some((job.id, task_id)),
        _ => None,
    }
}

/// A commit or a look that the database refused for now: said once, tried again.
#[derive(Default)]
struct Trouble {
    since: Option<Instant>,
    until: Option<Instant>,
    said: bool,
}

impl Trouble {
    fn met(&mut self, error: EngineError) -> Result<(), EngineError> {
        if !is_passing(&error) {
            return Err(error);
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let is_lock = matches!(error, EngineError::Store(StoreError::Busy { .. }));
        let is_usual = is_lock && since.elapsed() < USUAL_LOCK;
        if !self.said && !is_usual {
            tracing::error!(%error, "waiting; nothing new is submitted until this is mended");
            self.said = true;
        }
        self.until = Some(Instant::now() + REFUSED_PAUSE);
        Ok(())
    }

    fn is_waiting(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn is_over(&self) -> bool {
        self.until.is_some() && !self.is_waiting()
    }

    fn clear(&mut self) {
        if std::mem::take(&mut self.said) {
            tracing::info!("the database takes commits again");
        }
        self.since = None;
        self.until = None;
    }
}

fn is_passing(error: &EngineError) -> bool {
    matches!(error, EngineError::Store(error) if error.is_passing())
}

/// What has to be done now and then: the watchdog, and a look at the log's length.
struct Keeper {
    watchdog: Option<Duration>,
    fed: Instant,
    looked: Instant,
    wal: std::path::PathBuf,
}

impl Keeper {
    fn new(store: &Store) -> Keeper {
        Keeper {
            watchdog: sd_notify::watchdog_enabled().map(|limit| limit / 3),
            fed: Instant::now(),
            looked: Instant::now(),
            wal: store.log_path(),
        }
    }

    fn tick(&mut self) {
        if self
            .watchdog
            .is_some_and(|pause| self.fed.elapsed() >= pause)
        {
            self.fed = Instant::now();
            notify(&[NotifyState::Watchdog]);
        }
        if self.looked.elapsed() >= Duration::from_secs(60) {
            self.looked = Instant::now();
            // A look at the length opens no descriptor, which would drop SQLite's locks.
            let length = std::fs::metadata(&self.wal).map_or(0, |meta| meta.len());
            if length > WAL_ALARM {
                tracing::warn!(
                    bytes = length,
                    "the database's log grows: some program keeps a read transaction open"
                );
            }
        }
    }
}

/// Tells the service manager; without one there is nobody to tell.
fn notify(state: &[NotifyState]) {
    let _ = sd_notify::notify(state);
}
