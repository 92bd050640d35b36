//! Acts on pending jobs: one POST, one verdict.

use crate::job::Job;
use crate::provider::Provider;
use crate::verdict::{PostVerdict, judge_post};

/// Sends the POST whose intent is on disk, once.
pub async fn submit(provider: &Provider, job: &Job, idempotency_key: &str) -> PostVerdict {
    judge_post(provider.create(&job.spec, idempotency_key).await)
}
