//! The daemons: each looks at the queue, sends, and settles what has arrived.

use reelq::engine::{EngineError, Surroundings};
use reelq::naming::Template;
use reelq::places::Places;
use reelq::sink::Sink;
use reelq::verdict::{Fetched, PollVerdict, PostVerdict, judge_poll, judge_post, judge_probe};

use super::*;

impl Sim {
    /// One step of the loop: something in hand is done, a worker looks at the
    /// queue, or time goes on.
    pub(super) async fn look(&mut self) {
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
    pub(super) async fn turn(&mut self, w: usize) {
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

    /// The other side gets what a worker sends; the answer comes later.
    pub(super) async fn perform(&mut self, w: usize, h: usize) {
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

    /// Time goes on to the next thing that is known to happen.
    pub(super) async fn pass_time(&mut self) {
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

    pub(super) async fn start(&mut self) {
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
