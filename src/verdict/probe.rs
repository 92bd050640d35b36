//! The answer of a free request: may a job be tried again?

use super::reply::{Reply, fault};
use crate::gate::{Cause, Fault, NOT_SENT};

/// Whether a free request shows that the provider is there and takes the key.
pub fn judge_probe(reply: Reply) -> Result<(), Fault> {
    match reply {
        Reply::NotSent(error) => Err(fault(Cause::Unreachable, NOT_SENT, error, None)),
        Reply::Lost { symptom, error } => Err(fault(Cause::Unreachable, symptom, error, None)),
        Reply::Answer(answer) => {
            let words = answer.words(answer.json().as_ref());
            let cause = match answer.status {
                401 => Cause::KeyRefused,
                402 => Cause::AccountRefused,
                429 => Cause::RateLimited,
                500.. => Cause::Unreachable,
                // 403 and 404 tell of this address, not of the key: a trial has to.
                _ => return Ok(()),
            };
            Err(fault(
                cause,
                &answer.status.to_string(),
                words,
                answer.retry_after,
            ))
        }
    }
}
