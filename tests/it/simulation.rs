//! The engine and the real store against a provider with a bill: random faults,
//! outages, crashes between any two steps, two workers on one queue, people's
//! commands and a clock that jumps. Everything follows from one seed.
//!
//! `REELQ_SIM_SEED=n cargo test simulation` replays one seed with its story;
//! `REELQ_SIM_SEEDS=n` runs so many.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::tz::TimeZone;
use reelq::budget::Budget;
use reelq::engine::{Act, Engine, EngineError, Limits, POSTS_ON_THE_WIRE, Report, Surroundings};
use reelq::job::{Event, FailureCode, Job, JobId, Millis, Outcome, Size, State};
use reelq::money::Money;
use reelq::naming::Template;
use reelq::places::{self, Places};
use reelq::sink::Sink;
use reelq::step::{self, Policy};
use reelq::store::{Edited, Filter, LedgerRow, Open, Store};
use reelq::verdict::{Fetched, PollVerdict, PostVerdict, judge_poll, judge_post, judge_probe};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions};
use tempfile::TempDir;

use crate::rig::folder;
use crate::world::{
    Billed, DAY, ENDPOINT, Fate, HOUR, MINUTE, NEW_YEAR, Rng, SECOND, Weather, World, lawful,
    sha_of,
};

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 1_000;

/// Turns until a queue without faults has come to rest.
const PATIENCE: u32 = 4_000;

/// The account with another key, for tasks that are never asked for elsewhere.
const OTHER_ENDPOINT: &str = "https://provider.test key-2";

#[test]
fn random_worlds_never_pay_twice_and_lose_nothing() {
    let read = |name: &str| {
        std::env::var(name)
            .ok()
            .map(|text| text.parse::<u64>().expect("a number"))
    };
    if let Some(seed) = read("REELQ_SIM_SEED") {
        run(seed, true);
        return;
    }
    let next = AtomicU64::new(0);
    let seeds = read("REELQ_SIM_SEEDS").unwrap_or(SEEDS);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    run(seed, false);
                }
            });
        }
    });
}

#[test]
fn a_seed_tells_the_same_story_twice() {
    for seed in 0..4 {
        assert_eq!(placeless(seed), placeless(seed), "seed {seed}");
    }
}

/// The story without the random name of its folder.
fn placeless(seed: u64) -> Vec<String> {
    let mut story = run(seed, false);
    for line in &mut story {
        while let Some(at) = line.find("/reelq-test-") {
            let end = line[at + 1..]
                .find('/')
                .map_or(line.len(), |end| at + 1 + end);
            line.replace_range(at..end, "");
        }
        // A long line is cut after so many bytes of the full name.
        line.truncate(
            line.char_indices()
                .nth(100)
                .map_or(line.len(), |(at, _)| at),
        );
    }
    story
}

fn run(seed: u64, aloud: bool) -> Vec<String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(async {
        let mut sim = Sim::new(seed, aloud).await;
        for _ in 0..sim.plan.turmoil {
            sim.turmoil().await;
        }
        sim.calm_down().await;
        sim.come_to_rest().await;
        sim.mend().await;
        sim.finish().await;
        std::mem::take(&mut sim.story)
    })
}

/// What a seed decides beforehand.
struct Plan {
    turmoil: u32,
    workers: usize,
    limits: Limits,
    /// In hundred steps.
    crashes: u64,
    persons: u64,
    storms: u64,
    /// The clock jumps while reelq runs, or while it is down.
    jumps: u64,
    /// The database refuses for a time.
    refusals: u64,
    foreign: bool,
}

impl Plan {
    fn draw(rng: &mut Rng) -> Plan {
        let workers = if rng.chance(20) { 2 } else { 1 };
        let cents = |n: i64| Money::from_micros(n * 10_000);
        let priced = rng.chance(60);
        let budget = Budget {
            max_jobs_per_day: rng.chance(15).then(|| rng.below(5) + 1),
            max_cost_per_day: (priced && rng.chance(40)).then(|| cents(rng.within(60, 400))),
            price_per_second: [3, 10, 25].map(|price| priced.then(|| cents(price))),
        };
        Plan {
            // Many short stories, and some long ones.
            turmoil: match rng.below(8) {
                0 => rng.within(80, 160) as u32,
                _ => rng.within(10, 60) as u32,
            },
            workers,
            limits: Limits {
                max_in_flight: rng.within(1, 6) as u32,
                rate_per_minute: *rng.pick(&[2, 6, 60, 60]),
                downloads: rng.within(1, 3) as usize,
                min_free_space: 1_000,
                policy: Policy {
                    resubmit_unknown: rng.chance(15),
                    interval: *rng.pick(&[5 * SECOND, 20 * SECOND, 40 * SECOND]),
                    slow_after: 2 * MINUTE,
                    slow_interval: MINUTE,
                    deadline: 30 * MINUTE,
                },
                budget,
            },
            crashes: *rng.pick(&[0, 2, 6, 15]),
            persons: *rng.pick(&[0, 3, 10]),
            storms: *rng.pick(&[0, 2, 5]),
            jumps: if rng.chance(25) { 3 } else { 0 },
            refusals: if rng.chance(25) { 4 } else { 0 },
            foreign: rng.chance(10),
        }
    }
}

/// One daemon's memory, with what it has in hand.
struct Worker {
    store: Arc<Store>,
    engine: Engine,
    endpoint: &'static str,
    seen: Option<i64>,
    hand: Vec<InHand>,
}

struct InHand {
    act: Act,
    /// What came of it, and when it arrives.
    report: Option<(Millis, Report)>,
}

