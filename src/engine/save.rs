//! What was judged goes to disk, in one transaction.

use super::{Engine, EngineError, Report, show};
use crate::job::{JobId, Millis, State};
use crate::step::{LedgerLine, Transition};
use crate::store::{Committed, StoreError};
use crate::verdict::PostVerdict;

impl Engine {
    pub(super) async fn save(&mut self, now: Millis) -> Result<(), EngineError> {
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
        let judged = self.unsaved.iter().filter_map(|transition| {
            let task = transition.job.task_id.as_deref()?;
            (transition.event == "accepted").then_some((transition.job.id, task))
        });
        let unjudged = self.unjudged.iter().filter_map(|report| match report {
            Report::Posted(job, PostVerdict::Accepted { task_id, .. }) => {
                Some((job.id, task_id.as_str()))
            }
            _ => None,
        });
        judged.chain(unjudged)
    }

    /// Whether the end of a POST is not on disk yet.
    pub fn owes_answers(&self) -> bool {
        let ended = |t: &Transition| matches!(t.ledger, Some(LedgerLine::End { .. }));
        let posted = |report: &Report| matches!(report, Report::Posted(..));
        self.unsaved.iter().any(ended) || self.unjudged.iter().any(posted)
    }
}
