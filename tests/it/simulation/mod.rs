//! The engine and the real store against a provider with a bill: random faults,
//! outages, crashes between any two steps, two workers on one queue, people's
//! commands and a clock that jumps. Everything follows from one seed.
//!
//! `REELQ_SIM_SEED=n cargo test simulation` replays one seed with its story;
//! `REELQ_SIM_SEEDS=n` runs so many.

mod audit;
mod daemon;
mod faults;
mod people;
mod plan;
mod rest;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use jiff::tz::TimeZone;
use reelq::engine::{Act, Engine, POSTS_ON_THE_WIRE, Report};
use reelq::job::{Event, Job, JobId, Millis, Outcome, State};
use reelq::money::Money;
use reelq::places;
use reelq::store::{Filter, Open, Store};
use sqlx::ConnectOptions;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use tempfile::TempDir;

use crate::rig::folder;
use crate::world::{DAY, ENDPOINT, Fate, HOUR, MINUTE, NEW_YEAR, Rng, SECOND, Weather, World};
use plan::Plan;

/// Seeds of a plain `cargo test`.
const SEEDS: u64 = 1_000;

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

    /// A moment in which anything can happen.
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
}