/// A time in which every POST met the same fault.
struct Storm {
    since: Millis,
    /// POSTs that ended unknown, and those that were refused.
    unknown: u32,
    refused: u32,
    /// Starts of a daemon that began with an open mind.
    starts: u32,
}

struct Sim {
    seed: u64,
    aloud: bool,
    story: Vec<String>,
    rng: Rng,
    plan: Plan,
    folder: TempDir,
    /// Time that never jumps, and by how much the wall clock differs.
    steady: Millis,
    offset: Millis,
    /// The clock jumped where no daemon could see it.
    jumped_unseen: bool,
    jumped: bool,
    world: World,
    storm: Option<Storm>,
    workers: Vec<Worker>,
    endpoint: &'static str,
    /// Another process: people, producers, auditors.
    person: Store,
    raw: SqliteConnection,
    /// Tables that are out of reach.
    away: Option<&'static str>,
    free_space: u64,
    /// Workers that have something to look for.
    fresh: usize,
    /// Answers with a task id that were committed.
    recorded: BTreeSet<(JobId, u32)>,
    /// Jobs that a person gave a task id that nobody made.
    misled: BTreeSet<JobId>,
    written_off: BTreeSet<JobId>,
    capped_batch: bool,
    /// The faults have ceased.
    calm: bool,
}

/// Says which seed failed, and how it came to that.
impl Drop for Sim {
    fn drop(&mut self) {
        if std::thread::panicking() && !self.aloud {
            let tail = self.story.len().saturating_sub(40);
            eprintln!("the end of the story of seed {}:", self.seed);
            for line in &self.story[tail..] {
                eprintln!("  {line}");
            }
            eprintln!("REELQ_SIM_SEED={} cargo test simulation", self.seed);
        }
    }
}

/// An empty queue, made once and copied for each seed.
fn blank_queue() -> &'static Path {
    static BLANK: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = BLANK.get_or_init(|| {
        let folder = folder();
        let path = folder.path().join("blank.db");
        let made = path.clone();
        // Its own thread: a runtime cannot be started inside another.
        std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap()
                .block_on(async {
                    let store = Store::open(&made, Open::Create).await.unwrap();
                    store.close().await;
                });
        })
        .join()
        .unwrap();
        (folder, path)
    });
    path
}

impl Sim {
    async fn new(seed: u64, aloud: bool) -> Sim {
        let mut rng = Rng::new(seed.wrapping_mul(0x5851_f42d_4c95_7f2d) ^ 0x7265_656c);
        let plan = Plan::draw(&mut rng);
        let folder = folder();
        let path = folder.path().join("queue.db");
        std::fs::copy(blank_queue(), &path).unwrap();
        let person = Store::open(&path, Open::Existing).await.unwrap();
        let raw = SqliteConnectOptions::new()
            .filename(&path)
            .connect()
            .await
            .unwrap();
        let mut world = World::new(rng.next());
        world.noise = *rng.pick(&[0, 5, 25]);
        world.cruel = rng.chance(50);
        if plan.workers == 1 {
            // Two daemons on one queue do not know when the other one asked.
            world.interval = plan.limits.policy.interval;
        }
        if rng.chance(20) {
            world.room = rng.within(1, 3) as usize;
        }
        // Often shortly before midnight.
        let start = NEW_YEAR + rng.within(0, 3) * DAY - rng.within(1, 10) * MINUTE;
        let mut sim = Sim {
            seed,
            aloud,
            story: Vec::new(),
            rng,
            plan,
            folder,
            steady: 0,
            offset: start,
            jumped_unseen: false,
            jumped: false,
            world,
            storm: None,
            workers: Vec::new(),
            endpoint: ENDPOINT,
            person,
            raw,
            away: None,
            free_space: u64::MAX,
            fresh: 0,
            recorded: BTreeSet::new(),
            misled: BTreeSet::new(),
            written_off: BTreeSet::new(),
            capped_batch: false,
            calm: false,
        };
        let jobs = sim.rng.within(1, 4);
        for _ in 0..jobs {
            sim.produce().await;
        }
        if sim.plan.limits.budget.price_per_second[0].is_some() && sim.rng.chance(20) {
            let cap = Money::from_micros(sim.rng.within(0, 200) * 10_000);
            sim.person.set_batch_cap("capped", Some(cap)).await.unwrap();
            sim.capped_batch = true;
        }
        sim.start().await;
        sim
    }

    fn tell(&mut self, line: impl FnOnce() -> String) {
        let line = format!("{:>9} {}", self.steady, line());
        if self.aloud {
            eprintln!("{line}");
        }
        self.story.push(line);
    }

    /// What the machine's clock shows.
    fn wall(&self) -> Millis {
        self.steady + self.offset
    }

    // ---- What can happen ----

    async fn turmoil(&mut self) {
        let plan = &self.plan;
        let (crashes, persons, storms, jumps, refusals) = (
            plan.crashes,
            plan.persons,
            plan.storms,
            plan.jumps,
            plan.refusals,
        );
        if self.rng.chance(crashes) {
            self.crash().await;
        }
        if self.rng.chance(persons) {
            self.command().await;
        }
        if self.rng.chance(storms) {
            self.change_weather();
        }
        if self.rng.chance(jumps) && self.plan.workers == 1 {
            self.jump().await;
        }
        if self.rng.chance(refusals) {
            self.refuse().await;
        }
        if self.rng.chance(4) && self.away.is_none() {
            self.produce().await;
        }
        if self.rng.chance(3) {
            self.free_space = if self.free_space == 0 { u64::MAX } else { 0 };
        }
        self.look().await;
        if self.rng.chance(10) {
            self.audit().await;
        }
    }

