//! Acts on generating jobs: one GET, one verdict.

use crate::job::Job;
use crate::provider::Provider;
use crate::verdict::{PollVerdict, judge_poll};

/// Asks for the job's task.
pub async fn poll(provider: &Provider, job: &Job) -> PollVerdict {
    match &job.task_id {
        Some(task_id) => match judge_poll(provider.task(task_id).await) {
            // The row keeps the links; the key is put back when they are fetched.
            PollVerdict::Completed { urls } => PollVerdict::Completed {
                urls: urls
                    .into_iter()
                    .map(|url| provider.without_key(url))
                    .collect(),
            },
            verdict => verdict,
        },
        // The table forbids a generating row without one.
        None => PollVerdict::NotFound {
            message: "the row has no task id".to_owned(),
        },
    }
}
