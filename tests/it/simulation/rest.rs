//! The end: the faults cease, everything comes to rest, and a person puts it right.

use super::audit::counts;
use super::*;

/// Turns until a queue without faults has come to rest.
const PATIENCE: u32 = 4_000;

impl Sim {
    /// Every fault ceases. Whoever has to be asked is asked no more.
    pub(super) async fn calm_down(&mut self) {
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
    pub(super) async fn come_to_rest(&mut self) {
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
    pub(super) async fn mend(&mut self) {
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

    pub(super) async fn finish(&mut self) {
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
}