    /// One step of the loop: something in hand is done, a worker looks at the
    /// queue, or time goes on.
    async fn look(&mut self) {
        let waiting: Vec<(usize, usize)> = self
            .workers
            .iter()
            .enumerate()
            .flat_map(|(w, worker)| {
                let open = worker.hand.iter().enumerate();
                open.filter(|(_, hand)| hand.report.is_none())
                    .map(move |(h, _)| (w, h))
            })
            .collect();
        let arrived = self.workers.iter().any(|worker| {
            let mut reports = worker.hand.iter().filter_map(|hand| hand.report.as_ref());
            reports.any(|(at, _)| *at <= self.steady)
        });
        match self.rng.below(10) {
            0..4 if !waiting.is_empty() => {
                let (w, h) = *self.rng.pick(&waiting);
                self.perform(w, h).await;
            }
            _ if arrived || self.fresh > 0 || self.rng.chance(5) => {
                let w = self.rng.below(self.workers.len() as u64) as usize;
                self.turn(w).await;
            }
            _ => self.pass_time().await,
        }
    }

    /// What the daemon does at each wake-up.
    async fn turn(&mut self, w: usize) {
        let now = self.wall();
        self.fresh = self.fresh.saturating_sub(1);
        if self.away.is_none() && (self.calm || self.rng.chance(80)) {
            let worker = &mut self.workers[w];
            let version = worker.store.data_version().await.unwrap();
            if worker.seen != Some(version) {
                worker.engine.refresh(now).await.unwrap();
                worker.seen = Some(version);
            }
        }
        let mut reports = Vec::new();
        let mut hand = Vec::new();
        for held in std::mem::take(&mut self.workers[w].hand) {
            match held.report {
                // Some come a turn late, but not where the next turn may be hours away.
                Some((at, report)) if at <= self.steady && (self.calm || self.rng.chance(90)) => {
                    reports.push(report);
                }
                _ => hand.push(held),
            }
        }
        self.workers[w].hand = hand;
        let accepted: Vec<(JobId, u32)> = reports
            .iter()
            .filter_map(|report| match report {
                Report::Posted(job, PostVerdict::Accepted { .. }) => Some((job.id, job.attempt)),
                _ => None,
            })
            .collect();
        let ends: Vec<Job> = reports.iter().filter_map(end_of_task).cloned().collect();
        if !reports.is_empty() {
            self.tell(|| format!("worker {w} settles {}", names(&reports)));
        }
        let settled = self.workers[w].engine.settle(reports, now).await;
        if let Err(error) = settled {
            self.tell(|| format!("worker {w}: {error}"));
            match error {
                EngineError::Sync(_) => self.crash().await,
                EngineError::Store(_) => assert!(self.away.is_some(), "{error}"),
            }
            return;
        }
        self.recorded.extend(accepted);
        for job in ends {
            let row = self.person.job(job.id).await.unwrap().unwrap();
            // Otherwise a person was faster, and the answer counts for nothing.
            if row.state != State::Generating && self.plan.workers == 1 {
                self.world.over.insert((job.id, job.task_id.unwrap()));
            }
        }
        if !self.calm && self.plan.crashes > 0 && self.rng.chance(2) {
            self.crash().await;
            return;
        }
        self.claim(w).await;
    }

    async fn claim(&mut self, w: usize) {
        let now = self.wall();
        let around = Surroundings {
            now,
            day_start: places::day_start(now, &TimeZone::UTC),
            free_space: Some(self.free_space),
            submit: true,
        };
        let acts = match self.workers[w].engine.claim(&around).await {
            Ok(acts) => acts,
            Err(error) => {
                self.tell(|| format!("worker {w}: {error}"));
                assert!(self.away.is_some(), "{error}");
                return;
            }
        };
        let posts: Vec<JobId> = acts
            .iter()
            .filter_map(|act| match act {
                Act::Post { job, .. } => Some(job.id),
                _ => None,
            })
            .collect();
        for act in acts {
            self.tell(|| format!("worker {w} takes {}", name(&act)));
            let hand = InHand { act, report: None };
            self.workers[w].hand.push(hand);
        }
        if !posts.is_empty() {
            self.check_claim(w, &posts).await;
        }
    }

    /// The best jobs go first, and not more of them than the limits say.
    async fn check_claim(&mut self, w: usize, posts: &[JobId]) {
        assert_ne!(self.free_space, 0, "submitted without room for the video");
        let worker = &self.workers[w];
        let in_hand = worker.hand.iter();
        let on_the_wire = in_hand.filter(|hand| matches!(hand.act, Act::Post { .. }));
        assert!(
            on_the_wire.count() <= POSTS_ON_THE_WIRE,
            "too many POSTs at once"
        );
        if self.away.is_some() {
            return;
        }
        let jobs = self.person.list(&Filter::default()).await.unwrap();
        let now = self.wall();
        let gates = self.person.gates().await.unwrap();
        let closed = gates.iter().any(|gate| gate.name == "submit");
        // A trial: any of the most urgent that were not refused before.
        let urgent = jobs
            .iter()
            .filter(|job| job.state == State::Pending && job.faults == 0)
            .filter(|job| job.due_at.is_none_or(|at| at <= now))
            .map(|job| job.spec.priority)
            .max();
        let is_trial = jobs
            .iter()
            .filter(|job| posts.contains(&job.id))
            .all(|job| urgent.is_none_or(|urgent| job.faults == 0 && urgent <= job.spec.priority));
        // The row may be that of the other worker, whose gate is its own.
        if closed && is_trial {
            return;
        }
        let rank = |job: &Job| (-job.spec.priority, job.id);
        let taken: Vec<_> = posts
            .iter()
            .filter_map(|id| jobs.iter().find(|job| job.id == *id))
            .map(rank)
            .collect();
        assert!(taken.is_sorted(), "not in their order: {posts:?}");
        let left = jobs
            .iter()
            .filter(|job| job.state == State::Pending && job.due_at.is_none_or(|at| at <= now))
            .map(rank)
            .min();
        assert!(
            left.is_none_or(|left| taken.iter().all(|taken| *taken < left)),
            "{left:?} should have gone before {taken:?}"
        );
        let tasks = jobs
            .iter()
            .filter(|job| matches!(job.state, State::Submitting | State::Generating))
            .filter(|job| job.endpoint.as_deref() == Some(worker.endpoint))
            .count();
        assert!(
            tasks as u32 <= self.plan.limits.max_in_flight,
            "{tasks} tasks"
        );
    }

