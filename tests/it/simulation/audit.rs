//! What holds at every instant: before each POST, after each claim, and between any two steps.

use std::collections::BTreeMap;

use reelq::job::FailureCode;
use reelq::store::LedgerRow;

use super::*;
use crate::world::{lawful, sha_of};

impl Sim {
    /// The best jobs go first, and not more of them than the limits say.
    pub(super) async fn check_claim(&mut self, w: usize, posts: &[JobId]) {
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
        // A trial: any that was not refused before, if there is one.
        let is_fresh = |job: &Job| job.faults == 0;
        let mut due = jobs
            .iter()
            .filter(|job| job.state == State::Pending)
            .filter(|job| job.due_at.is_none_or(|at| at <= now));
        let is_trial = jobs
            .iter()
            .filter(|job| posts.contains(&job.id))
            .all(is_fresh)
            || !due.any(is_fresh);
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

    pub(super) async fn batch_cap(&mut self) -> Option<Money> {
        let cap: Option<Option<i64>> =
            sqlx::query_scalar("SELECT max_cost FROM batches WHERE name = 'capped'")
                .fetch_optional(&mut self.raw)
                .await
                .unwrap();
        cap.flatten().map(Money::from_micros)
    }

    /// Before the first byte of a POST: its intent is on disk, and nobody has
    /// paid for this job yet, or somebody has allowed to pay again.
    pub(super) async fn check_post(&mut self, job: &Job) {
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

    pub(super) async fn audit(&mut self) {
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
pub(super) fn counts(row: &LedgerRow) -> bool {
    matches!(
        row.outcome,
        Outcome::InFlight | Outcome::Accepted | Outcome::Unknown
    )
}
