//! From the settings to what the other rooms take.

use crate::budget::Budget;
use crate::config::{ApiKey, OnUnconfirmed, Settings};
use crate::job::Size;
use crate::money::Money;
use crate::provider::Endpoint;
use crate::step::Policy;

use super::format::millis;

/// What decides about jobs.
pub fn policy(settings: &Settings) -> Policy {
    Policy {
        resubmit_unknown: settings.submit.on_unconfirmed == OnUnconfirmed::Resubmit,
        interval: millis(settings.poll.interval),
        slow_after: millis(settings.poll.slow_after),
        slow_interval: millis(settings.poll.slow_interval),
        deadline: millis(settings.poll.deadline),
    }
}

/// Caps and prices; a zero in the settings is none.
pub fn budget(settings: &Settings) -> Budget {
    let budget = &settings.budget;
    Budget {
        max_jobs_per_day: (budget.max_jobs_per_day > 0).then_some(budget.max_jobs_per_day),
        max_cost_per_day: (budget.max_cost_per_day > Money::ZERO)
            .then_some(budget.max_cost_per_day),
        price_per_second: Size::ALL.map(|size| budget.price_per_second.get(&size).copied()),
    }
}

/// How the provider is spoken to.
pub fn endpoint(settings: &Settings, key: &ApiKey) -> Endpoint {
    Endpoint {
        base_url: settings.provider.base_url.clone(),
        key: key.expose().to_owned().into(),
        model: settings.provider.model.clone(),
        post_timeout: settings.submit.request_timeout,
        poll_timeout: settings.poll.request_timeout,
        idle_timeout: settings.download.idle_timeout,
    }
}