    async fn batch_cap(&mut self) -> Option<Money> {
        let cap: Option<Option<i64>> =
            sqlx::query_scalar("SELECT max_cost FROM batches WHERE name = 'capped'")
                .fetch_optional(&mut self.raw)
                .await
                .unwrap();
        cap.flatten().map(Money::from_micros)
    }

    /// The other side gets what a worker sends; the answer comes later.
    async fn perform(&mut self, w: usize, h: usize) {
        self.world.now = self.steady;
        let act = self.workers[w].hand[h].act.clone();
        let endpoint = self.workers[w].endpoint;
        self.tell(|| format!("the provider gets {}", name(&act)));
        let report = match act {
            Act::Post {
                job,
                idempotency_key,
            } => {
                assert_eq!(job.endpoint.as_deref(), Some(endpoint));
                self.check_post(&job).await;
                let verdict = judge_post(self.world.post(&job, &idempotency_key));
                if let Some(storm) = &mut self.storm {
                    match verdict {
                        PostVerdict::Unknown { .. } => storm.unknown += 1,
                        PostVerdict::NotAccepted { .. } => storm.refused += 1,
                        _ => {}
                    }
                }
                self.tell(|| format!("… {verdict:?}").chars().take(100).collect());
                Report::Posted(job, verdict)
            }
            Act::Poll(job) => {
                assert_eq!(job.endpoint.as_deref(), Some(endpoint), "asked elsewhere");
                let verdict = judge_poll(self.world.task(&job));
                self.tell(|| format!("… {verdict:?}").chars().take(100).collect());
                Report::Polled(job, verdict)
            }
            Act::Fetch(job) => {
                assert_eq!(job.endpoint.as_deref(), Some(endpoint), "asked elsewhere");
                let fetched = self.world.fetch(&job);
                self.tell(|| format!("… {fetched:?}").chars().take(100).collect());
                Report::Fetched(job, fetched)
            }
            Act::Probe => Report::Probed(judge_probe(self.world.probe())),
        };
        let slow = if self.rng.chance(10) { 100 } else { 2 };
        let at = self.steady + self.rng.within(0, slow * SECOND);
        self.workers[w].hand[h].report = Some((at, report));
    }

    /// Before the first byte of a POST: its intent is on disk, and nobody has
    /// paid for this job yet, or somebody has allowed to pay again.
    async fn check_post(&mut self, job: &Job) {
        if self.away.is_some() {
            return;
        }
        let ledger = self.person.ledger(Some(job.id), None, None).await.unwrap();
        let row = ledger.iter().find(|row| row.attempt == job.attempt);
        let row = row.expect("a POST without its intent on disk");
        assert_eq!(row.outcome, Outcome::InFlight);
        if let Some(owed) = self.world.owed.get(&job.id) {
            let outcome = ledger
                .iter()
                .find(|row| row.attempt == owed.attempt)
                .map(|row| row.outcome);
            let allowed = self.plan.limits.policy.resubmit_unknown;
            assert!(
                allowed && outcome == Some(Outcome::Unknown),
                "job {} would be paid for twice: {owed:?} is {outcome:?}",
                job.id
            );
        }
    }

    /// Time goes on to the next thing that is known to happen.
    async fn pass_time(&mut self) {
        let now = self.wall();
        let mut next = Vec::new();
        for worker in &mut self.workers {
            let arrivals = worker.hand.iter().filter_map(|hand| hand.report.as_ref());
            next.extend(arrivals.map(|(at, _)| *at));
            if self.away.is_none() {
                let wake = worker.engine.next_wake(now).await.unwrap();
                next.extend(wake.map(|at| at - self.offset));
            }
        }
        next.retain(|at| *at > self.steady);
        // Without an appointment the daemon looks again after half a minute.
        let step = next
            .into_iter()
            .min()
            .map_or(30 * SECOND, |at| (at - self.steady).min(6 * HOUR));
        self.steady += step;
        self.fresh = self.workers.len();
        self.tell(|| "time passes".to_owned());
    }

    async fn start(&mut self) {
        for w in 0..self.plan.workers {
            let path = self.folder.path().join("queue.db");
            let store = Arc::new(Store::open(&path, Open::Existing).await.unwrap());
            let places = Places {
                sink: Sink::new(self.folder.path().join("videos")).unwrap(),
                template: Template::parse("{batch}/{id}.mp4").unwrap(),
                timezone: TimeZone::UTC,
            };
            let engine = Engine::open(
                Arc::clone(&store),
                places,
                self.endpoint.to_owned(),
                self.plan.limits.clone(),
                Arc::default(),
                self.wall(),
            )
            .await
            .unwrap();
            self.tell(|| format!("worker {w} starts"));
            self.fresh += 1;
            self.workers.push(Worker {
                store,
                engine,
                endpoint: self.endpoint,
                seen: None,
                hand: Vec::new(),
            });
        }
        if let Some(storm) = &mut self.storm {
            storm.starts += 1;
        }
    }

