//! What people are told: what holds the stages back, and a line at each change of a job.

use serde_json::json;

use super::{Engine, EngineError};
use crate::job::{Millis, State};
use crate::step::Transition;
use crate::store::GateRow;

impl Engine {
    /// Writes what holds the stages back, where that has changed.
    pub(super) async fn show(&mut self, now: Millis) -> Result<(), EngineError> {
        let mut rows = Vec::new();
        for (name, gate) in [("submit", &self.submit_gate), ("poll", &self.poll_gate)] {
            if let Some(closed) = gate.closed() {
                rows.push(GateRow {
                    name: name.to_owned(),
                    since: closed.since,
                    until: Some(closed.until),
                    detail: json!({
                        "cause": closed.cause,
                        "message": closed.message,
                        "advice": closed.cause.advice(),
                        "tries": closed.tries,
                        "endpoint": self.endpoint,
                        "gate": gate,
                    })
                    .to_string(),
                });
            }
        }
        for hold in self.hold.iter().chain(&self.folder) {
            rows.push(GateRow {
                name: hold.name.to_owned(),
                since: hold.since,
                until: None,
                detail: json!({
                    "cause": hold.name,
                    "message": hold.message,
                    "advice": match hold.name {
                        "folder" => "check the owner, the mode and the disk of that folder; \
                                     each job's note names its own",
                        _ => "",
                    },
                })
                .to_string(),
            });
        }
        if self.foreign > 0 {
            let since = self
                .shown
                .iter()
                .find(|row| row.name == "endpoint")
                .map_or(now, |row| row.since);
            rows.push(GateRow {
                name: "endpoint".to_owned(),
                since,
                until: None,
                detail: json!({
                    "cause": "endpoint",
                    "message": format!(
                        "{} tasks belong to another base URL or key and are not asked for here",
                        self.foreign
                    ),
                    "advice": "start reelq with the base URL and key that they were submitted with",
                })
                .to_string(),
            });
        }
        if rows != self.shown {
            self.store.set_gates(&rows).await?;
            self.shown = rows;
        }
        Ok(())
    }
}

/// One line at each change of a job.
pub(super) fn log(transition: &Transition) {
    let job = &transition.job;
    let task = job.task_id.as_deref().unwrap_or("-");
    let detail = transition.detail.as_deref().unwrap_or("");
    macro_rules! line {
        ($level:ident) => {
            tracing::$level!(
                job = job.id,
                batch = job.spec.batch.as_str(),
                task,
                from = transition.from.as_str(),
                detail,
                "{}",
                job.state
            )
        };
    }
    match job.state {
        State::Failed | State::Unconfirmed => line!(warn),
        state if state == transition.from => line!(debug),
        _ => line!(info),
    }
}
