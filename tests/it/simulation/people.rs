//! What others do to the queue: producers, and people with their commands.

use reelq::job::Size;
use reelq::step;
use reelq::store::Edited;

use super::*;
use crate::world::Billed;

impl Sim {
    /// Any language can be a producer.
    pub(super) async fn produce(&mut self) {
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
    pub(super) async fn command(&mut self) {
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

    pub(super) async fn pause(&mut self, paused: bool) {
        self.tell(|| format!("paused: {paused}"));
        let now = self.wall();
        self.person
            .set_fact("paused", paused.then_some("a person"), now)
            .await
            .unwrap();
    }

    /// A person's command, and what it allows.
    pub(super) async fn order(&mut self, id: JobId, event: Event) -> bool {
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
}