    /// Everything in memory is gone. What was on its way may have arrived.
    async fn crash(&mut self) {
        self.come_back().await;
        self.tell(|| "crash".to_owned());
        for w in 0..self.workers.len() {
            for h in 0..self.workers[w].hand.len() {
                let open = self.workers[w].hand[h].report.is_none();
                if open && self.rng.chance(40) {
                    self.perform(w, h).await;
                }
            }
        }
        self.workers.clear();
        if self.rng.chance(30) {
            self.audit().await;
        }
        if self.rng.chance(30) {
            self.steady += self.rng.within(0, 2 * HOUR);
        }
        if self.plan.jumps > 0 && self.rng.chance(40) {
            let days = if self.rng.chance(50) { 1 } else { -1 };
            self.offset += days * DAY;
            self.jumped = true;
            self.jumped_unseen = true;
            self.tell(|| format!("the clock jumps unseen by {days} days"));
        }
        if self.plan.foreign && self.rng.chance(50) {
            self.endpoint = *self.rng.pick(&[ENDPOINT, OTHER_ENDPOINT]);
        }
        self.start().await;
    }

    async fn jump(&mut self) {
        if self.away.is_some() {
            return;
        }
        let days = if self.rng.chance(50) { 1 } else { -1 };
        self.offset += days * DAY;
        self.jumped = true;
        self.tell(|| format!("the clock jumps by {days} days"));
        for worker in &mut self.workers {
            worker.engine.clock_jumped(days * DAY).await.unwrap();
        }
    }

    fn change_weather(&mut self) {
        self.world.now = self.steady;
        self.end_storm();
        self.world.weather = if self.rng.chance(70) {
            *self.rng.pick(&Weather::STORMS)
        } else {
            Weather::Fine
        };
        let weather = self.world.weather;
        self.tell(|| format!("the weather is {weather:?}"));
        if weather != Weather::Fine {
            self.storm = Some(Storm {
                since: self.steady,
                unknown: 0,
                refused: 0,
                starts: 1,
            });
        }
    }

    /// An outage leaves a handful of unconfirmed jobs, not one a try.
    fn end_storm(&mut self) {
        let Some(storm) = self.storm.take() else {
            return;
        };
        let span = self.steady - storm.since;
        let minds = storm.starts * self.plan.workers as u32;
        // Those on the wire when it began, then pauses of 5, 10, 20 … seconds, up to an hour.
        let doublings = (span / (5 * SECOND) + 1).ilog2();
        let hours = (span / HOUR) as u32;
        let most = minds * (POSTS_ON_THE_WIRE as u32 + doublings.min(10) + hours);
        assert!(
            storm.unknown <= most,
            "{} unknown in {span} ms of {:?}, at most {most} were expected",
            storm.unknown,
            self.world.weather
        );
        // Pauses of 1, 2, 4 … seconds, up to a minute.
        let minutes = (span / MINUTE) as u32;
        let most = minds * (POSTS_ON_THE_WIRE as u32 + 7 + minutes);
        assert!(
            storm.refused <= most,
            "{} refused in {span} ms",
            storm.refused
        );
    }

    /// A table is out of reach, and every statement that needs it fails.
    async fn refuse(&mut self) {
        if self.away.is_some() {
            self.come_back().await;
            return;
        }
        let table = *self.rng.pick(&["jobs", "submissions", "events", "gates"]);
        self.away = Some(table);
        self.rename(table, "away").await;
        self.tell(|| format!("the database refuses: {table}"));
    }

    async fn come_back(&mut self) {
        if let Some(table) = self.away.take() {
            self.rename("away", table).await;
            self.tell(|| "the database is back".to_owned());
        }
    }

    async fn rename(&mut self, from: &str, to: &str) {
        let sql = format!("ALTER TABLE {from} RENAME TO {to}");
        sqlx::query(AssertSqlSafe(sql))
            .execute(&mut self.raw)
            .await
            .unwrap();
    }

    /// Any language can be a producer.
    async fn produce(&mut self) {
        let size = *self.rng.pick(&Size::ALL);
        let duration = self.rng.within(1, 15);
        let priority = self.rng.within(-1, 1);
        let batch = *self.rng.pick(&["default", "default", "capped"]);
        let not_before = match self.rng.below(10) {
            0 => Some(self.wall() + self.rng.within(-MINUTE, 10 * MINUTE)),
            _ => None,
        };
        sqlx::query(
            "INSERT INTO jobs (prompt, image_url, batch, size, duration, priority, not_before) \
             VALUES ('a boat', 'https://example.com/boat.jpg', ?, ?, ?, ?, ?)",
        )
        .bind(batch)
        .bind(size.as_str())
        .bind(duration)
        .bind(priority)
        .bind(not_before)
        .execute(&mut self.raw)
        .await
        .unwrap();
        self.fresh = self.workers.len();
        self.tell(|| format!("a new job: {size} {duration} s, priority {priority}, {batch}"));
    }

