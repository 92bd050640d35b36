//! Acts on generating jobs: one GET, one verdict.

use crate::job::Job;
use crate::provider::Provider;
use crate::verdict::{PollVerdict, judge_poll};

/// Asks for the job's task.
pub async fn poll(provider: &Provider, job: &Job) -> PollVerdict {
    match &job.task_id {
        Some(task_id) => judge_poll(provider.task(task_id).await),
        // The table forbids a generating row without one.
        None => PollVerdict::NotFound {
            message: "the row has no task id".to_owned(),
        },
    }
}