    /// A person does something, not always what is wise.
    async fn command(&mut self) {
        if self.away.is_some() {
            return;
        }
        if self.rng.chance(10) {
            let paused = self.person.fact("paused").await.unwrap().is_some();
            self.pause(!paused).await;
            return;
        }
        let jobs = self.person.list(&Filter::default()).await.unwrap();
        let job = self.rng.pick(&jobs).clone();
        let event = match self.rng.below(8) {
            0..2 => Event::Retried,
            2..4 => Event::Cancelled,
            4 => Event::Resubmitted,
            5 => Event::WrittenOff,
            _ => match self.world.billed(job.id, job.attempt) {
                Some(line) => Event::Adopted {
                    task_id: line.task_id.clone(),
                },
                None if self.rng.chance(30) => Event::Adopted {
                    task_id: "nobody-made-this".to_owned(),
                },
                None => Event::Resubmitted,
            },
        };
        self.order(job.id, event).await;
    }

    async fn pause(&mut self, paused: bool) {
        self.tell(|| format!("paused: {paused}"));
        let now = self.wall();
        self.person
            .set_fact("paused", paused.then_some("a person"), now)
            .await
            .unwrap();
    }

    /// A person's command, and what it allows.
    async fn order(&mut self, id: JobId, event: Event) -> bool {
        let now = self.wall();
        let policy = self.plan.limits.policy.clone();
        let mut before = None;
        let edited = self
            .person
            .edit(&[id], |job| {
                before = Some(job.clone());
                step::step(job, event.clone(), now, &policy)
            })
            .await
            .unwrap();
        let before = before.expect("the job is there");
        let Edited::Changed(after) = &edited[0] else {
            return false;
        };
        let (from, to) = (before.state, after.state);
        self.tell(|| format!("a person: job {id} {} ({from} → {to})", event.name()));
        self.fresh = self.workers.len();
        let owed = self.world.owed.get(&id).cloned();
        match event {
            Event::Resubmitted => {
                self.world.owed.remove(&id);
            }
            Event::WrittenOff => {
                self.written_off.insert(id);
            }
            Event::Retried if to == State::Generating => self.world.look_again(after),
            Event::Adopted { task_id }
                if owed.as_ref().is_none_or(|owed| owed.task_id != task_id) =>
            {
                self.misled.insert(id);
            }
            Event::Retried if to == State::Pending => {
                if let Some(owed) = owed {
                    self.check_retry(&before, &owed).await;
                    self.world.owed.remove(&id);
                }
                self.written_off.remove(&id);
            }
            _ => {}
        }
        true
    }

    /// A retry pays again only for what has no video and never will.
    async fn check_retry(&mut self, before: &Job, owed: &Billed) {
        let told = self.world.tasks[&owed.task_id].told_failed;
        let ledger = self
            .person
            .ledger(Some(before.id), None, None)
            .await
            .unwrap();
        let resubmitted = self.plan.limits.policy.resubmit_unknown
            && ledger
                .iter()
                .any(|row| row.attempt == owed.attempt && row.outcome == Outcome::Unknown);
        assert!(
            told || resubmitted || self.written_off.contains(&before.id),
            "a retry would pay again for {owed:?} of {before:?}"
        );
    }

    // ---- The end ----

    /// Every fault ceases. Whoever has to be asked is asked no more.
    async fn calm_down(&mut self) {
        self.come_back().await;
        self.end_storm();
        self.tell(|| "the faults cease".to_owned());
        self.world.weather = Weather::Fine;
        self.world.noise = 0;
        self.world.cruel = false;
        self.world.room = usize::MAX;
        self.free_space = u64::MAX;
        self.calm = true;
        self.pause(false).await;
    }

    /// Nothing moves any more, at every endpoint, in a bounded number of turns.
    async fn come_to_rest(&mut self) {
        self.rest().await;
        if self.plan.foreign {
            for endpoint in [ENDPOINT, OTHER_ENDPOINT] {
                self.workers.clear();
                self.endpoint = endpoint;
                self.start().await;
                self.rest().await;
            }
        }
        self.audit().await;
    }

    async fn rest(&mut self) {
        for turn in 0.. {
            if turn > PATIENCE {
                let jobs = self.person.list(&Filter::default()).await.unwrap();
                let gates = self.person.gates().await.unwrap();
                let open = jobs.iter().filter(|job| !job.state.is_settled());
                let open: Vec<&Job> = open.collect();
                panic!("at {} no rest: {open:?}, {gates:?}", self.wall());
            }
            for w in 0..self.workers.len() {
                for h in 0..self.workers[w].hand.len() {
                    if self.workers[w].hand[h].report.is_none() {
                        self.perform(w, h).await;
                    }
                }
                self.turn(w).await;
            }
            if self.workers.iter().any(|worker| {
                let mut open = worker.hand.iter();
                open.any(|hand| hand.report.is_none())
            }) {
                continue;
            }
            let mut idle = self.workers.iter().all(|worker| worker.hand.is_empty());
            for worker in &self.workers {
                idle &= worker.engine.is_idle().await.unwrap();
            }
            if idle {
                return;
            }
            self.pass_time().await;
        }
    }

    /// A person who knows the truth puts everything right; then every job has
    /// its video, but for those whose task never had one.
    async fn mend(&mut self) {
        for round in 0.. {
            assert!(round < 40, "not everything can be mended");
            let jobs = self.person.list(&Filter::default()).await.unwrap();
            let mut changed = false;
            for job in jobs.iter().filter(|job| job.state == State::Pending) {
                self.check_hold(job).await;
                changed = true;
            }
            for job in &jobs {
                let event = match job.state {
                    State::Unconfirmed => match self.world.billed(job.id, job.attempt) {
                        Some(line) => Event::Adopted {
                            task_id: line.task_id.clone(),
                        },
                        None => Event::Resubmitted,
                    },
                    State::Failed if !self.is_hopeless(job) => Event::Retried,
                    State::Cancelled => Event::Retried,
                    State::Pending | State::Done | State::Failed => continue,
                    moving => {
                        assert!(self.plan.foreign, "rests though {moving}: {job:?}");
                        changed = true;
                        continue;
                    }
                };
                let name = event.name();
                assert!(self.order(job.id, event).await, "{name}: {job:?}");
                changed = true;
            }
            if !changed {
                return;
            }
            if round == 0 && self.capped_batch {
                self.person.set_batch_cap("capped", None).await.unwrap();
            }
            if round == 5 {
                // Some jobs cost more than a day may.
                self.plan.limits.budget.max_jobs_per_day = None;
                self.plan.limits.budget.max_cost_per_day = None;
                self.workers.clear();
                self.start().await;
            }
            // A new day, and a new budget.
            let tomorrow = self.wall() - self.wall().rem_euclid(DAY) + DAY;
            self.steady = tomorrow - self.offset;
            self.come_to_rest().await;
        }
    }

    /// A job that rests in the queue is held back by a cap.
    async fn check_hold(&mut self, job: &Job) {
        let today = places::day_start(self.wall(), &TimeZone::UTC);
        let ledger = self.person.ledger(None, None, None).await.unwrap();
        let rows = || ledger.iter().filter(|row| counts(row));
        let spent: Money = rows()
            .filter(|row| row.started_at >= today)
            .map(|row| row.cost)
            .sum();
        let begun = rows().filter(|row| row.started_at >= today).count() as u64;
        let by_batch: Money = rows()
            .filter(|row| row.batch == "capped")
            .map(|row| row.cost)
            .sum();
        let budget = self.plan.limits.budget.clone();
        let dearest = Money::from_micros(25 * 15 * 10_000);
        let held = budget.max_jobs_per_day.is_some_and(|max| begun >= max)
            || budget
                .max_cost_per_day
                .is_some_and(|max| spent + dearest > max)
            || (job.spec.batch == "capped"
                && self
                    .batch_cap()
                    .await
                    .is_some_and(|cap| by_batch + dearest > cap));
        assert!(
            held || self.plan.foreign,
            "at {} {spent} of {budget:?} is spent; rests without a reason: {job:?}, {:?}",
            self.wall(),
            self.person.gates().await
        );
    }

    /// Its present task has no video and never will.
    fn is_hopeless(&self, job: &Job) -> bool {
        let task = job.task_id.as_ref().map(|id| self.world.tasks.get(id));
        match task {
            None => false,
            Some(None) => self.misled.contains(&job.id),
            Some(Some(task)) => matches!(
                task.fate,
                Fate::Expires | Fate::Vanishes | Fate::Empty | Fate::Never
            ),
        }
    }

    async fn finish(&mut self) {
        self.audit().await;
        for job in self.person.list(&Filter::default()).await.unwrap() {
            assert!(
                job.state == State::Done || self.is_hopeless(&job),
                "lost at the end: {job:?}"
            );
        }
        let verdict: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
            .fetch_all(&mut self.raw)
            .await
            .unwrap();
        assert_eq!(verdict, ["ok"]);
    }

    // ---- What holds at every instant ----

    async fn audit(&mut self) {
        if self.away.is_some() {
            return;
        }
        let jobs = self.person.list(&Filter::default()).await.unwrap();
        let ledger = self.person.ledger(None, None, None).await.unwrap();
        let mut rows: BTreeMap<JobId, Vec<&LedgerRow>> = BTreeMap::new();
        for row in &ledger {
            rows.entry(row.job_id).or_default().push(row);
        }
        let lines: BTreeMap<JobId, i64> = sqlx::query_as::<_, (JobId, i64)>(
            "SELECT job_id, count(*) FROM events GROUP BY job_id",
        )
        .fetch_all(&mut self.raw)
        .await
        .unwrap()
        .into_iter()
        .collect();
        let mut targets = BTreeSet::new();
        for job in &jobs {
            if let Err(broken) = lawful(job) {
                panic!("{broken}");
            }
            let history = lines.get(&job.id).copied().unwrap_or(0);
            assert!(
                job.version == history || (self.jumped && job.version > history),
                "{history} lines of history: {job:?}"
            );
            if let Some(target) = &job.target {
                assert!(targets.insert(target.clone()), "two jobs at {target}");
            }
            let mut rows = rows.remove(&job.id).unwrap_or_default();
            rows.sort_by_key(|row| row.attempt);
            self.audit_ledger(job, &rows);
            self.audit_end(job);
        }
        self.audit_bill(&ledger);
        self.audit_caps(&ledger).await;
    }

    /// The ledger of one job is complete, and says what its state says.
    fn audit_ledger(&self, job: &Job, rows: &[&LedgerRow]) {
        let attempts: Vec<u32> = rows.iter().map(|row| row.attempt).collect();
        let begun: Vec<u32> = (1..=job.attempt).collect();
        assert_eq!(attempts, begun, "the ledger has gaps: {job:?}");
        for row in rows {
            assert_eq!(
                row.outcome == Outcome::InFlight,
                job.state == State::Submitting && row.attempt == job.attempt,
                "{row:?} of {job:?}"
            );
            let price = self.plan.limits.budget.price(&job.spec);
            assert_eq!(row.cost, price.unwrap_or(Money::ZERO), "{row:?}");
        }
        let last = rows.last();
        if let Some(task_id) = &job.task_id {
            let row = last.expect("a task without a POST");
            assert_eq!(row.outcome, Outcome::Accepted, "{job:?}");
            assert_eq!(row.task_id.as_ref(), Some(task_id), "{job:?}");
        }
        if job.state == State::Unconfirmed {
            let row = last.expect("unconfirmed without a POST");
            assert_eq!(row.outcome, Outcome::Unknown, "{job:?}");
        }
    }

    /// What is said of an ended job is true.
    fn audit_end(&self, job: &Job) {
        let task = job.task_id.as_ref().and_then(|id| self.world.tasks.get(id));
        if job.state == State::Done {
            let file = job.file.as_ref().expect("done means a file");
            assert_eq!(Some(&file.path), job.target.as_ref());
            let id = job.task_id.as_ref().expect("done means a task");
            assert_eq!(file.sha256, sha_of(id), "another video: {job:?}");
        }
        let (Some(task), Some(failure)) = (task, &job.failure) else {
            return;
        };
        let truth = match failure.code {
            FailureCode::TaskFailed => task.fate == Fate::Fails,
            FailureCode::TaskExpired => task.fate == Fate::Expires,
            FailureCode::VideoUnavailable => task.fate == Fate::Empty,
            // A jump while reelq was down looks like a long stop.
            FailureCode::TaskLost => task.fate == Fate::Vanishes || self.jumped_unseen,
            FailureCode::Deadline => task.fate == Fate::Never || self.jumped_unseen,
            _ => false,
        };
        assert!(truth, "not true of {task:?}: {job:?}");
    }

    /// What was billed stands in the ledger, and what was not billed does not.
    fn audit_bill(&self, ledger: &[LedgerRow]) {
        let of = |job: JobId, attempt: u32| {
            ledger
                .iter()
                .find(|row| row.job_id == job && row.attempt == attempt)
        };
        for line in &self.world.bill {
            let row = of(line.job, line.attempt).expect("billed, and not in the ledger");
            let resolved = row.resolution.is_some();
            let told = match row.outcome {
                Outcome::Unknown | Outcome::InFlight => true,
                Outcome::Accepted => row.task_id.as_ref() == Some(&line.task_id) || resolved,
                // A person said so, and was wrong.
                Outcome::NotAccepted => row.resolution.as_deref() == Some("resubmitted"),
                Outcome::Rejected => false,
            };
            assert!(told, "billed {line:?}, but the ledger says {row:?}");
        }
        for row in ledger.iter().filter(|row| row.resolution.is_none()) {
            if row.outcome == Outcome::Accepted {
                let billed = self.world.billed(row.job_id, row.attempt);
                assert!(billed.is_some(), "never billed: {row:?}");
            }
            if self.recorded.contains(&(row.job_id, row.attempt)) && self.plan.workers == 1 {
                assert_eq!(
                    row.outcome,
                    Outcome::Accepted,
                    "the answer is lost: {row:?}"
                );
            }
        }
    }

    /// No calendar day passes its caps, and no batch its own.
    async fn audit_caps(&mut self, ledger: &[LedgerRow]) {
        let mut days: BTreeMap<Millis, (u64, Money)> = BTreeMap::new();
        for row in ledger.iter().filter(|row| counts(row)) {
            let day = days.entry(row.started_at.div_euclid(DAY)).or_default();
            day.0 += 1;
            day.1 += row.cost;
        }
        let budget = &self.plan.limits.budget;
        for (day, (jobs, cost)) in days {
            assert!(
                budget.max_jobs_per_day.is_none_or(|max| jobs <= max),
                "{jobs} jobs on day {day}"
            );
            assert!(
                budget.max_cost_per_day.is_none_or(|max| cost <= max),
                "{cost} spent on day {day}"
            );
        }
        if let Some(cap) = self.batch_cap().await {
            let rows = ledger.iter().filter(|row| row.batch == "capped");
            let spent: Money = rows.filter(|row| counts(row)).map(|row| row.cost).sum();
            assert!(spent <= cap, "the batch has spent {spent} of {cap}");
        }
        if self.plan.workers == 1 && !self.jumped {
            let mut starts: Vec<Millis> = ledger.iter().map(|row| row.started_at).collect();
            starts.sort_unstable();
            let rate = self.plan.limits.rate_per_minute as usize;
            for pair in starts.windows(rate + 1) {
                let span = pair[rate] - pair[0];
                assert!(span >= MINUTE, "{} POSTs in {span} ms", rate + 1);
            }
        }
    }
}

/// It was paid for, or may have been.
fn counts(row: &LedgerRow) -> bool {
    matches!(
        row.outcome,
        Outcome::InFlight | Outcome::Accepted | Outcome::Unknown
    )
}

/// The job of a poll that was told the end of its task.
fn end_of_task(report: &Report) -> Option<&Job> {
    match report {
        Report::Polled(
            job,
            PollVerdict::Completed { .. }
            | PollVerdict::Failed { .. }
            | PollVerdict::Expired { .. },
        ) => Some(job),
        _ => None,
    }
}

fn name(act: &Act) -> String {
    match act {
        Act::Post { job, .. } => format!("POST of job {}, attempt {}", job.id, job.attempt),
        Act::Poll(job) => format!("poll of job {}", job.id),
        Act::Fetch(job) => format!("fetch of job {}", job.id),
        Act::Probe => "probe".to_owned(),
    }
}

fn names(reports: &[Report]) -> String {
    let names: Vec<String> = reports
        .iter()
        .map(|report| match report {
            Report::Posted(job, _) => format!("POST of job {}", job.id),
            Report::Polled(job, _) => format!("poll of job {}", job.id),
            Report::Fetched(job, Fetched::Saved { .. }) => format!("video of job {}", job.id),
            Report::Fetched(job, _) => format!("fetch of job {}", job.id),
            Report::Probed(_) => "probe".to_owned(),
        })
        .collect();
    names.join(", ")
}
